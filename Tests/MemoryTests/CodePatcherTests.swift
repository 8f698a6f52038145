// Code that is changed in copies of its pages: who sees the change, what may be changed at all, and what becomes of the patcher's
// own memory.
import Base
import Pages
import Platform
import Testing

@testable import Memory

/// A patcher that says what it was told.
private final class TestPatcher: CodePatcher {
  let range: VirtualRange
  let room: VirtualRange
  var changed: Set<UInt64> = []
  init(_ range: VirtualRange, _ room: VirtualRange) {
    self.range = range
    self.room = room
  }
  func hasChanged(_ address: VirtualAddress) -> Bool { changed.contains(address.rawValue) }
  func original(of address: VirtualAddress) -> VirtualAddress? { nil }
  func replacement(for address: VirtualAddress) -> VirtualAddress? { nil }
}

@Suite struct CodePatcherTests {
  private static let pages: UInt64 = 8

  /// An object whose pages hold their numbers.
  private func file() throws -> MemoryObject {
    let object = MemoryObject()
    for page in 0..<Self.pages {
      var bytes = [UInt8](repeating: UInt8(page) + 1, count: 4096)
      let count = try bytes.withUnsafeMutableBytes { buffer throws -> Int in
        var transfer = Transfer(kernel: buffer)
        return try object.write(at: page << 12, from: &transfer)
      }
      #expect(count == 4096)
    }
    return object
  }

  private func map(
    _ space: AddressSpace, _ object: MemoryObject?, _ protection: Protection = [.read, .execute],
    _ flags: MapFlags = []
  ) throws -> UInt64 {
    try space.map(
      MapRequest(byteCount: Self.pages << 12, protection: protection, flags: flags, object: object)
    ).rawValue
  }

  private func addPatcher(_ space: AddressSpace, _ address: UInt64) throws -> TestPatcher {
    let code = try #require(space.code(at: VirtualAddress(address)))
    let patcher = space.addPatcher(to: code) { room, _ in TestPatcher(code.range, room) }
    return try #require(patcher as? TestPatcher)
  }

  private func replace(_ space: AddressSpace, _ patcher: TestPatcher, _ page: UInt64, _ value: UInt8) -> Bool {
    let isDone = space.replaceCode(at: VirtualAddress(page), of: patcher) {
      $0[5] = value
      return true
    }
    if isDone { patcher.changed.insert(page) }
    return isDone
  }

  @Test func aChangeIsSeenInItsMappingOnly() throws {
    let object = try file()
    let space = try AddressSpace(seed: 1)
    let here = try map(space, object)
    let there = try map(space, object)
    let program = Program(space: space)
    for page in 0..<Self.pages { #expect(program.load(here + page << 12 + 5) == UInt8(page) + 1) }
    #expect(program.load(there + 5) == 1)
    let patcher = try addPatcher(space, here + 0x1234)
    // A second one is the same.
    let code = try #require(space.code(at: VirtualAddress(here)))
    #expect(code.patcher === patcher)
    #expect(space.addPatcher(to: code, { _, _ in nil }) === patcher)
    // The room is near, and its addresses and those of the code lead to the patcher.
    let distance = Int64(bitPattern: patcher.room.start.rawValue &- here)
    #expect(distance.magnitude < 1 << 31 && patcher.room.count == CodeMapping.roomByteCount)
    #expect(space.patcher(at: patcher.room.start + 100) === patcher)
    #expect(space.patcher(at: VirtualAddress(here)) === patcher)
    #expect(space.patcher(at: VirtualAddress(there)) == nil)

    #expect(replace(space, patcher, here + 0x2000, 0xe9))
    #expect(program.load(here + 0x2005) == 0xe9)
    #expect(program.load(here + 0x2006) == 3 && program.load(here + 0x1005) == 2)
    #expect(program.load(there + 0x2005) == 3)
    let resident = space.residentByteCount
    #expect(replace(space, patcher, here + 0x2000, 0xea))
    #expect(program.load(here + 0x2005) == 0xea)
    #expect(space.residentByteCount == resident)
    #expect(program.touch(here + 0x2005, .execute).1 == .resolved)
    #expect(program.store(here + 0x2005, 0) == .accessDenied)
    var bytes = [UInt8](repeating: 0, count: 8)
    let count = try bytes.withUnsafeMutableBytes { buffer throws -> Int in
      var transfer = Transfer(kernel: buffer)
      return try object.read(at: 0x2000, into: &transfer)
    }
    #expect(count == 8)
    #expect(bytes == [UInt8](repeating: 3, count: 8))
  }

  @Test func aRefusedChangeChangesNothing() throws {
    let object = try file()
    let space = try AddressSpace(seed: 2)
    let here = try map(space, object)
    let program = Program(space: space)
    #expect(program.load(here) == 1)
    let patcher = try addPatcher(space, here)
    #expect(!space.replaceCode(at: VirtualAddress(here), of: patcher) { _ in false })
    #expect(program.load(here + 5) == 1)
    // A page that is not there is not made.
    try space.advise(VirtualRange(start: VirtualAddress(here), count: 4096), .discard)
    let resident = space.residentByteCount
    #expect(!replace(space, patcher, here, 9))
    #expect(space.residentByteCount == resident)
  }

  @Test func onlyPrivateCodeThatNobodyWroteToIsCode() throws {
    let object = try file()
    let space = try AddressSpace(seed: 3)
    #expect(space.code(at: VirtualAddress(try map(space, nil, [.read, .execute]))) == nil)
    #expect(space.code(at: VirtualAddress(try map(space, object, [.read, .execute], .shared))) == nil)
    #expect(space.code(at: VirtualAddress(try map(space, object, .read))) == nil)
    #expect(space.code(at: VirtualAddress(try map(space, object, [.read, .write, .execute]))) == nil)
    #expect(space.code(at: VirtualAddress(0x5000)) == nil)
    let here = try map(space, object)
    let patcher = try addPatcher(space, here)
    #expect(Program(space: space).load(here) == 1)
    #expect(replace(space, patcher, here, 9))
    // Once it was writable it is the program's.
    let range = VirtualRange(start: VirtualAddress(here), count: 4096)
    try space.protect(range, [.read, .write])
    try space.protect(range, [.read, .execute])
    #expect(space.code(at: VirtualAddress(here)) == nil)
    #expect(!replace(space, patcher, here, 10))
    #expect(Program(space: space).load(here + 5) == 9)
    #expect(space.code(at: VirtualAddress(here + 0x1000)) != nil)
    // Addresses of the old code and of the room still lead to the patcher.
    #expect(space.patcher(at: VirtualAddress(here)) === patcher)
  }

  @Test func theRoomGoesWithTheLastOfTheCode() throws {
    let object = try file()
    let space = try AddressSpace(seed: 4)
    let here = try map(space, object)
    let mapped = space.mappedByteCount
    var patcher: TestPatcher? = try addPatcher(space, here)
    let room = try #require(patcher?.room)
    #expect(space.mappedByteCount == mapped + CodeMapping.roomByteCount)
    weak let watched = patcher
    patcher = nil
    try space.unmap(VirtualRange(start: VirtualAddress(here + 0x2000), count: 0x1000))
    try space.unmap(VirtualRange(start: VirtualAddress(here), count: 0x2000))
    #expect(space.patcher(at: room.start) === watched && watched != nil)
    try space.unmap(VirtualRange(start: VirtualAddress(here + 0x3000), count: (Self.pages - 3) << 12))
    #expect(space.patcher(at: room.start) == nil && watched == nil)
    #expect(space.mappedByteCount == 0)
  }

  @Test func movedCodeIsAsInTheFile() throws {
    let object = try file()
    let space = try AddressSpace(seed: 5)
    let here = try map(space, object)
    let program = Program(space: space)
    #expect(program.load(here) == 1)
    let patcher = try addPatcher(space, here)
    #expect(replace(space, patcher, here, 9))
    let whole = VirtualRange(start: VirtualAddress(here), count: Self.pages << 12)
    let there = try space.remap(
      whole, byteCount: whole.count, mayMove: true, fixed: VirtualAddress(0x7000_0000)
    ).rawValue
    #expect(there == 0x7000_0000)
    #expect(program.load(there + 5) == 1)
    #expect(try #require(space.code(at: VirtualAddress(there))).patcher == nil)
    #expect(space.patcher(at: patcher.room.start) == nil)
  }
}
