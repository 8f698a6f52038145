// Priority inheritance: who has a lock that others wait for runs with the highest priority of those, as long as they do.
//
// A thread waits for one lock at a time, and each lock has one owner: the threads form trees, each thread below the one it waits
// for. Every thread has a heap of those that wait directly for what it has, by their priorities; its own priority is the higher of
// its policy's and that of the first in the heap. A change is passed on towards the root until it changes nothing.
//
// Invariants, under `lock`: a wait that has an owner is in that owner's heap, once, at `priority`, which is that of its thread
// (`Scheduler.priority`); no thread waits for itself by way of others, so passing on ends: `begin` refuses what would close a
// circle, and a lock is only ever handed to a thread that waits for nothing else. A control block is never freed, and a thread that
// ends has been left by all (`abandon`), so owners are never strangers.
//
// Which lock a wait is for is known to the layer that owns the locks, which says who has each one now. Only real-time
// priorities are inherited: ordinary threads get on whatever the others do.
//
// SAFETY of all: control blocks are never freed, and a wait lies in its waiter's frame until `end` has taken it out of the
// heap that it was in. Links, owners and priorities are touched under `lock`; whose wait it is never changes, and a thread's
// policy is atomic.
import Base
import Locks

/// A thread's wait for a lock that another thread has; lies in the waiter's frame until the wait has ended.
public struct PriorityWait: ~Copyable, PairingNode {
  /// The heap's.
  public var links = PairingLinks<PriorityWait>()
  fileprivate let waiter: UnsafeMutablePointer<ThreadControl>
  fileprivate var owner: UnsafeMutablePointer<ThreadControl>?
  /// The waiter's priority, as long as there is an owner.
  fileprivate var priority: UInt8 = 0

  /// A wait of that thread that has not begun.
  public init(of waiter: Thread) { self.waiter = waiter.control }

  /// Whose wait it is.
  public var thread: Thread { Thread(waiter) }

  /// See `PairingNode`.
  public borrowing func precedes(_ other: borrowing PriorityWait) -> Bool { priority > other.priority }
}

/// The waits of all threads.
public enum PriorityInheritance {
  private static let lock = Mutex()

  /// The wait begins: its thread waits for what `owner` has. No locks of Threads are held; the caller's may be.
  /// - Returns: false if the owner waits for the thread, by whatever way: nothing has begun.
  public static func begin(_ wait: UnsafeMutablePointer<PriorityWait>, behind owner: Thread) -> Bool {
    lock.withLock {
      let waiter = wait.pointee.waiter
      var next: UnsafeMutablePointer<ThreadControl>? = owner.control
      while let thread = next {
        if thread == waiter { return false }
        next = thread.pointee.wait?.pointee.owner
      }
      waiter.pointee.wait = wait
      enter(wait, behind: owner.control)
      update(owner.control)
      return true
    }
  }

  /// The lock has another owner, which waits for nothing.
  public static func move(_ wait: UnsafeMutablePointer<PriorityWait>, behind owner: Thread) {
    lock.withLock {
      let before = wait.pointee.owner
      leave(wait)
      enter(wait, behind: owner.control)
      update(owner.control)
      if let before { update(before) }
    }
  }

  /// The wait is over, if it has begun. Its former owner may be the running thread, which then may have lost its claim to the CPU:
  /// `Preemption.check` when no locks are held.
  public static func end(_ wait: UnsafeMutablePointer<PriorityWait>) {
    lock.withLock {
      let waiter = wait.pointee.waiter
      if waiter.pointee.wait == wait { waiter.pointee.wait = nil }
      let owner = wait.pointee.owner
      leave(wait)
      if let owner { update(owner) }
    }
  }

  /// The thread has got another policy.
  public static func refresh(_ thread: Thread) {
    lock.withLock { passOn(from: thread.control) }
  }

  /// The thread ends: those who still wait for something that it had wait for nobody.
  public static func abandon(_ thread: Thread) {
    lock.withLock {
      while let wait = thread.control.pointee.waiters.first { leave(wait) }
      update(thread.control)
    }
  }

  /// Whether the first wait's thread is more urgent than the other's.
  public static func precedes(
    _ first: UnsafeMutablePointer<PriorityWait>, _ other: UnsafeMutablePointer<PriorityWait>
  ) -> Bool { first.pointee.waiter.priority > other.pointee.waiter.priority }

  private static func enter(
    _ wait: UnsafeMutablePointer<PriorityWait>, behind owner: UnsafeMutablePointer<ThreadControl>
  ) {
    wait.pointee.owner = owner
    wait.pointee.priority = wait.pointee.waiter.priority
    owner.pointee.waiters.insert(wait)
  }

  private static func leave(_ wait: UnsafeMutablePointer<PriorityWait>) {
    guard let owner = wait.pointee.owner else { return }
    owner.pointee.waiters.remove(wait)
    wait.pointee.owner = nil
  }

  /// Who waits for the thread has changed.
  private static func update(_ thread: UnsafeMutablePointer<ThreadControl>) {
    let inherited = thread.pointee.waiters.first?.pointee.priority ?? 0
    guard inherited != thread.inheritedPriority else { return }
    Scheduler.setInheritedPriority(thread, inherited)
    passOn(from: thread)
  }

  /// The thread's priority has changed, perhaps.
  private static func passOn(from thread: UnsafeMutablePointer<ThreadControl>) {
    guard let wait = thread.pointee.wait, let owner = wait.pointee.owner, wait.pointee.priority != thread.priority
    else { return }
    leave(wait)
    enter(wait, behind: owner)
    update(owner)
  }
}

extension UnsafeMutablePointer<ThreadControl> {
  /// What it has inherited; 0: nothing.
  var inheritedPriority: UInt8 { SchedulingPolicy.inherited(pointee.policy.load(ordering: .relaxed)) }
  /// Its real-time priority, inherited or its own; 0: it has none.
  var priority: UInt8 { SchedulingPolicy.priority(ofWord: pointee.policy.load(ordering: .relaxed)) }
}

extension Thread {
  /// Its real-time priority with what it has inherited from those who wait for it; 0: it has none.
  public var effectivePriority: UInt8 { control.priority }
}
