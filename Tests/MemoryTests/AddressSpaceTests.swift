// Address spaces: random operations against a naive model of bytes, and the verdicts of faults. Tests touch memory as the CPU
// would: through the page tables, with a fault wherever an entry does not allow the access.
import Base
import Pages
import Platform
import Synchronization
import Testing

@testable import Memory

/// A program's view of an address space.
struct Program {
  let space: AddressSpace

  /// The byte's place in the arena after the faults that the access takes, or the fault's verdict.
  func touch(_ address: UInt64, _ access: FaultAccess) -> (UnsafeMutablePointer<UInt8>?, FaultResult) {
    for _ in 0..<4 {
      let (slot, level) = space.table.slot(VirtualAddress(address))
      let entry = slot.entry
      if level <= 2, entry.isPresent, access != .write || entry.isWritable, access != .execute || entry.isExecutable {
        let physical = space.table.translate(VirtualAddress(address))!
        return (LinearMap.pointer(physical).assumingMemoryBound(to: UInt8.self), .resolved)
      }
      let result = space.fault(at: VirtualAddress(address), access: access)
      guard result == .resolved else { return (nil, result) }
    }
    Issue.record("a fault was resolved again and again")
    return (nil, .outOfMemory)
  }

  func load(_ address: UInt64) -> UInt8? { touch(address, .read).0?.pointee }

  @discardableResult
  func store(_ address: UInt64, _ value: UInt8) -> FaultResult {
    let (pointer, result) = touch(address, .write)
    pointer?.pointee = value
    return result
  }
}

@Suite struct AddressSpaceTests {
  static func range(_ start: UInt64, _ count: UInt64) -> VirtualRange {
    VirtualRange(start: VirtualAddress(start), count: count)
  }

  /// What the model knows of a page.
  struct ModelPage {
    var protection: Protection
    var value: UInt8
  }

  @Test(arguments: [1, 2, 3]) func agreesWithAModel(seed: UInt64) throws {
    var random = Generator(state: seed)
    let space = try AddressSpace(seed: seed)
    let program = Program(space: space)
    var model: [UInt64: ModelPage] = [:]
    let base: UInt64 = 0x1000_0000
    let pages: UInt64 = 1200  // A bit more than two tables.
    let kinds: [Protection] = [.none, .read, [.read, .write], [.read, .execute], [.read, .write, .execute]]
    func pick() -> (UInt64, UInt64) {
      let first = UInt64.random(in: 0..<pages, using: &random)
      let count = min(UInt64.random(in: 1...(Bool.random(using: &random) ? 8 : 700), using: &random), pages - first)
      return (base + first << 12, count)
    }
    for _ in 0..<900 {
      let (start, count) = pick()
      let range = Self.range(start, count << 12)
      let all = (0..<count).map { start + $0 << 12 }
      switch Int.random(in: 0..<10, using: &random) {
      case 0, 1:
        let protection = kinds.randomElement(using: &random)!
        let request = MapRequest(
          address: range.start, byteCount: range.count, protection: protection, flags: [.fixed, .noReserve])
        #expect(try space.map(request) == range.start)
        for page in all { model[page] = ModelPage(protection: protection, value: 0) }
      case 2:
        try space.unmap(range)
        for page in all { model[page] = nil }
      case 3, 4:
        let protection = kinds.randomElement(using: &random)!
        if all.allSatisfy({ model[$0] != nil }) {
          try space.protect(range, protection)
          for page in all { model[page]!.protection = protection }
        } else {
          // As Linux does: up to the hole.
          #expect(throws: Errno.ENOMEM) { try space.protect(range, protection) }
          for page in all.prefix(while: { model[$0] != nil }) { model[page]!.protection = protection }
        }
      case 5:
        if all.allSatisfy({ model[$0] != nil }) {
          try space.advise(range, .discard)
          for page in all { model[page]!.value = 0 }
        }
      case 6:
        // Move a piece elsewhere and back.
        guard count < 300, all.allSatisfy({ model[$0] != nil }),
          Set(all.map { model[$0]!.protection.rawValue }).count == 1,
          space.mapping(endingAbove: start)!.range.end >= range.end
        else { continue }
        let away = try space.remap(range, byteCount: range.count, mayMove: true, fixed: VirtualAddress(0x7000_0000))
        #expect(away == VirtualAddress(0x7000_0000))
        #expect(program.touch(start, .read).1 == .notMapped)
        let back = try space.remap(
          Self.range(0x7000_0000, range.count), byteCount: range.count, mayMove: true, fixed: range.start)
        #expect(back == range.start)
      default:
        for page in all.shuffled(using: &random).prefix(40) {
          guard let known = model[page] else {
            #expect(program.touch(page, .read).1 == .notMapped)
            continue
          }
          let isWrite = Bool.random(using: &random)
          if isWrite {
            let value = UInt8.random(in: 1...255, using: &random)
            let result = program.store(page + 77, value)
            #expect(result == (known.protection.contains(.write) ? .resolved : .accessDenied))
            if result == .resolved { model[page]!.value = value }
          } else if known.protection == .none {
            #expect(program.touch(page, .read).1 == .accessDenied)
          } else {
            #expect(program.load(page + 77) == known.value)
            #expect(
              program.touch(page, .execute).1 == (known.protection.contains(.execute) ? .resolved : .accessDenied))
          }
        }
      }
      #expect(space.mappedByteCount == model.count.u64 << 12)
      let isSound = space.regions.isSound()
      #expect(isSound)
    }
    var shown: UInt64 = 0
    var last: UInt64 = 0
    space.forEachMapping { mapping in
      #expect(mapping.range.start.rawValue >= last)
      last = mapping.range.end.rawValue
      shown += mapping.range.count
      return true
    }
    #expect(shown == model.count.u64 << 12)
    try space.unmap(Self.range(base, pages << 12))
    #expect(space.residentByteCount == 0)
  }

  @Test func placesMappingsTopDownAndHonoursFlags() throws {
    let space = try AddressSpace(seed: 99)
    let first = try space.map(MapRequest(byteCount: 100, protection: .read))
    let second = try space.map(MapRequest(byteCount: 5000, protection: [.read, .write]))
    #expect(second + 8192 == first)
    #expect(first < AddressMap.programEnd)
    let low = try space.map(MapRequest(byteCount: 4096, protection: .read, flags: .low2GiB))
    #expect(low.rawValue < 1 << 31)
    #expect(throws: Errno.EEXIST) {
      try space.map(MapRequest(address: first, byteCount: 4096, protection: .read, flags: .fixedNoReplace))
    }
    #expect(throws: Errno.EINVAL) {
      try space.map(MapRequest(address: first + 1, byteCount: 4096, protection: .read, flags: .fixed))
    }
    #expect(throws: Errno.EPERM) {
      try space.map(MapRequest(address: VirtualAddress(0x1000), byteCount: 4096, protection: .read, flags: .fixed))
    }
    #expect(throws: Errno.EINVAL) { try space.map(MapRequest(byteCount: 0, protection: .read)) }
    #expect(throws: Errno.ENOMEM) { try space.map(MapRequest(byteCount: 1 << 50, protection: .read)) }
    #expect(throws: Errno.ENOMEM) { try space.map(MapRequest(byteCount: 1 << 40, protection: [.read, .write])) }
    let reserved = try space.map(MapRequest(byteCount: 1 << 40, protection: [.read, .write], flags: .noReserve))
    #expect(reserved.isAligned(to: PageSize.large))
    let hint = try space.map(MapRequest(address: VirtualAddress(0x5555_0000), byteCount: 4096, protection: .read))
    #expect(hint.rawValue == 0x5555_0000)
  }

  @Test func verdictsArePrecise() throws {
    let space = try AddressSpace(seed: 5)
    let program = Program(space: space)
    let object = MemoryObject(byteCount: 5000)
    let file = try space.map(MapRequest(byteCount: 16384, protection: .read, object: object)).rawValue
    #expect(program.load(file + 4999) == 0)
    #expect(program.touch(file + 8192, .read).1 == .busError)
    #expect(program.touch(file, .write).1 == .accessDenied)
    #expect(program.touch(file, .execute).1 == .accessDenied)
    #expect(program.touch(file - 4096, .read).1 == .notMapped)
    #expect(program.touch(0, .read).1 == .notMapped)
    #expect(program.touch(AddressMap.programEnd.rawValue, .read).1 == .notMapped)
    #expect(throws: Errno.EACCES) {
      try space.map(
        MapRequest(byteCount: 4096, protection: [.read, .write], flags: .shared, object: object, mayWrite: false))
    }
    let readOnly = try space.map(
      MapRequest(byteCount: 4096, protection: .read, flags: .shared, object: object, mayWrite: false))
    #expect(throws: Errno.EACCES) { try space.protect(Self.range(readOnly.rawValue, 4096), [.read, .write]) }
  }

  @Test func stacksGrowUntilTheirLimit() throws {
    let space = try AddressSpace(seed: 6)
    space.limits.stack = 1 << 20
    let program = Program(space: space)
    let top: UInt64 = 0x2000_0000
    _ = try space.map(
      MapRequest(
        address: VirtualAddress(top - 65536), byteCount: 65536, protection: [.read, .write],
        flags: [.fixed, .growsDown], label: .stack))
    #expect(program.store(top - 70_000, 1) == .resolved)
    #expect(program.store(top - (1 << 20), 2) == .resolved)
    #expect(program.store(top - (1 << 20) - 1, 3) == .notMapped)
    #expect(program.load(top - 70_000) == 1)
    #expect(space.mapping(endingAbove: 0)!.label == .stack)
  }

  @Test func theBreakMoves() throws {
    let space = try AddressSpace(seed: 7)
    let program = Program(space: space)
    let base: UInt64 = 0x60_0123
    space.setBreakBase(VirtualAddress(base))
    #expect(space.setBreak(.zero).rawValue == base)
    #expect(space.setBreak(VirtualAddress(base + 10_000)).rawValue == base + 10_000)
    #expect(program.store(base + 9_999, 9) == .resolved)
    #expect(space.setBreak(VirtualAddress(base + 100_000)).rawValue == base + 100_000)
    #expect(program.load(base + 9_999) == 9)
    #expect(space.setBreak(VirtualAddress(base + 100)).rawValue == base + 100)
    #expect(program.touch(base + 9_999, .read).1 == .notMapped)
    space.limits.data = 1_000_000
    #expect(space.setBreak(VirtualAddress(base + 9_999_999)).rawValue == base + 100)
    space.limits.data = .max
    #expect(space.setBreak(AddressMap.programEnd).rawValue == base + 100)
    #expect(space.mapping(endingAbove: 0)?.label == nil || space.mapping(endingAbove: 0)?.label == .heap)
  }

  @Test func largeRegionsBeginWithSmallPagesWhereLargeOnesCannotBeHad() throws {
    let space = try AddressSpace(seed: 11)
    let program = Program(space: space)
    let large = try space.map(MapRequest(byteCount: 8 << 20, protection: [.read, .write])).rawValue
    try space.advise(Self.range(large, 8 << 20), .noHugePages)
    #expect(program.store(large, 5) == .resolved)
    #expect(program.load(large) == 5)
    #expect(space.table.slot(VirtualAddress(large)).level == 1)
  }

  @Test func anonymousFaultsMapMoreAndMore() throws {
    let space = try AddressSpace(seed: 8)
    let program = Program(space: space)
    let start = try space.map(MapRequest(byteCount: 2 << 20, protection: [.read, .write])).rawValue
    var faults = 0
    var address = start
    while address < start + 2 << 20 {
      if space.table.translate(VirtualAddress(address)) == nil { faults += 1 }
      program.store(address, 1)
      address += 4096
    }
    #expect(faults <= 9, "\(faults) faults for 512 pages")
    #expect(space.residentByteCount == 2 << 20)
    // Large regions, on advice, get 2 MiB pages; these split where they are cut.
    let large = try space.map(MapRequest(byteCount: 8 << 20, protection: [.read, .write])).rawValue
    try space.advise(Self.range(large, 8 << 20), .hugePages)
    program.store(large + 123_456, 5)
    #expect(space.table.slot(VirtualAddress(large)).level == 2)
    try space.unmap(Self.range(large + 4096, 4096))
    #expect(program.load(large + 123_456) == 5)
    #expect(program.touch(large + 4096, .read).1 == .notMapped)
    #expect(space.residentByteCount == (4 << 20) - 4096)
    let moved = try space.remap(
      Self.range(large + 8192, 1 << 20), byteCount: 1 << 20, mayMove: true, fixed: VirtualAddress(0x3000_0000))
    #expect(program.load(moved.rawValue + 123_456 - 8192) == 5)
  }

  @Test func memoryComesBack() throws {
    // Other tests run beside this one, so only the frames of one page table are compared.
    let frame = Frames.allocate(use: .program)!
    Frames.free(frame)
    var space: AddressSpace? = try AddressSpace(seed: 10)
    let object = MemoryObject(byteCount: 1 << 20)
    let start = try space!.map(
      MapRequest(byteCount: 1 << 20, protection: [.read, .write], flags: [.shared, .populate], object: object)
    ).rawValue
    let program = Program(space: space!)
    program.store(start + 5000, 3)
    #expect(object.residentPages > 0)
    #expect(Frames.references(object.word(1).frame) == 2)
    _ = program
    space = nil
  }

  @Test func protectionTogglesKeepContents() throws {
    let space = try AddressSpace(seed: 11)
    let program = Program(space: space)
    let start = try space.map(MapRequest(byteCount: 65536, protection: [.read, .write])).rawValue
    program.store(start + 4096, 7)
    try space.protect(Self.range(start, 65536), .none)
    #expect(program.touch(start + 4096, .read).1 == .accessDenied)
    #expect(space.table.translate(VirtualAddress(start + 4096)) == nil)
    try space.protect(Self.range(start, 65536), [.read, .execute])
    #expect(program.load(start + 4096) == 7)
    #expect(program.touch(start + 4096, .write).1 == .accessDenied)
    try space.protect(Self.range(start, 65536), [.read, .write])
    // The right comes back at once: no fault is needed.
    #expect(space.table.slot(VirtualAddress(start + 4096)).slot.entry.isWritable)
    let flushes = TLB.flushCount
    program.store(start + 4096, 8)
    #expect(TLB.flushCount >= flushes)
    #expect(program.load(start + 4096) == 8)
  }
}
