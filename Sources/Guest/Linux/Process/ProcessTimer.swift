// ProcessTimer: a timer of a process that sends a signal: timer_create's, and the interval timers of setitimer and alarm.
//
// How often it has expired is computed from its clock when somebody looks. The kernel's timer fires in an interrupt, where no
// signal can be sent: it leaves that to the work thread. A timer of timer_create has a record of its own for its signal, so
// that it cannot be lost for want of room. While that is pending, further expirations count as overruns and nothing is
// queued; when it is delivered, the count is fixed: for `si_overrun` and timer_getoverrun. A timer that is set anew or
// deleted takes its signal back. A timer on a CPU-time clock is looked at when that clock can have come far enough at the
// earliest, and less and less often while it stands still.
//
// Timers that have been set are recycled, never freed: work that was queued for a timer may come after its end, and then
// finds nothing to do. Locks: `lock`, then the process'.
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
  /// Expirations that its pending signal does not tell of.
  private var overrun: UInt64 = 0
  /// The same for the signal delivered last.
  private var deliveredOverrun: UInt64 = 0
  /// Goes up when it is set: a signal of an earlier setting that is being delivered counts for nothing.
  private var settingNumber: UInt64 = 0
  /// What it queues; nil for an interval timer.
  private var record: QueuedSignalPointer?
  /// How long to leave it alone after an expiration, ns.
  private var pause = ProcessTimer.shortestPause
  private static let shortestPause: UInt64 = 20_000
  /// What a CPU-time clock showed at the last look, and how long was waited for that, ns.
  private var lastShown: UInt64 = 0
  private var lastDelay: UInt64 = 0

  /// A timer that is not set.
  /// - Throws: ENOMEM.
  init(_ process: Process) throws(Errno) {
    let byteCount = MemoryLayout<WorkItem>.stride &+ MemoryLayout<TimerEvent>.stride
    guard let memory = KernelHeap.allocate(byteCount: byteCount) else { throw .ENOMEM }
    // Before there is anything to undo.
    let timer: TimerEvent
    do throws(Errno) {
      timer = try TimerEvent(
        handler: { context in
          guard let context else { return }
          WorkQueue.submit(context.assumingMemoryBound(to: WorkItem.self))
        }, context: memory)
    } catch {
      KernelHeap.free(memory)
      throw error
    }
    self.process = process
    // SAFETY: fresh heap memory for both. Timers that have been set are never freed, so the addresses stay good.
    work = memory.bindMemory(to: WorkItem.self, capacity: 1)
    event = (memory + MemoryLayout<WorkItem>.stride).bindMemory(to: TimerEvent.self, capacity: 1)
    event.initialize(to: timer)
    work.initialize(
      to: WorkItem(
        { context in
          guard let context else { return }
          Unmanaged<ProcessTimer>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.look() }
        }, context: Unmanaged.passUnretained(self).toOpaque()))
  }

  /// Only of a timer that was never set, or nobody's work refers to any more.
  deinit {
    event.pointee.destroy()
    event.deinitialize(count: 1)
    work.deinitialize(count: 1)
    KernelHeap.free(UnsafeMutableRawPointer(work))
    record?.discard()
  }

  /// Makes it a timer on that clock, not set.
  /// - Throws: ENOMEM.
  func assign(_ clock: ClockKind, _ notification: Notification) throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    if let signal = notification.signal, notification.code == SignalInformation.Code.timer {
      var information = SignalInformation(signal, code: notification.code)
      information.first = notification.number.u32.u64
      information.second = notification.value
      if let record {
        record.pointee.information = information
      } else {
        guard let made = QueuedSignalPointer.make(information, timer: .passUnretained(self)) else { throw .ENOMEM }
        record = made
      }
    }
    self.clock = clock
    self.notification = notification
    reset()
  }

  /// Stops it and forgets whom it told.
  func clear() {
    event.pointee.cancel()
    lock.withLock {
      reset()
      notification.signal = nil
    }
  }

  /// Not set any more, its signal taken back. `lock` is held.
  private func reset() {
    next = nil
    interval = 0
    overrun = 0
    deliveredOverrun = 0
    settingNumber &+= 1
    pause = Self.shortestPause
    if let record { process.takeBack(record) }
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
    reset()
    self.interval = interval
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
    if notification.signal == nil && interval == 0 { return (0, 0) }
    // It has expired, and the work thread has yet to say so.
    return (interval == 0 ? 1 : max(interval &- (now &- next) % interval, 1), interval)
  }

  /// Expirations beyond the one that its signal told of, when that was delivered (timer_getoverrun).
  var overruns: Int { lock.withLock { deliveredOverrun.int } }

  /// Its signal is being delivered, that of the setting with that number: fixes how many expirations it tells of beyond the
  /// first.
  func deliver(setting: UInt64) -> UInt32 {
    lock.lock()
    defer { lock.unlock() }
    guard setting == settingNumber else { return 0 }
    let now = shown
    if let due = next, due <= now {
      let expirations = TimerExpirations(due: due, interval: interval, now: now)
      overrun &+= expirations.count
      next = expirations.next
    }
    deliveredOverrun = min(overrun, UInt64(Int32.max))
    overrun = 0
    pause = Self.shortestPause
    lastDelay = 0
    arm(shown: now)
    return deliveredOverrun.u32
  }

  private func arm(shown now: UInt64, notBefore earliest: UInt64 = 0) {
    // One that tells nobody is looked at when somebody asks.
    guard let next, notification.signal != nil else { return }
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
    next = interval == 0 ? nil : expirations.next
    guard let signal = notification.signal else { return lock.unlock() }
    let wasQueued: Bool
    if let record {
      wasQueued = process.hasQueued(record)
      // Told with the delivery, which may come before the next line.
      overrun = wasQueued ? overrun &+ expirations.count : expirations.count &- 1
      if !wasQueued {
        record.pointee.setting = settingNumber
        _ = process.send(signal, record: record, toThread: notification.thread)
      }
    } else {
      wasQueued = process.lock.withLock { process.pending.set.contains(signal) }
      if !wasQueued { try? process.send(signal, SignalInformation(signal, code: notification.code)) }
    }
    // What comes quicker than anybody could handle it is counted together; the longer nobody does, the more of it. (The
    // delivery arms it again at once.)
    pause = wasQueued ? min(pause &* 2, 20_000_000) : Self.shortestPause
    arm(shown: now, notBefore: now &+ pause)
    lock.unlock()
  }
}

extension SignalInformation.Code {
  /// SI_TIMER.
  static let timer: Int32 = -2
}

/// The timers of one process.
struct ProcessTimers {
  /// The most that a process may have.
  static let limit = 1024
  /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF, and the soft and the hard limit of CPU time (CPULimit): made when first set.
  var intervals: [5 of ProcessTimer?] = .init(repeating: nil)
  static let intervalCount = 5
  static let softCPULimit = 3
  static let hardCPULimit = 4
  /// timer_create's, by number; those not in use wait to be used again.
  var created: [(timer: ProcessTimer, isUsed: Bool)] = []
}
