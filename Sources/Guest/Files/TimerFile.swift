// TimerFile: a timer that one can wait for (timerfd).
//
// How often it has expired is computed from the clock when somebody asks. The kernel's timer only announces the first
// time since the last read; the read arms it for the next (so does Linux). Clocks that can be set are followed as they
// were when the timer was set.
import Base
import Locks
import Memory
import Platform
import Threads

/// A timer.
public final class TimerFile: OpenFile {
  private let source = PollSource()
  /// Whether absolute times are those of the real-time clock.
  public let isRealtime: Bool
  private let lock = Mutex()
  private let event: TimerEvent
  // Guarded by `lock`; times are those of `Clock.now`, ns.
  /// When it expires next, or did first since the last read; nil: it is not set.
  private var next: UInt64?
  private var interval: UInt64 = 0

  /// A timer that is not set.
  /// - Parameters:
  ///   - isRealtime: whether the program gives absolute times of the real-time clock (they are converted when it sets one).
  ///   - flags: `nonBlocking` counts.
  /// - Throws: ENOMEM.
  public init(isRealtime: Bool = false, flags: OpenFlags = []) throws(Errno) {
    self.isRealtime = isRealtime
    let vnode = AnonymousVnode(type: .unknown, mode: 0o600)
    // SAFETY: the timer's context is the source, which lives as long as the timer: both end in `deinit`.
    event = try TimerEvent(
      handler: { context in
        guard let context else { return }
        Unmanaged<PollSource>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.notify(.readable) }
      }, context: Unmanaged.passUnretained(source).toOpaque())
    super.init(
      vnode: vnode, location: AnonymousFileSystem.location(of: vnode, prefix: "anon_inode:[timerfd]"),
      flags: flags.intersection(.nonBlocking))
  }

  deinit { event.destroy() }

  /// Sets the timer, or stops it (timerfd_settime).
  /// - Parameters:
  ///   - first: when it expires first (`Clock.now`, ns); nil stops it.
  ///   - interval: time between further expirations, ns; 0: none.
  /// - Returns: what was set before: ns until the next expiration (0: not set), and the interval.
  public func set(first: UInt64?, interval: UInt64) -> (remaining: UInt64, interval: UInt64) {
    lock.lock()
    defer { lock.unlock() }
    let old = setting(at: Clock.now())
    event.cancel()
    next = first
    self.interval = interval
    if let first { event.arm(at: Deadline(nanoseconds: first)) }
    return old
  }

  /// What is set: ns until the next expiration (0: not set), and the interval (timerfd_gettime).
  public var setting: (remaining: UInt64, interval: UInt64) { lock.withLock { setting(at: Clock.now()) } }

  private func setting(at now: UInt64) -> (remaining: UInt64, interval: UInt64) {
    guard let next else { return (0, interval) }
    if next > now { return (next &- now, interval) }
    guard interval > 0 else { return (0, 0) }
    return (interval &- (now &- next) % interval, interval)
  }

  public override func describe(_ text: inout TextBuffer) {
    let (remaining, interval) = setting
    text.append(isRealtime ? "clockid: 0\nticks: " : "clockid: 1\nticks: ")
    text.append(lock.withLock { expirations(at: Clock.now()) })
    for (name, span) in [("\nit_value: (", remaining), ("\nit_interval: (", interval)] as [(StaticString, UInt64)] {
      text.append(name)
      text.append(span / 1_000_000_000)
      text.append(", ")
      text.append(span % 1_000_000_000)
      text.append(")")
    }
    text.append("\n")
  }

  private func expirations(at now: UInt64) -> UInt64 {
    guard let next, next <= now else { return 0 }
    return TimerExpirations(due: next, interval: interval, now: now).count
  }

  /// Reads 8 bytes: how often it has expired since the last read.
  public override func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    guard transfer.remaining >= 8 else { throw .EINVAL }
    while true {
      let count = take()
      if count > 0 { return try transfer.copyOut(value: count) }
      if isNonBlocking { throw .EAGAIN }
      let result = source.wait { lock.withLock { expirations(at: Clock.now()) == 0 } }
      if result != .woken { throw .EINTR }
    }
  }

  private func take() -> UInt64 {
    lock.lock()
    defer { lock.unlock() }
    let now = Clock.now()
    let count = expirations(at: now)
    guard count > 0, let first = next else { return 0 }
    if interval > 0 {
      let following = TimerExpirations(due: first, interval: interval, now: now).next
      next = following
      event.arm(at: Deadline(nanoseconds: following))
    } else {
      next = nil
    }
    return count
  }

  /// Readable once it has expired.
  public override var readyMask: ReadyMask {
    lock.withLock { expirations(at: Clock.now()) > 0 } ? .readable : []
  }
  /// Tells when it expires.
  public override var pollSource: PollSource? { source }
}
