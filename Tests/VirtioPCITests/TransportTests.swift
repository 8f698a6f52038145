// The transport, as a foreign driver finds it and as ours uses it.
import Testing
import VirtioABI
import VirtioPCI
import VirtioQueue
import VirtioTestGuest

private let modern = VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors

@Suite struct TransportTests {
  let guest = TestGuest()
  let device = EchoDevice()
  let interrupts = InterruptLog()
  let function: PCIFunction

  init() {
    let log = interrupts
    function = PCIFunction(device: device, memory: guest.map) { log.append($0) }
  }

  func presetDriver(features: UInt64 = modern) -> TestDriver {
    function.place(at: 0xd000_4000)
    function.presetVectors((0..<3).map { MSIMessage(vector: 0x30 + UInt32($0), cpu: 0) })
    return TestDriver(function, guest, queueCount: 2, features: features)
  }

  func echo(_ driver: TestDriver, queue: Int = 0, _ bytes: [UInt8]) -> [UInt8]? {
    let ring = driver.queues[queue]
    let answer = guest.allocate(bytes.count)
    ring.set(0, guest.place(bytes), bytes.count, flags: VirtqueueDescriptor.next, next: 1)
    ring.set(1, answer, bytes.count, flags: VirtqueueDescriptor.write)
    ring.offer(0)
    driver.kick(queue)
    guard let used = ring.takeUsed(), used.head == 0 else { return nil }
    return guest.bytes(answer, used.written)
  }

  @Test func aForeignDriverFindsItsWayByTheCapabilities() {
    func read(_ offset: Int, _ count: Int) -> UInt32 { function.readConfiguration(at: offset, count: count) }
    #expect(read(0, 4) == 0x1044_1af4)
    #expect(read(8, 4) == 0x1234_5601)
    #expect(read(0x2c, 2) == 0x1af4)
    #expect(read(6, 2) & 0x10 != 0)
    // The BAR is sized as usual.
    function.writeConfiguration(at: 0x10, count: 4, 0xffff_ffff)
    #expect(read(0x10, 4) == 0xffff_c000)
    #expect(function.barAddress == nil)
    function.writeConfiguration(at: 0x10, count: 4, 0xd001_0000)
    function.writeConfiguration(at: 4, count: 2, 7)
    #expect(read(4, 2) == 6)
    #expect(function.barAddress == 0xd001_0000)
    // Nothing else may be written.
    let before = (0..<64).map { read($0 * 4, 4) }
    for index in 0..<64 where ![1, 4, 15, 16].contains(index) && index * 4 < 0x98 {
      function.writeConfiguration(at: index * 4, count: 4, 0xffff_ffff)
    }
    #expect((0..<64).map { read($0 * 4, 4) } == before)
    var found: [UInt8: (offset: UInt32, length: UInt32)] = [:]
    var capability = Int(read(0x34, 1))
    var vectors = 0
    while capability != 0 {
      if read(capability, 1) == 0x11 { vectors = Int(read(capability + 2, 2) & 0x7ff) + 1 }
      if read(capability, 1) == 0x09 {
        found[UInt8(read(capability + 3, 1))] = (read(capability + 8, 4), read(capability + 12, 4))
        #expect(read(capability + 4, 1) == 0)
      }
      capability = Int(read(capability + 1, 1))
    }
    #expect(vectors == 3)
    #expect(Set(found.keys) == [1, 2, 3, 4, 5])
    #expect(found[1]! == (0, 64))
    #expect(read(0x70, 4) == 4)
    #expect(read(256, 4) == 0 && read(0x40, 3) == 0)
  }

  @Test func aForeignDriverProgramsItsInterrupts() {
    function.writeConfiguration(at: 0x42, count: 2, 0x8000)
    #expect(function.readConfiguration(at: 0x42, count: 2) == 0x8002)
    #expect(function.readConfiguration(at: 0x40, count: 4) == 0x8002_5011)
    #expect(function.readConfiguration(at: 0x43, count: 1) == 0x80)
    let driver = TestDriver(function, guest, queueCount: 2)
    for (entry, vector) in [(0, 0x51), (1, 0x52), (2, 0x53)] {
      let place = 0x2000 + 16 * UInt64(entry)
      function.writeBAR(at: place, count: 4, 0xfee0_1000)
      function.writeBAR(at: place + 4, count: 4, 0)
      function.writeBAR(at: place + 8, count: 8, UInt64(vector))
      #expect(function.readBAR(at: place, count: 8) == 0xfee0_1000)
    }
    // No vector yet: no interrupt.
    #expect(echo(driver, [1]) == [1])
    #expect(interrupts.take() == [])
    function.writeBAR(at: 16, count: 2, 2)
    function.writeBAR(at: 22, count: 2, 1)
    function.writeBAR(at: 26, count: 2, 1)
    #expect(function.readBAR(at: 26, count: 2) == 1)
    function.writeBAR(at: 26, count: 2, 7)
    #expect(function.readBAR(at: 26, count: 2) == 0xffff)
    function.writeBAR(at: 26, count: 2, 1)
    #expect(echo(driver, queue: 1, [2]) == [2])
    #expect(interrupts.take() == [0x52])
    device.host!.configurationChanged()
    #expect(interrupts.take() == [0x53])
    #expect(function.readBAR(at: 21, count: 1) == 1)
    // Masked, an interrupt waits; both masks count.
    driver.queues[1].setUsedEvent(1)
    function.writeBAR(at: 0x201c, count: 4, 1)
    #expect(echo(driver, queue: 1, [3]) == [3])
    #expect(interrupts.take() == [])
    #expect(function.readBAR(at: 0x3000, count: 8) == 0b10)
    function.writeConfiguration(at: 0x43, count: 1, 0xc0)
    function.writeBAR(at: 0x201c, count: 4, 0)
    #expect(interrupts.take() == [])
    function.writeConfiguration(at: 0x42, count: 2, 0x8000)
    #expect(interrupts.take() == [0x52])
    #expect(function.readBAR(at: 0x3000, count: 4) == 0)
  }

  @Test func withoutMSIXTheStatusRegisterTells() {
    let driver = TestDriver(function, guest, queueCount: 2)
    #expect(echo(driver, [1]) == [1])
    device.host!.configurationChanged()
    #expect(function.readBAR(at: 0x80, count: 1) == 3)
    #expect(function.readBAR(at: 0x80, count: 1) == 0)
    #expect(interrupts.take() == [])
  }

  @Test func presetVectorsOutliveAReset() {
    let driver = presetDriver()
    #expect(driver.status == 15)
    #expect(device.activations == [modern])
    for round in 0..<3 {
      driver.queues[0].setUsedEvent(UInt16(round))
      #expect(echo(driver, [UInt8(round)]) == [UInt8(round)])
      #expect(interrupts.take() == [0x30])
    }
    function.writeBAR(at: 20, count: 1, 0)
    #expect(driver.status == 0 && device.resets == 1)
    driver.kick(0)
    #expect(device.served.load(ordering: .relaxed) == 3)
    let again = TestDriver(function, guest, queueCount: 2)
    #expect(echo(again, queue: 1, [7]) == [7])
    #expect(interrupts.take() == [0x31])
    #expect(device.activations.count == 2)
    let description = function.description(firstVector: 0x30)
    #expect(description.barPhysical == 0xd000_4000 && description.queueCount == 2 && description.queueSize == 16)
    #expect(description.features == modern | 0b101)
    #expect(description.configuration.0 == 0x0403_0201)
    for range in PCIFunction.coalescedRanges { #expect(!range.contains(20)) }
  }

  @Test func featuresAreAgreedOn() {
    #expect(function.readBAR(at: 0, count: 4) == 0)
    #expect(function.readBAR(at: 4, count: 4) == 0x3000_0005)
    function.writeBAR(at: 0, count: 4, 1)
    #expect(function.readBAR(at: 4, count: 4) == 1)
    function.writeBAR(at: 0, count: 4, 2)
    #expect(function.readBAR(at: 4, count: 4) == 0)
    // Refused: a feature that is not there, and life without version 1.
    for features in [modern | 2, modern | 1 << 40, 0] {
      let driver = TestDriver(function, guest, queueCount: 2, features: features)
      #expect(driver.status & VirtioStatus.featuresOK == 0)
      #expect(driver.status & VirtioStatus.needsReset != 0)
      driver.queues[0].send([1])
      driver.kick(0)
      #expect(driver.queues[0].usedIndex == 0)
    }
    #expect(device.activations == [])
    let driver = TestDriver(function, guest, queueCount: 2, features: modern | 4)
    #expect(driver.status == 15 && device.activations == [modern | 4])
    function.writeBAR(at: 8, count: 4, 0)
    function.writeBAR(at: 12, count: 4, 0)
    #expect(function.readBAR(at: 12, count: 4) == 0x3000_0004)
  }

  @Test func requestsFromBeforeDriverOKAreServed() {
    function.presetVectors((0..<3).map { MSIMessage(vector: 0x30 + UInt32($0), cpu: 1) })
    let probe = TestDriver(function, guest, queueCount: 0)
    _ = probe
    function.writeBAR(at: 20, count: 1, 0)
    let driver = TestDriver(function, guest, queueCount: 2)
    function.writeBAR(at: 20, count: 1, 0)
    let early = TestQueue(guest, size: 16)
    early.set(0, guest.place([5]), 1)
    early.offer(0)
    driver.negotiate(modern)
    function.writeBAR(at: 32, count: 8, early.descriptors)
    function.writeBAR(at: 40, count: 8, early.available)
    function.writeBAR(at: 48, count: 8, early.used)
    #expect(function.readBAR(at: 40, count: 8) == early.available)
    function.writeBAR(at: 28, count: 2, 1)
    #expect(early.usedIndex == 0)
    function.writeBAR(at: 20, count: 1, 15)
    #expect(early.usedIndex == 1)
    #expect(interrupts.take() == [0x30])
    // The other queue was left off.
    driver.queues[1].send([1])
    driver.kick(1)
    #expect(driver.queues[1].usedIndex == 0)
  }

  @Test func liveQueuesDoNotMove() {
    let driver = presetDriver()
    function.writeBAR(at: 22, count: 2, 0)
    function.writeBAR(at: 32, count: 4, 0x1234_5670)
    function.writeBAR(at: 24, count: 2, 2)
    #expect(function.readBAR(at: 32, count: 8) == driver.queues[0].descriptors)
    #expect(function.readBAR(at: 24, count: 2) == 16)
    #expect(echo(driver, [1]) == [1])
  }

  @Test func aBrokenRuleNeedsAReset() {
    let driver = presetDriver()
    driver.queues[0].offer(99)
    driver.kick(0)
    #expect(driver.status == 15 | VirtioStatus.needsReset)
    #expect(interrupts.take() == [0x32])
    driver.kick(0)
    #expect(interrupts.take() == [])
    let again = presetDriver()
    #expect(again.status == 15)
    #expect(echo(again, [3]) == [3])
  }

  @Test func queuesInImpossiblePlacesNeedAReset() {
    for change: (TestQueue) -> Void in [
      { $0.descriptors = 0 }, { $0.used = .max - 1 }, { $0.available = $0.descriptors }, { $0.descriptors += 1 },
    ] {
      let driver = presetDriver()
      function.writeBAR(at: 20, count: 1, 0)
      change(driver.queues[1])
      driver.negotiate(modern)
      driver.enable(0)
      driver.enable(1)
      function.writeBAR(at: 20, count: 1, 15)
      #expect(driver.status & VirtioStatus.needsReset != 0)
      driver.queues[0].send([1])
      driver.kick(0)
      #expect(driver.queues[0].usedIndex == 0)
    }
    // Sizes that are none, or more than was offered.
    for size: UInt64 in [0, 3, 32, 0x8000] {
      let driver = presetDriver()
      function.writeBAR(at: 20, count: 1, 0)
      driver.negotiate(modern)
      driver.enable(0)
      function.writeBAR(at: 24, count: 2, size)
      function.writeBAR(at: 20, count: 1, 15)
      #expect(driver.status & VirtioStatus.needsReset != 0)
    }
  }

  @Test func theWindowReachesTheBAR() {
    func window(_ offset: UInt32, _ count: UInt32) {
      function.writeConfiguration(at: 0x98 + 8, count: 4, offset)
      function.writeConfiguration(at: 0x98 + 12, count: 4, count)
    }
    window(0x100, 4)
    #expect(function.readConfiguration(at: 0x98 + 16, count: 4) == 0x0403_0201)
    window(0x101, 1)
    function.writeConfiguration(at: 0x98 + 16, count: 1, 9)
    #expect(device.configuration == [1, 9, 3, 4])
    #expect(function.readConfiguration(at: 0x98 + 16, count: 4) == 0)
    window(0xffff_ffff, 4)
    #expect(function.readConfiguration(at: 0x98 + 16, count: 4) == 0)
  }

  @Test func aNotificationWhileAnotherThreadServesIsNotLost() {
    let driver = presetDriver()
    var nested = 0
    device.onServe = { index in
      guard index == 0, nested < 3 else { return }
      nested += 1
      // As if another CPU had added a request and notified meanwhile.
      driver.queues[0].send([1], index: nested)
      driver.kick(0)
    }
    driver.queues[0].send([0])
    driver.kick(0)
    #expect(driver.queues[0].usedIndex == 4)
    #expect(nested == 3)
  }

  @Test(arguments: 1...3) func randomAccessesDoNoHarm(seed: UInt64) {
    var random = SeededGenerator(seed)
    _ = presetDriver()
    for _ in 0..<20_000 {
      let count = [1, 2, 4, 8][Int(random.next() % 4)]
      var offset = random.next() % 0x4100
      if Bool.random(using: &random) { offset = random.next() % 64 }
      var value = Bool.random(using: &random) ? random.next() : random.next() % 32
      if offset >= 32 && Bool.random(using: &random) { value = TestGuest.start + random.next() % (1 << 20) }
      switch random.next() % 4 {
      case 0: _ = function.readBAR(at: offset, count: count)
      case 1: function.writeConfiguration(at: Int(offset % 260), count: count, UInt32(truncatingIfNeeded: value))
      case 2: _ = function.readConfiguration(at: Int(offset % 260), count: count)
      default: function.writeBAR(at: offset, count: count, value)
      }
    }
    function.writeBAR(at: 20, count: 1, 0)
    #expect(function.readBAR(at: 20, count: 1) == 0)
  }
}
