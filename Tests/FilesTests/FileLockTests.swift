// Advisory locks: ranges that split and merge, conflicts, waits, deadlocks, and the end of owners.
import Base
import Dispatch
import Foundation
import Testing

@testable import Files

@Suite(.timeLimit(.minutes(15))) struct FileLockTests {
  func lock(_ owner: UInt, _ kind: Character, _ start: UInt64, _ last: UInt64 = .max) -> RangeLock {
    RangeLock(owner: owner, process: Int32(owner), isExclusive: kind == "w", start: start, last: last)
  }

  /// "1w0-9 2r5-" and so on.
  func text(_ table: borrowing LockTable) -> String {
    (0..<table.count).map { index in
      let held = table[index]
      return "\(held.owner)\(held.isExclusive ? "w" : "r")\(held.start)-" + (held.last == .max ? "" : "\(held.last)")
    }.joined(separator: " ")
  }

  @Test func splitsAndMerges() throws {
    var table = LockTable()
    #expect(try table.set(lock(1, "w", 10, 19)) == false)
    #expect(try table.set(lock(1, "w", 20, 29)) == false)
    #expect(text(table) == "1w10-29")
    #expect(try table.set(lock(1, "r", 15, 24)) == true)
    #expect(text(table) == "1w10-14 1r15-24 1w25-29")
    #expect(try table.remove(lock(1, "r", 17, 18)) == true)
    #expect(text(table) == "1w10-14 1r15-16 1r19-24 1w25-29")
    #expect(try table.set(lock(2, "r", 0)) == false)
    #expect(try table.set(lock(1, "w", 0, 9)) == false)
    #expect(text(table) == "1w0-14 1r15-16 1r19-24 1w25-29 2r0-")
    #expect(try table.set(lock(1, "r", 16)) == true)
    #expect(text(table) == "1w0-14 1r15- 2r0-")
    #expect(try table.remove(lock(1, "r", 0)) == true)
    #expect(text(table) == "2r0-")
    #expect(try table.remove(lock(1, "r", 0)) == false)
    let removed = table.removeAll(of: 2)
    #expect(removed && text(table) == "")
  }

  @Test func conflicts() throws {
    var table = LockTable()
    _ = try table.set(lock(1, "r", 10, 19))
    #expect(table.conflict(with: lock(2, "r", 0)) == nil)
    #expect(table.conflict(with: lock(2, "w", 0))?.start == 10)
    #expect(table.conflict(with: lock(2, "w", 0, 9)) == nil)
    #expect(table.conflict(with: lock(2, "w", 19, 19))?.owner == 1)
    #expect(table.conflict(with: lock(2, "w", 20)) == nil)
    #expect(table.conflict(with: lock(1, "w", 0)) == nil)
  }

  /// Against a byte-by-byte model: random requests of three owners over 40 bytes.
  @Test func agreesWithAModel() throws {
    var table = LockTable()
    var model = [[Character]](repeating: [Character](repeating: "-", count: 40), count: 4)
    var random = SystemRandomNumberGenerator()
    for _ in 0..<20_000 {
      let owner = Int.random(in: 1...3, using: &random)
      let start = Int.random(in: 0..<40, using: &random)
      let last = Int.random(in: start..<40, using: &random)
      let kind: Character = ["r", "w", "-"].randomElement()!
      let wanted = lock(UInt(owner), kind, UInt64(start), UInt64(last))
      let conflicts = (1...3).contains { other in
        other != owner
          && (start...last).contains { byte in
            model[other][byte] == "w" || (kind == "w" && model[other][byte] == "r")
          }
      }
      if kind != "-" {
        #expect((table.conflict(with: wanted) != nil) == conflicts)
        if conflicts { continue }
        _ = try table.set(wanted)
      } else {
        _ = try table.remove(wanted)
      }
      for byte in start...last { model[owner][byte] = kind }
      var expected: [String] = []
      for owner in 1...3 {
        var byte = 0
        while byte < 40 {
          var end = byte
          while end < 40, model[owner][end] == model[owner][byte] { end += 1 }
          if model[owner][byte] != "-" { expected.append("\(owner)\(model[owner][byte])\(byte)-\(end - 1)") }
          byte = end
        }
      }
      #expect(text(table).split(separator: " ").map(String.init).sorted() == expected.sorted())
      // Each owner's lie together, in order.
      for index in 1..<max(table.count, 1) where index < table.count && table[index].owner == table[index - 1].owner {
        #expect(table[index].start > table[index - 1].last)
      }
      #expect(Set((0..<table.count).map { table[$0].owner }).count == runs(table))
    }
  }

  func runs(_ table: borrowing LockTable) -> Int {
    var count = 0
    for index in 0..<table.count where index == 0 || table[index].owner != table[index - 1].owner { count += 1 }
    return count
  }

  // Who waits for whom is known for all files together, so each test that waits has owners of its own.

  @Test func waitsUntilGivenBack() throws {
    let locks = FileLocks()
    try locks.set(lock(11, "w", 0, 9), waits: false)
    #expect(throws: Errno.EAGAIN) { try locks.set(lock(12, "r", 5), waits: false) }
    let group = DispatchGroup()
    let got = Atomic<Int>(0)
    group.enter()
    let wanted = lock(12, "r", 5)
    nonisolated(unsafe) let shared = locks
    withUnsafePointer(to: got) { got in
      nonisolated(unsafe) let got = got
      Thread.detachNewThread {
        try? shared.set(wanted, waits: true)
        got.pointee.store(1, ordering: .releasing)
        group.leave()
      }
      while !LockWaits.isWaiting(12) { Thread.sleep(forTimeInterval: 0.001) }
      #expect(got.pointee.load(ordering: .acquiring) == 0)
      try? locks.remove(lock(11, "w", 0, 4))
      Thread.sleep(forTimeInterval: 0.02)
      #expect(got.pointee.load(ordering: .acquiring) == 0)
      locks.removeAll(of: 11)
      group.wait()
    }
    #expect(locks.conflict(with: lock(13, "w", 0))?.owner == 12)
  }

  /// 21 has A and waits for B, which 22 has: 22 must not wait for A. Once 21 need not wait any more, 22 may.
  @Test func deadlocksAreRefused() throws {
    let (a, b) = (FileLocks(), FileLocks())
    try a.set(lock(21, "w", 0), waits: false)
    try b.set(lock(22, "w", 0), waits: false)
    let group = DispatchGroup()
    nonisolated(unsafe) let shared = b
    let wanted = lock(21, "w", 0)
    group.enter()
    Thread.detachNewThread {
      try? shared.set(wanted, waits: true)
      group.leave()
    }
    while !LockWaits.isWaiting(21) { Thread.sleep(forTimeInterval: 0.001) }
    #expect(throws: Errno.EDEADLK) { try a.set(lock(22, "w", 0), waits: true) }
    // What an open file holds has no place in the graph.
    var open = lock(22, "w", 0)
    open.process = -1
    #expect(throws: Errno.EAGAIN) { try a.set(open, waits: false) }
    b.removeAll(of: 22)
    group.wait()
    #expect(b.conflict(with: lock(23, "w", 0))?.owner == 21)
    a.removeAll(of: 21)
    try a.set(lock(22, "w", 0), waits: true)
  }

  @Test func wholeFiles() throws {
    let locks = FileLocks()
    let (one, two) = (RangeLock(owner: 1, isExclusive: false), RangeLock(owner: 2, isExclusive: false))
    try locks.setWhole(one, waits: false)
    try locks.setWhole(two, waits: false)
    // Changing the kind gives back what was had, even if that fails.
    #expect(throws: Errno.EAGAIN) { try locks.setWhole(RangeLock(owner: 1, isExclusive: true), waits: false) }
    try locks.setWhole(RangeLock(owner: 2, isExclusive: true), waits: false)
    #expect(throws: Errno.EAGAIN) { try locks.setWhole(one, waits: false) }
    // They do not know of ranges.
    try locks.set(lock(3, "w", 0), waits: false)
    locks.removeWhole(of: 2)
    try locks.setWhole(one, waits: false)
  }

  /// A descriptor's end takes the table's locks on that file along, an open file's end its own.
  @Test func endOfOwners() throws {
    let table = DescriptorTable()
    let vnode = MemoryFile(sealable: false, executable: false)
    let place = AnonymousFileSystem.location(of: vnode, prefix: "memfd:x")
    func opened() -> OpenFile { OpenFile(vnode: vnode, location: place, flags: .readWrite) }
    let first = try table.install(opened())
    let second = try table.install(opened())
    let third = try table.install(opened())
    let locks = vnode.makeFileLocks()
    let ofTable = RangeLock(owner: table.lockOwner, process: 1, isExclusive: true, start: 0, last: 9)
    try locks.set(ofTable, waits: false)
    try locks.set(
      RangeLock(owner: try table.file(second).lockOwner, isExclusive: true, start: 20, last: 29), waits: false)
    try locks.setWhole(RangeLock(owner: try table.file(second).lockOwner, isExclusive: true), waits: false)
    let other = RangeLock(owner: 77, isExclusive: true)
    #expect(locks.conflict(with: other)?.start == 0)
    // Any descriptor of the file will do, also one by which nothing was locked.
    try table.close(first)
    #expect(locks.conflict(with: other)?.start == 20)
    try locks.set(ofTable, waits: false)
    try table.duplicate(third, onto: second)
    #expect(locks.conflict(with: other) == nil)
    try locks.setWhole(other, waits: false)
  }
}
