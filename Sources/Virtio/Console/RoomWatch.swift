// A thread that waits until full outputs have room again, so that no vCPU has to: the guest runs on, and hears of signals and timers,
// while a writer in it waits.
//
// The thread starts with the first output that stays full. It holds no lock while it waits.
import CSystemCalls
import Glibc
import Synchronization

/// Watches the outputs of one console.
final class RoomWatch: Sendable {
  private struct State {
    var isWaiting = [false, false]
    var hasThread = false
    var isStopped = false
  }

  private let descriptors: [CInt]
  private let wakeUp: CInt
  private let state = Mutex(State())
  private let startThread: InputPump.ThreadStarter
  private let onRoom: @Sendable (Int) -> Void

  /// - Parameters:
  ///   - descriptors: the two ports' outputs.
  ///   - onRoom: called by the watch's thread, once for each `wait`, when there may be room in a port's output.
  init(_ descriptors: [CInt], startThread: @escaping InputPump.ThreadStarter, onRoom: @escaping @Sendable (Int) -> Void)
    throws(VirtioConsole.OpenFailure)
  {
    self.descriptors = descriptors
    self.startThread = startThread
    self.onRoom = onRoom
    wakeUp = osv_eventfd()
    guard wakeUp >= 0 else { throw VirtioConsole.OpenFailure(code: -wakeUp) }
  }

  deinit { close(wakeUp) }

  /// The port's output is full: tell when it is not any more.
  func wait(for port: Int) {
    let isFirst = state.withLock { state in
      defer { state.hasThread = true }
      state.isWaiting[port] = true
      return !state.hasThread && !state.isStopped
    }
    // The thread's closure keeps the watch alive until it is stopped.
    if isFirst { startThread { self.run() } } else { signal() }
  }

  /// Ends the thread, as soon as it is between two calls of `onRoom`.
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
      let (isWaiting, isStopped) = state.withLock { ($0.isWaiting, $0.isStopped) }
      if isStopped { return }
      var waits = [pollfd(fd: wakeUp, events: Int16(POLLIN), revents: 0)]
      for port in descriptors.indices {
        waits.append(pollfd(fd: isWaiting[port] ? descriptors[port] : -1, events: Int16(POLLOUT), revents: 0))
      }
      guard poll(&waits, UInt(waits.count), -1) > 0 else { continue }
      if waits[0].revents != 0 {
        var count: UInt64 = 0
        _ = read(wakeUp, &count, 8)
      }
      for port in descriptors.indices where waits[1 + port].revents != 0 {
        state.withLock { $0.isWaiting[port] = false }
        onRoom(port)
      }
    }
  }
}
