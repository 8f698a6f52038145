// The time that does not jump, for devices: rates, trust and patience are counted in it.
import Glibc

/// CLOCK_MONOTONIC.
public enum MonotonicClock {
  /// Nanoseconds since some point in the past.
  public static var now: UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
  }
}
