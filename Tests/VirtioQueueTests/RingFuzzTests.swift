// Random rings, and rings that change while they are read: whatever they hold, what comes out is inside the guest.
import Glibc
import Synchronization
import Testing
import VirtioABI
import VirtioQueue
import VirtioTestGuest

@Suite struct RingFuzzTests {
  /// Checks what may be relied on about a chain.
  static func check(_ chain: DescriptorChain, _ guest: TestGuest) -> Bool {
    var sums = [0, 0]
    for (index, pieces) in [chain.readable, chain.writable].enumerated() {
      for piece in pieces {
        let offset = piece.iov_base! - guest.memory
        guard piece.iov_len > 0, offset >= 0, offset + piece.iov_len <= TestGuest.byteCount else { return false }
        sums[index] += piece.iov_len
      }
    }
    return sums == [chain.readableByteCount, chain.writableByteCount] && sums[0] + sums[1] <= Int(UInt32.max)
      && chain.readable.count + chain.writable.count <= DescriptorChain.pieceLimit
  }

  /// A descriptor that is right more often than chance would have it.
  static func descriptor(_ random: inout SeededGenerator, _ guest: TestGuest) -> VirtqueueDescriptor {
    var address = TestGuest.start + UInt64.random(in: 0..<UInt64(TestGuest.byteCount), using: &random)
    if Int.random(in: 0..<40, using: &random) == 0 { address = random.next() }
    let length = Int.random(in: 0..<20, using: &random) == 0 ? random.next() : random.next() % 400
    let flags = Int.random(in: 0..<10, using: &random) == 0 ? random.next() : random.next() & 1
    return VirtqueueDescriptor(
      address: address, length: UInt32(truncatingIfNeeded: length), flags: UInt16(truncatingIfNeeded: flags),
      nextIndex: UInt16(truncatingIfNeeded: random.next() % (Bool.random(using: &random) ? 8 : 40)))
  }

  @Test(arguments: 1...4) func randomRings(seed: UInt64) throws {
    var random = SeededGenerator(seed)
    let chain = DescriptorChain()
    var faults: [String: Int] = [:]
    var served = 0
    let guest = TestGuest()
    for _ in 0..<3000 {
      guest.rewind()
      let driver = TestQueue(guest, size: 8)
      let features = random.next() & (VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors)
      let queue = try SplitQueue(driver.configuration(features: features), memory: guest.map)
      let table = guest.allocate(16 * 16)
      for index in 0..<8 {
        guest.store(Self.descriptor(&random, guest), at: driver.descriptors + UInt64(16 * index))
        guest.store(UInt16(random.next() % 9), at: driver.available + 4 + UInt64(2 * index))
      }
      for index in 0..<16 { guest.store(Self.descriptor(&random, guest), at: table + UInt64(16 * index)) }
      if Bool.random(using: &random) { driver.set(Int(random.next() % 8), table, 256, flags: 4) }
      driver.setIndex(UInt16(random.next() % 10))
      var rounds = 0
      while queue.pop(into: chain) {
        rounds += 1
        served += 1
        try #require(rounds <= 8)
        try #require(Self.check(chain, guest))
        queue.push(chain, written: chain.writableByteCount)
        _ = queue.takeInterrupt()
      }
      _ = queue.rearm()
      if let fault = queue.fault { faults["\(fault)", default: 0] += 1 }
    }
    // The generator reaches what it is meant to reach.
    #expect(served > 1000)
    #expect(faults.count >= 6, "\(faults)")
  }

  @Test func ringsThatChangeWhileTheyAreRead() throws {
    let guest = TestGuest()
    let driver = TestQueue(guest, size: 8)
    let table = guest.allocate(256)
    let isDone = Atomic<Bool>(false)
    let descriptors = driver.descriptors
    let available = driver.available
    var thread = pthread_t()
    final class Job: @unchecked Sendable {
      let run: () -> Void
      init(_ run: @escaping () -> Void) { self.run = run }
    }
    // SAFETY: the thread is joined before anything it uses goes away.
    try withExtendedLifetime(guest) {
      let job = Job {
        var random = SeededGenerator(99)
        while !isDone.load(ordering: .relaxed) {
          for index in 0..<8 {
            guest.store(Self.descriptor(&random, guest), at: descriptors + UInt64(16 * index))
            guest.store(Self.descriptor(&random, guest), at: table + UInt64(16 * index))
          }
          guest.store(
            VirtqueueDescriptor(address: table, length: 128, flags: 4), at: descriptors + 16 * (random.next() % 8))
          guest.store(UInt16(random.next() % 8), at: available + 4 + 2 * (random.next() % 8))
        }
      }
      pthread_create(
        &thread, nil,
        { argument in
          Unmanaged<Job>.fromOpaque(argument!).takeRetainedValue().run()
          return nil
        }, Unmanaged.passRetained(job).toOpaque())
      defer {
        isDone.store(true, ordering: .relaxed)
        pthread_join(thread, nil)
      }
      let chain = DescriptorChain()
      for _ in 0..<20_000 {
        let queue = try SplitQueue(
          driver.configuration(features: VirtioFeature.indirectDescriptors), memory: guest.map)
        driver.setIndex(8)
        while queue.pop(into: chain) {
          try #require(Self.check(chain, guest))
          queue.push(chain)
        }
      }
    }
  }
}
