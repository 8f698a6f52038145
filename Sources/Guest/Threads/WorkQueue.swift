// WorkQueue: things that interrupt handlers and others leave for a thread to do.
//
// Invariants: an item is in the list at most once: `isQueued` is raised by the one who links it, and lowered by the worker
// after it has read all it needs of the link and before it calls the function. So a submission while the function runs
// queues the item again. The worker sleeps on a semaphore that counts submissions.

import Base
import Locks
import Pages
import Platform

/// Something to be done later by the work thread; owned by whoever embeds it, who keeps it in place while it is queued.
public struct WorkItem: ~Copyable {
  fileprivate var node: WakeNode<LiveWord>
  fileprivate let isQueued = LiveWord(0)
  fileprivate let function: @convention(c) (UnsafeMutableRawPointer?) -> Void
  fileprivate let context: UnsafeMutableRawPointer?

  /// Work that will call the function with the context.
  public init(
    _ function: @escaping @convention(c) (UnsafeMutableRawPointer?) -> Void, context: UnsafeMutableRawPointer?
  ) {
    node = WakeNode(owner: 0)
    self.function = function
    self.context = context
  }
}

/// The kernel's one queue of work: first come first served, by one thread. What may take long gets a thread of its own.
public enum WorkQueue {
  fileprivate struct Shared: ~Copyable {
    let list = WakeList<LiveWord>()
    let submissions = Semaphore()
  }
  // SAFETY: set once (`begin`), before there is a work thread and who submits.
  nonisolated(unsafe) private static var sharedPointer: UnsafeMutablePointer<Shared>? = nil
  /// The work thread's name among waiters; 0 before it runs.
  private static let worker = LiveWord(0)

  /// Whether the running thread is the work thread: it must not wait for work.
  public static var isWorkThread: Bool { worker.load() == Parking.current.rawValue }

  /// Starts the work thread. Called once by the scheduler, when it begins; unit tests call it for themselves.
  /// - Throws: ENOMEM.
  public static func begin() throws(Errno) {
    guard sharedPointer == nil else { return }
    #if HOSTED
      let memory: UnsafeMutableRawPointer? = .allocate(byteCount: MemoryLayout<Shared>.size, alignment: 64)
    #else
      let memory = KernelHeap.allocate(byteCount: MemoryLayout<Shared>.size, alignment: 64)
    #endif
    guard let memory else { throw .ENOMEM }
    // SAFETY: fresh memory of that size, never freed.
    let shared = memory.bindMemory(to: Shared.self, capacity: 1)
    shared.initialize(to: Shared())
    sharedPointer = shared
    try Deferring.begin()
    let thread = try Thread.create(name: "work", entry: workMain)
    thread.start()
  }

  /// Queues the work, unless it is queued already. From any context, once scheduling has begun.
  public static func submit(_ item: UnsafeMutablePointer<WorkItem>) {
    guard let shared = sharedPointer, item.pointee.isQueued.exchange(1) == 0 else { return }
    item.pointee.node.owner = UInt(bitPattern: item)
    // SAFETY: the item stays in place while it is queued.
    _ = shared.pointee.list.push(withUnsafeMutablePointer(to: &item.pointee.node) { $0 })
    shared.pointee.submissions.post()
  }

  /// Queues the work when the running CPU has no thread to run; at once if other work is waiting for that already. It may be long
  /// until then: a timer beside it is the caller's. Threads only. (On the host, never.)
  public static func submitWhenIdle(_ item: UnsafeMutablePointer<WorkItem>) {
    #if GUEST
      let state = Interrupts.disable()
      let here = CPUScheduler.here
      let other = here.pointee.whenIdle
      here.pointee.whenIdle = item
      Interrupts.restore(state)
      if let other, other != item { submit(other) }
    #endif
  }

  fileprivate static func work() {
    guard let shared = sharedPointer else { return }
    worker.store(Parking.current.rawValue)
    while true {
      _ = shared.pointee.submissions.wait()
      shared.pointee.list.takeAll { address in
        // SAFETY: owners in this list are addresses of queued items.
        let item = UnsafeMutablePointer<WorkItem>(bitPattern: address).unsafelyUnwrapped
        let function = item.pointee.function
        let context = item.pointee.context
        item.pointee.isQueued.store(0)
        function(context)
      }
    }
  }
}

/// The work thread. (A closure in place of this makes the compiler crash in its checks of sendability.)
private func workMain(_ argument: UnsafeMutableRawPointer?) { WorkQueue.work() }
