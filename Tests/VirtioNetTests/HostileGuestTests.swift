// The network device with guests that break the rules: each costs them the frame or the device, and nobody else anything.
import Glibc
import NetTestBackend
import Testing
import VirtioABI
import VirtioQueue
import VirtioTestGuest

@testable import VirtioNet

@Suite struct HostileNetworkTests {
  @Test func aRequestThatIsTooShortToBeAFrameBreaksTheDevice() throws {
    for count in [1, 11, 12, 25] {
      let guest = try NetGuest()
      guest.driver.queues[1].send([UInt8](repeating: 0, count: count))
      guest.driver.kick(1)
      #expect(eventually { guest.isBroken }, "\(count) bytes")
      #expect(guest.network.takeSent().isEmpty)
    }
  }

  @Test func aHeaderThatMakesNoSenseCostsTheFrame() throws {
    let guest = try NetGuest()
    var (frame, header) = Frames.tcp(data: 5000, segment: 1000)
    header.checksumStart = 0xfff0
    guest.send(frame, header)
    guest.send(Frames.plain(60), index: 1)
    #expect(eventually { guest.driver.queues[1].usedIndex == 2 })
    #expect(guest.network.takeSent().map(\.bytes.count) == [60])
    #expect(guest.device.report.transmitted.refused == 1 && !guest.isBroken)
    frame = []
  }

  @Test func offloadsThatWereNotAgreedOnCostTheFrame() throws {
    let guest = try NetGuest(features: NetGuest.basic)
    let (frame, header) = Frames.tcp(data: 900, segment: 500)
    guest.send(frame, header)
    #expect(eventually { guest.device.report.transmitted.refused == 1 })
    #expect(guest.network.takeSent().isEmpty)
  }

  @Test func hugeFramesAreRefused() throws {
    let guest = try NetGuest()
    let address = guest.guest.allocate(70_000)
    guest.driver.queues[1].set(0, address, 70_000)
    guest.driver.queues[1].offer(0)
    guest.driver.kick(1)
    #expect(eventually { guest.device.report.transmitted.refused == 1 })
    #expect(guest.network.takeSent().isEmpty && !guest.isBroken)
  }

  @Test func aFrameInAThousandPiecesIsSentOrRefused() throws {
    let guest = try NetGuest(queueSize: 16)
    let bytes = guest.guest.place([UInt8](repeating: 0, count: 12) + Frames.plain(1023))
    // An indirect table of 1,024 pieces: the header's 12 bytes lie in one each, so the frame has 1,012 and one large one.
    let table = guest.guest.allocate(16 * 1024)
    for index in 0..<1024 {
      guest.guest.store(
        VirtqueueDescriptor(
          address: bytes + UInt64(index), length: index < 1023 ? 1 : 12,
          flags: index < 1023 ? VirtqueueDescriptor.next : 0,
          nextIndex: UInt16(index + 1)), at: table + 16 * UInt64(index))
    }
    guest.driver.queues[1].set(0, table, 16 * 1024, flags: VirtqueueDescriptor.indirect)
    guest.driver.queues[1].offer(0)
    guest.driver.kick(1)
    #expect(eventually { guest.driver.queues[1].usedIndex == 1 })
    #expect(guest.network.takeSent() == [TestFrame(Frames.plain(1023))])
    #expect(!guest.isBroken)
  }

  @Test func receiveBuffersThatAreNoneBreakTheDevice() throws {
    // Readable, too small for a header, and outside memory.
    for number in 0..<3 {
      let guest = try NetGuest()
      let queue = guest.driver.queues[0]
      switch number {
      case 0: queue.set(0, guest.guest.allocate(2048), 2048)
      case 1: queue.set(0, guest.guest.allocate(2048), 11, flags: VirtqueueDescriptor.write)
      default: queue.set(0, 0x7000_0000, 2048, flags: VirtqueueDescriptor.write)
      }
      queue.offer(0)
      guest.driver.kick(0)
      #expect(eventually { guest.isBroken }, "case \(number)")
    }
  }

  @Test func aBufferThatIsTooSmallCostsTheFrame() throws {
    let guest = try NetGuest(features: NetGuest.basic)
    _ = guest.post(100, index: 0)
    guest.network.deliver([TestFrame(Frames.plain(200)), TestFrame(Frames.plain(88))])
    #expect(eventually { guest.driver.queues[0].usedIndex == 1 })
    #expect(guest.driver.queues[0].takeUsed()! == (0, 100))
    #expect(guest.device.report.received.dropped == 1)
  }

  @Test func aFrameWaitsForFurtherBuffers() throws {
    let guest = try NetGuest(features: NetGuest.everything)
    let queue = guest.driver.queues[0]
    _ = guest.post(100, index: 0)
    guest.network.deliver([TestFrame(Frames.plain(250)), TestFrame(Frames.plain(88))])
    #expect(eventually { guest.network.waitingCount <= 1 })
    #expect(queue.usedIndex == 0)
    _ = guest.post(100, index: 1)
    usleep(20_000)
    #expect(queue.usedIndex == 0)
    // Nobody spins over it.
    #expect(eventually { guest.device.report.sleeps > 0 })
    let before = guest.device.report
    usleep(50_000)
    let after = guest.device.report
    #expect(after.received.batches <= before.received.batches + 1 && after.sleeps <= before.sleeps + 2)
    for index in 2..<4 { _ = guest.post(100, index: index) }
    #expect(eventually { queue.usedIndex == 4 })
    #expect((0..<4).map { _ in queue.takeUsed()!.written } == [100, 100, 62, 100])
    let report = guest.device.report.received
    #expect(report.packets == 2 && report.dropped == 0)
  }

  @Test func aFrameThatWaitsIsForgottenWithTheDriver() throws {
    let guest = try NetGuest(features: NetGuest.everything)
    _ = guest.post(100, index: 0)
    guest.network.deliver([TestFrame(Frames.plain(250))])
    #expect(eventually { guest.network.waitingCount == 0 })
    guest.device.reset()
    #expect(guest.device.report.received.packets == 0)
  }

  @Test func aFrameThatAllBuffersDoNotHoldIsDropped() throws {
    let guest = try NetGuest(queueSize: 256)
    let address = guest.guest.allocate(4096)
    for index in 0..<256 {
      guest.driver.queues[0].set(index, address + UInt64(12 * index), 12, flags: VirtqueueDescriptor.write)
      guest.driver.queues[0].offer(index)
    }
    guest.driver.kick(0)
    guest.network.deliver([TestFrame(Frames.plain(4000)), TestFrame(Frames.plain(1500))])
    #expect(
      eventually {
        guest.device.report.received.packets == 1
          && guest.device.report.received.dropped + guest.device.report.received.refused == 1
      })
    #expect(eventually { guest.driver.queues[0].usedIndex == 126 })
  }

  @Test func framesThatAreTooLargeForAnyGuestAreRefused() throws {
    let guest = try NetGuest(features: NetGuest.basic)
    _ = guest.post(4096, index: 0)
    guest.network.deliver([TestFrame(Frames.plain(1519)), TestFrame(Frames.plain(5)), TestFrame(Frames.plain(1518))])
    #expect(eventually { guest.driver.queues[0].usedIndex == 1 })
    #expect(guest.driver.queues[0].takeUsed()!.written == 1530)
    #expect(guest.device.report.received.refused == 2)
  }

  @Test func aControlCommandWithoutRoomForAnAnswerBreaksTheDevice() throws {
    let guest = try NetGuest()
    guest.driver.queues[2].send([0, 0, 1])
    guest.driver.kick(2)
    #expect(guest.isBroken)
  }

  @Test func aControlCommandOfAnySizeIsAnswered() throws {
    let guest = try NetGuest()
    let answer = guest.guest.place([0xee])
    let command = guest.guest.allocate(100_000)
    guest.driver.queues[2].set(0, command, 100_000, flags: VirtqueueDescriptor.next, next: 1)
    guest.driver.queues[2].set(1, answer, 1, flags: VirtqueueDescriptor.write)
    guest.driver.queues[2].offer(0)
    guest.driver.kick(2)
    #expect(guest.guest.load(UInt8.self, at: answer) == VirtioNetworkControl.failed)
    #expect(!guest.isBroken)
  }

  @Test func queuesThatAreNotSetUpAreLeftAlone() throws {
    let guest = try NetGuest(features: NetGuest.basic)
    guest.function.writeBAR(at: 20, count: 1, 0)
    let driver = TestDriver(guest.function, guest.guest, queueCount: 0, features: NetGuest.basic)
    for queue in 0..<4 { driver.kick(queue) }
    guest.network.deliver([TestFrame(Frames.plain(60))])
    usleep(5_000)
    #expect(driver.status & VirtioStatus.needsReset == 0)
    #expect(guest.network.waitingCount() == 1)
  }

  /// Rings, headers and commands at random, with resets between: the device survives, and what comes out is bounded.
  @Test func randomGuests() throws {
    var generator = SeededGenerator(42)
    let network = MemoryBackend(pairCount: 2)
    let guest = try NetGuest(
      features: NetGuest.everything | VirtioNetworkABI.multiqueue, pairCount: 2, queueSize: 64, network: network)
    for round in 0..<150 {
      guest.function.writeBAR(at: 20, count: 1, 0)
      guest.guest.rewind()
      var features = generator.next() & (NetGuest.everything | VirtioNetworkABI.multiqueue) | VirtioFeature.version1
      if round % 3 == 0 { features |= NetGuest.everything | VirtioNetworkABI.multiqueue }
      let driver = TestDriver(guest.function, guest.guest, queueCount: 5, queueSize: 16, features: features)
      for _ in 0..<60 {
        let number = Int.random(in: 0..<5, using: &generator)
        let queue = driver.queues[number]
        let index = Int.random(in: 0..<16, using: &generator)
        let isWritable = number == 4 ? index % 2 == 1 : number % 2 == 0
        let count = Int(generator.next() >> (48 + generator.next() & 15)) % 60_000
        let address = TestGuest.start + generator.next() % UInt64(TestGuest.byteCount)
        let isWrong = generator.next() % 40 == 0
        var flags = isWritable != isWrong ? VirtqueueDescriptor.write : 0
        if generator.next() % 4 == 0 { flags |= VirtqueueDescriptor.next }
        if generator.next() % 50 == 0 { flags |= VirtqueueDescriptor.indirect }
        queue.set(index, address, count, flags: flags, next: Int.random(in: 0..<17, using: &generator))
        queue.offer(index)
        driver.kick(number)
        if generator.next() % 8 == 0 {
          network.deliver([TestFrame(Frames.plain(Int.random(in: 0..<3000, using: &generator)))], pair: number % 2)
        }
      }
      for frame in network.takeSent() + network.takeSent(pair: 1) {
        #expect((14...65_553).contains(frame.bytes.count))
        #expect(frame.header.flags & ~1 == 0)
      }
    }
    // After all that an honest driver is served.
    guest.function.writeBAR(at: 20, count: 1, 0)
    guest.guest.rewind()
    let driver = TestDriver(guest.function, guest.guest, queueCount: 5, queueSize: 16, features: NetGuest.basic)
    driver.queues[1].send([UInt8](repeating: 0, count: 12) + Frames.plain(60))
    driver.kick(1)
    #expect(eventually { driver.queues[1].usedIndex == 1 })
  }
}
