// The network device (virtio 1.2, 5.1): up to eight queue pairs over a backend, and a control queue.
//
// Each pair in use has a thread (PairWorker); a vCPU that notifies serves the transmit queue itself while that thread sleeps. The control
// queue is served by whoever notifies. What a guest writes is checked by FrameHeader, ControlCommand and the queues; frames
// themselves are nobody's business here but that of the driver's filter.
// Order of locks: a queue's (the control queue's first), then those in here, which are leaves.
import Glibc
import Synchronization
import VirtioABI
import VirtioPCI
import VirtioQueue

// SAFETY: transmitters and receivers are used with their queues' locks; a chain and a buffer with the control queue's; the rest never
// changes, or has locks.
/// A network interface of the guest.
public final class VirtioNetwork: VirtioDevice, @unchecked Sendable {
  /// What the interface is like.
  public struct Configuration: Sendable {
    /// Its MAC address: six bytes.
    public var address: [UInt8]
    /// Largest IP packet, 68 to 65,535 bytes; the backend's limit holds, too.
    public var mtu = 1500
    /// Queue pairs; the backend's limit holds, too.
    public var pairCount = 1
    /// Bits a second in each direction and of each pair, 0 for no limit.
    public var rate: UInt64 = 0
    /// Where its frames are recorded, and as which interface.
    public var capture: (PacketCapture, Int)?
    /// Starts a thread, whose body ends after `stop`.
    public var startThread: @Sendable (@escaping @Sendable () -> Void) -> Void
    /// From now on a notification of that queue should signal that eventfd, which costs the guest less than an exit. Called once for a
    /// transmit queue that is notified often, by its worker. Nil if there is no such way.
    public var attach: (@Sendable (_ queue: Int, _ event: CInt) -> Void)?
    /// Called now and then by a pair's worker while it is awake, to see to where it runs.
    public var place: (@Sendable (_ pair: Int) -> Void)?
    /// The backend has ended: there is no link any more. Called once.
    public var onLinkLost: @Sendable () -> Void = {}

    /// An interface with that address.
    public init(address: [UInt8], startThread: @escaping @Sendable (@escaping @Sendable () -> Void) -> Void) {
      precondition(address.count == 6)
      self.address = address
      self.startThread = startThread
    }
  }

  /// Why there is no device: the host gives no descriptor; `code` is a Linux error number.
  public struct OpenFailure: Error {
    /// What failed.
    public let code: CInt
  }

  /// Frames that a worker takes from one queue before it looks at the other.
  private static let share = 64
  /// Frames that a vCPU's thread sends before it leaves the rest to the worker.
  private static let inlineShare = 16
  /// After so many exits for notifications a queue gets an eventfd.
  private static let kicksBeforeAttaching = 256
  /// The least MTU (5.1.4.1).
  private static let leastMTU = 68

  private let backend: any NetworkBackend
  private let configuration: Configuration
  private let mtu: Int
  private let pairCount: Int
  private let workers: [PairWorker]
  private let transmitters: [Transmitter]
  private let receivers: [Receiver]
  /// Each pair's, used by its worker alone.
  private let batches: UnsafeMutableBufferPointer<AnswerBatch>
  private let session = Mutex<Session?>(nil)
  private let filter: Mutex<ReceiveFilter>
  private let activePairs = Atomic<Int>(1)
  private let hasLink = Atomic<Bool>(true)
  private let chain = DescriptorChain()
  private let commandBytes = UnsafeMutableRawBufferPointer.allocate(byteCount: ControlCommand.byteLimit, alignment: 8)

  /// A device over a backend.
  public init(_ configuration: Configuration, backend: any NetworkBackend) throws(OpenFailure) {
    self.backend = backend
    self.configuration = configuration
    mtu = max(Self.leastMTU, min(configuration.mtu, backend.mtu, FrameHeader.largestPacket))
    let pairCount = max(1, min(configuration.pairCount, backend.pairCount, VirtioNetworkABI.maximumPairCount))
    self.pairCount = pairCount
    var workers: [PairWorker] = []
    for pair in 0..<pairCount {
      guard let worker = PairWorker(pair: pair) else { throw OpenFailure(code: errno) }
      workers.append(worker)
    }
    self.workers = workers
    transmitters = (0..<pairCount).map {
      Transmitter(pair: $0, backend: backend, rate: configuration.rate, capture: configuration.capture)
    }
    receivers = (0..<pairCount).map {
      Receiver(pair: $0, backend: backend, rate: configuration.rate, capture: configuration.capture)
    }
    batches = .allocate(capacity: pairCount)
    batches.initialize(repeating: AnswerBatch())
    filter = Mutex(ReceiveFilter(own: configuration.address.withUnsafeBytes { ReceiveFilter.address($0) }))
  }

  deinit {
    commandBytes.deallocate()
    batches.deallocate()
  }

  /// Ends the device's threads. The device must not be used afterwards.
  public func stop() {
    for worker in workers { worker.stop() }
  }

  /// What it has done so far.
  public var report: NetworkReport {
    var report = NetworkReport()
    for pair in 0..<pairCount {
      report.received.add(receivers[pair].counters)
      report.transmitted.add(transmitters[pair].counters)
      report.sleeps += workers[pair].sleeps.load(ordering: .relaxed)
    }
    report.pairs = activePairs.load(ordering: .relaxed)
    return report
  }

  // MARK: VirtioDevice

  /// See `VirtioDevice`.
  public var deviceID: UInt32 { VirtioDeviceID.network }
  /// See `VirtioDevice`: Ethernet controller.
  public var pciClass: UInt32 { 0x02_0000 }
  /// See `VirtioDevice`.
  public var queueCount: Int { 2 * pairCount + 1 }
  /// See `VirtioDevice`.
  public var queueSize: UInt16 { 1024 }

  /// See `VirtioDevice`.
  public var features: UInt64 {
    var features =
      VirtioNetworkABI.address | VirtioNetworkABI.mtu | VirtioNetworkABI.status | VirtioNetworkABI.speedAndDuplex
      | VirtioNetworkABI.mergeableBuffers | VirtioNetworkABI.controlQueue | VirtioNetworkABI.controlReceive
      | VirtioNetworkABI.controlReceiveExtra | VirtioNetworkABI.controlVLAN | VirtioNetworkABI.controlAddress
    if pairCount > 1 { features |= VirtioNetworkABI.multiqueue }
    for entry in NetworkOffloads.features where backend.offloads.contains(entry.offload) {
      features |= entry.received | entry.transmitted
    }
    return features
  }

  /// See `VirtioDevice`.
  public func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    var configuration = VirtioNetworkConfiguration()
    let own = filter.withLock { $0.own }
    for index in 0..<6 { configuration.address[index] = UInt8(truncatingIfNeeded: own >> UInt64(8 * (5 - index))) }
    configuration.status = hasLink.load(ordering: .relaxed) ? VirtioNetworkConfiguration.linkUp : 0
    configuration.maximumPairCount = UInt16(pairCount)
    configuration.mtu = UInt16(mtu)
    let rate = self.configuration.rate
    configuration.speed = rate == 0 ? 10_000 : UInt32(max(1, rate / 1_000_000))
    configuration.duplex = 1
    withUnsafeBytes(of: configuration) { bytes in
      for index in buffer.indices { buffer[index] = offset + index < bytes.count ? bytes[offset + index] : 0 }
    }
  }

  /// See `VirtioDevice`.
  public func activate(host: any VirtioDeviceHost, features: UInt64) {
    let session = Session(host: host, features: features, mtu: mtu, pairCount: pairCount)
    filter.withLock {
      $0 = ReceiveFilter(own: $0.own)
      if session.features & VirtioNetworkABI.controlVLAN != 0 { $0.vlans = [UInt64](repeating: 0, count: 64) }
    }
    backend.configure(received: session.receivedOffloads, pairs: 1)
    activePairs.store(1, ordering: .releasing)
    self.session.withLock { $0 = session }
    workers[0].start(self, by: configuration.startThread)
  }

  /// See `VirtioDevice`.
  public func reset() {
    session.withLock { $0 = nil }
    activePairs.store(1, ordering: .releasing)
    backend.configure(received: [], pairs: 1)
    for receiver in receivers { receiver.reset() }
    let own = configuration.address.withUnsafeBytes { ReceiveFilter.address($0) }
    filter.withLock { $0 = ReceiveFilter(own: own) }
  }

  /// See `VirtioDevice`: a pair's queues are its worker's while it is awake, and its receive queue always.
  public func isServedElsewhere(queue index: Int) -> Bool {
    guard let session = session.withLock({ $0 }), index != session.controlQueue else { return false }
    let pair = index / 2
    guard pair < activePairs.load(ordering: .acquiring) else { return true }
    let worker = workers[pair]
    if index % 2 == 1 {
      let count = worker.kicks.add(1, ordering: .relaxed).newValue
      if count == Self.kicksBeforeAttaching, configuration.attach != nil { worker.wake() }
      return !worker.isAsleep
    }
    if worker.isAsleep { worker.wake() }
    return true
  }

  /// See `VirtioDevice`.
  public func serve(queue index: Int, _ queue: SplitQueue) {
    guard let session = session.withLock({ $0 }) else { return }
    if index == session.controlQueue { return serveControl(queue, session) }
    let pair = index / 2
    guard index % 2 == 1, pair < activePairs.load(ordering: .acquiring) else { return }
    let transmitter = transmitters[pair]
    var left = Self.inlineShare
    repeat {
      let outcome = transmitter.run(queue, session, budget: left)
      left -= transmitter.handled
      if transmitter.handled > 0 {
        DirectionCounters.add(transmitter.counters.batches)
        DirectionCounters.add(transmitter.counters.inlineBatches)
      }
      guard outcome == .drained else { return workers[pair].wake() }
    } while queue.rearm()
  }

  // MARK: The control queue

  private func serveControl(_ queue: SplitQueue, _ session: Session) {
    repeat {
      while queue.pop(into: chain) {
        guard chain.writableByteCount >= 1 else { return queue.fail(.badRequest) }
        let count = chain.read(at: 0, into: commandBytes)
        let isWhole = count == chain.readableByteCount
        let bytes = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(commandBytes)[..<count])
        var answer = isWhole && carryOut(bytes, session) ? VirtioNetworkControl.succeeded : VirtioNetworkControl.failed
        withUnsafeBytes(of: &answer) { _ = chain.write(at: 0, from: $0) }
        queue.push(chain, written: 1)
      }
    } while queue.rearm()
  }

  /// Does what a command says; false if it cannot be done.
  private func carryOut(_ bytes: UnsafeRawBufferPointer, _ session: Session) -> Bool {
    let filter = filter.withLock { $0 }
    switch ControlCommand(bytes, filter: filter, features: session.features, pairCount: pairCount) {
    case .refused: return false
    case .filter(let changed): self.filter.withLock { $0 = changed }
    case .pairs(let count):
      backend.configure(received: session.receivedOffloads, pairs: count)
      let before = activePairs.exchange(count, ordering: .acquiringAndReleasing)
      // Nobody is at a queue that is not in use any more when the driver hears that it is not (5.1.6.5.5).
      for queue in (2 * count)..<(2 * max(before, count)) { session.host.withQueue(queue) { _ in } }
      for worker in workers[..<count] { worker.start(self, by: configuration.startThread) }
    }
    return true
  }
}

// MARK: Workers

extension VirtioNetwork: PairWork {
  func descriptor(ofPair pair: Int) -> CInt { backend.descriptor(ofPair: pair) }

  func place(pair: Int) { configuration.place?(pair) }

  /// Whether a queue of the pair, whose lock the caller has, is still that session's.
  private func isServed(_ session: Session, _ pair: Int) -> Bool {
    self.session.withLock { $0 === session } && pair < activePairs.load(ordering: .acquiring)
  }

  func look(pair: Int) -> PairLook {
    var look = PairLook()
    guard let session = session.withLock({ $0 }), pair < activePairs.load(ordering: .acquiring) else { return look }
    look.session = session
    attachIfBusy(pair)
    let transmitter = transmitters[pair]
    session.host.withQueue(VirtioNetworkABI.transmitQueue(ofPair: pair)) { queue in
      guard isServed(session, pair) else { return }
      if batches[pair].holds(queue.availableCount(), now: MonotonicClock.now) {
        look.isHolding = true
        return queue.disarm()
      }
      let outcome = transmitter.run(queue, session, budget: Self.share)
      batches[pair].hasSent(transmitter.handled)
      switch outcome {
      case .drained, .busy: break
      case .full: look.wantsRoom = true
      case .limited(let time): look.retryAfter = time
      }
      look.isDrained = outcome == .drained
      if transmitter.handled > 0 {
        look.hasWorked = true
        DirectionCounters.add(transmitter.counters.batches)
      }
    }
    guard hasLink.load(ordering: .relaxed) else { return look }
    let receiver = receivers[pair]
    var isLost = false
    // Unless the queue says otherwise: it may not be live yet.
    look.isStarved = true
    session.host.withQueue(VirtioNetworkABI.receiveQueue(ofPair: pair)) { queue in
      guard isServed(session, pair) else { return }
      let filter = filter.withLock { $0 }
      let outcome = receiver.run(queue, session, filter: filter, budget: Self.share)
      look.isStarved = outcome == .starved
      switch outcome {
      case .empty, .busy: look.wantsInput = true
      case .starved: break
      case .limited(let time): look.retryAfter = look.retryAfter == 0 ? time : min(time, look.retryAfter)
      case .ended: isLost = true
      }
      if receiver.handled > 0 {
        look.hasWorked = true
        DirectionCounters.add(receiver.counters.batches)
        batches[pair].hasDelivered(receiver.answerable)
      }
    }
    if isLost, hasLink.exchange(false, ordering: .acquiringAndReleasing) {
      session.host.configurationChanged()
      configuration.onLinkLost()
    }
    return look
  }

  func arm(pair: Int, for look: PairLook) -> Bool {
    batches[pair].forget()
    guard let session = look.session else { return false }
    var isBehind = false
    func arm(_ index: Int) {
      session.host.withQueue(index) { queue in
        // Another driver's queue is to be looked at first.
        if !isServed(session, pair) || queue.rearm() { isBehind = true }
      }
    }
    if look.isDrained { arm(VirtioNetworkABI.transmitQueue(ofPair: pair)) }
    if look.isStarved { arm(VirtioNetworkABI.receiveQueue(ofPair: pair)) }
    return isBehind
  }

  /// Gives a queue that is notified often an eventfd.
  private func attachIfBusy(_ pair: Int) {
    let worker = workers[pair]
    guard worker.kicks.load(ordering: .relaxed) >= Self.kicksBeforeAttaching, let attach = configuration.attach else {
      return
    }
    // From here on the count is one that nobody gets to: it happens once.
    guard worker.kicks.exchange(Int.min, ordering: .relaxed) >= 0 else { return }
    attach(VirtioNetworkABI.transmitQueue(ofPair: pair), worker.event)
  }
}
