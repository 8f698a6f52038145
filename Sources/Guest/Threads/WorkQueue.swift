// WorkQueue: things that interrupt handlers and others leave for a thread to do.

import Base
import Locks

/// Something to be done later by the work thread; owned by whoever embeds it, who keeps it alive and still until it ran.
public struct WorkItem: ~Copyable {
  let link = LiveWord(0)
  let isQueued = LiveWord(0)
  let function: @convention(c) (UnsafeMutableRawPointer?) -> Void
  let context: UnsafeMutableRawPointer?

  /// Work that will call the function with the context.
  public init(
    _ function: @escaping @convention(c) (UnsafeMutableRawPointer?) -> Void, context: UnsafeMutableRawPointer?
  ) {
    self.function = function
    self.context = context
  }
}

/// The kernel's one queue of work: first come first served, by one thread. What may take long gets a thread of its own.
public enum WorkQueue {
  /// Queues the work, unless it is queued already (it may be queued again from the moment it starts). From any context.
  public static func submit(_ item: UnsafeMutablePointer<WorkItem>) { fatalError("not yet") }
}
