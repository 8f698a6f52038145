// Waiting: deadlines, results, and how a thread sleeps, as everything above sees them.
//
// `Parking` is the one place where locks meet the scheduler. A thread has one permit. `unpark` gives it (giving twice is
// giving once); `park` takes it or sleeps until it comes. Every sleeper therefore keeps a word of its own that says
// what it waits for, looks at it before each park and again after, and treats a permit that was meant for another wait
// as nothing but a reason to look again.

import Base

/// How a wait ended.
public enum WaitResult: Sendable {
  /// What was waited for happened.
  case woken
  /// The deadline passed first.
  case timedOut
  /// Somebody interrupted the thread (a signal) first; only where the wait was interruptible.
  case interrupted
}

/// A point on the monotonic clock up to which to wait.
@frozen public struct Deadline: Equatable, Comparable, Sendable {
  /// Nanoseconds of `Clock.now()`; `UInt64.max` is never.
  public var nanoseconds: UInt64
  /// The deadline at that time.
  @inline(__always) public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }
  /// No deadline.
  public static var never: Deadline { Deadline(nanoseconds: .max) }
  /// A deadline that has passed: do not wait.
  public static var now: Deadline { Deadline(nanoseconds: 0) }
  /// Whether the left one comes first.
  @inline(__always) public static func < (left: Deadline, right: Deadline) -> Bool {
    left.nanoseconds < right.nanoseconds
  }
  /// The deadline `nanoseconds` after `start`, both on the monotonic clock; never if the sum overflows.
  @inline(__always) public static func after(_ nanoseconds: UInt64, from start: UInt64) -> Deadline {
    let (sum, overflow) = start.addingReportingOverflow(nanoseconds)
    return Deadline(nanoseconds: overflow ? .max : sum)
  }
}

/// A thread as locks know it: a name that stays valid for ever (control blocks of threads are recycled, never freed), so
/// that a late `unpark` can at worst give a stranger a permit it did not need.
@frozen public struct Parker: Equatable, Sendable {
  /// The name; never 0.
  public var rawValue: UInt
  /// The parker with that name.
  @inline(__always) public init(rawValue: UInt) { self.rawValue = rawValue }
}

/// The scheduler's side of every lock: who am I, sleep, wake.
public enum Parking {
  /// Returns the calling thread's `Parker.rawValue`.
  public typealias Current = @convention(c) () -> UInt
  /// Takes the calling thread's permit, or sleeps until it comes, the deadline (ns) passes or, if the flag is set, it is
  /// interrupted. Returns a `WaitResult`'s number: 0 woken, 1 timed out, 2 interrupted.
  public typealias Park = @convention(c) (UInt64, Bool) -> Int
  /// Gives a thread its permit; from any context, interrupt handlers included.
  public typealias Unpark = @convention(c) (UInt) -> Void

  // SAFETY: set once at boot (`install`), before a second CPU starts and before anything can contend.
  nonisolated(unsafe) private static var currentFunction: Current? = nil
  nonisolated(unsafe) private static var parkFunction: Park? = nil
  nonisolated(unsafe) private static var unparkFunction: Unpark? = nil

  /// Gives all locks their scheduler. Call once at boot, before a second CPU starts and before anything can contend.
  public static func install(current: @escaping Current, park: @escaping Park, unpark: @escaping Unpark) {
    currentFunction = current
    parkFunction = park
    unparkFunction = unpark
  }

  /// The calling thread.
  public static var current: Parker {
    if let currentFunction { return Parker(rawValue: currentFunction()) }
    #if HOSTED
      return HostedParking.current
    #else
      return Parker(rawValue: 1)  // Boot, one thread: a name is enough.
    #endif
  }

  /// Takes the caller's permit or sleeps until it comes. May return `.woken` for a permit meant for something else:
  /// look at what you wait for, and park again.
  public static func park(until deadline: Deadline = .never, interruptible: Bool = false) -> WaitResult {
    if let parkFunction {
      switch parkFunction(deadline.nanoseconds, interruptible) {
      case 1: return .timedOut
      case 2: return .interrupted
      default: return .woken
      }
    }
    #if HOSTED
      return HostedParking.park(until: deadline, interruptible: interruptible)
    #else
      fatalError("a thread must wait before there is a scheduler")
    #endif
  }

  /// Gives a thread its permit.
  public static func unpark(_ parker: Parker) {
    if let unparkFunction { return unparkFunction(parker.rawValue) }
    #if HOSTED
      HostedParking.unpark(parker)
    #endif
  }
}
