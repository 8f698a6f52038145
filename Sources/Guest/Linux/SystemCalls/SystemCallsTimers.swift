// System calls about timers that send signals: setitimer, alarm, timer_create and its kin.
import Base
import Locks
import Memory
import Platform
import Threads

/// struct itimerspec.
private struct TimerSpecification {
  var interval = TimeSpecification()
  var value = TimeSpecification()
}

/// struct itimerval.
private struct IntervalValue {
  var interval = TimeValue()
  var value = TimeValue()
}

/// The parts of struct sigevent that the kernel reads.
private struct SignalEvent {
  static let signal: Int32 = 0
  static let none: Int32 = 1
  static let thread: Int32 = 2
  static let threadIdentifier: Int32 = 4
  var value: UInt64 = 0
  var number: Int32 = 0
  var kind: Int32 = 0
  var thread: Int32 = 0
}

extension SystemCall {
  // MARK: Interval timers

  func getitimer() throws(Errno) -> Int {
    guard argument0 < 3 else { throw .EINVAL }
    let setting = process.lock.withLock { process.timers.intervals[argument0.int] }?.setting
    try write(interval: setting ?? (0, 0), at: address1)
    return 0
  }

  func setitimer() throws(Errno) -> Int {
    guard argument0 < 3 else { throw .EINVAL }
    let wanted = address1.isNull ? IntervalValue() : try UserSpan.read(IntervalValue.self, at: address1)
    let (first, interval) = (try wanted.value.total(), try wanted.interval.total())
    let before = try setInterval(argument0.int, first: first, interval: interval)
    if !address2.isNull { try write(interval: before, at: address2) }
    return 0
  }

  func alarm() throws(Errno) -> Int {
    let before = try setInterval(0, first: argument0.u32.u64 &* 1_000_000_000, interval: 0)
    // Rounded, but not to none.
    let seconds = (before.remaining &+ 500_000_000) / 1_000_000_000
    return before.remaining != 0 && seconds == 0 ? 1 : seconds.int
  }

  private func setInterval(
    _ which: Int, first: UInt64, interval: UInt64
  ) throws(Errno) -> (remaining: UInt64, interval: UInt64) {
    var timer = process.lock.withLock { process.timers.intervals[which] }
    if timer == nil {
      guard first != 0 else { return (0, 0) }
      let fresh = try ProcessTimer(process)
      let number: Int = which == 0 ? 14 : which == 1 ? 26 : 27  // SIGALRM, SIGVTALRM, SIGPROF
      try fresh.assign(which == 0 ? .monotonic : .processCPUTime, ProcessTimer.Notification(signal: Signal(number)))
      timer = process.lock.withLock {
        if process.timers.intervals[which] == nil { process.timers.intervals[which] = fresh }
        return process.timers.intervals[which]
      }
    }
    return timer.unsafelyUnwrapped.set(first: first == 0 ? nil : first, isAbsolute: false, interval: interval)
  }

  private func write(interval setting: (remaining: UInt64, interval: UInt64), at address: VirtualAddress) throws(Errno)
  {
    // A timer that is about to expire is not one that is not set.
    let remaining = setting.remaining == 0 ? 0 : max(setting.remaining, 1_000)
    try UserSpan.write(
      IntervalValue(interval: TimeValue(setting.interval), value: TimeValue(remaining)), at: address)
  }

  // MARK: timer_create and its kin

  func timer_create() throws(Errno) -> Int {
    var clock = try ClockKind(argument0)
    if clock == .threadCPUTime || clock == .cpuTimeOfThread(0) { clock = .cpuTimeOfThread(task.identifier) }
    var notification = ProcessTimer.Notification(signal: .alarm, code: SignalInformation.Code.timer)
    var hasValue = false
    if !address1.isNull {
      let event = try UserSpan.read(SignalEvent.self, at: address1)
      notification.value = event.value
      hasValue = true
      switch event.kind {
      case SignalEvent.none: notification.signal = nil
      case SignalEvent.signal, SignalEvent.thread, SignalEvent.threadIdentifier:
        guard let signal = Signal(event.number.int) else { throw .EINVAL }
        notification.signal = signal
        if event.kind == SignalEvent.threadIdentifier {
          guard try findTask(event.thread) != nil, event.thread > 0 else { throw .EINVAL }
          notification.thread = event.thread
        }
      default: throw .EINVAL
      }
    }
    let (number, timer) = try newTimer()
    notification.number = number.i32
    if !hasValue { notification.value = number.u64 }
    do throws(Errno) {
      try timer.assign(clock, notification)
      try UserSpan.write(number.i32, at: address2)
    } catch {
      _ = removeTimer(number)
      throw error
    }
    return 0
  }

  /// A timer that is not in use, with its number. Its signal's record counts from now on (RLIMIT_SIGPENDING).
  private func newTimer() throws(Errno) -> (Int, ProcessTimer) {
    let found = try process.lock.withLock { () throws(Errno) -> (Int, ProcessTimer)? in
      guard process.signalCount.hasRoom else { throw .EAGAIN }
      for index in 0..<process.timers.created.count where !process.timers.created[index].isUsed {
        process.timers.created[index].isUsed = true
        process.signalCount.used &+= 1
        return (index, process.timers.created[index].timer)
      }
      // Before one is made.
      guard process.timers.created.count < ProcessTimers.limit else { throw .EAGAIN }
      return nil
    }
    if let found { return found }
    let timer = try ProcessTimer(process)
    return try process.lock.withLock { () throws(Errno) -> (Int, ProcessTimer) in
      // Another thread may have made the last one meanwhile; this one goes.
      guard process.timers.created.count < ProcessTimers.limit else { throw .EAGAIN }
      process.timers.created.append((timer, true))
      process.signalCount.used &+= 1
      return (process.timers.created.count &- 1, timer)
    }
  }

  /// Takes a timer's number back; false if there is none.
  private func removeTimer(_ number: Int) -> Bool {
    guard let timer = timer(number) else { return false }
    timer.clear()
    process.lock.withLock {
      process.timers.created[number].isUsed = false
      process.signalCount.used &-= 1
    }
    return true
  }

  private func timer(_ number: Int) -> ProcessTimer? {
    process.lock.withLock {
      guard number >= 0, number < process.timers.created.count, process.timers.created[number].isUsed else {
        return nil
      }
      return process.timers.created[number].timer
    }
  }

  func timer_settime() throws(Errno) -> Int {
    guard !address2.isNull else { throw .EINVAL }
    let wanted = try UserSpan.read(TimerSpecification.self, at: address2)
    let (first, interval) = (try wanted.value.total(), try wanted.interval.total())
    guard let timer = timer(argument0.i32.int) else { throw .EINVAL }
    let before = timer.set(first: first == 0 ? nil : first, isAbsolute: argument1 & 1 != 0, interval: interval)
    if !address3.isNull { try write(before, at: address3) }
    return 0
  }

  func timer_gettime() throws(Errno) -> Int {
    guard let timer = timer(argument0.i32.int) else { throw .EINVAL }
    try write(timer.setting, at: address1)
    return 0
  }

  func timer_getoverrun() throws(Errno) -> Int {
    guard let timer = timer(argument0.i32.int) else { throw .EINVAL }
    return timer.overruns
  }

  func timer_delete() throws(Errno) -> Int {
    guard removeTimer(argument0.i32.int) else { throw .EINVAL }
    return 0
  }

  private func write(_ setting: (remaining: UInt64, interval: UInt64), at address: VirtualAddress) throws(Errno) {
    try UserSpan.write(
      TimerSpecification(interval: TimeSpecification(setting.interval), value: TimeSpecification(setting.remaining)),
      at: address)
  }
}
