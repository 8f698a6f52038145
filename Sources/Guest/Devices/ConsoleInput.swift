// Standard input: one buffer, posted when somebody wants to read and as large as what they want.
//
// What is not asked for stays with the host, for whoever reads its input after us; so the buffer is not posted ahead. (A
// poll has to: it posts one of `pollByteCount`.) One reader at a time; others wait for it, interruptibly.
import Base
import Locks
import Memory
import Pages
import Platform
import VirtioABI

/// The receiving side of the console's port 0.
final class ConsoleInput {
  private static let smallByteCount = 4096
  private static let largeOrder = 4
  private static let largeByteCount = 65536
  private static let pollByteCount = 4096
  static let queueSize = 2

  let queue: Virtqueue
  private let control: ConsoleControl
  private let isTerminal: Bool
  /// Readers that wait for data, an end or a failure.
  private let arrivals = WaitQueue()
  /// Readers that wait for their turn; the holder has `isClaimed`.
  private let turns = WaitQueue()
  private let isClaimed = Atomic<Bool>(false)
  /// The slot of the posted buffer plus 1, 0 for none. Changed by the holder of the claim only.
  private let posted = Atomic<Int>(0)
  /// Bytes that lie in the buffer unread. Changed by the holder only.
  private let unread = Atomic<Int>(0)
  // The holder's.
  private var buffer: UnsafeMutableRawPointer?
  private var bufferByteCount = 0
  private var position = 0
  private var hasReportedEnd = false
  private var isListening = false
  /// Called in any context when data, an end or a failure has come.
  var onChange: (() -> Void)?

  init(_ queue: Virtqueue, control: ConsoleControl, isTerminal: Bool) {
    self.queue = queue
    self.control = control
    self.isTerminal = isTerminal
    queue.onCompletion = { [unowned(unsafe) self] _, _ in self.wake() }
    control.onChange = { [unowned(unsafe) self] in self.wake() }
  }

  private func wake() {
    arrivals.wakeAll()
    onChange?()
  }

  // MARK: Looking; any thread

  /// Whether a read would return at once: data, an end, or a failure.
  var isReadable: Bool {
    unread.load(ordering: .acquiring) > 0 || hasArrived || control.isInputEnded || queue.hasFailed
  }

  /// Bytes that a read would get now, as far as is known.
  var readableByteCount: Int {
    let count = unread.load(ordering: .acquiring)
    guard count == 0 else { return count }
    let slot = posted.load(ordering: .acquiring)
    return slot > 0 && queue.isDone(slot &- 1) ? queue.length(slot &- 1) : 0
  }

  private var hasArrived: Bool {
    let slot = posted.load(ordering: .acquiring)
    return slot > 0 && queue.isDone(slot &- 1)
  }

  /// Posts a buffer if there is none, so that `isReadable` can become true.
  func listen() {
    guard claim(wait: false) else { return }
    defer { unclaim() }
    listenForInterrupts()
    control.poll()
    queue.reap()
    if unread.load(ordering: .relaxed) == 0 && posted.load(ordering: .relaxed) == 0 && !control.isInputEnded {
      do throws(Errno) { try post(Self.pollByteCount) } catch { return }
    }
  }

  // MARK: Reading

  /// Reads what is there, sleeping while there is nothing.
  /// - Returns: bytes read; 0 at the end. A terminal may give more after an end.
  /// - Throws: EAGAIN (if not to block), EINTR, EFAULT, EIO, ENOMEM.
  func read(into transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
    guard transfer.remaining > 0 else { return 0 }
    guard claim(wait: !nonBlocking) else { throw nonBlocking ? .EAGAIN : .EINTR }
    defer { unclaim() }
    if hasReportedEnd {
      guard isTerminal else { return 0 }
      hasReportedEnd = false
      try control.reopenInput()
    }
    while true {
      if unread.load(ordering: .relaxed) > 0 { return try take(&transfer) }
      control.poll()
      // The end is looked at before the data: it was sent after the last byte.
      let isEnded = control.isInputEnded
      queue.reap()
      if hasArrived {
        let slot = posted.load(ordering: .relaxed) &- 1
        position = 0
        let length = queue.release(slot)
        posted.store(0, ordering: .relaxed)
        unread.store(length, ordering: .releasing)
        continue
      }
      if queue.hasFailed { throw .EIO }
      if isEnded {
        hasReportedEnd = true
        return 0
      }
      listenForInterrupts()
      if posted.load(ordering: .relaxed) == 0 {
        try post(transfer.remaining)
        continue
      }
      if nonBlocking { throw .EAGAIN }
      let result = arrivals.wait(interruptible: true) { !hasArrived && !control.isInputEnded && !queue.hasFailed }
      if result == .interrupted { throw .EINTR }
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

  private func post(_ wanted: Int) throws(Errno) {
    try prepareBuffer(wanted)
    guard let buffer else { throw .ENOMEM }
    var segment = DeviceSegment(address: buffer, count: min(wanted, bufferByteCount))
    let slot = try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
      try queue.add(pointer, readable: 0, writable: 1)
    }
    guard let slot else { throw .EIO }
    posted.store(slot &+ 1, ordering: .releasing)
    queue.kick()
  }

  /// A page does for most; who reads more at a time gets a large buffer, if there is memory for one.
  private func prepareBuffer(_ wanted: Int) throws(Errno) {
    if wanted > Self.smallByteCount && bufferByteCount < Self.largeByteCount,
      let block = Frames.allocate(order: Self.largeOrder)
    {
      if let buffer { Frames.free(LinearMap.physical(of: buffer)) }
      buffer = LinearMap.pointer(block)
      bufferByteCount = Self.largeByteCount
    } else if buffer == nil {
      guard let page = Frames.allocate() else { throw .ENOMEM }
      buffer = LinearMap.pointer(page)
      bufferByteCount = Self.smallByteCount
    }
  }

  /// From the first use of input on, its queue and the control queue interrupt.
  private func listenForInterrupts() {
    if isListening { return }
    isListening = true
    queue.beginSleep()
    control.receive.beginSleep()
  }

  private func claim(wait: Bool) -> Bool {
    if tryClaim() { return true }
    return wait && turns.wait(interruptible: true, while: { !tryClaim() }) == .woken
  }

  private func tryClaim() -> Bool {
    isClaimed.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged
  }

  private func unclaim() {
    isClaimed.store(false, ordering: .releasing)
    turns.wakeOne()
  }
}
