// The network device with a guest that plays by the rules.
import Glibc
import NetTestBackend
import Synchronization
import Testing
import VirtioABI
import VirtioQueue
import VirtioTestGuest

@testable import VirtioNet

@Suite struct NetworkDeviceTests {
  @Test func theConfigurationSaysWhatTheInterfaceIs() throws {
    let guest = try NetGuest(pairCount: 4, network: MemoryBackend(pairCount: 4, mtu: 9000))
    func read(_ offset: Int, _ count: Int) -> UInt64 {
      guest.function.readBAR(at: 0x100 + UInt64(offset), count: count)
    }
    #expect((0..<6).map { UInt8(read($0, 1)) } == NetGuest.address)
    #expect(read(VirtioNetworkConfiguration.statusOffset, 2) == 1)
    #expect(read(VirtioNetworkConfiguration.maximumPairCountOffset, 2) == 4)
    // The configured MTU is lower than the backend's.
    #expect(read(VirtioNetworkConfiguration.mtuOffset, 2) == 1500)
    #expect(read(VirtioNetworkConfiguration.speedOffset, 4) == 10_000)
    #expect(read(VirtioNetworkConfiguration.duplexOffset, 1) == 1)
    #expect(guest.device.features & VirtioNetworkABI.multiqueue != 0)
    #expect(guest.device.queueCount == 9)
  }

  @Test func whatTheBackendCannotIsNotOffered() throws {
    let guest = try NetGuest(features: NetGuest.basic, network: MemoryBackend(offloads: []))
    #expect(guest.device.features & NetGuest.offloads == 0)
    #expect(guest.device.features & VirtioNetworkABI.multiqueue == 0)
    let some = try NetGuest(features: NetGuest.basic, network: MemoryBackend(offloads: .checksum))
    #expect(some.device.features & NetGuest.offloads == VirtioNetworkABI.checksum | VirtioNetworkABI.guestChecksum)
  }

  @Test func framesAreSentAndTheHeaderIsChecked() throws {
    let guest = try NetGuest()
    let frame = Frames.plain(60)
    guest.send(frame)
    #expect(eventually { guest.driver.queues[1].usedIndex == 1 })
    #expect(guest.driver.queues[1].takeUsed()! == (0, 0))
    let (segments, header) = Frames.tcp(data: 40_000, segment: 1460)
    guest.send(segments, header)
    #expect(eventually { guest.driver.queues[1].usedIndex == 2 })
    #expect(guest.network.takeSent() == [TestFrame(frame), TestFrame(segments, header: header)])
    let report = guest.device.report.transmitted
    #expect(report.packets == 2 && report.bytes == UInt64(frame.count + segments.count))
    #expect(report.dropped == 0 && report.refused == 0)
  }

  /// The worker is awake while the guest answers eight requests one after the other: it sends them in few batches, not one by one.
  @Test func answersLeaveTogether() throws {
    let guest = try NetGuest()
    var batches: [UInt64] = []
    for round in 0..<40 {
      for index in 0..<8 { _ = guest.post(2048, index: index) }
      let before = guest.device.report.transmitted.batches
      guest.network.deliver((0..<8).map { TestFrame(Frames.plain(60, seed: $0)) })
      while guest.driver.queues[0].usedIndex != UInt16(8 * (round + 1)) {}
      for index in 0..<8 {
        guest.driver.queues[1].send([UInt8](repeating: 0, count: 12) + Frames.plain(60), index: index)
      }
      guest.driver.kick(1)
      #expect(eventually { guest.driver.queues[1].usedIndex == UInt16(8 * (round + 1)) })
      batches.append(guest.device.report.transmitted.batches - before)
    }
    // A worker that has been away from its processor meanwhile sends what there is.
    #expect(batches.sorted()[20] <= 2, "\(batches)")
  }

  /// A driver that comes while answers of the one before wait finds its queue served.
  @Test func aResetWhileAnswersWait() throws {
    let guest = try NetGuest()
    for round in 0..<20 {
      let driver =
        round == 0
        ? guest.driver
        : TestDriver(guest.function, guest.guest, queueCount: 3, queueSize: 32, features: NetGuest.everything)
      for index in 0..<8 { _ = driver.queues[0].post(2048, index: index) }
      driver.kick(0)
      guest.network.deliver((0..<8).map { TestFrame(Frames.plain(60, seed: $0)) })
      #expect(eventually { driver.queues[0].usedIndex == 8 })
      driver.queues[1].send([UInt8](repeating: 0, count: 12) + Frames.plain(60), index: 0)
      if round % 2 == 1 {
        driver.kick(1)
        #expect(eventually { driver.queues[1].usedIndex == 1 })
      }
      guest.function.writeBAR(at: 20, count: 1, 0)
    }
  }

  /// Answers wait for one another, but not for those that never come.
  @Test func fewerAnswersThanRequestsAreSentAllTheSame() throws {
    let guest = try NetGuest()
    var sent = 0
    for round in 0..<50 {
      for index in 0..<8 { _ = guest.post(2048, index: index) }
      guest.network.deliver((0..<8).map { TestFrame(Frames.plain(60, seed: $0)) })
      #expect(eventually { guest.driver.queues[0].usedIndex == UInt16(truncatingIfNeeded: 8 * (round + 1)) })
      let answers = (0...(round % 7)).map { Frames.plain(60, seed: $0) }
      for (index, answer) in answers.enumerated() { guest.send(answer, index: index) }
      sent += answers.count
      #expect(eventually { guest.driver.queues[1].usedIndex == UInt16(sent) })
      #expect(guest.network.takeSent() == answers.map { TestFrame($0) })
    }
  }

  @Test func aFrameMayLieInPiecesOfAnySize() throws {
    let guest = try NetGuest()
    let frame = Frames.plain(900)
    let bytes = [UInt8](repeating: 0, count: 12) + frame
    let queue = guest.driver.queues[1]
    // The seam between header and frame is within a piece, and pieces of nothing are allowed.
    var start = 0
    for (index, count) in [5, 0, 20, 1, 886].enumerated() {
      let address = guest.guest.place(Array(bytes[start..<(start + count)]))
      queue.set(index, address, count, flags: index < 4 ? VirtqueueDescriptor.next : 0, next: index + 1)
      start += count
    }
    queue.offer(0)
    guest.driver.kick(1)
    #expect(eventually { queue.usedIndex == 1 })
    #expect(guest.network.takeSent() == [TestFrame(frame)])
  }

  @Test(arguments: [false, true]) func framesAreReceived(isMergeable: Bool) throws {
    let features = isMergeable ? NetGuest.everything : NetGuest.basic
    let guest = try NetGuest(features: features)
    let buffers = (0..<4).map { guest.post(2048, index: $0) }
    let frames = (0..<4).map { TestFrame(Frames.plain(60 + 300 * $0, seed: $0)) }
    guest.network.deliver(frames)
    #expect(eventually { guest.driver.queues[0].usedIndex == 4 })
    for index in 0..<4 {
      let used = try #require(guest.driver.queues[0].takeUsed())
      #expect(used.head == index && used.written == 12 + frames[index].bytes.count)
      var expected = frames[index]
      expected.header.bufferCount = 1
      #expect(guest.received(buffers[index], used.written) == expected)
    }
    #expect(guest.interruptCount(queue: 0) >= 1)
    #expect(guest.device.report.received.packets == 4)
    #expect(!guest.isBroken)
  }

  @Test func aLargeFrameLiesInSeveralBuffersThatAreSeenTogether() throws {
    let guest = try NetGuest()
    let buffers = (0..<20).map { guest.post(4096, index: $0) }
    let (frame, header) = Frames.tcp(data: 20_000, segment: 1448)
    guest.network.deliver([TestFrame(frame, header: header), TestFrame(Frames.plain(60))])
    #expect(eventually { guest.driver.queues[0].usedIndex == 6 })
    var bytes: [UInt8] = []
    for index in 0..<5 {
      let used = try #require(guest.driver.queues[0].takeUsed())
      #expect(used.head == index)
      bytes += guest.guest.bytes(buffers[index], used.written)
    }
    #expect(Array(bytes[12...]) == frame)
    let got = bytes.withUnsafeBytes { $0.loadUnaligned(as: VirtioNetworkHeader.self) }
    #expect(got.bufferCount == 5 && got.segmentation == header.segmentation && got.segmentByteCount == 1448)
    #expect(try #require(guest.driver.queues[0].takeUsed()).written == 72)
  }

  @Test func bufferRingsGoRoundAndRound() throws {
    // Many frames with buffers given back at once, so that the window moves and wraps.
    let guest = try NetGuest(queueSize: 16)
    let queue = guest.driver.queues[0]
    var addresses = (0..<16).map { queue.post(512, index: $0) }
    guest.driver.kick(0)
    var generator = SeededGenerator(7)
    for round in 0..<600 {
      let frame = TestFrame(Frames.plain(Int.random(in: 14...1400, using: &generator), seed: round))
      guest.network.deliver([frame])
      var bytes: [UInt8] = []
      var heads: [Int] = []
      let end = (12 + frame.bytes.count + 511) / 512
      #expect(eventually { queue.usedIndex &- queue.nextUsed >= UInt16(end) })
      while let used = queue.takeUsed() {
        bytes += guest.guest.bytes(addresses[used.head], used.written)
        heads.append(used.head)
      }
      #expect(Array(bytes.dropFirst(12)) == frame.bytes, "round \(round)")
      for head in heads {
        queue.set(head, addresses[head], 512, flags: VirtqueueDescriptor.write)
        queue.offer(head)
      }
      guest.driver.kick(0)
    }
    addresses = []
    #expect(!guest.isBroken)
    #expect(guest.device.report.received.packets == 600)
  }

  @Test func framesWaitForBuffersAndTheGuestIsHeard() throws {
    let guest = try NetGuest()
    guest.network.deliver([TestFrame(Frames.plain(100))])
    usleep(20_000)
    // The device has armed the queue: it wants to hear of the first buffer.
    #expect(guest.driver.queues[0].availableEvent == 0)
    #expect(guest.network.waitingCount() == 1)
    _ = guest.post(2048, index: 0)
    #expect(eventually { guest.driver.queues[0].usedIndex == 1 })
  }

  @Test func whatIsAgreedOnIsConfigured() throws {
    let guest = try NetGuest(features: NetGuest.basic)
    #expect(guest.network.configured.offloads == [])
    let all = try NetGuest()
    #expect(all.network.configured.offloads == [.tcp, .udp])
    // Segmentation without checksums is not to be had.
    let odd = try NetGuest(features: NetGuest.everything & ~VirtioNetworkABI.guestChecksum)
    #expect(odd.network.configured.offloads == [])
    all.function.writeBAR(at: 20, count: 1, 0)
    #expect(all.network.configured.offloads == [])
  }

  @Test func aHeaderSaysNothingOfChecksumsToADriverThatDoesNotAsk() throws {
    let guest = try NetGuest(features: NetGuest.basic)
    let buffer = guest.post(2048, index: 0)
    var header = VirtioNetworkHeader()
    header.flags = VirtioNetworkHeader.dataValid
    guest.network.deliver([TestFrame(Frames.plain(60), header: header)])
    #expect(eventually { guest.driver.queues[0].usedIndex == 1 })
    #expect(guest.received(buffer, 72).header.flags == 0 && guest.received(buffer, 72).header.bufferCount == 1)
  }

  @Test func pairsAreUsedWhenTheDriverAsks() throws {
    let guest = try NetGuest(features: NetGuest.everything | VirtioNetworkABI.multiqueue, pairCount: 3)
    for pair in 0..<3 { _ = guest.post(2048, pair: pair, index: 0) }
    for pair in 0..<3 { guest.network.deliver([TestFrame(Frames.plain(60, seed: pair))], pair: pair) }
    #expect(eventually { guest.driver.queues[0].usedIndex == 1 })
    usleep(20_000)
    #expect(guest.driver.queues[2].usedIndex == 0 && guest.driver.queues[4].usedIndex == 0)
    let multiqueue = VirtioNetworkControl.MultiqueueCommand.commandClass
    #expect(guest.command(multiqueue, 0, [3, 0]) == VirtioNetworkControl.succeeded)
    #expect(guest.network.configured.pairs == 3)
    #expect(eventually { guest.driver.queues[2].usedIndex == 1 && guest.driver.queues[4].usedIndex == 1 })
    guest.send(Frames.plain(80), pair: 2)
    #expect(eventually { guest.driver.queues[5].usedIndex == 1 })
    #expect(guest.network.takeSent(pair: 2).count == 1)
    // Fewer again, and none or too many not at all.
    #expect(guest.command(multiqueue, 0, [1, 0]) == VirtioNetworkControl.succeeded)
    guest.send(Frames.plain(80), pair: 2, index: 1)
    usleep(5_000)
    #expect(guest.network.takeSent(pair: 2).isEmpty)
    for bad: [UInt8] in [[0, 0], [4, 0], [1], [1, 0, 0], [0, 1]] {
      #expect(guest.command(multiqueue, 0, bad) == VirtioNetworkControl.failed)
    }
  }

  @Test func withoutPairsTheControlQueueIsTheThird() throws {
    let guest = try NetGuest(features: NetGuest.everything, pairCount: 2)
    let receive = VirtioNetworkControl.ReceiveCommand.commandClass
    #expect(guest.command(receive, 0, [0], queue: 2) == VirtioNetworkControl.succeeded)
  }

  @Test func theFilterIsTheDrivers() throws {
    let guest = try NetGuest()
    let receive = VirtioNetworkControl.ReceiveCommand.commandClass
    let other: [UInt8] = [2, 1, 1, 1, 1, 1]
    let group: [UInt8] = [0x33, 0x33, 0, 0, 0, 1]
    for index in 0..<16 { _ = guest.post(2048, index: index) }
    func passes(_ target: [UInt8]) -> Bool {
      let before = guest.device.report.received
      guest.network.deliver([TestFrame(Frames.plain(60, to: target))])
      #expect(
        eventually {
          let now = guest.device.report.received
          return now.packets + now.dropped == before.packets + before.dropped + 1
        })
      return guest.device.report.received.packets > before.packets
    }
    #expect(passes(other) && passes(group) && passes(NetGuest.address))
    #expect(guest.command(receive, VirtioNetworkControl.ReceiveCommand.promiscuous, [0]) == 0)
    #expect(!passes(other) && !passes(group) && passes(NetGuest.address) && passes(Frames.broadcast))
    let table = VirtioNetworkControl.AddressCommand.commandClass
    #expect(guest.command(table, 0, [1, 0, 0, 0] + other + [1, 0, 0, 0] + group) == 0)
    #expect(passes(other) && passes(group))
    #expect(guest.command(table, 0, [0, 0, 0, 0, 0, 0, 0, 0]) == 0)
    #expect(!passes(other) && !passes(group))
    #expect(guest.command(table, 1, other) == 0)
    #expect(passes(other) && !passes(NetGuest.address))
    #expect(guest.function.readBAR(at: 0x100, count: 2) == 0x0102)
  }

  @Test func aResetForgetsWhatTheDriverWanted() throws {
    let guest = try NetGuest()
    let receive = VirtioNetworkControl.ReceiveCommand.commandClass
    #expect(guest.command(receive, 0, [0]) == 0)
    #expect(guest.command(VirtioNetworkControl.AddressCommand.commandClass, 1, [2, 1, 1, 1, 1, 1]) == 0)
    _ = guest.post(2048, index: 0)
    guest.function.writeBAR(at: 20, count: 1, 0)
    #expect((0..<6).map { UInt8(guest.function.readBAR(at: 0x100 + UInt64($0), count: 1)) } == NetGuest.address)
    // Buffers of before are not written to: another driver has other ones.
    guest.network.deliver([TestFrame(Frames.plain(60, to: Frames.broadcast))])
    let again = TestDriver(guest.function, guest.guest, queueCount: 3, queueSize: 32, features: NetGuest.everything)
    let buffer = again.queues[0].post(2048, index: 5)
    again.kick(0)
    #expect(eventually { again.queues[0].usedIndex == 1 })
    #expect(again.queues[0].takeUsed()! == (5, 72))
    #expect(guest.guest.bytes(buffer, 72).suffix(60) == Frames.plain(60, to: Frames.broadcast)[...])
    #expect(guest.driver.queues[0].usedIndex == 0)
  }

  @Test func theLinkGoesWithTheBackend() throws {
    let guest = try NetGuest()
    _ = guest.post(2048, index: 0)
    guest.network.end()
    #expect(eventually { guest.function.readBAR(at: 0x106, count: 2) == 0 })
    #expect(eventually { guest.interruptCount(queue: 3) == 1 })
    // Nobody spins over it.
    let sleeps = guest.device.report.sleeps
    usleep(50_000)
    #expect(guest.device.report.sleeps <= sleeps + 1)
  }

  @Test func framesWaitWhereTheBackendHasNoRoom() throws {
    let guest = try NetGuest()
    guest.network.isFull = true
    for index in 0..<3 { guest.send(Frames.plain(60 + index), index: index) }
    usleep(10_000)
    #expect(guest.driver.queues[1].usedIndex == 0)
    guest.network.isFull = false
    // The worker waits for room, which this backend's descriptor always has.
    #expect(eventually { guest.driver.queues[1].usedIndex == 3 })
    #expect(guest.network.takeSent().map(\.bytes.count) == [60, 61, 62])
  }

  @Test func aSleepingWorkerLeavesSmallSendsToTheVCPU() throws {
    let guest = try NetGuest()
    for index in 0..<20 {
      usleep(3_000)
      guest.send(Frames.plain(60), index: index)
    }
    #expect(eventually { guest.device.report.transmitted.packets == 20 })
    // The host may be busy; but most found it asleep.
    #expect(guest.device.report.transmitted.inlineBatches >= 10)
  }

  @Test func aBusyQueueGetsAnEventDescriptorOnce() throws {
    final class Calls: Sendable { let queues = Mutex<[Int]>([]) }
    let calls = Calls()
    let guest = try NetGuest(attach: { queue, _ in calls.queues.withLock { $0.append(queue) } })
    let queue = guest.driver.queues[1]
    queue.set(0, guest.guest.place([UInt8](repeating: 0, count: 72)), 72)
    for round in 0..<400 {
      queue.offer(0)
      guest.driver.kick(1)
      #expect(eventually { queue.usedIndex == queue.nextAvailable })
      if round == 200 { #expect(calls.queues.withLock { $0.isEmpty }) }
    }
    #expect(eventually { calls.queues.withLock { $0 } == [1] })
    usleep(10_000)
    #expect(calls.queues.withLock { $0 } == [1])
  }

  @Test func theRateIsKept() throws {
    // 8 Mbit/s, and a bucket of 131 kB: 300 frames of 1,000 bytes take 170 ms at least.
    let guest = try NetGuest(queueSize: 512, rate: 8_000_000)
    let start = MonotonicClock.now
    let address = guest.guest.place([UInt8](repeating: 0, count: 1012))
    for index in 0..<300 {
      guest.driver.queues[1].set(index, address, 1012)
      guest.driver.queues[1].offer(index)
    }
    guest.driver.kick(1)
    #expect(eventually { guest.driver.queues[1].usedIndex == 300 })
    let time = MonotonicClock.now - start
    #expect(time > 150_000_000, "\(time) ns")
    #expect(guest.device.report.transmitted.packets == 300)
  }
}
