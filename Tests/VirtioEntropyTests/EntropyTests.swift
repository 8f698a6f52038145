// The entropy device, with a guest in plain memory.
import Testing
import VirtioABI
import VirtioEntropy
import VirtioPCI
import VirtioTestGuest

@Suite struct EntropyTests {
  let guest = TestGuest()
  let driver: TestDriver

  init() {
    let function = PCIFunction(device: VirtioEntropy(), memory: guest.map) { _ in }
    driver = TestDriver(function, guest, queueCount: 1)
  }

  @Test func buffersAreFilled() {
    let first = driver.queues[0].post(64, index: 0)
    let second = driver.queues[0].post(64, index: 1)
    driver.kick(0)
    #expect(driver.queues[0].takeUsed()! == (0, 64))
    #expect(driver.queues[0].takeUsed()! == (1, 64))
    #expect(guest.bytes(first, 64) != guest.bytes(second, 64))
    #expect(guest.bytes(first, 64) != [UInt8](repeating: 0, count: 64))
  }

  @Test func oneRequestGetsNoMoreThanItsShare() {
    let queue = driver.queues[0]
    queue.set(0, guest.allocate(3000), 3000, flags: VirtqueueDescriptor.write | VirtqueueDescriptor.next, next: 1)
    queue.set(1, guest.allocate(3000), 3000, flags: VirtqueueDescriptor.write)
    queue.offer(0)
    driver.kick(0)
    #expect(queue.takeUsed()! == (0, VirtioEntropy.requestLimit))
  }

  @Test func aRequestWithoutRoomBreaksTheDevice() {
    driver.queues[0].send([1, 2, 3])
    driver.kick(0)
    #expect(driver.status & VirtioStatus.needsReset != 0)
    #expect(driver.queues[0].usedIndex == 0)
  }
}
