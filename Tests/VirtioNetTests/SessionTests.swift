// A driver that goes while a worker is about to serve it, and another one that comes: nobody is served by what the other has agreed on.
import Glibc
import NetTestBackend
import Synchronization
import Testing
import VirtioABI
import VirtioPCI
import VirtioQueue
import VirtioTestGuest

@testable import VirtioNet

/// A transport that does something first when a queue is asked for.
private final class SlowHost: VirtioDeviceHost {
  let host: any VirtioDeviceHost
  private let delay = Mutex<(queue: Int, body: @Sendable () -> Void)?>(nil)

  init(_ host: any VirtioDeviceHost) { self.host = host }

  /// The next time that the queue is asked for, that happens before.
  func delay(queue: Int, _ body: @escaping @Sendable () -> Void) { delay.withLock { $0 = (queue, body) } }

  func withQueue(_ index: Int, _ body: (SplitQueue) -> Void) {
    let first = delay.withLock { delay -> (@Sendable () -> Void)? in
      guard let wanted = delay, wanted.queue == index else { return nil }
      delay = nil
      return wanted.body
    }
    first?()
    host.withQueue(index, body)
  }
  func configurationChanged() { host.configurationChanged() }
}

@Suite struct SessionTests {
  // SAFETY: used by one thread at a time; the device has none of its own.
  /// A device whose workers are the test.
  private final class Bench: @unchecked Sendable {
    let guest = TestGuest()
    let network = MemoryBackend(pairCount: 2)
    let device: VirtioNetwork
    let function: PCIFunction
    let slow: SlowHost
    /// The driver that is there now.
    var driver: TestDriver! = nil

    /// A driver has agreed on everything, over a slow transport.
    init() throws {
      var configuration = VirtioNetwork.Configuration(address: NetGuest.address) { _ in }
      configuration.pairCount = 2
      device = try VirtioNetwork(configuration, backend: network)
      function = PCIFunction(device: device, memory: guest.map) { _ in }
      slow = SlowHost(function)
      start(NetGuest.everything | VirtioNetworkABI.multiqueue)
      device.activate(host: slow, features: NetGuest.everything | VirtioNetworkABI.multiqueue)
    }

    /// The driver resets the device and starts it anew.
    func start(_ features: UInt64) {
      function.writeBAR(at: 20, count: 1, 0)
      guest.rewind()
      driver = TestDriver(function, guest, queueCount: 5, queueSize: 16, features: features)
    }

    /// It does with so many pairs from now on.
    func use(_ count: UInt8) {
      let answer = guest.place([0xee])
      let queue = driver.queues[4]
      queue.set(0, guest.place([4, 0, count, 0]), 4, flags: VirtqueueDescriptor.next, next: 1)
      queue.set(1, answer, 1, flags: VirtqueueDescriptor.write)
      queue.offer(0)
      driver.kick(4)
      #expect(guest.load(UInt8.self, at: answer) == VirtioNetworkControl.succeeded)
    }

    /// It offers a frame that only a driver may send that has agreed on checksums.
    func send() {
      let (frame, header) = Frames.tcp(data: 100, segment: 1000)
      var plain = header
      (plain.segmentation, plain.segmentByteCount) = (0, 0)
      driver.queues[1].send(withUnsafeBytes(of: plain) { Array($0) } + frame)
    }
  }

  @Test func framesAreSentByWhatTheirDriverHasAgreedOn() throws {
    let bench = try Bench()
    bench.slow.delay(queue: 1) {
      bench.start(NetGuest.basic)
      bench.send()
    }
    let look = bench.device.look(pair: 0)
    #expect(!look.hasWorked && bench.network.takeSent().isEmpty)
    #expect(bench.driver.queues[1].usedIndex == 0)
    // The next look is the new driver's, who may not send that.
    #expect(bench.device.look(pair: 0).hasWorked)
    #expect(bench.network.takeSent().isEmpty && bench.device.report.transmitted.refused == 1)
    #expect(bench.driver.queues[1].usedIndex == 1)
  }

  @Test func framesAreReceivedByWhatTheirDriverHasAgreedOn() throws {
    let bench = try Bench()
    bench.network.deliver([TestFrame(Frames.plain(1000))])
    bench.slow.delay(queue: 0) {
      bench.start(NetGuest.basic)
      // Together they have room for the frame, as only mergeable buffers may.
      for index in 0..<4 { bench.driver.queues[0].post(300, index: index) }
    }
    _ = bench.device.look(pair: 0)
    #expect(bench.driver.queues[0].usedIndex == 0 && bench.network.waitingCount() == 1)
    #expect(bench.device.look(pair: 0).hasWorked)
    #expect(bench.driver.queues[0].usedIndex == 0 && bench.device.report.received.dropped == 1)
  }

  @Test func aQueueOfAnotherDriverIsLookedAtBeforeTheWorkerSleeps() throws {
    let bench = try Bench()
    let look = bench.device.look(pair: 0)
    #expect(look.isDrained && look.isStarved)
    bench.slow.delay(queue: 1) { bench.start(NetGuest.basic) }
    #expect(bench.device.arm(pair: 0, for: look))
    // Its own it may sleep on.
    let next = bench.device.look(pair: 0)
    #expect(!bench.device.arm(pair: 0, for: next))
    // Where there is no driver at all it sleeps, too.
    bench.function.writeBAR(at: 20, count: 1, 0)
    let last = bench.device.look(pair: 0)
    #expect(last.session == nil && !bench.device.arm(pair: 0, for: last))
  }

  @Test func pairsThatAreNotInUseAreNotServed() throws {
    let bench = try Bench()
    bench.use(2)
    bench.driver.queues[3].send([UInt8](repeating: 0, count: 12) + Frames.plain(60))
    // Between the look at how many there are and the queue's lock the driver does with one.
    bench.slow.delay(queue: 3) { bench.use(1) }
    #expect(!bench.device.look(pair: 1).hasWorked)
    #expect(bench.network.takeSent(pair: 1).isEmpty)
    bench.use(2)
    #expect(bench.device.look(pair: 1).hasWorked)
    #expect(bench.network.takeSent(pair: 1).count == 1)
  }
}
