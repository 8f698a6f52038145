// Input: a thread of its own reads a descriptor into the driver's buffers.
//
// It reads only while the driver has a buffer posted, and never more than that holds: what the guest does not ask for stays with
// the host, for whoever shares the descriptor. A buffer of no bytes is a probe: it is handed back when there is input. The descriptor is polled before it is read, since it may not be made
// non-blocking (others share that flag too); only the pump reads. The thread starts at the first posted buffer.
import CSystemCalls
import Glibc
import Synchronization
import VirtioPCI
import VirtioQueue

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
  private let onEnd: @Sendable () -> Void
  // Guarded by the queue's lock.
  private let chain = DescriptorChain()

  /// - Parameters:
  ///   - descriptor: what to read; negative for an input that has ended.
  ///   - queueIndex: the port's receive queue.
  ///   - onEnd: called by the pump after the last byte is in the queue.
  init(
    descriptor: CInt, queueIndex: Int, startThread: @escaping ThreadStarter, onEnd: @escaping @Sendable () -> Void
  ) throws(VirtioConsole.OpenFailure) {
    self.descriptor = descriptor
    self.queueIndex = queueIndex
    self.startThread = startThread
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

  /// The driver has posted buffers.
  func buffersPosted() {
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
      // Whatever woke us by `wakeUp` is looked at first.
      if wait(forInput: true) { transfer(host) }
    }
  }

  /// Sleeps until there is input (or its end), if asked for, or a signal. Says whether to read.
  @discardableResult private func wait(forInput: Bool) -> Bool {
    if forInput && descriptor < 0 { return true }
    var waits = [
      pollfd(fd: wakeUp, events: Int16(POLLIN), revents: 0),
      pollfd(fd: forInput ? descriptor : -1, events: Int16(POLLIN), revents: 0),
    ]
    let result = poll(&waits, 2, -1)
    guard result > 0 else { return false }
    if waits[0].revents != 0 {
      var count: UInt64 = 0
      _ = read(wakeUp, &count, 8)
      return false
    }
    return waits[1].revents != 0
  }

  private func transfer(_ host: any VirtioDeviceHost) {
    var isEnd = false
    host.withQueue(queueIndex) { queue in
      guard queue.pop(into: chain) else { return }
      guard chain.readableByteCount == 0 else { return queue.fail(.badRequest) }
      // A probe: the driver polls, and wants to know that there is something, not to have it.
      guard chain.writableByteCount > 0 else { return queue.push(chain) }
      let pieces = chain.writable
      // SAFETY: pieces of guest memory that the queue has checked.
      let count = descriptor < 0 ? 0 : readv(descriptor, pieces.baseAddress, CInt(pieces.count))
      if count > 0 {
        queue.push(chain, written: count)
      } else {
        queue.putBack(chain)
        isEnd = count == 0 || (errno != EINTR && errno != EAGAIN)
      }
    }
    if isEnd {
      state.withLock { $0.hasEnded = true }
      onEnd()
    }
  }
}
