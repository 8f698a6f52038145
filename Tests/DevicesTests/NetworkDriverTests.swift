// The network driver against a device of the tests: what is agreed on, frames of all shapes both ways, and devices that lie.
import Base
import Glibc
import Locks
import Pages
import Platform
import Testing
import VirtioABI
import VirtioPCI

@testable import Devices

private let everything: UInt64 = NetworkFeatures.all
private enum NetworkFeatures {
  static var all: UInt64 {
    var bits: UInt64 = 0
    for bit in [0, 1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 18, 19, 20, 21, 22, 23, 54, 55, 56, 59] as [UInt64] {
      bits |= 1 << bit
    }
    return bits
  }
}

private func frame(_ count: Int, salt: Int = 0) -> [UInt8] {
  (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ $0 >> 8 &+ salt) }
}

private func packet(_ bytes: [UInt8], slices: [Int]? = nil) throws -> Packet {
  try need(makePacket(bytes, slices: slices ?? [bytes.count]))
}

extension NetworkDriver {
  /// Stops the device, and takes all memory back from it.
  func stopForGood() {
    function.stop()
    for index in 0..<pairCount {
      pairs[index].receive.takeBack()
      pairs[index].transmit.takeBack()
    }
  }

  /// Whether there is nothing to receive.
  func hasNothing() -> Bool { receive(0) == nil }

  /// Changes what the device has said about the first buffer.
  func lieAboutReceived(length: UInt32?, slot: UInt32?) {
    let entry = pairs[0].receive.used + VirtqueueLayout.entries
    if let slot { entry.storeBytes(of: slot, as: UInt32.self) }
    if let length { entry.storeBytes(of: length, toByteOffset: 4, as: UInt32.self) }
  }

  /// Has the device say that it is done with a slot.
  func lieAboutTransmitted(slot: UInt32) {
    let queue = pairs[0].transmit
    let offset = VirtqueueLayout.entries + 8 * Int(queue.usedIndex & queue.mask)
    (queue.used + offset).storeBytes(of: slot, as: UInt32.self)
    queue.field(in: queue.used, VirtqueueLayout.index).pointee.store(queue.usedIndex &+ 1, ordering: .releasing)
  }
}

extension CountingFrames {
  @Suite struct NetworkDriverTests {
    let device: FakeInterface
    let bench: Bench
    let driver: NetworkDriver

    private static func make(
      _ features: UInt64, pairs: Int = 1, wanted: Int = 1, queueSize: UInt16 = 256
    ) throws -> (FakeInterface, Bench, NetworkDriver) {
      let device = FakeInterface(features: features, pairCount: pairs, queueSize: queueSize)
      let bench = Bench(device)
      let driver = try NetworkDriver(bench.driver, pairs: wanted)
      return (device, bench, driver)
    }

    init() throws {
      (device, bench, driver) = try Self.make(everything)
      try driver.start()
    }

    @Test func startingAgreesOnWhatIsOfUse() throws {
      #expect(driver.address == 0x0200_00aa_bbcc && driver.mtu == 1500 && driver.pairCount == 1)
      #expect(driver.offloads == [.checksum, .tcp4, .tcp6, .udp, .congestionMark])
      #expect(device.agreed & VirtioNetworkABI.mergeableBuffers != 0)
      // No filter, no announcements: what is not used is not taken.
      #expect(device.agreed & (VirtioNetworkABI.controlVLAN | VirtioNetworkABI.announce) == 0)
      #expect(device.commands.isEmpty)
      // The status of the device and no more; a record would make it one exit.
      #expect(driver.isLinkUp)
    }

    @Test func featuresRestOnOthers() {
      let abi = VirtioNetworkABI.self
      #expect(NetworkDriver.accepted(everything & ~abi.checksum) & (abi.hostTCP4 | abi.hostUDP | abi.hostECN) == 0)
      #expect(
        NetworkDriver.accepted(everything & ~abi.guestChecksum) & (abi.guestTCP4 | abi.guestUDP6 | abi.guestECN) == 0)
      #expect(NetworkDriver.accepted(everything & ~abi.mergeableBuffers) & (abi.guestTCP6 | abi.guestUDP4) == 0)
      #expect(NetworkDriver.accepted(everything & ~abi.controlQueue) & (abi.multiqueue | abi.controlReceive) == 0)
      #expect(NetworkDriver.accepted(0) == 0)
    }

    @Test(arguments: [0, 1, 14, 60, 1514, 4068, 4069, 9000, 65_535])
    func framesAreReceivedWhole(size: Int) throws {
      let bytes = frame(size)
      let buffers = max((size + 12 + PacketMemory.pageCapacity - 1) / PacketMemory.pageCapacity, 1)
      for _ in 0..<40 {
        #expect(driver.hasNothing())
        #expect(device.receive(.received(buffers: buffers), bytes))
        let received = try need(driver.receive(0))
        #expect(received.sliceCount == buffers && DevicesTests.bytes(of: received) == bytes)
        #expect(received.checksum == .none && received.segmentation.kind == .none)
        driver.refill(0)
      }
      #expect(!driver.hasFailed && driver.counts(0).receivedErrors == 0)
    }

    @Test func whatTheHeaderSaysIsNoted() throws {
      device.receive(.received { $0.flags = VirtioNetworkHeader.dataValid }, frame(60))
      #expect(try need(driver.receive(0)).checksum == .verified)
      device.receive(
        .received {
          $0.flags = VirtioNetworkHeader.needsChecksum
          ($0.checksumStart, $0.checksumOffset) = (34, 16)
          $0.segmentation = VirtioNetworkHeader.tcp4 | VirtioNetworkHeader.ecn
          $0.segmentByteCount = 1448
        }, frame(3000))
      let received = try need(driver.receive(0))
      #expect(received.checksum == .partial(start: 34, offset: 16))
      #expect(received.segmentation == PacketSegmentation(.tcp4, segmentByteCount: 1448, hasCongestionMark: true))
    }

    @Test func headersThatMakeNoSenseAreDropped() throws {
      let lies: [(inout VirtioNetworkHeader) -> Void] = [
        {
          $0.flags = VirtioNetworkHeader.needsChecksum
          ($0.checksumStart, $0.checksumOffset) = (59, 0)
        },
        {
          $0.flags = VirtioNetworkHeader.needsChecksum
          ($0.checksumStart, $0.checksumOffset) = (0xffff, 0xffff)
        },
        { $0.segmentation = 2 }, { $0.segmentation = 3 }, { $0.segmentation = 0x7f },
        { ($0.segmentation, $0.segmentByteCount) = (VirtioNetworkHeader.tcp4, 0) },
        { $0.segmentation = VirtioNetworkHeader.ecn },
      ]
      for lie in lies {
        #expect(device.receive(.received(lie), frame(60)))
        #expect(driver.hasNothing())
      }
      #expect(driver.counts(0).receivedErrors == UInt64(lies.count) && !driver.hasFailed)
      // A buffer with less than a header.
      device.receive(.received(), frame(60), sizes: [11])
      #expect(driver.hasNothing() && !driver.hasFailed)
      // More slices than a packet has: dropped as a whole, and the next one is there.
      device.receive(.received(buffers: 20), frame(200), sizes: [12] + Array(repeating: 10, count: 19))
      device.receive(.received(), frame(61))
      #expect(try need(driver.receive(0)).byteCount == 61)
      #expect(driver.counts(0).receivedErrors == UInt64(lies.count) + 2)
    }

    @Test(
      arguments: [
        // Buffers that it does not have; a length beyond the buffer; slots that there are not, or that have no buffer.
        (buffers: 3, claimed: nil, slot: nil), (buffers: 0xffff, claimed: nil, slot: nil),
        (buffers: 1, claimed: 4081, slot: nil), (buffers: 1, claimed: 0xffff_ffff, slot: nil),
        (buffers: 1, claimed: nil, slot: 256), (buffers: 1, claimed: nil, slot: 0xffff_ffff),
        (buffers: 1, claimed: nil, slot: 200),
      ] as [(Int, UInt32?, UInt32?)]) func devicesThatBreakTheRulesAreStopped(lie: (Int, UInt32?, UInt32?)) throws
    {
      device.receive(.received(buffers: lie.0), frame(60))
      driver.lieAboutReceived(length: lie.1, slot: lie.2)
      // Receiving happens with preemption off: nothing is stopped there.
      #expect(driver.hasNothing())
      #expect(!driver.hasReceived(0))
      driver.sleep(0, until: .never)
      #expect(driver.hasFailed && device.host == nil)
      let isTaken = driver.transmit(try packet(frame(60)))
      #expect(!isTaken)
      driver.sleep(0, until: .never)
    }

    @Test func usedEntriesThatNameNothingStopTheDevice() throws {
      let registers = bench.registers
      registers.isDeaf.store(true, ordering: .relaxed)
      let isTaken = driver.transmit(try packet(frame(60)))
      #expect(isTaken)
      // Slot 3 of the queue has no packet.
      bench.function.notify(queue: 1)
      #expect(device.transmitted[0].count == 1)
      driver.lieAboutTransmitted(slot: 3)
      driver.reapTransmitted()
      let isNextTaken = driver.transmit(try packet(frame(60)))
      #expect(!isNextTaken)
      // The owner does not wake up for such a queue again and again: it stops the device.
      driver.sleep(0, until: .never)
      #expect(driver.hasFailed && device.host == nil)
      #expect(driver.pairs[0].receive.postedCount == 0 && driver.pairs[0].transmit.reap() == 0)
    }

    @Test func aTransmitQueueThatFailsWakesTheOwner() throws {
      let (device, driver) = (device, driver)
      bench.registers.isDeaf.store(true, ordering: .relaxed)
      let thread = TestThread {
        usleep(20_000)
        driver.lieAboutTransmitted(slot: 3)
        if let packet = try? packet(frame(60)) { _ = driver.transmit(packet) }
      }
      driver.sleep(0, until: .never)
      thread.join()
      #expect(driver.hasFailed && device.host == nil)
    }

    @Test func framesAreTransmittedWithTheirOffloads() throws {
      let sent = try packet(frame(2000), slices: [66, 934, 1000])
      sent.transportOffset = 34
      sent.checksum = .partial(start: 34, offset: 16)
      sent.segmentation = PacketSegmentation(.tcp4, segmentByteCount: 500, hasCongestionMark: true)
      let length = sent.transportHeader.load(fromByteOffset: 12, as: UInt8.self) >> 4
      let isTaken = driver.transmit(sent)
      #expect(isTaken)
      let (header, bytes, pieces) = try #require(device.transmitted[0].last)
      #expect(bytes == frame(2000) && pieces == 3)
      #expect(header.flags == VirtioNetworkHeader.needsChecksum)
      #expect(header.checksumStart == 34 && header.checksumOffset == 16 && header.bufferCount == 0)
      #expect(header.segmentation == VirtioNetworkHeader.tcp4 | VirtioNetworkHeader.ecn)
      #expect(header.segmentByteCount == 500 && header.headerByteCount == 34 + 4 * UInt16(length))
      _ = driver.transmit(try packet(frame(60)))
      let plain = try #require(device.transmitted[0].last)
      #expect(
        plain.frame == frame(60) && plain.pieces == 1 && plain.header.flags == 0 && plain.header.segmentation == 0)
    }

    @Test func transmittedPacketsComeBackLazily() throws {
      func transmit() throws {
        var filled = try need(Packet(headroom: 128, capacity: 3000))
        _ = filled.extend(1000)
        let isTaken = driver.transmit(filled)
        #expect(isTaken)
      }
      var sent = 0
      // All of them would be a thousand.
      let keepsFew = try CountingFrames.eventually { before in
        for _ in 0..<1000 { try transmit() }
        sent += 1000
        return Frames.account()[.packet] < before + 500
      }
      #expect(keepsFew)
      #expect(driver.pairs[0].transmit.reap() == 0 && device.transmitted[0].count == sent)
      let comesBack = try CountingFrames.eventually { before in
        try transmit()
        driver.reapTransmitted()
        return Frames.account()[.packet] == before
      }
      #expect(comesBack)
      // No interrupt for what was transmitted.
      #expect(bench.interrupts.value.load(ordering: .relaxed) <= 1)
    }

    @Test func aQueueThatIsFullKeepsSomeAndDropsTheRest() throws {
      device.isStalled = true
      var taken = 0
      for index in 0..<2000 where driver.transmit(try packet(frame(60, salt: index))) { taken += 1 }
      #expect(taken == 256 + TransmitQueue.waitingLimit)
      device.isStalled = false
      for _ in 0..<20 {
        device.serveTransmitted()
        // The device has interrupted: the owner of the pair looks.
        driver.sleep(0, until: .now)
      }
      #expect(device.transmitted[0].count == taken)
      for index in 0..<taken { #expect(device.transmitted[0][index].frame == frame(60, salt: index)) }
      #expect(bench.interrupts.value.load(ordering: .relaxed) >= 1)
      let isTaken = driver.transmit(try packet(frame(60)))
      #expect(isTaken)
    }

    @Test func theOwnerSleepsUntilSomethingComes() throws {
      let (device, bench, driver) = (device, bench, driver)
      let thread = TestThread {
        usleep(20_000)
        device.receive(.received(), frame(60))
      }
      driver.sleep(0, until: .never)
      thread.join()
      #expect(driver.hasReceived(0))
      #expect(try need(driver.receive(0)).byteCount == 60)
      #expect(bench.interrupts.value.load(ordering: .relaxed) == 1)
      // While nobody sleeps there is no interrupt.
      for _ in 0..<10 { device.receive(.received(), frame(60)) }
      #expect(bench.interrupts.value.load(ordering: .relaxed) == 1)
      while driver.receive(0) != nil {}
      let poker = TestThread {
        usleep(20_000)
        driver.poke(0)
      }
      driver.sleep(0, until: .never)
      poker.join()
      driver.poke(0)
      driver.sleep(0, until: .never)
      driver.sleep(0, until: .after(1000))
    }

    /// A CPU looks at the queue in place of an interrupt for its owner, who sleeps; whatever comes is seen by the look, by the last one, or
    /// interrupts.
    @Test func whileACPULooksTheDeviceDoesNotInterrupt() throws {
      let (device, bench, driver) = (device, bench, driver)
      let queue = driver.pairs[0].receive
      let interrupts = { bench.interrupts.value.load(ordering: .relaxed) }
      #expect(!queue.beginWatch())
      var owner = TestThread { driver.sleep(0, until: .never) }
      while !queue.beginWatch() { usleep(1000) }
      #expect(!queue.hasFilled)
      device.receive(.received(), frame(60))
      #expect(interrupts() == 0 && queue.hasFilled)
      #expect(queue.endWatch())
      queue.interrupted()
      owner.join()
      #expect(driver.receive(0) != nil && !queue.beginWatch())

      owner = TestThread { driver.sleep(0, until: .never) }
      while !queue.beginWatch() { usleep(1000) }
      #expect(!queue.endWatch())
      device.receive(.received(), frame(60))
      owner.join()
      #expect(interrupts() == 1 && driver.receive(0) != nil)
    }

    @Test func moreBuffersArePostedWhenTheyAreUsedUp() throws {
      #expect(driver.counts(0).postedBuffers == 32)
      for _ in 0..<5 {
        for _ in 0..<256 { device.receive(.received(), frame(60)) }
        while let received = driver.receive(0) { #expect(received.byteCount == 60) }
        driver.refill(0)
      }
      #expect(driver.counts(0).postedBuffers == 256)
    }

    /// A device that writes anything into its rings and buffers: frames may be nonsense, nothing else happens.
    @Test func randomRingsDoNoHarm() throws {
      // A frame that is kept each time would be three hundred.
      let keepsFew = try CountingFrames.eventually { before in
        for _ in 0..<300 { try disturb() }
        return Frames.account()[.packet] < before + 150
      }
      #expect(keepsFew)
    }

    private func disturb() throws {
      var random = SystemRandomNumberGenerator()
      let (_, bench, driver) = try Self.make(everything, queueSize: 16)
      try driver.start()
      let (receive, transmit) = (driver.pairs[0].receive, driver.pairs[0].transmit)
      bench.registers.isDeaf.store(true, ordering: .relaxed)
      for _ in 0..<8 { _ = driver.transmit(try packet(frame(60))) }
      for queue in [receive, transmit] as [DeviceQueue] {
        let isPlausible = Bool.random(using: &random)
        for index in 0..<16 {
          let entry = queue.used + VirtqueueLayout.entries + 8 * index
          let (slot, length) = (
            UInt32.random(in: 0...20, using: &random), UInt32.random(in: 0...4090, using: &random)
          )
          entry.storeBytes(of: isPlausible ? UInt32(index) : slot, as: UInt32.self)
          entry.storeBytes(of: isPlausible ? min(length, 4080) : length, toByteOffset: 4, as: UInt32.self)
          let buffer = LinearMap.pointer(PhysicalAddress(receive.descriptors[index].address))
          guard receive.descriptors[index].address != 0 else { continue }
          for place in 0..<16 where queue === receive {
            buffer.storeBytes(of: UInt8.random(in: 0...4, using: &random), toByteOffset: place, as: UInt8.self)
          }
        }
        queue.field(in: queue.used, VirtqueueLayout.index).pointee
          .store(UInt16.random(in: 0...18, using: &random), ordering: .releasing)
      }
      while let received = driver.receive(0) { #expect(received.byteCount <= 16 * PacketMemory.pageCapacity) }
      driver.reapTransmitted()
      if !driver.hasFailed { driver.refill(0) }
      driver.stopForGood()
    }

    @Test func pairsAreAskedFor() throws {
      let (device, bench, driver) = try Self.make(everything, pairs: 4, wanted: 3)
      try driver.start()
      #expect(driver.pairCount == 3)
      #expect(device.commands == [[4, 0, 3, 0]])
      for pair in 0..<3 {
        device.receive(.received(), frame(60, salt: pair), pair: pair)
        #expect(DevicesTests.bytes(of: try need(driver.receive(pair))) == frame(60, salt: pair))
      }
      _ = bench
      let (refusing, _, other) = try Self.make(everything, pairs: 2, wanted: 2)
      refusing.answer = VirtioNetworkControl.failed
      #expect(throws: Errno.EIO) { try other.start() }
      // It had said DRIVER_OK by then.
      #expect(refusing.host == nil && other.hasFailed)
      for pair in 0..<2 { #expect(other.pairs[pair].receive.postedCount == 0) }
    }

    @Test func aDriverThatCannotStartHasStoppedItsDevice() throws {
      let (device, bench, driver) = try Self.make(everything)
      bench.driver.stop()
      #expect(throws: Errno.ENODEV) { try driver.start() }
      #expect(device.host == nil && driver.hasFailed && driver.pairs[0].receive.postedCount == 0)
      let isTaken = driver.transmit(try packet(frame(60)))
      #expect(!isTaken)
      driver.sleep(0, until: .never)
      // Some pairs have owners already when something else fails.
      let (other, _, owned) = try Self.make(everything, pairs: 2, wanted: 2)
      try owned.start()
      owned.stop(owned: 1)
      #expect(other.host == nil && owned.hasFailed)
      #expect(owned.pairs[0].receive.postedCount > 0 && owned.pairs[1].receive.postedCount == 0)
      owned.sleep(0, until: .never)
      #expect(owned.pairs[0].receive.postedCount == 0)
    }

    @Test(arguments: [(68, 68), (576, 576), (1279, 1279), (9000, 9000), (65_535, 65_535)])
    func theDeviceSaysHowLargePacketsAre(given: Int, taken: Int) throws {
      let device = FakeInterface(features: everything)
      device.configuration.mtu = UInt16(given)
      let driver = try NetworkDriver(Bench(device).driver, pairs: 1)
      #expect(driver.mtu == taken)
    }

    @Test(arguments: [0, 1, 67]) func linksThatAreTooNarrowForIPAreRefused(mtu: UInt16) throws {
      let device = FakeInterface(features: everything)
      device.configuration.mtu = mtu
      let function = Bench(device).driver
      #expect(throws: Errno.ENODEV) { _ = try NetworkDriver(function, pairs: 1) }
      // A device that does not offer to say so is believed to be an Ethernet.
      let silent = FakeInterface(features: everything & ~VirtioNetworkABI.mtu)
      silent.configuration.mtu = mtu
      #expect(try NetworkDriver(Bench(silent).driver, pairs: 1).mtu == 1500)
    }

    @Test(arguments: [[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1], [255, 255, 255, 255, 255, 255]] as [[UInt8]])
    func addressesThatNoInterfaceHasAreNotTaken(address: [UInt8]) throws {
      let device = FakeInterface(features: everything)
      device.address = address
      let driver = try NetworkDriver(Bench(device).driver, pairs: 1)
      // One of its own: locally administered, and not a group's.
      #expect(driver.address &>> 40 & 3 == 2)
    }

    @Test func checksumsAreNotBelievedUnlessAgreedOn() throws {
      let (device, bench, driver) = try Self.make(everything & ~VirtioNetworkABI.guestChecksum)
      try driver.start()
      device.receive(.received { $0.flags = VirtioNetworkHeader.dataValid }, frame(60))
      #expect(try need(driver.receive(0)).checksum == .none)
      _ = bench
    }

    /// Packets of a flow stay in order: what came by a pair says so, and what names one leaves by it, whichever CPU sends.
    @Test func packetsKeepToTheirPair() throws {
      let (device, bench, driver) = try Self.make(everything, pairs: 4, wanted: 3)
      try driver.start()
      for pair in 0..<3 {
        device.receive(.received(), frame(60), pair: pair)
        #expect(try need(driver.receive(pair)).queuePair == UInt16(pair) + 1)
        for round in 0..<5 {
          let packet = try packet(frame(60, salt: round))
          packet.queuePair = UInt16(pair) + 1
          let isTaken = driver.transmit(packet)
          #expect(isTaken)
        }
        #expect(device.transmitted[pair].map { $0.frame } == (0..<5).map { frame(60, salt: $0) })
      }
      // A pair that another interface has.
      let stray = try packet(frame(60))
      stray.queuePair = 8
      let isTaken = driver.transmit(stray)
      #expect(isTaken)
      #expect(device.transmitted[1].count == 6)
      _ = bench
    }

    @Test func thePlainestDeviceWorks() throws {
      let (device, bench, driver) = try Self.make(0, queueSize: 4)
      try driver.start()
      #expect(driver.offloads.isEmpty && driver.mtu == 1500 && driver.isLinkUp)
      for round in 0..<20 {
        // Without mergeable buffers the count means nothing.
        device.receive(.received(buffers: 77), frame(1514, salt: round))
        #expect(DevicesTests.bytes(of: try need(driver.receive(0))) == frame(1514, salt: round))
        driver.refill(0)
        let isTaken = driver.transmit(try packet(frame(1514, salt: round), slices: [54, 1460]))
        #expect(isTaken && device.transmitted[0].last?.frame == frame(1514, salt: round))
      }
      // What it did not agree to do it may not do.
      device.receive(.received { ($0.segmentation, $0.segmentByteCount) = (1, 1000) }, frame(60))
      #expect(driver.hasNothing())
      _ = bench
    }

    @Test func otherDevicesAreRefused() {
      let bench = Bench(FakeInterface(features: everything, pairCount: 1))
      var description = bench.driver.description
      description.deviceID = VirtioDeviceID.entropy
      #expect(throws: Errno.ENODEV) {
        _ = try NetworkDriver(VirtioFunction(description, registers: bench.registers), pairs: 1)
      }
      description.deviceID = VirtioDeviceID.network
      description.queueCount = 1
      #expect(throws: Errno.ENODEV) {
        _ = try NetworkDriver(VirtioFunction(description, registers: bench.registers), pairs: 1)
      }
    }
  }
}
