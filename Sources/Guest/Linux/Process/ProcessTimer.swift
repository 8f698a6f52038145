// ProcessTimer: a timer of a process that sends a signal: timer_create's, and the interval timers of setitimer and alarm.
//
// How often it has expired is computed from its clock when somebody looks. The kernel's timer fires in an interrupt, where no
// signal can be sent: it leaves that to the work thread. While the timer's signal is still pending, further expirations
// count as overruns (timer_getoverrun) and nothing is queued. A timer on a CPU-time clock is looked at when that clock can
// have come far enough at the earliest, and less and less often while it stands still.
//
// Timers are recycled, never freed: work that was queued for a timer may come after its end, and then finds nothing to do.
import Base
import Files
import Locks
import Memory
import Pages
import Platform
import Threads

/// A timer that sends a signal.
final class ProcessTimer {
  /// What happens when it expires.
  struct Notification {
    /// nil: nothing but the count.
    var signal: Signal?
    /// `si_code`, `si_value` and the timer's number (for `timer_create`'s).
    var code: Int32 = SignalInformation.Code.kernel
    var value: UInt64 = 0
    var number: Int32 = 0
    /// The thread the signal is for; 0: the process.
    var thread: Int32 = 0
  }

  private unowned(unsafe) let process: Process
  private let lock = Mutex()
  private let event: UnsafeMutablePointer<TimerEvent>
  private let work: UnsafeMutablePointer<WorkItem>
  // Guarded by `lock`.
  private var clock = ClockKind.monotonic
  private var notification = Notification()
  /// When it expires next, as its clock shows it (of the real-time clock: as `Clock.now` will); nil: it is not set.
  private var next: UInt64?
  private var interval: UInt64 = 0
  /// Expirations since its signal was queued last.
  private var overrun: UInt64 = 0
  /// How long to leave it alone after an expiration, ns.
  private var pause = ProcessTimer.shortestPause
  private static let shortestPause: UInt64 = 20_000
  /// What a CPU-time clock showed at the last look, and how long was waited for that, ns.
  private var lastShown: UInt64 = 0
  private var lastDelay: UInt64 = 0

  /// A timer that is not set.
  /// - Throws: ENOMEM.
  init(_ process: Process) throws(Errno) {
    self.process = process
    event = .allocate(capacity: 1)
    work = .allocate(capacity: 1)
    // SAFETY: timers of processes are never freed, so the addresses stay good.
    let context = Unmanaged.passUnretained(self).toOpaque()
    work.initialize(
      to: WorkItem(
        { context in
          guard let context else { return }
          Unmanaged<ProcessTimer>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.look() }
        }, context: context))
    event.initialize(
      to: try TimerEvent(
        handler: { context in
          guard let context else { return }
          WorkQueue.submit(context.assumingMemoryBound(to: WorkItem.self))
        }, context: UnsafeMutableRawPointer(work)))
  }

  /// Makes it a timer on that clock, not set.
  func assign(_ clock: ClockKind, _ notification: Notification) {
    lock.withLock {
      self.clock = clock
      self.notification = notification
      next = nil
      interval = 0
      overrun = 0
    }
  }

  /// Stops it and forgets whom it told.
  func clear() {
    event.pointee.cancel()
    lock.withLock {
      next = nil
      notification.signal = nil
    }
  }

  /// What its clock shows. (The real-time clock's deadlines were converted when they were set.)
  private var shown: UInt64 {
    switch clock {
    case .realtime, .monotonic: Clock.now()
    default: (try? process.now(of: clock)) ?? 0
    }
  }

  /// Sets it, or stops it.
  /// - Parameters:
  ///   - first: when it expires first; nil stops it.
  ///   - isAbsolute: whether that is a time of its clock, or one from now on.
  ///   - interval: time between further expirations, ns; 0: none.
  /// - Returns: what was set before: ns until the next expiration (0: not set), and the interval.
  func set(first: UInt64?, isAbsolute: Bool, interval: UInt64) -> (remaining: UInt64, interval: UInt64) {
    lock.lock()
    defer { lock.unlock() }
    let now = shown
    let before = setting(at: now)
    event.pointee.cancel()
    self.interval = interval
    next = nil
    if let first {
      if !isAbsolute {
        next = Deadline.after(first, from: now).nanoseconds
      } else if clock == .realtime {
        let real = Clock.realtime()
        next = Deadline.after(first > real ? first &- real : 0, from: now).nanoseconds
      } else {
        next = first
      }
      lastDelay = 0
      arm(shown: now)
    }
    return before
  }

  /// What is set: ns until the next expiration (0: not set), and the interval.
  var setting: (remaining: UInt64, interval: UInt64) { lock.withLock { setting(at: shown) } }

  private func setting(at now: UInt64) -> (remaining: UInt64, interval: UInt64) {
    guard let next else { return (0, interval) }
    if next > now { return (next &- now, interval) }
    // It has expired, and the work thread has yet to say so.
    return (interval == 0 ? 1 : max(interval &- (now &- next) % interval, 1), interval)
  }

  /// Expirations since its signal was queued last, beyond the one that it tells of (timer_getoverrun).
  var overruns: Int { lock.withLock { min(overrun, UInt64(Int32.max)).int } }

  private func arm(shown now: UInt64, notBefore earliest: UInt64 = 0) {
    guard let next else { return }
    let remaining = next > now ? next &- now : 0
    switch clock {
    case .realtime, .monotonic: event.pointee.arm(at: Deadline(nanoseconds: max(next, earliest)))
    default:
      var delay = max(remaining / CPU.count.u64, 50_000)
      if now == lastShown && lastDelay != 0 { delay = max(delay, min(lastDelay &* 2, 50_000_000)) }
      lastShown = now
      lastDelay = delay
      event.pointee.arm(at: .after(delay))
    }
  }

  /// On the work thread: sends the signal if the time has come.
  private func look() {
    lock.lock()
    let now = shown
    guard let due = next, due <= now else {
      arm(shown: now)
      lock.unlock()
      return
    }
    let expirations = TimerExpirations(due: due, interval: interval, now: now)
    let count = expirations.count
    next = interval == 0 ? nil : expirations.next
    let notification = notification
    let isPending = notification.signal.map { process.isPending($0, timer: notification) } ?? true
    // What comes quicker than anybody could handle it is counted together; the longer nobody does, the more of it.
    pause = isPending ? min(pause &* 2, 1_000_000) : Self.shortestPause
    arm(shown: now, notBefore: now &+ pause)
    overrun = isPending ? overrun &+ count : count &- 1
    let overrun = min(overrun, UInt64(Int32.max))
    lock.unlock()
    guard !isPending, let signal = notification.signal else { return }
    var information = SignalInformation(signal, code: notification.code)
    if notification.code == SignalInformation.Code.timer {
      information.first = notification.number.u32.u64 | overrun &<< 32
      information.second = notification.value
    }
    if notification.thread == 0 {
      try? process.send(signal, information)
    } else if let task = process.task(notification.thread) {
      try? process.send(signal, information, to: task)
    }
  }
}

extension SignalInformation.Code {
  /// SI_TIMER.
  static let timer: Int32 = -2
}

extension Process {
  /// Whether the signal of that timer is still pending.
  fileprivate func isPending(_ signal: Signal, timer: ProcessTimer.Notification) -> Bool {
    lock.withLock {
      guard timer.code == SignalInformation.Code.timer else { return pending.set.contains(signal) }
      if timer.thread == 0 { return pending.contains(signal, timer: timer.number) }
      for task in tasks where task.identifier == timer.thread {
        return task.pending.contains(signal, timer: timer.number)
      }
      return true
    }
  }
}

extension PendingSignals {
  /// Whether a record of that timer is queued.
  func contains(_ signal: Signal, timer: Int32) -> Bool {
    guard set.contains(signal) else { return false }
    return hasRecord { $0.code == SignalInformation.Code.timer && $0.first.u32 == timer.u32 }
  }
}

/// The timers of one process.
struct ProcessTimers {
  /// The most that a process may have.
  static let limit = 1024
  /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF: made when first set.
  var intervals: [3 of ProcessTimer?] = .init(repeating: nil)
  /// timer_create's, by number; those not in use wait to be used again.
  var created: [(timer: ProcessTimer, isUsed: Bool)] = []
}
