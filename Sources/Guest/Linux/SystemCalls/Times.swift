// The structures in which programs speak of time, and their checks.
import Base
import Locks
import Memory
import Platform

/// struct timespec.
struct TimeSpecification {
  var seconds: Int64 = 0
  var nanoseconds: Int64 = 0

  init(seconds: Int64 = 0, nanoseconds: Int64 = 0) {
    self.seconds = seconds
    self.nanoseconds = nanoseconds
  }

  /// A time as nanoseconds.
  init(_ total: UInt64) {
    seconds = (total / 1_000_000_000).i64
    nanoseconds = (total % 1_000_000_000).i64
  }

  /// As nanoseconds; more than 584 years count as the largest number.
  /// - Throws: EINVAL if it is negative or its nanoseconds are not below a second.
  func total() throws(Errno) -> UInt64 {
    guard seconds >= 0, nanoseconds >= 0, nanoseconds < 1_000_000_000 else { throw .EINVAL }
    let (product, overflow) = seconds.u64.multipliedReportingOverflow(by: 1_000_000_000)
    let (sum, carry) = product.addingReportingOverflow(nanoseconds.u64)
    return overflow || carry ? .max : sum
  }

  /// Reads one from program memory.
  static func read(at address: VirtualAddress) throws(Errno) -> UInt64 {
    try UserSpan.read(TimeSpecification.self, at: address).total()
  }

  /// The deadline that a relative time-out at `address` means; never if the address is NULL.
  static func deadline(timeoutAt address: VirtualAddress) throws(Errno) -> Deadline {
    guard address.rawValue != 0 else { return .never }
    return .after(try read(at: address), from: Clock.now())
  }
}

/// struct timeval.
struct TimeValue {
  var seconds: Int64 = 0
  var microseconds: Int64 = 0

  init(seconds: Int64 = 0, microseconds: Int64 = 0) {
    self.seconds = seconds
    self.microseconds = microseconds
  }

  /// A time in nanoseconds.
  init(_ total: UInt64) {
    seconds = (total / 1_000_000_000).i64
    microseconds = (total % 1_000_000_000 / 1000).i64
  }

  /// As nanoseconds.
  /// - Throws: EINVAL if it is negative or its microseconds are not below a second.
  func total() throws(Errno) -> UInt64 {
    guard microseconds >= 0, microseconds < 1_000_000 else { throw .EINVAL }
    return try TimeSpecification(seconds: seconds, nanoseconds: microseconds &* 1000).total()
  }
}

/// A clock that programs can name.
enum ClockKind: Equatable {
  case realtime, monotonic, processCPUTime, threadCPUTime
  /// CPU-time clocks by number (clock_getcpuclockid, pthread_getcpuclockid); 0 is the caller.
  case cpuTimeOfProcess(Int32)
  case cpuTimeOfThread(Int32)

  /// The clock with Linux's number.
  /// - Throws: EINVAL.
  init(_ number: UInt64) throws(Errno) {
    switch number.i32 {
    case 0, 5, 8, 11: self = .realtime
    case 1, 4, 6, 7, 9: self = .monotonic
    case 2: self = .processCPUTime
    case 3: self = .threadCPUTime
    case let other where other < 0:
      // The upper 29 bits are the complement of a number, bit 2 says thread, the rest which of the clocks.
      guard other & 3 != 3 else { throw .EINVAL }
      let identifier = ~(other &>> 3)
      self = other & 4 != 0 ? .cpuTimeOfThread(identifier) : .cpuTimeOfProcess(identifier)
    default: throw .EINVAL
    }
  }
}
