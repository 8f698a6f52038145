// Memory objects: reading, writing, mapping, truncation, pagers that fail and that are slow, eviction.
import Base
import Dispatch
import Pages
import Platform
import Synchronization
import Testing

@testable import Memory

/// A source of bytes in the host's memory. Several threads may fill and write back at once.
final class TestPager: Pager, @unchecked Sendable {
  private let contents: Mutex<[UInt8]>
  var failure: Errno?
  let fills = Atomic<Int>(0)
  let pagesFilled = Atomic<Int>(0)
  var written: [(UInt64, Int)] = []
  let maximumPages: Int

  /// What the source has.
  var bytes: [UInt8] {
    get { contents.withLock { $0 } }
    set { contents.withLock { $0 = newValue } }
  }

  init(_ bytes: [UInt8], maximumPages: Int = 32) {
    contents = Mutex(bytes)
    self.maximumPages = maximumPages
  }

  func fill(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>) throws(Errno) {
    fills.add(1, ordering: .relaxed)
    pagesFilled.add(frames.count, ordering: .relaxed)
    if let failure { throw failure }
    contents.withLock { bytes in
      for (index, frame) in frames.enumerated() {
        let start = (page.int + index) * 4096
        let count = min(4096, bytes.count - start)
        guard count > 0 else { continue }
        bytes.withUnsafeBytes { LinearMap.pointer(frame).copyMemory(from: $0.baseAddress! + start, byteCount: count) }
      }
    }
  }

  func writeBack(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>, byteCount: Int) throws(Errno) {
    if let failure { throw failure }
    written.append((page, byteCount))
    store(at: page.int * 4096, frames, from: 0, byteCount)
  }

  /// Takes bytes from frames, beginning at byte `first` of them, as a device would.
  func store(at offset: Int, _ frames: UnsafeBufferPointer<PhysicalAddress>, from first: Int, _ count: Int) {
    contents.withLock { bytes in
      if bytes.count < offset + count { bytes += [UInt8](repeating: 0, count: offset + count - bytes.count) }
      for index in 0..<count {
        let place = first + index
        bytes[offset + index] =
          LinearMap.pointer(frames[place / 4096]).load(fromByteOffset: place % 4096, as: UInt8.self)
      }
    }
  }
}

@Suite struct MemoryObjectTests {
  static func pattern(_ count: Int) -> [UInt8] { (0..<count).map { ($0 / 7 + $0 / 4096).u8 } }

  static func read(_ object: MemoryObject, _ offset: UInt64, _ count: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0xee, count: count)
    let got = try bytes.withUnsafeMutableBytes { buffer -> Int in
      var transfer = Transfer(kernel: buffer)
      return try object.read(at: offset, into: &transfer)
    }
    return Array(bytes[..<got])
  }

  static func write(_ object: MemoryObject, _ offset: UInt64, _ bytes: [UInt8]) throws {
    let done = try bytes.withUnsafeBytes { buffer -> Int in
      var transfer = Transfer(kernelSource: buffer)
      return try object.write(at: offset, from: &transfer)
    }
    #expect(done == bytes.count)
  }

  @Test(arguments: [1, 2, 3]) func readsAndWritesLikeAnArray(seed: UInt64) throws {
    var random = Generator(state: seed)
    var model = Self.pattern(30_000)
    let pager = TestPager(model)
    // Three kinds: memory of its own, a pager, a file in memory.
    let file = HostedArena.placeFile(model)
    let objects = [
      MemoryObject(), MemoryObject(byteCount: 30_000, pager: pager), MemoryObject(direct: file, byteCount: 30_000),
    ]
    try Self.write(objects[0], 0, model)
    for _ in 0..<400 {
      let offset = Int.random(in: 0..<60_000, using: &random)
      let count = Int.random(in: 1..<10_000, using: &random)
      switch Int.random(in: 0..<6, using: &random) {
      case 0:
        let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
        for object in objects { try Self.write(object, offset.u64, bytes) }
        if model.count < offset + count { model += [UInt8](repeating: 0, count: offset + count - model.count) }
        model.replaceSubrange(offset..<offset + count, with: bytes)
      case 1:
        for object in objects { try object.truncate(to: offset.u64) }
        model =
          model.count > offset ? Array(model[..<offset]) : model + [UInt8](repeating: 0, count: offset - model.count)
        // The vnode's part: the source changes with the object.
        pager.bytes = Array(pager.bytes.prefix(offset))
      case 2:
        for object in objects { try object.discard(offset: offset.u64, byteCount: count.u64) }
        for index in offset..<offset + count where index < model.count { model[index] = 0 }
      default:
        let expected = offset < model.count ? Array(model[offset..<min(offset + count, model.count)]) : []
        for object in objects {
          let isEqual = try Self.read(object, offset.u64, count) == expected
          #expect(isEqual)
          #expect(object.byteCount == model.count.u64)
        }
      }
    }
    try objects[1].writeBack()
    let isWritten = Array(pager.bytes.prefix(model.count)) == Array(model.prefix(pager.bytes.count))
    #expect(isWritten)
    // The file in memory was never written.
    let original = UnsafeRawBufferPointer(start: LinearMap.pointer(file), count: 30_000)
    #expect(original.elementsEqual(Self.pattern(30_000)))
  }

  @Test func discardsByPagesPresent() throws {
    let byteCount: UInt64 = 1 << 44
    let object = MemoryObject(byteCount: byteCount)
    let places = [0, 4096, byteCount / 2 + 17, byteCount - 8192, byteCount - 1]
    for place in places { try Self.write(object, place, [1]) }
    #expect(object.residentPages == 5)
    // By absent pages this would take minutes.
    try object.discard(offset: 1, byteCount: byteCount - 2)
    #expect(object.residentPages == 2)
    #expect(try places.map { try Self.read(object, $0, 1)[0] } == [1, 0, 0, 0, 1])
    try object.discard(offset: 0, byteCount: .max)
    #expect(object.residentPages == 0)
  }

  @Test func readsAheadInRuns() throws {
    let pager = TestPager(Self.pattern(64 * 4096))
    let object = MemoryObject(byteCount: 64 * 4096, pager: pager)
    for page in 0..<64 { _ = try Self.read(object, page.u64 * 4096, 100) }
    #expect(pager.pagesFilled.load(ordering: .relaxed) == 64)
    #expect(pager.fills.load(ordering: .relaxed) <= 5)
    #expect(object.residentPages == 64)
    object.invalidate()
    #expect(object.residentPages == 0)
  }

  @Test func errorsPassAndAreForgotten() throws {
    let pager = TestPager(Self.pattern(8192))
    let object = MemoryObject(byteCount: 8192, pager: pager)
    pager.failure = .EIO
    #expect(throws: Errno.EIO) { try Self.read(object, 0, 10) }
    let space = try AddressSpace(seed: 1)
    let program = Program(space: space)
    let start = try space.map(MapRequest(byteCount: 8192, protection: .read, object: object)).rawValue
    #expect(program.touch(start, .read).1 == .busError)
    pager.failure = nil
    #expect(program.load(start + 100) == Self.pattern(8192)[100])
  }

  @Test func onlyOneFillsAPageAndTheOthersWait() throws {
    let pager = TestPager(Self.pattern(1 << 20), maximumPages: 4)
    let object = MemoryObject(byteCount: 1 << 20, pager: pager)
    let expected = Self.pattern(1 << 20)
    DispatchQueue.concurrentPerform(iterations: 4) { number in
      var random = Generator(state: number.u64)
      for _ in 0..<300 {
        let offset = Int.random(in: 0..<(1 << 20) - 5000, using: &random)
        let isEqual = (try? Self.read(object, offset.u64, 5000)) == Array(expected[offset..<offset + 5000])
        #expect(isEqual)
      }
    }
    #expect(pager.pagesFilled.load(ordering: .relaxed) <= 256)
  }

  @Test func privateAndSharedMappings() throws {
    let pager = TestPager(Self.pattern(20 * 4096))
    let object = MemoryObject(byteCount: 20 * 4096, pager: pager)
    let space = try AddressSpace(seed: 2)
    let program = Program(space: space)
    let expected = Self.pattern(20 * 4096)
    let own = try space.map(MapRequest(byteCount: 20 * 4096, protection: [.read, .write], object: object)).rawValue
    let shared = try space.map(
      MapRequest(byteCount: 16 * 4096, protection: [.read, .write], flags: .shared, object: object, offset: 4 * 4096)
    ).rawValue
    #expect(program.load(own + 5 * 4096) == expected[5 * 4096])
    #expect(program.store(own + 5 * 4096, 200) == .resolved)
    #expect(program.load(shared + 4096) == expected[5 * 4096], "a private copy is private")
    #expect(program.store(shared + 2 * 4096 + 9, 201) == .resolved)
    #expect(program.load(own + 6 * 4096 + 9) == 201, "not copied yet, so the object's page")
    #expect(try Self.read(object, 6 * 4096 + 9, 1) == [201])
    #expect(object.word(6).isDirty)
    #expect(!object.word(7).isDirty)
    try Self.write(object, 7 * 4096, [202])
    #expect(program.load(shared + 3 * 4096) == 202)
    try space.synchronise(AddressSpaceTests.range(shared, 16 * 4096))
    #expect(pager.bytes[6 * 4096 + 9] == 201)
    #expect(!object.word(6).isDirty)
    #expect(program.store(shared + 2 * 4096 + 9, 203) == .resolved)
    #expect(object.word(6).isDirty, "a store after writing back is noticed")

    // Truncation takes pages away from everybody.
    try object.truncate(to: 6 * 4096 + 5)
    #expect(program.touch(shared + 3 * 4096, .read).1 == .busError)
    #expect(program.touch(own + 7 * 4096, .read).1 == .busError)
    #expect(program.load(shared + 2 * 4096 + 9) == 0, "the rest of the last page is cleared")
    #expect(program.load(own + 5 * 4096) == 200)
    try object.truncate(to: 8 * 4096)
    #expect(program.load(shared + 2 * 4096 + 9) == 0)
  }

  @Test func filesInMemoryAreMappedWithoutCopies() throws {
    let bytes = Self.pattern(32 * 4096)
    let file = HostedArena.placeFile(bytes)
    let object = MemoryObject(direct: file, byteCount: bytes.count.u64)
    let space = try AddressSpace(seed: 3)
    let program = Program(space: space)
    let start = try space.map(
      MapRequest(byteCount: 32 * 4096, protection: [.read, .execute], object: object)
    ).rawValue
    #expect(program.load(start + 10 * 4096 + 3) == bytes[10 * 4096 + 3])
    #expect(space.table.translate(VirtualAddress(start + 31 * 4096)) == file + 31 * 4096, "mapped around")
    #expect(object.residentPages == 0)
    // The data of a program: small, private, copied at once at the first store.
    let data = try space.map(
      MapRequest(byteCount: 3 * 4096, protection: [.read, .write], object: object, offset: 4096)
    ).rawValue
    program.store(data + 4096, 99)
    let entries = (0..<3).map { space.table.slot(VirtualAddress(data + $0 * 4096)).slot.entry }
    #expect(entries.allSatisfy { $0.isPresent && $0.isWritable && $0.isOwned })
    #expect(LinearMap.pointer(file + 2 * 4096).load(as: UInt8.self) == bytes[2 * 4096])
    // A shared store gives the object a page of its own, and mappings follow.
    try Self.write(object, 10 * 4096 + 3, [77])
    #expect(program.load(start + 10 * 4096 + 3) == 77)
    #expect(LinearMap.pointer(file + 10 * 4096).load(fromByteOffset: 3, as: UInt8.self) == bytes[10 * 4096 + 3])
  }

  @Test func vectorsAndLimits() throws {
    var first = [UInt8](repeating: 0, count: 10)
    var second = [UInt8](repeating: 0, count: 20)
    try first.withUnsafeMutableBytes { one in
      try second.withUnsafeMutableBytes { two in
        let vectors: [(UInt, Int)] = [
          (UInt(bitPattern: one.baseAddress!), 10), (0, 0), (UInt(bitPattern: two.baseAddress!), 20),
        ]
        try vectors.withUnsafeBytes { list in
          var transfer = try Transfer(programVectors: VirtualAddress(list.baseAddress!), count: 3)
          #expect(transfer.remaining == 30)
          let source = (0..<40).map { UInt8($0) }
          #expect(
            try source.withUnsafeBytes { try transfer.copyOut(from: UnsafeRawBufferPointer(rebasing: $0[..<15])) } == 15
          )
          transfer.limit(to: 8)
          #expect(try transfer.zeroOut(count: 3) == 3)
          #expect(try source.withUnsafeBytes { try transfer.copyOut(from: $0) } == 5)
          #expect(transfer.remaining == 0)
          #expect(transfer.copied == 23)
          #expect(throws: Errno.EINVAL) {
            _ = try Transfer(programVectors: VirtualAddress(list.baseAddress!), count: 1025)
          }
        }
      }
    }
    #expect(first == Array(0..<10))
    #expect(second == [10, 11, 12, 13, 14, 0, 0, 0, 0, 1, 2, 3, 4] + [UInt8](repeating: 0, count: 7))
  }

  @Test func spansReadAndWriteValues() throws {
    var bytes: [UInt8] = Array("hello".utf8) + [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    try bytes.withUnsafeMutableBytes { buffer in
      let address = VirtualAddress(buffer.baseAddress!)
      #expect(try UserSpan.readString(at: address, max: 10) == Array("hello".utf8))
      #expect(throws: Errno.ENAMETOOLONG) { try UserSpan.readString(at: address, max: 4) }
      #expect(try UserSpan.read(UInt32.self, at: address + 7) == 0x0504_0302)
      try UserSpan.write(UInt16(0xabcd), at: address + 7)
      #expect(try UserSpan.read(UInt32.self, at: address + 7) == 0x0504_abcd)
      try UserSpan.clear(address, count: 2)
      #expect(try UserSpan.readString(at: address + 2, max: 10) == Array("llo".utf8))
    }
    #expect(throws: Errno.EFAULT) { _ = try UserSpan(VirtualAddress(.max), count: 2) }
  }
}
