// The balloon (virtio 1.2, 5.5): a thread that gives memory to the host and takes it back.
//
// It sleeps until there is something to do: the host wants another size, or statistics; there is a surplus of free memory, which is
// looked at from time to time until it is reported (BalloonReporting); the balloon could not grow as far as it shall, and tries
// again. Nothing here is on anybody's way but the wait for memory that is about to come back.
//
// `lock` guards what is in the balloon and all requests but those for statistics. Nothing is allocated under it but frames, so that
// whoever is out of memory may take it (BalloonPages).
import Base
import Locks
import Memory
import Pages
import Platform
import Threads
import VirtioABI

/// The balloon's driver.
public final class BalloonDriver {
  private static let queueSize = 8
  /// Page numbers in a request: one page of them.
  static let requestLimit = 1024
  private static let statisticCount = 4

  let function: VirtioFunction
  let lock = Mutex()
  // Set by `start`, and constant from then on.
  private(set) var inflateQueue: Virtqueue!
  private(set) var deflateQueue: Virtqueue!
  private(set) var reportingQueue: Virtqueue?
  private var statisticsQueue: Virtqueue?
  private var statistics: UnsafeMutableRawPointer!
  /// For the pieces of a report.
  private(set) var segments: UnsafeMutablePointer<DeviceSegment>!
  /// A page for page numbers.
  private(set) var numbers: UnsafeMutablePointer<UInt32>!
  private var thread: Thread?

  /// What is in the balloon. Guarded by `lock`.
  var stash = FrameStash()
  /// Frames that the host was told to be in it. Guarded by `lock`.
  var toldCount = 0
  /// Until when the balloon does not grow, because somebody needed memory; of `Clock.now`.
  let heldUntil = Atomic<UInt64>(0)

  private let wakeUps = Semaphore()
  private let isConfigured = Atomic<Bool>(false)
  private let wantsStatistics = Atomic<Bool>(false)
  private let hasSurplus = Atomic<Bool>(false)

  /// The driver that the machine has, as an address; 0 before it has started.
  private static let shared = Atomic<UInt>(0)
  static var current: BalloonDriver? {
    guard let pointer = UnsafeRawPointer(bitPattern: shared.load(ordering: .acquiring)) else { return nil }
    // SAFETY: the address of a driver that was retained for ever.
    return Unmanaged<BalloonDriver>.fromOpaque(pointer).takeUnretainedValue()
  }

  /// A driver for the device, which is not touched yet.
  /// - Throws: ENODEV if it is no balloon.
  public init(_ function: VirtioFunction) throws(Errno) {
    guard function.description.deviceID == VirtioDeviceID.balloon, function.description.queueCount >= 2 else {
      throw .ENODEV
    }
    self.function = function
  }

  // MARK: Starting

  /// Starts the device and the balloon's thread. Once, from a thread.
  /// - Throws: ENODEV if the device refuses, ENOMEM, EAGAIN.
  public func start() throws(Errno) {
    let size = min(Self.queueSize, function.description.queueSize.int)
    let ringByteCount = Virtqueue.byteCount(size: size)
    let statisticsByteCount = Self.statisticCount &* VirtioBalloonStatistic.byteCount
    let segmentByteCount = Self.reportLimit &* MemoryLayout<DeviceSegment>.stride
    guard let page = Frames.allocate(),
      let memory = KernelHeap.allocateZeroed(
        byteCount: 4 &* ringByteCount &+ segmentByteCount &+ statisticsByteCount, alignment: 16),
      let inflate = Virtqueue(size: size, memory: memory),
      let deflate = Virtqueue(size: size, memory: memory + ringByteCount),
      let information = Virtqueue(size: size, memory: memory + 2 &* ringByteCount),
      let reporting = Virtqueue(size: size, memory: memory + 3 &* ringByteCount)
    else { throw .ENOMEM }
    (inflateQueue, deflateQueue) = (inflate, deflate)
    // SAFETY: the page and these parts of the memory are the driver's for good.
    numbers = LinearMap.pointer(page).bindMemory(to: UInt32.self, capacity: Self.requestLimit)
    segments = (memory + 4 &* ringByteCount).bindMemory(to: DeviceSegment.self, capacity: Self.reportLimit)
    statistics = memory + (4 &* ringByteCount &+ segmentByteCount)

    var features = function.description.features & VirtioBalloonABI.deflateOnOutOfMemory
    if offers(VirtioBalloonABI.statistics, queue: VirtioBalloonABI.statisticsQueue) {
      features |= VirtioBalloonABI.statistics
      statisticsQueue = information
    }
    // Only where reported memory is known to be zero afterwards: free pages contain 0, which is what the configuration says at first.
    if offers(VirtioBalloonABI.pageReporting | VirtioBalloonABI.pagePoison, queue: VirtioBalloonABI.reporting) {
      features |= VirtioBalloonABI.pageReporting | VirtioBalloonABI.pagePoison
      reportingQueue = reporting
    }
    var queues: [DeviceQueue?] = [inflate, deflate, statisticsQueue, nil, reportingQueue]
    while queues.count > 2, let last = queues.last, last == nil { queues.removeLast() }
    if let statisticsQueue {
      statisticsQueue.onCompletion = { [unowned(unsafe) self] _, _ in self.wake(self.wantsStatistics) }
      try putStatistics(statisticsQueue)
    }
    function.onConfigurationChange = { [unowned(unsafe) self] in self.wake(self.isConfigured) }
    try function.start(queues, features: features)
    statisticsQueue?.beginSleep()
    isConfigured.store(true, ordering: .releasing)
    // The thread and those who are out of memory know the driver by address.
    let address = Unmanaged.passRetained(self).toOpaque()
    let thread = try Thread.create(
      name: "balloon",
      entry: { argument in
        guard let argument else { return }
        Unmanaged<BalloonDriver>.fromOpaque(argument)._withUnsafeGuaranteedRef { $0.work() }
      }, argument: address)
    self.thread = thread
    Self.shared.store(UInt(bitPattern: address), ordering: .releasing)
    thread.start()
  }

  private func offers(_ features: UInt64, queue: Int) -> Bool {
    function.offers(features) && queue < function.description.queueCount.int
  }

  /// Raises a flag that the thread looks at. Any context that may wake threads.
  private func wake(_ flag: borrowing Atomic<Bool>) {
    flag.store(true, ordering: .releasing)
    wakeUps.post()
  }

  /// Whether the balloon's own thread asks.
  var isOwnThread: Bool { thread == Thread.current }

  /// Sees to it that the thread looks at the balloon again soon.
  func wakeToAdjust() { wake(isConfigured) }

  // MARK: The thread

  private func work() {
    var adjusting = Deadline.never
    var looking = beginToLook()
    var patience = BalloonPatience()
    while !function.isDead {
      if isConfigured.exchange(false, ordering: .acquiring) || adjusting.nanoseconds <= Clock.now() {
        adjusting = adjust() ? patience.next() : patience.stop()
      }
      if wantsStatistics.exchange(false, ordering: .acquiring), let statisticsQueue {
        do throws(Errno) { try putStatistics(statisticsQueue) } catch { function.stop() }
      }
      if hasSurplus.exchange(false, ordering: .acquiring) { looking = .after(Self.window) }
      if looking.nanoseconds <= Clock.now() { looking = report() }
      _ = wakeUps.wait(until: min(adjusting, looking))
      while wakeUps.tryWait() {}
    }
    letEverythingGo()
  }

  private func beginToLook() -> Deadline {
    guard reportingQueue != nil else { return .never }
    Self.watch()
    Frames.noticeSurplus()
    return .never
  }

  /// Has the thread woken by the next one who makes a surplus.
  static func watch() {
    Frames.watchSurplus {
      if let driver = BalloonDriver.current { driver.wake(driver.hasSurplus) }
    }
  }

  // MARK: Statistics

  /// Gives the device the statistics of now, once it has handed back those of before.
  private func putStatistics(_ queue: Virtqueue) throws(Errno) {
    queue.reap()
    if queue.isDone(0) { queue.release(0) }
    guard queue.nextSlot == 0 else { return }
    let frames = Frames.statistics
    let cached = Reclaim.cachedPages
    put(0, VirtioBalloonStatistic.free, frames.free)
    put(1, VirtioBalloonStatistic.total, frames.total)
    put(2, VirtioBalloonStatistic.available, frames.free &+ cached)
    put(3, VirtioBalloonStatistic.caches, cached)
    var segment = DeviceSegment(
      address: statistics, count: Self.statisticCount &* VirtioBalloonStatistic.byteCount)
    _ = try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
      try queue.add(pointer, readable: 1, writable: 0)
    }
    queue.kick()
  }

  private func put(_ index: Int, _ tag: UInt16, _ frames: Int) {
    let place = statistics + index &* VirtioBalloonStatistic.byteCount
    // SAFETY: within the buffer; entries are not aligned.
    place.storeBytes(of: tag, as: UInt16.self)
    (place + 2).storeBytes(of: frames.u64 << frameShift, as: UInt64.self)
  }
}

/// When to try again what did not work: ever later, up to two seconds.
struct BalloonPatience {
  private static let first: UInt64 = 100_000_000
  private static let last: UInt64 = 2_000_000_000
  private var pause = BalloonPatience.first

  mutating func next() -> Deadline {
    defer { pause = min(pause &* 2, Self.last) }
    return .after(pause)
  }

  mutating func stop() -> Deadline {
    pause = Self.first
    return .never
  }
}
