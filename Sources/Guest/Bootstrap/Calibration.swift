// How fast the time-stamp counter and the local APIC's timer run, as the hypervisor says or measured with the PC's 8254 timer; and what
// time of day it is.
//
// Channel 2 of the timer counts 1,193,182 times a second; bit 5 of port 0x61 says that it has counted down.
import Base

/// Frequencies and times, measured.
struct Calibration {
  /// Cycles of the TSC a second.
  var timeStampFrequency: UInt64 = 0
  /// Counts of the local APIC's timer a second, divided by 16.
  var timerFrequency: UInt64 = 0

  /// Offsets of the local APIC's registers (Intel SDM 3, 11.4.1).
  enum Register {
    static var spurious: UInt64 { 0xf0 }
    static var timerVector: UInt64 { 0x320 }
    static var initialCount: UInt64 { 0x380 }
    static var currentCount: UInt64 { 0x390 }
    static var divide: UInt64 { 0x3e0 }
    static var linePin0: UInt64 { 0x350 }
    static var linePin1: UInt64 { 0x360 }
  }

  private static var pitFrequency: UInt64 { 1_193_182 }
  /// Measurements; the one counts of which it is known best when it began and ended.
  private static var rounds: Int { 3 }
  /// Counts to wait for, 5 ms.
  private static var pitCount: UInt64 { 5966 }
  /// Looks at a timer that does not move before it is given up: a second or more.
  private static var patience: Int { 4_000_000 }

  /// What CPUID leaf 0x40000010 says, in kHz, where a hypervisor has it (VMware's, which KVM's monitors have too).
  private init?(told machine: some BareMachine) {
    guard machine.identify(1, 0).c &>> 31 != 0 else { return nil }
    let highest = machine.identify(0x4000_0000, 0).a
    guard highest >= 0x4000_0010, highest < 0x4001_0000 else { return nil }
    let answer = machine.identify(0x4000_0010, 0)
    guard answer.a >= 1000, answer.b >= 1000 else { return nil }
    timeStampFrequency = answer.a.u64 &* 1000
    timerFrequency = answer.b.u64 &* 1000 / 16
  }

  /// Asks or measures; `controller` is where the local APIC's registers are. Its timer interrupts nobody, and is stopped afterwards.
  init(_ machine: some BareMachine, controller: UInt64) throws(BootstrapFailure) {
    if let told = Calibration(told: machine) {
      self = told
      return
    }
    machine.writeRegister(controller &+ Register.divide, count: 4, 0b0011)
    machine.writeRegister(controller &+ Register.timerVector, count: 4, 1 &<< 16)
    // How long the ends of a measurement took: within that, nobody knows when the timer began and ended.
    var doubt = UInt64.max
    for _ in 0..<Self.rounds {
      // Gate on, speaker off; mode 0, low and high byte: counting begins with the latter.
      machine.writePort(0x61, count: 1, machine.readPort(0x61, count: 1) & 0xfc | 1)
      machine.writeRegister(controller &+ Register.initialCount, count: 4, .max)
      machine.writePort(0x43, count: 1, 0xb0)
      machine.writePort(0x42, count: 1, Self.pitCount.u32 & 0xff)
      let before = machine.timeStamp()
      machine.writePort(0x42, count: 1, Self.pitCount.u32 &>> 8)
      let start = machine.timeStamp()
      let first = machine.readRegister(controller &+ Register.currentCount, count: 4)
      let firstTime = machine.timeStamp()
      var looks = 0
      var (last, end) = (start, machine.timeStamp())
      while machine.readPort(0x61, count: 1) & 0x20 == 0 {
        (last, end) = (end, machine.timeStamp())
        looks &+= 1
        if looks > Self.patience { throw BootstrapFailure("the machine has no timer (8254) to measure the CPU's by") }
      }
      (last, end) = (end, machine.timeStamp())
      let counts = first &- machine.readRegister(controller &+ Register.currentCount, count: 4)
      let span = machine.timeStamp() &- firstTime
      let uncertain = (start &- before) &+ (end &- last)
      guard uncertain < doubt, span > 0 else { continue }
      doubt = uncertain
      let cycles = last &+ (end &- last) / 2 &- before &- (start &- before) / 2
      timeStampFrequency = cycles &* Self.pitFrequency / Self.pitCount
      timerFrequency = counts.u64 &* timeStampFrequency / span
    }
    machine.writeRegister(controller &+ Register.initialCount, count: 4, 0)
    guard timeStampFrequency >= 1_000_000, timerFrequency >= 10_000 else {
      throw BootstrapFailure("the time-stamp counter or the local APIC's timer does not run")
    }
  }
}

/// The PC's clock (MC146818), which is UTC here as in most virtual machines.
enum ClockChip {
  /// Seconds since the epoch; 0 if the clock gives no sense.
  static func seconds(_ machine: some BareMachine) -> UInt64 {
    func field(_ index: UInt32) -> UInt32 {
      machine.writePort(0x70, count: 1, index)
      return machine.readPort(0x71, count: 1) & 0xff
    }
    let mode = field(0x0b)
    func number(_ raw: UInt32) -> UInt64 {
      (mode & 4 != 0 ? raw : (raw &>> 4) &* 10 &+ (raw & 15)).u64
    }
    // Two readings that are the same were not made while it changed.
    for _ in 0..<100_000 {
      if field(0x0a) & 0x80 != 0 { continue }
      let rawHour = field(4)
      let (second, minute, day, month) = (number(field(0)), number(field(2)), number(field(7)), number(field(8)))
      var (hour, year) = (number(rawHour & 0x7f), number(field(9)))
      guard field(0x0a) & 0x80 == 0, number(field(0)) == second else { continue }
      if mode & 2 == 0 { hour = hour % 12 &+ (rawHour & 0x80 != 0 ? 12 : 0) }
      year &+= year < 70 ? 2000 : 1900
      guard 1...12 ~= month, 1...31 ~= day, hour < 24, minute < 60, second < 61 else { return 0 }
      return (days(year: year, month: month, day: day) &* 24 &+ hour) &* 3600 &+ minute &* 60 &+ second
    }
    return 0
  }

  /// Days from the epoch to a date of the Gregorian calendar: years begin in March, so that the odd day is the last.
  static func days(year: UInt64, month: UInt64, day: UInt64) -> UInt64 {
    let (y, m) = month > 2 ? (year, month &- 3) : (year &- 1, month &+ 9)
    return y &* 365 &+ y / 4 &- y / 100 &+ y / 400 &+ (m &* 153 &+ 2) / 5 &+ day &- 1 &- 719_468
  }
}
