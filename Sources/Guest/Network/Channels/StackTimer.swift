// StackTimer: the one thread that does for a network what is due at a time: neighbours, fragments, addresses, leases, reports, flows that
// nobody attends to. It is made when something is due for the first time, and sleeps while nothing is.
import Base
import Devices
import Locks
import Pages
import Platform
import Threads

/// When a network's thread is to look, and how it is woken.
final class StackTimer {
  private let lock = SpinLock()
  /// When it is to look; `.max`: never. Guarded by `lock`; read by anybody.
  private let deadline = Atomic<UInt64>(.max)
  private let pokes = Atomic<UInt32>(0)
  private let sleeper = WaitQueue()
  /// 0: there is no thread; 1: it is being made; 2: there is one.
  private let state = Atomic<UInt32>(0)
  // Set before `state` is 2.
  private var event: TimerEvent?
  /// Tests look at the time themselves.
  let isManual = Atomic<Bool>(false)

  /// Whether somebody must make the thread (`start`), who may sleep.
  @inline(__always) var wantsThread: Bool {
    deadline.load(ordering: .relaxed) != .max && state.load(ordering: .relaxed) == 0
      && !isManual.load(ordering: .relaxed)
  }

  /// When it is to look next.
  var next: UInt64 { deadline.load(ordering: .acquiring) }

  /// Has the thread look at that time at the latest. Any context.
  func wake(by time: UInt64) {
    if time >= deadline.load(ordering: .acquiring) { return }
    lock.withLock {
      guard time < deadline.load(ordering: .relaxed) else { return }
      deadline.store(time, ordering: .releasing)
      if state.load(ordering: .acquiring) == 2 { event?.arm(at: Deadline(nanoseconds: time)) }
    }
  }

  /// The time has come, or everything is to be looked at: nothing is due until somebody says so.
  func begin() {
    lock.withLock {
      // Under the lock: a time that somebody sets behind it is not forgotten when it has come.
      pokes.store(0, ordering: .sequentiallyConsistent)
      deadline.store(.max, ordering: .releasing)
    }
  }

  /// Makes the thread, if nobody has. It runs `body` whenever something is due. Thread context.
  func start(_ stack: NetworkStack) {
    guard state.compareExchange(expected: 0, desired: 1, ordering: .sequentiallyConsistent).exchanged else { return }
    do throws(Errno) {
      // SAFETY: of both: the network's timer goes when the network does; one that has a thread stays for good.
      event = try TimerEvent(
        handler: { context in
          guard let context else { return }
          Unmanaged<StackTimer>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.poke() }
        }, context: Unmanaged.passUnretained(self).toOpaque())
      try Thread.spawn(
        name: "network",
        entry: { context in
          guard let context else { return }
          Unmanaged<NetworkStack>.fromOpaque(context).takeUnretainedValue().runThread()
        }, argument: Unmanaged.passRetained(stack).toOpaque())
    } catch {
      // Tried again when something is due the next time.
      state.store(0, ordering: .releasing)
      return
    }
    lock.withLock {
      state.store(2, ordering: .releasing)
      let time = deadline.load(ordering: .relaxed)
      if time != .max { event?.arm(at: Deadline(nanoseconds: time)) }
    }
  }

  private func poke() {
    pokes.store(1, ordering: .sequentiallyConsistent)
    sleeper.wakeAll()
  }

  /// Sleeps until something is due. The thread.
  func sleep() { _ = sleeper.wait { pokes.load(ordering: .acquiring) == 0 } }
}

extension NetworkStack {
  /// Has what is due be done at that time at the latest. Any context.
  func wake(by time: UInt64) { timer.wake(by: time) }

  fileprivate func runThread() {
    while true {
      timer.sleep()
      let next = runTimers(now: environment.now())
      wake(by: next)
    }
  }

  /// Does what is due at a time; by the network's thread, or by a test.
  /// - Returns: when something is due next; `.max`: nothing is.
  @discardableResult public func runTimers(now: UInt64) -> UInt64 {
    timer.begin()
    serveDeferred()
    var next: UInt64 = .max
    let drain = drainAt.load(ordering: .acquiring)
    if drain != 0 && drain <= now {
      drainAt.store(0, ordering: .sequentiallyConsistent)
      unattended.drain(now: now)
    } else if drain != 0 {
      next = drain
    }
    next = min(next, neighbours.runTimers(now: now))
    next = min(next, runReassemblyTimers(now: now))
    next = min(next, runGroupTimers(now: now))
    next = min(next, runConfigurationTimers(now: now))
    next = min(next, transmission.runTimers(now: now))
    serveDeferred()
    return min(next, timer.next)
  }

  /// Flows have packets by loopback and nobody to look after them: the network's thread does, in a while. Any context.
  func drainSoon() {
    let time = environment.now() &+ UnattendedFlows.patience
    if drainAt.compareExchange(expected: 0, desired: time, ordering: .sequentiallyConsistent).exchanged {
      wake(by: time)
    }
  }

  /// Whoever sends calls this once it holds no lock of the network: what it sent to this machine and what is for no flow is looked at then.
  /// Costs a look at two words if there is nothing.
  @inline(__always) public func runDeferred() {
    if !deferred.isEmpty { serveDeferred() }
    if timer.wantsThread { timer.start(self) }
  }

  @inline(never) func serveDeferred() { deferred.serve { packet in process(packet) } }
}
