// The device's end of a queue, with a guest that keeps the rules.
import Glibc
import Testing
import VirtioABI
import VirtioQueue
import VirtioTestGuest

private let modern = VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors

private func contents(_ pieces: UnsafeBufferPointer<iovec>) -> [[UInt8]] {
  pieces.map { Array(UnsafeRawBufferPointer(start: $0.iov_base, count: $0.iov_len)) }
}

@Suite struct SplitQueueTests {
  let guest = TestGuest()
  let chain = DescriptorChain()

  @Test func requestsComeInOrderWithTheirPieces() throws {
    let driver = TestQueue(guest, size: 8)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    #expect(!queue.pop(into: chain))
    driver.set(3, guest.place([1, 2, 3]), 3, flags: VirtqueueDescriptor.next, next: 5)
    driver.set(5, guest.place([4]), 1, flags: VirtqueueDescriptor.next, next: 0)
    let answer = guest.allocate(10)
    driver.set(0, answer, 10, flags: VirtqueueDescriptor.write)
    driver.offer(3)
    driver.send([9], index: 7)
    #expect(queue.pop(into: chain))
    #expect(contents(chain.readable) == [[1, 2, 3], [4]])
    #expect(chain.readableByteCount == 4)
    #expect(chain.writableByteCount == 10)
    #expect(withUnsafeBytes(of: UInt16(0x0707)) { chain.write(at: 0, from: $0) } == 2)
    queue.push(chain, written: 2)
    #expect(guest.bytes(answer, 3) == [7, 7, 0])
    #expect(queue.pop(into: chain))
    #expect(contents(chain.readable) == [[9]])
    queue.push(chain)
    #expect(!queue.pop(into: chain))
    #expect(driver.takeUsed()! == (3, 2))
    #expect(driver.takeUsed()! == (7, 0))
    #expect(queue.fault == nil)
  }

  @Test func indirectTablesMayFollowDirectPieces() throws {
    let driver = TestQueue(guest, size: 4)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    // A table at an odd address, whose descriptors are not in order; 100 pieces in a queue of 4.
    let table = guest.allocate(16 * 100 + 1) + 1
    for index in 0..<100 {
      let flags = index == 99 ? 0 : VirtqueueDescriptor.next
      let place = (index * 37) % 100
      let descriptor = VirtqueueDescriptor(
        address: guest.place([UInt8(index)]), length: 1, flags: flags, nextIndex: UInt16((index + 1) * 37 % 100))
      withUnsafeBytes(of: descriptor) {
        guest.pointer(table + UInt64(16 * place)).copyMemory(from: $0.baseAddress!, byteCount: 16)
      }
    }
    driver.set(1, guest.place([200]), 1, flags: VirtqueueDescriptor.next, next: 2)
    // The write flag of the table's own descriptor means nothing.
    driver.set(2, table, 1600, flags: VirtqueueDescriptor.indirect | VirtqueueDescriptor.write)
    driver.offer(1)
    #expect(queue.pop(into: chain))
    #expect(contents(chain.readable) == [[200]] + (0..<100).map { [UInt8($0)] })
    queue.push(chain)
    #expect(driver.takeUsed()! == (1, 0))
  }

  @Test func emptyPiecesAreSkippedAndPiecesSplitAtRegions() throws {
    // Two regions that are neighbours for the guest, but not for the host.
    let other = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
    defer { other.deallocate() }
    other.initializeMemory(as: UInt8.self, repeating: 5, count: 4096)
    let end = TestGuest.start + UInt64(TestGuest.byteCount)
    guest.map.add(start: GuestAddress(end), byteCount: 4096, host: other)
    let driver = TestQueue(guest, size: 4)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    driver.set(0, 0, 0, flags: VirtqueueDescriptor.next, next: 1)
    driver.set(1, end - 2, 4)
    driver.offer(0)
    #expect(queue.pop(into: chain))
    #expect(contents(chain.readable) == [[0, 0], [5, 5]])
    var three: UInt32 = 0
    #expect(withUnsafeMutableBytes(of: &three) { chain.read(at: 1, into: $0) } == 3)
    #expect(three == 0x0005_0500)
  }

  @Test func ringsWrapAround() throws {
    let driver = TestQueue(guest, size: 2)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    for round in 0..<70_000 {
      driver.set(round & 1, TestGuest.start, 1)
      driver.offer(round & 1)
      try #require(queue.pop(into: chain))
      queue.push(chain)
      try #require(driver.takeUsed()! == (round & 1, 0))
    }
  }

  @Test func requestsMayBeGivenBackAndAnsweredOutOfOrder() throws {
    let driver = TestQueue(guest, size: 4)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    driver.send([0], index: 0)
    driver.send([1], index: 1)
    #expect(queue.pop(into: chain))
    queue.putBack(chain)
    #expect(queue.pop(into: chain))
    let second = DescriptorChain()
    #expect(queue.pop(into: second))
    #expect(!queue.hasAvailable())
    queue.push(second)
    queue.push(chain)
    #expect(driver.takeUsed()!.head == 1)
    #expect(driver.takeUsed()!.head == 0)
  }

  @Test func whatHasBeenGivenIsCountedAnew() throws {
    let driver = TestQueue(guest, size: 4)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    #expect(queue.availableCount() == 0)
    for count in 1...3 {
      driver.send([0])
      #expect(queue.availableCount() == count)
    }
    #expect(queue.pop(into: chain) && queue.availableCount() == 2)
    driver.send([0])
    #expect(queue.availableCount() == 3)
    queue.putBack(chain)
    #expect(queue.availableCount() == 4)
    for _ in 0..<4 { #expect(queue.pop(into: chain)) }
    #expect(queue.availableCount() == 0 && queue.fault == nil)
  }

  @Test func eventIndicesDecideAboutInterruptsAndNotifications() throws {
    let driver = TestQueue(guest, size: 8)
    let queue = try SplitQueue(driver.configuration(features: modern), memory: guest.map)
    driver.setUsedEvent(1)
    func request() {
      driver.send([0])
      #expect(queue.pop(into: chain))
      queue.push(chain)
    }
    #expect(!queue.takeInterrupt())
    request()
    #expect(!queue.takeInterrupt())
    request()
    #expect(queue.takeInterrupt())
    #expect(!queue.takeInterrupt())
    driver.setUsedEvent(4)
    for _ in 0..<3 { request() }
    #expect(queue.takeInterrupt())
    request()
    #expect(!queue.takeInterrupt())
    // Notifications: only `rearm` moves the event.
    #expect(driver.availableEvent == 0)
    #expect(!queue.rearm())
    #expect(driver.availableEvent == 6)
    driver.send([0])
    #expect(queue.rearm())
  }

  @Test func flagsDecideWithoutEventIndices() throws {
    let driver = TestQueue(guest, size: 8)
    let queue = try SplitQueue(driver.configuration(features: VirtioFeature.version1), memory: guest.map)
    driver.send([0])
    #expect(queue.pop(into: chain))
    queue.push(chain)
    guest.store(VirtqueueLayout.noInterrupt, at: driver.available)
    #expect(!queue.takeInterrupt())
    guest.store(UInt16(0), at: driver.available)
    driver.send([0])
    #expect(queue.pop(into: chain))
    queue.push(chain)
    #expect(queue.takeInterrupt())
    queue.disarm()
    #expect(guest.load(UInt16.self, at: driver.used) == VirtqueueLayout.noNotification)
    #expect(!queue.rearm())
    #expect(guest.load(UInt16.self, at: driver.used) == 0)
  }

  @Test func memoryMapMergesNeighboursAndRefusesTheRest() {
    let map = GuestMemoryMap()
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 0x4000, alignment: 4096)
    defer { memory.deallocate() }
    map.add(start: GuestAddress(0x1000), byteCount: 0x1000, host: memory)
    map.add(start: GuestAddress(0x2000), byteCount: 0x1000, host: memory + 0x1000)
    map.add(start: GuestAddress(0x3000), byteCount: 0x1000, host: memory + 0x2000, isWritable: false)
    #expect(map.regions.map(\.byteCount) == [0x2000, 0x1000])
    #expect(map.range(at: GuestAddress(0x1fff), count: 2, forWriting: true) == memory + 0xfff)
    #expect(map.range(at: GuestAddress(0x2fff), count: 2, forWriting: false) == nil)
    #expect(map.range(at: GuestAddress(0x3000), count: 1, forWriting: true) == nil)
    #expect(map.range(at: GuestAddress(0x3000), count: 0x1000, forWriting: false) == memory + 0x2000)
    #expect(map.range(at: GuestAddress(0xfff), count: 1, forWriting: false) == nil)
    #expect(map.range(at: GuestAddress(.max), count: 1, forWriting: false) == nil)
    var copy = [UInt8](repeating: 1, count: 0x1800)
    #expect(copy.withUnsafeMutableBytes { map.copy(from: GuestAddress(0x2800), into: $0) })
    #expect(!copy.withUnsafeMutableBytes { map.copy(from: GuestAddress(0x2801), into: $0) })
  }
}
