// TimerEvent: a function that is called at a time.
// SAFETY of all: a handle points to a control, which is never freed; whoever arms and cancels it does so by its node's
// atomic words, and handler and context are written before it can be armed.

import Base
import Locks
import Platform

/// A timer for kernel modules (timerfd, interval timers, protocol timeouts). One handle is one timer; arming it again
/// moves it. The handler runs in interrupt context on some CPU: it may wake threads and arm timers, and must not sleep.
public struct TimerEvent: Equatable, @unchecked Sendable {
  let control: UnsafeMutablePointer<TimerControl>

  /// Called when the time has come, with the context.
  public typealias Handler = @convention(c) (UnsafeMutableRawPointer?) -> Void

  /// A timer that is not armed.
  /// - Throws: ENOMEM.
  public init(handler: @escaping Handler, context: UnsafeMutableRawPointer?) throws(Errno) {
    control = try TimerControl.make(handler: handler, context: context)
  }

  /// Arms it for that time of `Clock.now`, in place of the time before. A time that has passed is now.
  public func arm(at deadline: Deadline) { TimerControl.arm(control, deadline.nanoseconds) }

  /// Disarms it. True if it was armed: then the handler will not be called for that time. False if it was not, or if the
  /// handler has been called or is running.
  @discardableResult public func cancel() -> Bool { TimerControl.cancel(control) }

  /// Disarms and destroys it. When this returns the handler does not run and will not. Not from the handler.
  public func destroy() { TimerControl.destroy(control) }
}
