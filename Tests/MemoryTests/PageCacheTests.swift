// What goes when memory is short: pages not used lately, mapped ones among them; never dirty, locked or private ones.
import Base
import Pages
import Platform
import Testing

@testable import Memory

@Suite struct PageCacheTests {
  private static func present(_ object: MemoryObject) -> [UInt64] {
    var numbers: [UInt64] = []
    object.lock.lock()
    object.pages.forEach { number, slot in
      if PageWord(slot.pointee).isPresent { numbers.append(number) }
      return true
    }
    object.lock.unlock()
    return numbers
  }

  private static func shrink(_ object: MemoryObject, _ limit: Int, _ effort: ShrinkEffort) -> Int {
    object.mappingsLock.lock()
    object.lock.lock()
    defer {
      object.lock.unlock()
      object.mappingsLock.unlock()
    }
    return object.shrink(limit, effort)
  }

  private static func mapped(_ object: MemoryObject, pages: UInt64, _ protection: Protection, _ flags: MapFlags = [])
    throws -> (AddressSpace, VirtualAddress)
  {
    let space = try AddressSpace(seed: 5)
    let start = try space.map(
      MapRequest(byteCount: pages << 12, protection: protection, flags: flags, object: object))
    for page in 0..<pages {
      let access: FaultAccess = protection.contains(.write) ? .write : .read
      #expect(space.fault(at: start + page << 12, access: access) == .resolved)
    }
    return (space, start)
  }

  private static func isMapped(_ space: AddressSpace, _ address: VirtualAddress) -> Bool {
    space.table.translate(address) != nil
  }

  @Test func mappedPagesGoAfterASecondLook() throws {
    let pager = TestPager(MemoryObjectTests.pattern(40 * 4096))
    let object = MemoryObject(byteCount: 40 * 4096, pager: pager)
    let (space, start) = try Self.mapped(object, pages: 40, .read)
    let other = try AddressSpace(seed: 6)
    let second = try other.map(MapRequest(byteCount: 8192, protection: .read, object: object, offset: 4096))
    #expect(other.fault(at: second, access: .read) == .resolved)
    #expect(Self.present(object).count == 40)
    // The first look spares all, since all were used.
    #expect(Self.shrink(object, .max, .unused) == 0)
    #expect(Self.present(object).count == 40)
    // Page 1 is used again, through the other mapping.
    let (slot, _) = other.table.slot(second)
    slot.store(PageTableEntry(slot.entry.rawValue | 1 << 5))
    #expect(Self.shrink(object, .max, .unused) == 39)
    #expect(Self.present(object) == [1])
    #expect(!Self.isMapped(space, start) && Self.isMapped(space, start + 4096))
    #expect(space.residentByteCount == 4096)
    // What is needed again is read again.
    #expect(space.fault(at: start + 20 * 4096, access: .read) == .resolved)
    let place = try #require(space.table.translate(start + 20 * 4096))
    #expect(LinearMap.pointer(place).load(as: UInt8.self) == pager.bytes[20 * 4096])
    let left = Self.present(object).count
    #expect(left > 1)
    #expect(Self.shrink(object, .max, .any) == left)
    #expect(Self.present(object).isEmpty)
    #expect(space.residentByteCount == 0 && other.residentByteCount == 0)
  }

  @Test func lockedDirtyAndPrivatePagesStay() throws {
    let pager = TestPager(MemoryObjectTests.pattern(8 * 4096))
    let object = MemoryObject(byteCount: 8 * 4096, pager: pager)
    // Pages 0 and 1 are written through a shared mapping, 2 is locked, 4 becomes a private copy.
    let (shared, _) = try Self.mapped(object, pages: 2, [.read, .write], .shared)
    let space = try AddressSpace(seed: 7)
    let locked = try space.map(
      MapRequest(byteCount: 4096, protection: .read, flags: .locked, object: object, offset: 2 * 4096))
    #expect(space.fault(at: locked, access: .read) == .resolved)
    let own = try space.map(
      MapRequest(byteCount: 20 * 4096, protection: [.read, .write], object: object, offset: 4 * 4096))
    #expect(space.fault(at: own, access: .write) == .resolved)
    let copy = try #require(space.table.translate(own))
    for _ in 0..<3 { _ = Self.shrink(object, .max, .any) }
    #expect(Self.present(object) == [0, 1, 2])
    #expect(space.table.translate(own) == copy)
    #expect(Self.isMapped(space, locked))
    #expect(shared.residentByteCount == 8192)
    // Once they are written back they may go too.
    try object.writeBack()
    for _ in 0..<3 { _ = Self.shrink(object, .max, .unused) }
    #expect(Self.present(object) == [2])
    try withExtendedLifetime(shared) { try space.unlock(VirtualRange(start: locked, count: 4096)) }
    _ = Self.shrink(object, .max, .any)
    #expect(Self.present(object).isEmpty)
  }

  /// The hand goes on where it stopped: a small wish does not look at all pages, and the same ones are not always taken.
  @Test func theHandGoesRound() throws {
    let pager = TestPager(MemoryObjectTests.pattern(100 * 4096))
    let object = MemoryObject(byteCount: 100 * 4096, pager: pager)
    _ = try MemoryObjectTests.read(object, 0, 100 * 4096)
    #expect(Self.shrink(object, .max, .unused) == 0)
    #expect(Self.shrink(object, 10, .unused) == 10)
    #expect(Self.present(object) == Array(10..<100))
    // Read again, page 0 is used, and behind the hand.
    _ = try MemoryObjectTests.read(object, 0, 4096)
    #expect(Self.shrink(object, 10, .unused) == 10)
    let left = Self.present(object)
    #expect(left.contains(0) && !left.contains(19) && left.contains(20))
    #expect(try MemoryObjectTests.read(object, 15 * 4096, 8192) == Array(pager.bytes[15 * 4096..<17 * 4096]))
  }

  @Test func invalidationSparesMappedPages() throws {
    let pager = TestPager(MemoryObjectTests.pattern(10 * 4096))
    let object = MemoryObject(byteCount: 10 * 4096, pager: pager)
    let (space, start) = try Self.mapped(object, pages: 1, .read)
    #expect(Self.present(object).count > 1)
    object.invalidate()
    #expect(Self.present(object) == [0])
    #expect(Self.isMapped(space, start))
  }
}
