// Time and sleeping.
import Base
import Instructions

/// struct timespec.
struct TimeSpecification {
  var seconds = 0
  var nanoseconds = 0
}

/// The clocks of the machine.
public enum Clock {
  /// Nanoseconds since the machine started; never goes back.
  public static var monotonic: UInt64 { currentTime() }
  /// The processor's time-stamp counter: cycles of a constant rate.
  public static var cycles: UInt64 { instruction_rdtsc() }
  /// Nanoseconds since 1970-01-01 00:00 UTC.
  public static var wall: UInt64 { read(0) }

  static func read(_ clock: Int) -> UInt64 {
    var time = TimeSpecification()
    _ = withUnsafeMutablePointer(to: &time) { call(Call.clockGettime, clock, argument($0)) }
    return time.seconds.u64 &* 1_000_000_000 &+ time.nanoseconds.u64
  }
}

/// Sleeps at least so long.
public func sleep(nanoseconds: UInt64) {
  var time = TimeSpecification(
    seconds: (nanoseconds / 1_000_000_000).int, nanoseconds: (nanoseconds % 1_000_000_000).int)
  while withUnsafeMutablePointer(to: &time, { call(Call.nanosleep, argument($0), argument($0)) })
    == -Errno.EINTR.rawValue.int
  {}
}

/// Sleeps at least so many milliseconds.
public func sleep(milliseconds: UInt64) { sleep(nanoseconds: milliseconds &* 1_000_000) }
