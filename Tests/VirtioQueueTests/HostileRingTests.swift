// Guests that break the rules: every time a clean fault, and nothing touched that is not the guest's.
import Glibc
import Testing
import VirtioABI
import VirtioQueue
import VirtioTestGuest

private let modern = VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
private let next = VirtqueueDescriptor.next
private let write = VirtqueueDescriptor.write
private let indirect = VirtqueueDescriptor.indirect

@Suite struct HostileRingTests {
  let guest = TestGuest()
  let chain = DescriptorChain()
  static let end = TestGuest.start + UInt64(TestGuest.byteCount)

  /// What becomes of a queue of 8 that the body has filled.
  func fault(features: UInt64 = modern, _ body: (TestQueue) -> Void) throws -> SplitQueue.Fault? {
    let driver = TestQueue(guest, size: 8)
    let queue = try SplitQueue(driver.configuration(features: features), memory: guest.map)
    body(driver)
    let taken = queue.pop(into: chain)
    #expect(taken == (queue.fault == nil))
    if queue.fault != nil {
      // From then on it is dead.
      #expect(!queue.pop(into: chain))
      #expect(!queue.rearm())
      #expect(!queue.takeInterrupt())
      #expect(driver.usedIndex == 0)
    }
    return queue.fault
  }

  @Test func chainsThatRunInCirclesEnd() throws {
    // Every cycle of every length, entered after every tail.
    for length in 1...8 {
      for tail in 0...(8 - length) {
        let found = try fault { driver in
          for index in 0..<(tail + length) {
            driver.set(
              index, TestGuest.start, 1, flags: next, next: index == tail + length - 1 ? tail : index + 1)
          }
          driver.offer(0)
        }
        #expect(found == .endlessChain)
      }
    }
    // Eight pieces are no circle.
    #expect(
      try fault { driver in
        for index in 0..<8 {
          driver.set(index, TestGuest.start, 1, flags: index < 7 ? next : 0, next: index + 1)
        }
        driver.offer(0)
      } == nil)
  }

  @Test func everyAvailableIndexIsHandled() throws {
    for taken in [0, 3] {
      for index in 0...UInt16.max {
        guest.rewind()
        let driver = TestQueue(guest, size: 8)
        let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
        for _ in 0..<taken {
          driver.set(0, TestGuest.start, 1)
          driver.offer(0)
          #expect(queue.pop(into: chain))
          queue.push(chain)
        }
        driver.setIndex(index)
        let ahead = Int(index) - taken
        if (0...8).contains(ahead) {
          var count = 0
          while queue.pop(into: chain) { count += 1 }
          #expect(count == ahead && queue.fault == nil)
        } else {
          #expect(!queue.pop(into: chain))
          #expect(queue.fault == .indexJumped)
        }
      }
    }
  }

  @Test func openRequestsAreBoundedByTheSize() throws {
    let driver = TestQueue(guest, size: 8)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    for _ in 0..<8 { driver.send([0]) }
    for _ in 0..<8 { #expect(queue.pop(into: chain)) }
    // A ninth, though none has been answered; then an index that goes back.
    driver.send([0])
    #expect(!queue.pop(into: chain))
    #expect(queue.fault == .indexJumped)
    let second = TestQueue(guest, size: 8)
    let other = try SplitQueue(second.configuration(features: modern), memory: guest.map)
    for _ in 0..<3 { second.send([0]) }
    for _ in 0..<3 { #expect(other.pop(into: chain)) }
    second.setIndex(2)
    #expect(!other.hasAvailable())
    #expect(other.fault == .indexJumped)
    // Requests that were there are taken back, and others counted that cannot be.
    for index in [1, 12, 0xffff] {
      let third = TestQueue(guest, size: 8)
      let counted = try SplitQueue(third.configuration(features: modern), memory: guest.map)
      for _ in 0..<3 { third.send([0]) }
      #expect(counted.pop(into: chain) && counted.pop(into: chain))
      #expect(counted.availableCount() == 1)
      third.setIndex(UInt16(index))
      #expect(counted.availableCount() == 0)
      #expect(counted.fault == .indexJumped)
    }
  }

  @Test func indicesBehindTheTableAreFound() throws {
    for bad in [8, 9, 255, 0x7fff, 0x8000, 0xffff] {
      #expect(try fault { $0.offer(bad) } == .badDescriptorIndex)
      #expect(
        try fault {
          $0.set(0, TestGuest.start, 1, flags: next, next: bad)
          $0.offer(0)
        } == .badDescriptorIndex)
    }
  }

  @Test func piecesOutsideMemoryAreFound() throws {
    let places: [(UInt64, Int)] = [
      (0, 1), (TestGuest.start - 1, 1), (TestGuest.start - 1, 2), (Self.end, 1), (Self.end - 1, 2),
      (Self.end - 4096, 4097), (.max, 1), (.max, 2), (.max - 4094, 4096), (TestGuest.start, 0xffff_ffff),
      (1 << 63, 1), (0xffff_ffff_0000_0000, 0xffff_ffff),
    ]
    for (address, length) in places {
      for flags in [0, write] {
        let found = try fault {
          $0.set(0, address, length, flags: flags)
          $0.offer(0)
        }
        #expect(found == .outsideMemory, "\(address) \(length)")
      }
    }
    #expect(
      try fault {
        $0.set(0, Self.end - 1, 1)
        $0.offer(0)
      } == nil)
  }

  @Test func readOnlyMemoryIsNotWritten() throws {
    let page = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
    defer { page.deallocate() }
    guest.map.add(start: GuestAddress(1 << 40), byteCount: 4096, host: page, isWritable: false)
    for (flags, expected) in [(UInt16(0), nil), (write, SplitQueue.Fault.outsideMemory)] {
      let found = try fault {
        $0.set(0, 1 << 40, 4096, flags: flags)
        $0.offer(0)
      }
      #expect(found == expected)
    }
    var configuration = TestQueue(guest, size: 8).configuration(features: modern)
    configuration.used = GuestAddress(1 << 40)
    #expect(throws: SplitQueue.Fault.outsideMemory) { try SplitQueue(configuration, memory: guest.map) }
  }

  @Test func lengthsThatOverflowAreFound() throws {
    let huge = UnsafeMutableRawPointer(
      mmap(nil, 3 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | Int32(MAP_NORESERVE), -1, 0)!)
    defer { munmap(huge, 3 << 30) }
    guest.map.add(start: GuestAddress(1 << 41), byteCount: 3 << 30, host: huge)
    for flags in [0, write] {
      let found = try fault {
        $0.set(0, 1 << 41, 3 << 30, flags: next | flags, next: 1)
        $0.set(1, 1 << 41, 1 << 30, flags: flags)
        $0.offer(0)
      }
      #expect(found == .tooManyBytes)
    }
    #expect(
      try fault {
        $0.set(0, 1 << 41, 3 << 30, flags: next, next: 1)
        $0.set(1, 1 << 41, (1 << 30) - 1, flags: write)
        $0.offer(0)
      } == nil)
  }

  @Test func readableBehindWritableIsFound() throws {
    #expect(
      try fault {
        $0.set(0, TestGuest.start, 1, flags: write | next, next: 1)
        $0.set(1, TestGuest.start, 1)
        $0.offer(0)
      } == .readableAfterWritable)
  }

  @Test func indirectTablesAreChecked() throws {
    func table(_ entries: [VirtqueueDescriptor]) -> UInt64 {
      let address = guest.allocate(16 * entries.count)
      for (index, entry) in entries.enumerated() { guest.store(entry, at: address + UInt64(16 * index)) }
      return address
    }
    let good = VirtqueueDescriptor(address: TestGuest.start, length: 1)
    func check(
      _ address: UInt64, _ length: Int, flags: UInt16 = indirect, features: UInt64 = modern
    ) throws -> SplitQueue.Fault? {
      try fault(features: features) {
        $0.set(0, address, length, flags: flags, next: 1)
        $0.set(1, TestGuest.start, 1)
        $0.offer(0)
      }
    }
    let one = table([good])
    #expect(try check(one, 16) == nil)
    #expect(try check(one, 16, features: VirtioFeature.version1) == .badIndirectTable)
    #expect(try check(one, 16, flags: indirect | next) == .badIndirectTable)
    for length in [0, 1, 15, 17, 31] { #expect(try check(one, length) == .badIndirectTable) }
    #expect(try check(one, 16 * 1025) == .tooManyPieces)
    #expect(try check(one, 0xffff_fff0) == .tooManyPieces)
    #expect(try check(Self.end - 15, 16) == .outsideMemory)
    #expect(try check(0, 16) == .outsideMemory)
    #expect(try check(.max - 7, 16) == .outsideMemory)
    var nested = good
    nested.flags = indirect
    #expect(try check(table([nested]), 16) == .badIndirectTable)
    var astray = good
    astray.flags = next
    astray.nextIndex = 1
    #expect(try check(table([astray]), 16) == .badDescriptorIndex)
    var circle = astray
    circle.nextIndex = 0
    #expect(try check(table([circle]), 16) == .endlessChain)
    #expect(try check(table([astray, circle]), 32) == .endlessChain)
    var late = good
    late.flags = write | next
    late.nextIndex = 1
    #expect(try check(table([late, good]), 32) == .readableAfterWritable)
    // 1,024 pieces are as many as a device takes.
    var many = [VirtqueueDescriptor](repeating: good, count: 1024)
    for index in 0..<1023 {
      many[index].flags = next
      many[index].nextIndex = UInt16(index + 1)
    }
    #expect(try check(table(many), 16384) == nil)
    #expect(chain.readable.count == 1024)
    let full = table(many)
    #expect(
      try fault {
        $0.set(0, TestGuest.start, 1, flags: next, next: 1)
        $0.set(1, full, 16384, flags: indirect)
        $0.offer(0)
      } == .tooManyPieces)
  }

  @Test func changesAfterTheCheckChangeNothing() throws {
    let driver = TestQueue(guest, size: 8)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    let entries = guest.allocate(32)
    guest.store(VirtqueueDescriptor(address: guest.place([1]), length: 1, flags: next, nextIndex: 1), at: entries)
    guest.store(VirtqueueDescriptor(address: TestGuest.start, length: 4, flags: write), at: entries + 16)
    driver.set(0, entries, 32, flags: indirect)
    driver.offer(0)
    #expect(queue.pop(into: chain))
    guest.store(VirtqueueDescriptor(address: .max, length: .max, flags: 7, nextIndex: 9), at: entries)
    guest.store(VirtqueueDescriptor(address: .max, length: .max, flags: 7, nextIndex: 9), at: entries + 16)
    driver.set(0, .max, -1, flags: 7, next: 9)
    #expect(chain.readable.count == 1 && chain.readableByteCount == 1 && chain.writableByteCount == 4)
    #expect(chain.writable[0].iov_base == guest.memory && chain.writable[0].iov_len == 4)
    queue.push(chain, written: 4)
    #expect(driver.takeUsed()! == (0, 4))
  }

  @Test func placesOfQueuesAreChecked() throws {
    let good = TestQueue(guest, size: 8).configuration(features: modern)
    func check(_ change: (inout SplitQueue.Configuration) -> Void) -> SplitQueue.Fault? {
      var configuration = good
      change(&configuration)
      do {
        _ = try SplitQueue(configuration, memory: guest.map)
        return nil
      } catch { return error }
    }
    #expect(check { _ in } == nil)
    for size in 0...UInt16.max where size & (size &- 1) != 0 || size == 0 {
      if size < 100 || size > 65_500 { #expect(check { $0.size = size } == .badSize) }
    }
    #expect(check { $0.descriptors.rawValue += 8 } == .misaligned)
    #expect(check { $0.available.rawValue += 1 } == .misaligned)
    #expect(check { $0.used.rawValue += 2 } == .misaligned)
    let outside: [UInt64] = [0, Self.end, Self.end - 16, UInt64.max & ~15, 1 << 63]
    for address in outside {
      #expect(check { $0.descriptors = GuestAddress(address) } == .outsideMemory)
      #expect(check { $0.available = GuestAddress(address) } == .outsideMemory)
      #expect(check { $0.used = GuestAddress(address) } == .outsideMemory)
    }
    #expect(check { $0.available = $0.descriptors } == .overlappingRings)
    #expect(check { $0.used.rawValue = $0.descriptors.rawValue + 124 } == .overlappingRings)
    #expect(check { $0.used.rawValue = $0.available.rawValue + 20 } == .overlappingRings)
    #expect(check { $0.used.rawValue = $0.available.rawValue + 24 } == nil)
  }
}
