// Standard input, or the terminal where that is something else: one buffer, posted when somebody wants to read and as large as what they want.
//
// What is not asked for stays with the host, for whoever reads its input after us; so no buffer is posted ahead. A poll posts
// a probe: a buffer of no bytes, which osv-run's console hands back when there is something to read. Another monitor's takes that for an error:
// there a poll posts a buffer as a read does, and what comes is kept for the next one. One reader at a time; others wait for it,
// interruptibly.
import Base
import Locks
import Memory
import Pages
import Platform
import VirtioABI

/// The receiving side of one of the console's ports.
final class ConsoleInput {
  private static let smallByteCount = 4096
  private static let largeOrder = 4
  private static let largeByteCount = 65536
  static let queueSize = 2

  let queue: Virtqueue
  private let control: ConsoleControl
  private let port: Int
  private let isTerminal: Bool
  private let isForeign: Bool
  /// Readers that wait for data, an end or a failure.
  private let arrivals = WaitQueue()
  /// Readers that wait for their turn; the holder has `isClaimed`.
  private let turns = WaitQueue()
  private let isClaimed = Atomic<Bool>(false)
  /// The slot of the posted buffer plus 1, 0 for none. Changed by the holder of the claim only.
  private let posted = Atomic<Int>(0)
  /// The slot of the probe plus 1, likewise.
  private let probe = Atomic<Int>(0)
  /// Bytes that lie in the buffer unread. Changed by the holder only.
  private let unread = Atomic<Int>(0)
  // The holder's.
  private var buffer: UnsafeMutableRawPointer?
  private var bufferByteCount = 0
  private var position = 0
  private var hasReportedEnd = false
  /// A probe came back, and nothing was read since: a read does not have to wait long.
  private let isPending = Atomic<Bool>(false)
  private var isListening = false
  /// Called in any context when data, an end or a failure has come.
  var onChange: (() -> Void)?

  /// The caller has `hasChanged` called when the control queue has something to say.
  init(_ queue: Virtqueue, port: Int, control: ConsoleControl, isTerminal: Bool, isForeign: Bool = false) {
    self.isForeign = isForeign
    self.queue = queue
    self.port = port
    self.control = control
    self.isTerminal = isTerminal
    queue.onCompletion = { [unowned(unsafe) self] _, _ in self.hasChanged() }
  }

  /// Wakes who waits. Any context.
  func hasChanged() {
    arrivals.wakeAll()
    onChange?()
  }

  // MARK: Looking; any thread

  /// Whether a read would return at once: data, an end, or a failure.
  var isReadable: Bool {
    unread.load(ordering: .acquiring) > 0 || isPending.load(ordering: .acquiring) || isDone(probe) || isDone(posted)
      || control.isInputEnded(port) || queue.hasFailed
  }

  /// Bytes that lie here already; the host may have more.
  var readableByteCount: Int {
    let count = unread.load(ordering: .acquiring)
    guard count == 0 else { return count }
    let slot = posted.load(ordering: .acquiring)
    return slot > 0 && queue.isDone(slot &- 1) ? queue.length(slot &- 1) : 0
  }

  /// Whether the device has handed back what was posted.
  private func isDone(_ posted: borrowing Atomic<Int>) -> Bool {
    let slot = posted.load(ordering: .acquiring)
    return slot > 0 && queue.isDone(slot &- 1)
  }

  /// Posts a probe, or a buffer, if nothing is known and nothing posted, so that `isReadable` can become true.
  func listen() {
    guard claim(wait: false, until: .now) == .woken else { return }
    defer { unclaim() }
    listenForInterrupts()
    control.poll()
    queue.reap()
    guard !isReadable, posted.load(ordering: .relaxed) == 0, probe.load(ordering: .relaxed) == 0,
      let buffer = buffer ?? prepareBuffer(1)
    else { return }
    do throws(Errno) {
      if isForeign {
        try post(DeviceSegment(address: buffer, count: bufferByteCount), as: posted)
      } else {
        try post(DeviceSegment(address: buffer, count: 0), as: probe)
      }
    } catch { return }
  }

  // MARK: Reading

  /// Reads what is there, sleeping while there is nothing.
  /// - Returns: bytes read; 0 at the end. A terminal may give more after an end.
  /// - Throws: EAGAIN (if not to block, or the deadline has passed), EINTR, EFAULT, EIO, ENOMEM.
  func read(into transfer: inout Transfer, nonBlocking: Bool, until deadline: Deadline) throws(Errno) -> Int {
    guard transfer.remaining > 0 else { return 0 }
    switch claim(wait: !nonBlocking, until: deadline) {
    case .woken: break
    case .timedOut: throw .EAGAIN
    case .interrupted: throw .EINTR
    }
    defer { unclaim() }
    if hasReportedEnd {
      if isForeign {
        // Whoever had closed the other side may have come back.
        control.poll()
        guard !control.isInputEnded(port) else { return 0 }
        hasReportedEnd = false
      } else {
        guard isTerminal else { return 0 }
        hasReportedEnd = false
        try control.reopenInput(port)
      }
    }
    while true {
      if unread.load(ordering: .relaxed) > 0 { return try take(&transfer) }
      control.poll()
      // The end is looked at before the data: it was sent after the last byte.
      let isEnded = control.isInputEnded(port)
      queue.reap()
      if isDone(probe) {
        queue.release(probe.exchange(0, ordering: .relaxed) &- 1)
        isPending.store(true, ordering: .releasing)
      }
      if isDone(posted) {
        position = 0
        let length = queue.release(posted.exchange(0, ordering: .relaxed) &- 1)
        unread.store(length, ordering: .releasing)
        isPending.store(false, ordering: .releasing)
        continue
      }
      if queue.hasFailed { throw .EIO }
      if isEnded {
        hasReportedEnd = true
        isPending.store(false, ordering: .releasing)
        return 0
      }
      listenForInterrupts()
      if posted.load(ordering: .relaxed) == 0 {
        guard let buffer = prepareBuffer(transfer.remaining) else { throw .ENOMEM }
        try post(DeviceSegment(address: buffer, count: min(transfer.remaining, bufferByteCount)), as: posted)
        continue
      }
      if nonBlocking && !isPending.load(ordering: .relaxed) { throw .EAGAIN }
      let result = arrivals.wait(until: deadline, interruptible: true) {
        !isDone(posted) && !control.isInputEnded(port) && !queue.hasFailed
      }
      if result == .interrupted { throw .EINTR }
      if result == .timedOut { throw .EAGAIN }
    }
  }

  private func take(_ transfer: inout Transfer) throws(Errno) -> Int {
    guard let buffer else { throw .EIO }
    // SAFETY: position and unread are within what the device was given, which is within the buffer.
    let count = try transfer.copyOut(
      from: UnsafeRawBufferPointer(start: buffer + position, count: unread.load(ordering: .relaxed)))
    position &+= count
    unread.subtract(count, ordering: .releasing)
    return count
  }

  private func post(_ segment: DeviceSegment, as posted: borrowing Atomic<Int>) throws(Errno) {
    var segment = segment
    let slot = try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
      try queue.add(pointer, readable: 0, writable: 1)
    }
    guard let slot else { throw .EIO }
    posted.store(slot &+ 1, ordering: .releasing)
    queue.kick()
  }

  /// A page does for most; who reads more at a time gets a large buffer, if there is memory for one.
  /// Nil if there is no memory at all. Only while no buffer is posted.
  private func prepareBuffer(_ wanted: Int) -> UnsafeMutableRawPointer? {
    if wanted > Self.smallByteCount && bufferByteCount < Self.largeByteCount && probe.load(ordering: .relaxed) == 0,
      let block = Frames.allocate(order: Self.largeOrder)
    {
      if let buffer { Frames.free(LinearMap.physical(of: buffer)) }
      buffer = LinearMap.pointer(block)
      bufferByteCount = Self.largeByteCount
    } else if buffer == nil, let page = Frames.allocate() {
      buffer = LinearMap.pointer(page)
      bufferByteCount = Self.smallByteCount
    }
    return buffer
  }

  /// From the first use of input on, its queue and the control queue interrupt.
  private func listenForInterrupts() {
    if isListening { return }
    isListening = true
    queue.beginSleep()
    control.receive.beginSleep()
  }

  /// Forgets what was read from the host and not by the program. A buffer that the device still has stays with it.
  func discard() {
    guard claim(wait: false, until: .now) == .woken else { return }
    defer { unclaim() }
    queue.reap()
    unread.store(0, ordering: .releasing)
    if isDone(probe) { queue.release(probe.exchange(0, ordering: .relaxed) &- 1) }
    if isDone(posted) { queue.release(posted.exchange(0, ordering: .relaxed) &- 1) }
    isPending.store(false, ordering: .releasing)
  }

  private func claim(wait: Bool, until deadline: Deadline) -> WaitResult {
    if tryClaim() { return .woken }
    return wait ? turns.wait(until: deadline, interruptible: true, while: { !tryClaim() }) : .timedOut
  }

  private func tryClaim() -> Bool {
    isClaimed.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged
  }

  private func unclaim() {
    isClaimed.store(false, ordering: .releasing)
    turns.wakeOne()
  }
}
