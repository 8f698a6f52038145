// Time and chance as the network sees them, so that tests can be both.
import Base
import Pages
import Platform

/// Where a network has its time and its random numbers from.
open class NetworkEnvironment {
  // SAFETY: a C function pointer, set once at boot before there is a second CPU.
  /// The kernel's random numbers; thread context. Set once, at boot.
  nonisolated(unsafe) public static var randomSource: (@convention(c) () -> UInt64)?

  /// The kernel's.
  public init() {}

  /// Nanoseconds of `Clock.now`.
  open func now() -> UInt64 { Clock.now() }

  /// 64 random bits that nobody can guess. Thread context.
  open func random() -> UInt64 {
    if let source = Self.randomSource { return source() }
    return SipKey(Clock.cycles(), Clock.now()).hash(Clock.cycles())
  }

  /// A random number from 0 to `limit`, inclusive.
  public final func random(upTo limit: UInt64) -> UInt64 {
    limit == .max ? random() : random().multipliedFullWidth(by: limit &+ 1).high
  }
}

/// Memory, as far as who acts on behalf of peers must think of it.
public enum NetworkMemory {
  /// Whether there is enough that objects, whose allocation cannot fail, may be made because a packet has come. Otherwise it is dropped.
  public static var hasRoom: Bool { Frames.hasRoom }
}
