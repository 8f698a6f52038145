// The balloon, with a guest in plain memory that plays by the rules, and one that does not.
import Glibc
import Synchronization
import Testing
import VirtioABI
import VirtioBalloon
import VirtioPCI
import VirtioQueue
import VirtioTestGuest

private let inflate = VirtioBalloonABI.inflate
private let deflate = VirtioBalloonABI.deflate
private let statistics = VirtioBalloonABI.statisticsQueue
private let reporting = VirtioBalloonABI.reporting

/// A guest with a balloon and 64 pages of memory to put into it.
private final class BalloonGuest {
  static let pageCount = 64
  static let everything =
    VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors | VirtioBalloonABI.statistics
    | VirtioBalloonABI.deflateOnOutOfMemory | VirtioBalloonABI.pagePoison | VirtioBalloonABI.pageReporting

  let guest = TestGuest()
  let device: VirtioBalloon
  let driver: TestDriver
  let pages: UInt64
  let interrupts = Counter()

  final class Counter: Sendable { let vectors = Mutex<[UInt32: Int]>([:]) }

  init(features: UInt64 = everything) {
    device = VirtioBalloon(memory: guest.map)
    let function = PCIFunction(device: device, memory: guest.map) { [interrupts] message in
      interrupts.vectors.withLock { $0[message.data, default: 0] += 1 }
    }
    function.presetVectors((0...5).map { MSIMessage(vector: 40 + $0, cpu: 0) })
    driver = TestDriver(function, guest, queueCount: 5, queueSize: 32, features: features)
    pages = guest.allocate(4096 * Self.pageCount, alignment: 4096)
    memset(guest.pointer(pages), 0xaa, 4096 * Self.pageCount)
  }

  /// The number of one of the pages.
  func number(_ page: Int) -> UInt32 { UInt32(pages >> 12) + UInt32(page) }

  /// Sends page numbers and notifies.
  func send(_ numbers: [UInt32], _ queue: Int, index: Int = 0) {
    driver.queues[queue].send(
      numbers.flatMap { number in withUnsafeBytes(of: number.littleEndian) { Array($0) } }, index: index)
    driver.kick(queue)
  }

  /// For each page: whether the host has memory for it, and its first and last byte.
  func isPresent(_ page: Int) -> Bool {
    var state: UInt8 = 0
    #expect(mincore(guest.pointer(pages + UInt64(page) * 4096), 4096, &state) == 0)
    return state & 1 != 0
  }
  func isKept(_ page: Int) -> Bool {
    guest.bytes(pages + UInt64(page) * 4096, 4096) == [UInt8](repeating: 0xaa, count: 4096)
  }
  func isZero(_ page: Int) -> Bool {
    guest.bytes(pages + UInt64(page) * 4096, 4096) == [UInt8](repeating: 0, count: 4096)
  }
  var isBroken: Bool { driver.status & VirtioStatus.needsReset != 0 }

  /// The configuration, as 32-bit words.
  func configuration(_ offset: Int) -> UInt32 {
    UInt32(driver.function.readBAR(at: 0x100 + UInt64(offset), count: 4))
  }
  func configure(_ offset: Int, _ value: UInt32) {
    driver.function.writeBAR(at: 0x100 + UInt64(offset), count: 4, UInt64(value))
  }
}

/// Entries of statistics as they lie in memory.
private func entries(_ values: [(UInt16, UInt64)]) -> [UInt8] {
  values.flatMap { tag, value in
    withUnsafeBytes(of: tag.littleEndian) { Array($0) } + withUnsafeBytes(of: value.littleEndian) { Array($0) }
  }
}

@Suite struct BalloonTests {
  @Test func pagesOfTheBalloonGoToTheHost() {
    let guest = BalloonGuest()
    guest.send([3, 1, 2, 9, 1].map(guest.number), inflate)
    #expect(guest.driver.queues[inflate].takeUsed()! == (0, 0))
    for page in 0..<12 { #expect(guest.isPresent(page) == ![1, 2, 3, 9].contains(page), "page \(page)") }
    for page in [1, 2, 3, 9] { #expect(guest.isZero(page)) }
    for page in [0, 4, 8, 10] { #expect(guest.isKept(page)) }
    // What leaves the balloon is used again, and is left alone.
    memset(guest.guest.pointer(guest.pages + 4096), 0xaa, 4096)
    guest.send([1, 2].map(guest.number), deflate)
    #expect(guest.driver.queues[deflate].takeUsed()! == (0, 0))
    #expect(guest.isKept(1))
    #expect(!guest.isBroken)
  }

  @Test func theLargestRequestIsServed() {
    let guest = BalloonGuest()
    guest.send([UInt32](repeating: guest.number(5), count: VirtioBalloon.requestLimit), inflate)
    #expect(!guest.isBroken)
    #expect(!guest.isPresent(5) && guest.isPresent(4) && guest.isPresent(6))
  }

  @Test func wishesAndWhatCameOfThem() {
    let guest = BalloonGuest()
    #expect(guest.device.report.isActive)
    guest.device.setWanted(byteCount: 20 << 12 | 5)
    #expect(guest.interrupts.vectors.withLock { $0[45] } == 1)
    #expect(guest.configuration(VirtioBalloonConfiguration.wantedOffset) == 20)
    guest.configure(VirtioBalloonConfiguration.actualOffset, 7)
    #expect(guest.device.report.actualByteCount == 7 << 12)
    #expect(guest.device.report.wantedByteCount == 20 << 12)
    // The host's wish and its commands are not the guest's to write.
    guest.configure(VirtioBalloonConfiguration.wantedOffset, 3)
    guest.configure(8, 3)
    guest.driver.function.writeBAR(at: 0x100 + 14, count: 8, .max)
    #expect(guest.configuration(VirtioBalloonConfiguration.wantedOffset) == 20)
    #expect(guest.configuration(8) == 0)
    guest.device.setWanted(byteCount: .max)
    #expect(guest.configuration(VirtioBalloonConfiguration.wantedOffset) == UInt32.max)
  }

  @Test func aResetForgetsTheGuestAndKeepsTheWish() {
    let guest = BalloonGuest()
    guest.device.setWanted(byteCount: 8 << 12)
    guest.configure(VirtioBalloonConfiguration.actualOffset, 7)
    guest.driver.queues[statistics].send(entries([(VirtioBalloonStatistic.free, 5)]))
    guest.driver.kick(statistics)
    guest.driver.function.writeBAR(at: 20, count: 1, 0)
    let report = guest.device.report
    #expect(!report.isActive && report.actualByteCount == 0 && report.wantedByteCount == 8 << 12)
    #expect(report.statistics.allSatisfy { $0 == nil })
    // Nobody is there to ask.
    guest.device.requestStatistics()
    guest.device.setWanted(byteCount: 0)
    #expect(guest.driver.queues[statistics].usedIndex == 0)
  }

  @Test func statisticsAreKeptUntilNewerOnesAreWanted() throws {
    let guest = BalloonGuest()
    let queue = guest.driver.queues[statistics]
    guest.device.requestStatistics()
    // A tail that is no entry, and a tag that nobody knows.
    queue.send(
      entries([(VirtioBalloonStatistic.free, 1 << 40), (77, 1), (VirtioBalloonStatistic.total, 2)]) + [4, 0, 9])
    guest.driver.kick(statistics)
    var report = guest.device.report
    #expect(queue.usedIndex == 0 && report.statisticsNumber == 1)
    #expect(report.statistics[Int(VirtioBalloonStatistic.free)] == 1 << 40)
    #expect(report.statistics[Int(VirtioBalloonStatistic.total)] == 2)
    #expect(report.statistics[Int(VirtioBalloonStatistic.caches)] == nil)
    guest.device.requestStatistics()
    #expect(try #require(queue.takeUsed()) == (0, 0))
    #expect(guest.interrupts.vectors.withLock { $0[42] } == 1)
    // Nothing more to be had until the driver has sent some.
    guest.device.requestStatistics()
    #expect(queue.takeUsed() == nil)
    queue.send(entries([(VirtioBalloonStatistic.caches, 3)]), index: 1)
    guest.driver.kick(statistics)
    report = guest.device.report
    #expect(report.statisticsNumber == 2 && report.statistics[Int(VirtioBalloonStatistic.caches)] == 3)
    #expect(report.statistics[Int(VirtioBalloonStatistic.free)] == nil)
  }

  @Test func aSecondBufferOfStatisticsWaitsForItsTurn() {
    let guest = BalloonGuest()
    let queue = guest.driver.queues[statistics]
    for index in 0..<3 { queue.send(entries([(VirtioBalloonStatistic.free, UInt64(index))]), index: index) }
    guest.driver.kick(statistics)
    for index in 0..<3 {
      #expect(guest.device.report.statistics[Int(VirtioBalloonStatistic.free)] == UInt64(index))
      guest.device.requestStatistics()
      #expect(queue.takeUsed()?.head == index)
    }
    #expect(!guest.isBroken)
  }

  /// Linux takes the queues that it finds in order, so that its reports come in the fourth.
  @Test(arguments: [reporting, VirtioBalloonABI.hints]) func freeMemoryGoesToTheHost(queue: Int) {
    let guest = BalloonGuest()
    let ring = guest.driver.queues[queue]
    ring.set(0, guest.pages, 8192, flags: VirtqueueDescriptor.write | VirtqueueDescriptor.next, next: 1)
    // Not whole pages: what is reported is zero afterwards all the same, and no more than that.
    ring.set(1, guest.pages + 4 * 4096 + 100, 3 * 4096, flags: VirtqueueDescriptor.write)
    ring.offer(0)
    guest.driver.kick(queue)
    #expect(ring.takeUsed()! == (0, 0))
    for page in [0, 1, 5, 6] { #expect(!guest.isPresent(page) && guest.isZero(page), "page \(page)") }
    #expect(guest.isKept(2) && guest.isKept(3) && guest.isKept(8))
    let edges = guest.guest.bytes(guest.pages + 4 * 4096, 4 * 4096)
    #expect(edges[..<100].allSatisfy { $0 == 0xaa } && edges[100..<(100 + 3 * 4096)].allSatisfy { $0 == 0 })
    #expect(edges[(100 + 3 * 4096)...].allSatisfy { $0 == 0xaa })
    #expect(guest.device.report.reportedByteCount == 5 * 4096)
  }

  @Test func poisonedMemoryStaysAsItIs() {
    let guest = BalloonGuest()
    guest.configure(VirtioBalloonConfiguration.poisonOffset, 0xaaaa_aaaa)
    guest.driver.queues[reporting].set(0, guest.pages, 4096, flags: VirtqueueDescriptor.write)
    guest.driver.queues[reporting].offer(0)
    guest.driver.kick(reporting)
    #expect(guest.driver.queues[reporting].takeUsed() != nil)
    #expect(guest.isKept(0))
  }
}

@Suite struct HostileBalloonTests {
  @Test(
    arguments: [[], [1], [1, 2, 3], [UInt8](repeating: 0, count: 4 * VirtioBalloon.requestLimit + 4)],
    [inflate, deflate])
  func requestsOfOddSizes(_ bytes: [UInt8], queue: Int) {
    let guest = BalloonGuest()
    guest.driver.queues[queue].send(bytes)
    guest.driver.kick(queue)
    #expect(guest.isBroken)
    #expect(guest.driver.queues[queue].usedIndex == 0)
  }

  /// Below, behind and far behind memory, and a run that begins in it.
  @Test func pagesThatAreNotThere() {
    let last = UInt32((TestGuest.start + UInt64(TestGuest.byteCount)) >> 12) - 1
    for numbers in [[0], [last + 1], [UInt32.max], [UInt32.max - 1, UInt32.max, 0], [last, last + 1]] {
      let guest = BalloonGuest()
      guest.send(numbers, inflate)
      #expect(guest.isBroken, "\(numbers)")
    }
  }

  @Test func pagesThatMayNotBeWritten() {
    let guest = BalloonGuest()
    let file = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
    memset(file, 0x55, 4096)
    guest.guest.map.add(start: GuestAddress(1 << 30), byteCount: 4096, host: file, isWritable: false)
    guest.send([1 << 18], inflate)
    #expect(guest.isBroken)
    #expect(file.load(as: UInt8.self) == 0x55)
    munmap(file, 4096)
  }

  @Test func buffersOfTheWrongDirection() {
    for queue in [inflate, deflate, statistics] {
      let guest = BalloonGuest()
      guest.driver.queues[queue].post(8)
      guest.driver.kick(queue)
      #expect(guest.isBroken, "queue \(queue)")
    }
    let guest = BalloonGuest()
    guest.driver.queues[reporting].send([1, 2, 3, 4])
    guest.driver.kick(reporting)
    #expect(guest.isBroken)
  }

  @Test func reportsThatWereNotAgreedOn() {
    let guest = BalloonGuest(features: BalloonGuest.everything & ~VirtioBalloonABI.pageReporting)
    guest.driver.queues[reporting].set(0, guest.pages, 4096, flags: VirtqueueDescriptor.write)
    guest.driver.queues[reporting].offer(0)
    guest.driver.kick(reporting)
    #expect(guest.isBroken)
    #expect(guest.isKept(0))
  }

  /// The guest gives its own rings away. It gets what it deserves, and nobody else is hurt.
  @Test func ringsInTheBalloon() {
    let guest = BalloonGuest()
    guest.send((0..<16).map { UInt32(TestGuest.start >> 12) + $0 }, inflate)
    for queue in 0..<5 { guest.driver.kick(queue) }
    guest.device.setWanted(byteCount: 1 << 20)
    guest.device.requestStatistics()
    guest.driver.function.writeBAR(at: 20, count: 1, 0)
    #expect(guest.driver.status == 0)
  }

  /// Whatever the numbers and sizes: every request ends, and memory that was not named is untouched.
  @Test(arguments: 1...200 as ClosedRange<UInt64>) func nonsense(seed: UInt64) {
    var random = SeededGenerator(seed)
    let guest = BalloonGuest()
    var named = Set<UInt32>()
    for round in 0..<8 where !guest.isBroken {
      let queue = Int.random(in: 0..<5, using: &random)
      let numbers = (0..<Int.random(in: 0...40, using: &random)).map { _ in
        Int.random(in: 0...60, using: &random) == 0
          ? UInt32.random(in: 0...UInt32.max, using: &random) : guest.number(Int.random(in: 0..<48, using: &random))
      }
      if queue == inflate { named.formUnion(numbers) }
      if queue >= 3 {
        let page = Int.random(in: 0..<48, using: &random)
        let count = Int.random(in: 1...4096, using: &random)
        named.insert(guest.number(page))
        guest.driver.queues[queue].set(
          round, guest.pages + UInt64(page) * 4096, count, flags: VirtqueueDescriptor.write)
        guest.driver.queues[queue].offer(round)
        guest.driver.kick(queue)
      } else {
        guest.send(numbers, queue, index: round)
      }
    }
    for page in 0..<BalloonGuest.pageCount where !named.contains(guest.number(page)) { #expect(guest.isKept(page)) }
  }
}
