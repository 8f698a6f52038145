// System calls about time: reading clocks and sleeping.
import Base
import Locks
import Memory
import Platform
import Threads

extension SystemCall {
  func clock_gettime() throws(Errno) -> Int {
    try UserSpan.write(TimeSpecification(try process.now(of: try ClockKind(argument0), for: task)), at: address1)
    return 0
  }

  func clock_getres() throws(Errno) -> Int {
    // A clock of a thread or process that does not exist has no resolution either.
    _ = try process.now(of: try ClockKind(argument0), for: task)
    if !address1.isNull { try UserSpan.write(TimeSpecification(nanoseconds: 1), at: address1) }
    return 0
  }

  func gettimeofday() throws(Errno) -> Int {
    if !address0.isNull { try UserSpan.write(TimeValue(Clock.realtime()), at: address0) }
    if !address1.isNull { try UserSpan.write(UInt64(0), at: address1) }
    return 0
  }

  func time() throws(Errno) -> Int {
    let seconds = (Clock.realtime() / 1_000_000_000).i64
    if !address0.isNull { try UserSpan.write(seconds, at: address0) }
    return seconds.int
  }

  func nanosleep() throws(Errno) -> Int {
    let deadline = Deadline.after(try TimeSpecification.read(at: address0), from: Clock.now())
    return try sleep(until: deadline, remainingAt: address1)
  }

  func clock_nanosleep() throws(Errno) -> Int {
    let clock = try ClockKind(argument0)
    // Sleeping until a thread has used CPU time is nothing Linux offers; until a process has, nobody asks for.
    guard clock == .realtime || clock == .monotonic else { throw clock == .threadCPUTime ? .EINVAL : .EOPNOTSUPP }
    let time = try TimeSpecification.read(at: address2)
    guard argument1 & 1 != 0 else {
      return try sleep(until: .after(time, from: Clock.now()), remainingAt: address3)
    }
    // Absolute times on the real-time clock are not adjusted if that clock is set meanwhile.
    guard clock == .realtime else { return try sleep(until: Deadline(nanoseconds: time), remainingAt: .zero) }
    let now = Clock.realtime()
    return try sleep(until: .after(time > now ? time &- now : 0, from: Clock.now()), remainingAt: .zero)
  }

  /// Sleeps; a signal ends it early, and what was left is stored.
  private func sleep(until deadline: Deadline, remainingAt address: VirtualAddress) throws(Errno) -> Int {
    while Thread.sleep(until: deadline, interruptible: true) == .interrupted {
      guard task.hasDeliverableSignal else {
        task.clearInterruption()
        continue
      }
      if !address.isNull {
        let now = Clock.now()
        let left = deadline.nanoseconds > now ? deadline.nanoseconds &- now : 0
        try UserSpan.write(TimeSpecification(left), at: address)
      }
      throw .EINTR
    }
    return 0
  }

  /// struct tms, in ticks of 10 ms.
  func times() throws(Errno) -> Int {
    let tick: UInt64 = 10_000_000
    if !address0.isNull {
      let values: [4 of UInt64] = [process.cpuTime / tick, 0, 0, 0]
      try UserSpan.write(values, at: address0)
    }
    return (Clock.now() / tick).int
  }
}

extension Process {
  /// What a clock shows, ns; `task` is who asks.
  /// - Throws: EINVAL for a clock of somebody who does not exist.
  func now(of clock: ClockKind, for task: Task? = nil) throws(Errno) -> UInt64 {
    switch clock {
    case .realtime: return Clock.realtime()
    case .monotonic: return Clock.now()
    case .processCPUTime: return cpuTime
    case .threadCPUTime: return task?.cpuTime ?? 0
    case .cpuTimeOfProcess(let number):
      guard number == 0 || number == identifier else { throw .EINVAL }
      return cpuTime
    case .cpuTimeOfThread(let number):
      if number == 0, let task { return task.cpuTime }
      guard let found = self.task(number) else { throw .EINVAL }
      return found.cpuTime
    }
  }
}
