// Descriptor tables: lowest free numbers, duplicates, limits, what closes when.
import Base
import Glibc
import ModelChecker
import Testing

@testable import Files

@Suite struct DescriptorTableTests {
  func event() -> OpenFile { EventFile(value: 0, isSemaphore: false) }

  @Test func lowestFreeNumber() throws {
    let table = DescriptorTable(limit: 200)
    for number in 0..<130 { #expect(try table.install(event()) == number) }
    for number in [3, 64, 100] { try table.close(number) }
    #expect(try table.install(event()) == 3)
    #expect(try table.install(event(), atLeast: 65) == 100)
    #expect(try table.install(event()) == 64)
    #expect(try table.install(event()) == 130)
    #expect(try table.install(event(), atLeast: 150) == 150)
    #expect(throws: Errno.EINVAL) { try table.install(event(), atLeast: 200) }
    #expect(throws: Errno.EBADF) { try table.close(140) }
    #expect(throws: Errno.EBADF) { _ = try table.file(-1) }
    #expect(throws: Errno.EBADF) { _ = try table.file(100_000) }
  }

  @Test func limit() throws {
    let table = DescriptorTable(limit: 3)
    for _ in 0..<3 { _ = try table.install(event()) }
    #expect(throws: Errno.EMFILE) { _ = try table.install(event()) }
    #expect(throws: Errno.EMFILE) { try table.checkRoom() }
    table.limit = 5
    try table.checkRoom()
    #expect(try table.install(event()) == 3)
    table.limit = 2
    try table.close(3)
    #expect(throws: Errno.EMFILE) { _ = try table.duplicate(0) }
    #expect(try table.file(2) === table.file(2))
  }

  @Test func duplicates() throws {
    let table = DescriptorTable()
    let file = event()
    #expect(try table.install(file) == 0)
    #expect(try table.duplicate(0, atLeast: 10, closeOnExec: true) == 10)
    try table.duplicate(0, onto: 300)
    #expect(try table.file(300) === file)
    #expect(try table.closesOnExec(10))
    #expect(try !table.closesOnExec(300))
    try table.duplicate(10, onto: 10)
    #expect(try table.closesOnExec(10))
    #expect(throws: Errno.EBADF) { try table.duplicate(5, onto: 5) }
    #expect(throws: Errno.EBADF) { try table.duplicate(0, onto: 100_000) }
    try table.setClosesOnExec(0, true)
    table.closeOnExec()
    #expect(throws: Errno.EBADF) { _ = try table.file(0) }
    #expect(table.next(from: 0) == 300)
    #expect(table.next(from: 301) == nil)
  }

  @Test func ranges() throws {
    let table = DescriptorTable()
    for _ in 0..<10 { _ = try table.install(event()) }
    table.closeRange(2, 4)
    table.closeRange(8, .max, onExecOnly: true)
    var left: [Int] = []
    var number = 0
    while let found = table.next(from: number) {
      left.append(found)
      number = found + 1
    }
    #expect(left == [0, 1, 5, 6, 7, 8, 9])
    #expect(try table.closesOnExec(9))
  }

  /// A pipe's reader sees the end only when the last of the writer's descriptors is gone, in both tables.
  @Test func lastDescriptorCloses() throws {
    let table = DescriptorTable()
    let ends = try Pipe.make(flags: .nonBlocking)
    let writer = try table.install(ends.writer)
    let second = try table.duplicate(writer)
    let copy = try table.copy()
    try table.close(writer)
    try copy.close(second)
    try table.duplicate(writer == 0 ? second : writer, onto: 7)
    try table.close(second)
    try copy.close(writer)
    #expect(throws: Errno.EAGAIN) { _ = try ends.reader.read(1) }
    try table.close(7)
    #expect(try ends.reader.read(1) == [])
  }

  // MARK: Users

  /// What a thread that may be alone with the table finds is what it would find with the lock.
  @Test(arguments: 0...2) func filesAreFoundByAnyNumberOfUsers(_ users: Int) throws {
    let table = DescriptorTable()
    for _ in 0..<users { table.addUser() }
    let files = (0..<3).map { _ in event() }
    for file in files { _ = try table.install(file) }
    try table.close(1)
    _ = try table.install(files[1], atLeast: 200)
    for (descriptor, file) in [(0, files[0]), (2, files[2]), (200, files[1])] {
      #expect(try table.withFile(descriptor) { $0 === file })
    }
    for descriptor in [-1, Int.min, 1, 3, 199, 201, 100_000, Int.max] {
      #expect(throws: Errno.EBADF) { try table.withFile(descriptor) { _ in } }
    }
    #expect(throws: Errno.EXDEV) { try table.withFile(0) { (_) throws(Errno) in throw .EXDEV } }
    try table.duplicate(200, onto: 0)
    #expect(try table.withFile(0) { $0 === files[1] })
    for user in 0..<users { #expect(table.removeUser() == (user == users - 1)) }
  }

  /// Only one who is alone does without the lock.
  @Test(arguments: 1...2) func oneUserTakesNoLock(_ users: Int) throws {
    let table = Shared(value: DescriptorTable())
    _ = try table.value.install(event())
    for _ in 0..<users { table.value.addUser() }
    let isHeld = Atomic<Bool>(false)
    let isDone = Atomic<Bool>(false)
    let wasDone = Atomic<Bool>(false)
    HostThreads.run(2) { index in
      if index == 1 {
        while !isHeld.load(ordering: .acquiring) { sched_yield() }
        try? table.value.withFile(0) { _ in }
        return isDone.store(true, ordering: .releasing)
      }
      table.value.lock.writeLock()
      isHeld.store(true, ordering: .releasing)
      for _ in 0..<(users == 1 ? 10_000 : 50) where !isDone.load(ordering: .acquiring) { usleep(1000) }
      wasDone.store(isDone.load(ordering: .acquiring), ordering: .relaxed)
      table.value.lock.writeUnlock()
    }
    let isWithoutLock = wasDone.load(ordering: .relaxed)
    #expect(isWithoutLock == (users == 1) && isDone.load(ordering: .acquiring))
  }

  /// One user changes the table and goes; what the other finds then is what that one has left, and before that nothing that has ended.
  @Test func whoIsLeftSeesWhatTheOthersDid() throws {
    for _ in 0..<50 {
      let table = Shared(value: DescriptorTable(limit: 4096))
      for _ in 0..<2 { table.value.addUser() }
      _ = try table.value.install(EventFile(value: 1, isSemaphore: true))
      let wrong = Atomic<Int>(0)
      HostThreads.run(2) { index in
        guard index == 1 else {
          for round in 0..<40 {
            let file = EventFile(value: UInt64(round), isSemaphore: false)
            guard let number = try? table.value.install(file, atLeast: 1 + round * 8) else { continue }
            if round < 39 { try? table.value.close(number) }
          }
          _ = table.value.removeUser()
          return
        }
        for round in 0..<400 {
          if (try? table.value.withFile(0, { $0.currentPosition })) != 0 { wrong.wrappingAdd(1, ordering: .relaxed) }
          _ = try? table.value.withFile(1 + round % 320) { $0.currentPosition }
        }
      }
      #expect(wrong.load(ordering: .relaxed) == 0)
      #expect(try table.value.withFile(1 + 39 * 8) { $0 !== (try? table.value.file(0)) })
      #expect(table.value.removeUser())
    }
  }

  @Test func whoWasNeverCountedDoesNotLeave() async {
    await #expect(processExitsWith: .failure) { _ = DescriptorTable().removeUser() }
  }
}
