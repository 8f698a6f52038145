// Input: a thread of its own reads a descriptor into the driver's buffers.
//
// It reads only while the driver has a buffer posted, and never more than that holds: what the guest does not ask for stays with
// the host, for whoever shares the descriptor. A buffer of no bytes is a probe: it is handed back when there is input. The descriptor is polled before it is read, since it may not be made
// non-blocking (others share that flag too); only the pump reads, under the queue's lock. The thread starts at the first buffer that
// has to wait.
import CSystemCalls
import Glibc
import Synchronization
import VirtioPCI
import VirtioQueue

// SAFETY: the chain is touched with the queue's lock, the rest with `state`'s, or never changes.
/// Reads a port's input.
final class InputPump: @unchecked Sendable {
  /// Starts a thread that runs the body.
  typealias ThreadStarter = @Sendable (@escaping @Sendable () -> Void) -> Void

  private struct State {
    var host: (any VirtioDeviceHost)?
    var hasThread = false
    var hasEnded = false
    var isStopped = false
  }

  private let descriptor: CInt
  private let queueIndex: Int
  private let wakeUp: CInt
  private let state = Mutex(State())
  private let startThread: ThreadStarter
  private let mayRead: @Sendable () -> ConsoleReadPermission
  private let onEnd: @Sendable () -> Void
  /// After how many milliseconds it is asked again whether to read.
  private static let patience: CInt = 200
  // Guarded by the queue's lock.
  private let chain = DescriptorChain()

  /// - Parameters:
  ///   - descriptor: what to read; negative for an input that has ended.
  ///   - queueIndex: the port's receive queue.
  ///   - mayRead: whether the descriptor may be read now.
  ///   - onEnd: called after the last byte is in the queue, whose lock may be held.
  init(
    descriptor: CInt, queueIndex: Int, startThread: @escaping ThreadStarter,
    mayRead: @escaping @Sendable () -> ConsoleReadPermission, onEnd: @escaping @Sendable () -> Void
  ) throws(VirtioConsole.OpenFailure) {
    self.descriptor = descriptor
    self.queueIndex = queueIndex
    self.startThread = startThread
    self.mayRead = mayRead
    self.onEnd = onEnd
    wakeUp = osv_eventfd()
    guard wakeUp >= 0 else { throw VirtioConsole.OpenFailure(code: -wakeUp) }
  }

  deinit { close(wakeUp) }

  /// The driver is there, or gone.
  func setHost(_ host: (any VirtioDeviceHost)?) {
    state.withLock { $0.host = host }
    signal()
  }

  /// The driver has posted buffers; the queue is the caller's. What is there already is read at once: a driver that does not want to
  /// wait then knows all there is to know when its notification returns.
  func buffersPosted(_ queue: SplitQueue) {
    if !state.withLock({ $0.hasEnded || $0.isStopped }), mayRead() == .granted {
      while transfer(queue) {}
    }
    guard queue.hasAvailable() || queue.rearm() else { return }
    let isFirst = state.withLock { state in
      defer { state.hasThread = true }
      return !state.hasThread && !state.isStopped
    }
    // SAFETY: the thread's closure keeps the pump alive until it is stopped.
    if isFirst { startThread { self.run() } } else { signal() }
  }

  /// Reads on after an end (a terminal may have more to say).
  func reopen() -> Bool {
    let wasEnded = state.withLock { state in
      defer { state.hasEnded = false }
      return state.hasEnded
    }
    if wasEnded { signal() }
    return wasEnded
  }

  /// Ends the thread, as soon as it is between two reads.
  func stop() {
    state.withLock { $0.isStopped = true }
    signal()
  }

  private func signal() {
    var one: UInt64 = 1
    _ = write(wakeUp, &one, 8)
  }

  private func run() {
    while true {
      let (host, hasEnded, isStopped) = state.withLock { ($0.host, $0.hasEnded, $0.isStopped) }
      if isStopped { return }
      guard let host, !hasEnded else {
        wait(forInput: false)
        continue
      }
      var hasBuffer = false
      host.withQueue(queueIndex) { hasBuffer = $0.hasAvailable() || $0.rearm() }
      guard hasBuffer else {
        wait(forInput: false)
        continue
      }
      switch mayRead() {
      // Whatever woke us by `wakeUp` is looked at first.
      case .granted: if wait(forInput: true) { host.withQueue(queueIndex) { transfer($0) } }
      case .later: wait(forInput: false, milliseconds: Self.patience)
      case .refused: end()
      }
    }
  }

  /// Sleeps until there is input (or its end), if asked for, or a signal. Says whether to read.
  @discardableResult private func wait(forInput: Bool, milliseconds: CInt = -1) -> Bool {
    if forInput && descriptor < 0 { return true }
    var waits = [
      pollfd(fd: wakeUp, events: Int16(POLLIN), revents: 0),
      pollfd(fd: forInput ? descriptor : -1, events: Int16(POLLIN), revents: 0),
    ]
    let result = poll(&waits, 2, milliseconds)
    guard result > 0 else { return false }
    if waits[0].revents != 0 {
      var count: UInt64 = 0
      _ = read(wakeUp, &count, 8)
      return false
    }
    return waits[1].revents != 0
  }

  /// Whether a read would not wait.
  private var isReady: Bool {
    if descriptor < 0 { return true }
    var wait = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return poll(&wait, 1, 0) > 0 && wait.revents != 0
  }

  /// Reads what is there into the next buffer. Both the thread and the driver's notifications come here: whoever is second finds that
  /// the input is not ready any more, rather than to wait for it with the queue's lock held.
  /// - Returns: whether a buffer has gone back to the driver.
  @discardableResult private func transfer(_ queue: SplitQueue) -> Bool {
    guard isReady, queue.pop(into: chain) else { return false }
    guard chain.readableByteCount == 0 else {
      queue.fail(.badRequest)
      return false
    }
    // A probe: the driver polls, and wants to know that there is something, not to have it.
    guard chain.writableByteCount > 0 else {
      queue.push(chain)
      return true
    }
    let pieces = chain.writable
    // SAFETY: pieces of guest memory that the queue has checked.
    let count = descriptor < 0 ? 0 : readv(descriptor, pieces.baseAddress, CInt(pieces.count))
    if count > 0 {
      queue.push(chain, written: count)
      return true
    }
    let isEnd = count == 0 || (errno != EINTR && errno != EAGAIN)
    queue.putBack(chain)
    if isEnd { end() }
    return false
  }

  private func end() {
    state.withLock { $0.hasEnded = true }
    onEnd()
  }
}
