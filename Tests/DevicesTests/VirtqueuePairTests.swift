// The driver's end of a queue: against a real device, a lying one, and many threads.
import Base
import Glibc
import Locks
import Pages
import Platform
import Testing
import VirtioABI
import VirtioEntropy
import VirtioPCI
import VirtioQueue

@testable import Devices

/// Answers each request with its bytes, turned over; by itself or when told, in any order.
final class TurningDevice: VirtioDevice, @unchecked Sendable {
  var deviceID: UInt32 { VirtioDeviceID.fileSystem }
  var pciClass: UInt32 { 0 }
  var features: UInt64 { 0 }
  let queueCount: Int
  var queueSize: UInt16 { 64 }
  /// How many requests are held back before the last of them is answered first; 1 for none.
  let holdBack: Int
  private var held: [Int: [DescriptorChain]] = [:]
  private(set) var largest = 0

  init(queueCount: Int = 2, holdBack: Int = 1) {
    self.queueCount = queueCount
    self.holdBack = holdBack
    for index in 0..<queueCount { held[index] = [] }
  }
  func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    for index in buffer.indices { buffer[index] = 0 }
  }
  func activate(host: any VirtioDeviceHost, features: UInt64) {}
  func reset() {}
  func serve(queue index: Int, _ queue: SplitQueue) {
    repeat {
      while true {
        let chain = DescriptorChain()
        guard queue.pop(into: chain) else { break }
        held[index]!.append(chain)
        largest = max(largest, held[index]!.count)
        if held[index]!.count >= holdBack { answer(index, queue) }
      }
    } while queue.rearm()
  }
  func answer(_ index: Int, _ queue: SplitQueue) {
    while let chain = held[index]!.popLast() {
      var bytes = [UInt8](repeating: 0, count: chain.readableByteCount)
      _ = bytes.withUnsafeMutableBytes { chain.read(at: 0, into: $0) }
      bytes.reverse()
      queue.push(chain, written: bytes.withUnsafeBytes { chain.write(at: 0, from: $0) })
    }
  }
}

/// Memory for one call of the channel: a request, and a reply in several pieces.
final class TestCall {
  let memory: UnsafeMutableRawPointer
  let count: Int
  let pieces: Int
  let segments: UnsafeMutablePointer<DeviceSegment>

  init(count: Int, pieces: Int, salt: Int) {
    self.count = count
    self.pieces = pieces
    memory = KernelHeap.allocate(byteCount: 2 * count, alignment: 16)!
    segments = .allocate(capacity: pieces + 1)
    segments[0] = DeviceSegment(address: memory, count: count)
    for index in 0..<pieces {
      let start = count * index / pieces
      segments[1 + index] = DeviceSegment(
        address: memory + count + start, count: count * (index + 1) / pieces - start)
    }
    for index in 0..<count {
      memory.storeBytes(of: UInt8(truncatingIfNeeded: index &* 31 &+ salt), toByteOffset: index, as: UInt8.self)
    }
    memset(memory + count, 0, count)
  }
  deinit {
    segments.deallocate()
    KernelHeap.free(memory)
  }
  var call: DeviceCall { DeviceCall(segments: segments, readable: 1, writable: pieces) }
  var isTurned: Bool {
    (0..<count).allSatisfy {
      memory.load(fromByteOffset: $0, as: UInt8.self)
        == memory.load(fromByteOffset: 2 * count - 1 - $0, as: UInt8.self)
    }
  }
}

private func perform(_ channel: FUSEChannel, _ calls: [TestCall]) -> Errno? {
  var list = calls.map(\.call)
  return list.withUnsafeMutableBufferPointer { buffer in
    do throws(Errno) { try channel.perform(buffer) } catch { return error }
    return zip(buffer, calls).allSatisfy { $0.replyCount == $1.count } ? nil : .EPROTO
  }
}

@Suite struct VirtqueuePairTests {
  /// A device of fewer vectors than queues: whichever queue has something, the one vector leads to it.
  @Test func queuesThatShareAVector() throws {
    HostedArena.prepare()
    let device = TurningDevice(queueCount: 3)
    let bench = Bench(device, sharesVector: true)
    let (first, second) = (try queue(), try queue())
    try bench.driver.start([nil, first, second])
    for (index, queue) in [first, second, first].enumerated() {
      let call = TestCall(count: 40, pieces: 1, salt: index)
      #expect(try queue.perform(call.segments, readable: 1, writable: 1) == 40)
      #expect(call.isTurned)
    }
    // The entry of all queues is 0, that of configuration changes the one behind it.
    let common = UInt64(bench.driver.description.commonOffset)
    for index in 1..<3 {
      bench.function.writeBAR(at: common + UInt64(VirtioPCICommon.queueSelect), count: 2, UInt64(index))
      #expect(bench.function.readBAR(at: common + UInt64(VirtioPCICommon.queueVector), count: 2) == 0)
    }
    #expect(bench.function.readBAR(at: common + UInt64(VirtioPCICommon.configurationVector), count: 2) == 1)
  }

  private func queue() throws -> Virtqueue {
    try #require(
      Virtqueue(
        size: 64, memory: KernelHeap.allocateZeroed(byteCount: Virtqueue.byteCount(size: 64), alignment: 16)!))
  }

  @Test func callsOfEverySizeComeBack() throws {
    HostedArena.prepare()
    let bench = Bench(TurningDevice())
    let channel = try FUSEChannel(bench.driver)
    let start = bench.exits
    for pieces in [1, 2, 3, 4, 5, 63, 300, channel.maximumSegments - 1] {
      let call = TestCall(count: pieces * 9, pieces: pieces, salt: pieces)
      #expect(perform(channel, [call]) == nil)
      #expect(call.isTurned)
    }
    // One exit each, and no interrupt, since the device was done when the exit returned.
    #expect(bench.exits == start + 8)
    #expect(bench.interrupts.value.load(ordering: .relaxed) == 0)
  }

  @Test(arguments: [1, 5, 64]) func batchesLargerThanTheQueueAreOneNotificationEach(holdBack: Int) throws {
    HostedArena.prepare()
    let device = TurningDevice(holdBack: holdBack)
    let bench = Bench(device)
    let channel = try FUSEChannel(bench.driver)
    let start = bench.exits
    let calls = (0..<320).map { TestCall(count: 100, pieces: 2, salt: $0) }
    #expect(perform(channel, calls) == nil)
    #expect(calls.allSatisfy { $0.isTurned })
    if holdBack > 1 { #expect(device.largest == holdBack) }
    if holdBack == 64 { #expect(bench.exits == start + 5) }
  }

  @Test func manyThreadsShareAQueue() throws {
    HostedArena.prepare()
    let bench = Bench(TurningDevice())
    let channel = try FUSEChannel(bench.driver)
    let wrong = Atomic<Int>(0)
    let threads = (0..<6).map { number in
      TestThread {
        for round in 0..<60 {
          let calls = (0..<(1 + (round * number) % 40)).map { TestCall(count: 64, pieces: 3, salt: $0 + round) }
          if perform(channel, calls) != nil || !calls.allSatisfy({ $0.isTurned }) { wrong.add(1, ordering: .relaxed) }
        }
      }
    }
    for thread in threads { thread.join() }
    #expect(wrong.load(ordering: .relaxed) == 0)
  }

  @Test func completionByInterruptWakesTheSleeper() throws {
    HostedArena.prepare()
    let bench = Bench(TurningDevice())
    let channel = try FUSEChannel(bench.driver)
    // Nobody serves in the exit; a worker does, later.
    bench.registers.isDeaf.store(true, ordering: .relaxed)
    for round in 0..<20 {
      let call = TestCall(count: 50, pieces: 1, salt: round)
      let isDone = Atomic<Bool>(false)
      let worker = TestThread {
        while !isDone.load(ordering: .acquiring) {
          usleep(500)
          bench.function.notify(queue: 1)
        }
      }
      #expect(perform(channel, [call]) == nil)
      isDone.store(true, ordering: .releasing)
      worker.join()
      #expect(call.isTurned)
    }
    #expect(bench.interrupts.value.load(ordering: .relaxed) > 0)
  }

  @Test func requestsWithoutRepliesAreDoneWhenTheyReturn() throws {
    HostedArena.prepare()
    let bench = Bench(TurningDevice())
    let channel = try FUSEChannel(bench.driver)
    let memory = KernelHeap.allocate(byteCount: 64, alignment: 16)!
    defer { KernelHeap.free(memory) }
    for _ in 0..<40 { channel.post(DeviceSegment(address: memory, count: 64)) }
  }

  @Test func entropyIsFreshAndCostsTwoExits() throws {
    HostedArena.prepare()
    let bench = Bench(VirtioEntropy())
    let driver = try EntropyDriver(bench.driver)
    #expect(bench.exits == 0)
    var first = [UInt8](repeating: 0, count: 700)
    var second = first
    try first.withUnsafeMutableBytes { try driver.fill($0) }
    let start = bench.exits
    try second.withUnsafeMutableBytes { try driver.fill($0) }
    #expect(bench.exits == start + 3)
    #expect(first != second && Set(first).count > 150)
  }

  @Test func aDeviceOfAnotherKindIsRefused() {
    let bench = Bench(VirtioEntropy())
    #expect(throws: Errno.ENODEV) { _ = try FUSEChannel(bench.driver) }
    #expect(throws: Errno.ENODEV) { _ = try ConsoleDriver(bench.driver, flags: 0) }
  }

  /// What a lying device writes into the used ring: entry 0 and the index.
  @Test(arguments: [
    (id: 64, length: 0, index: 1), (id: 1, length: 0, index: 1), (id: 0xffff_ffff, length: 0, index: 1),
    (id: 0, length: 51, index: 1), (id: 0, length: 0xffff_ffff, index: 1), (id: 0, length: 50, index: 2),
    (id: 0, length: 50, index: 0x8000),
  ]) func lyingDevicesAreStopped(lie: (id: Int, length: Int, index: Int)) throws {
    HostedArena.prepare()
    let bench = Bench(TurningDevice())
    bench.registers.isDeaf.store(true, ordering: .relaxed)
    let queue = try #require(
      Virtqueue(
        size: 64, memory: KernelHeap.allocateZeroed(byteCount: Virtqueue.byteCount(size: 64), alignment: 16)!))
    try bench.driver.start([nil, queue])
    let call = TestCall(count: 50, pieces: 1, salt: 0)
    var result: Errno?
    let thread = TestThread {
      do throws(Errno) { _ = try queue.perform(call.segments, readable: 1, writable: 1) } catch { result = error }
    }
    let available = LinearMap.pointer(queue.availablePhysical)
    #expect(eventually { available.load(fromByteOffset: 2, as: UInt16.self) == 1 })
    let used = LinearMap.pointer(queue.usedPhysical)
    used.storeBytes(of: UInt32(truncatingIfNeeded: lie.id), toByteOffset: 4, as: UInt32.self)
    used.storeBytes(of: UInt32(truncatingIfNeeded: lie.length), toByteOffset: 8, as: UInt32.self)
    used.storeBytes(of: UInt16(truncatingIfNeeded: lie.index), toByteOffset: 2, as: UInt16.self)
    InterruptTable.dispatch(bench.firstVector + 1)
    thread.join()
    // A second entry that was never written names the same slot again, which is not open any more.
    if lie.index == 1 || lie.length != 50 { #expect(result == .EIO) }
    #expect(queue.hasFailed)
    do throws(Errno) {
      _ = try queue.perform(call.segments, readable: 1, writable: 1)
      Issue.record("a failed queue takes requests")
    } catch { #expect(error == .EIO) }
    // The device was reset, if somebody could do it.
    if result != nil { #expect(bench.function.readBAR(at: 20, count: 1) == 0) }
  }

  /// Somebody else may have taken the answer, and freed the slot, before a wait for it begins.
  @Test func aSlotThatIsFreeAgainIsNotWaitedFor() throws {
    HostedArena.prepare()
    let bench = Bench(TurningDevice())
    let queue = try #require(
      Virtqueue(
        size: 64, memory: KernelHeap.allocateZeroed(byteCount: Virtqueue.byteCount(size: 64), alignment: 16)!))
    try bench.driver.start([nil, queue])
    let call = TestCall(count: 50, pieces: 1, salt: 0)
    let slot = try #require(try queue.add(call.segments, readable: 1, writable: 1))
    queue.kick()
    #expect(queue.wait(for: slot) == .woken)
    queue.release(slot)
    #expect(queue.wait(for: slot, until: .after(2_000_000_000, from: Clock.now())) == .woken)
  }
}
