// PollSource: who wants to know when an open file becomes ready.
//
// One protocol for blocking calls, poll, select and epoll: whoever changes what `readyMask` says calls `notify` after the
// change, from any context, interrupt handlers included. Threads that sleep in a call of the file wait in `queue`; others
// leave a `PollWaiter`, whose function is called.
//
// Nobody takes a lock. Whoever has something to be done (announce events, come in, leave) writes it down and rings; the
// one whose ring finds `rings` at 0 serves, with preemption off, until every ring has been seen; others leave at once
// (`WaitQueue` works the same way, and its comment has the argument). In short:
//  1. At most one serves at a time, and only it touches the list and its links.
//  2. Every request is written before its ring, and the server lowers `rings` only by what it had counted before its last
//     look: none is left behind.
//  3. A waiter is told of every `notify` between its `add` and its `remove`. The server takes leavers first, events second,
//     newcomers last, tells, and only then lets the leavers go: events it takes came after every waiter they are for was
//     pushed, so that is linked by now; a leaver it takes left after its last event was written, so that is taken by now.
//  4. Who leaves stays until the server has said so; after that nobody touches the waiter.
import Base
import Locks
import Platform

/// What can be done with a file without sleeping; the numbers are poll's and epoll's.
public struct ReadyMask: OptionSet, Equatable, Sendable {
  /// The bits (POLLIN…).
  public let rawValue: UInt32
  /// A mask from bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// POLLIN: a read does not sleep.
  public static var readable: ReadyMask { ReadyMask(rawValue: 0x1) }
  /// POLLPRI: something out of band.
  public static var priority: ReadyMask { ReadyMask(rawValue: 0x2) }
  /// POLLOUT: a write does not sleep.
  public static var writable: ReadyMask { ReadyMask(rawValue: 0x4) }
  /// POLLERR; always reported.
  public static var error: ReadyMask { ReadyMask(rawValue: 0x8) }
  /// POLLHUP: the other side is gone; always reported.
  public static var hangUp: ReadyMask { ReadyMask(rawValue: 0x10) }
  /// POLLNVAL: no such descriptor; always reported.
  public static var invalid: ReadyMask { ReadyMask(rawValue: 0x20) }
  /// POLLRDNORM, POLLRDBAND, POLLWRNORM, POLLWRBAND are the same as in and out for all our files.
  public static var readNormal: ReadyMask { ReadyMask(rawValue: 0x40) }
  /// See `readNormal`.
  public static var writeNormal: ReadyMask { ReadyMask(rawValue: 0x100) }
  /// POLLRDHUP: the other side sends no more.
  public static var readHangUp: ReadyMask { ReadyMask(rawValue: 0x2000) }
  /// What is reported whether asked for or not.
  public static var always: ReadyMask { [.error, .hangUp, .invalid] }
  /// The mask with `readNormal` and `writeNormal` where `readable` and `writable` are.
  @inline(__always) public var withNormal: ReadyMask {
    ReadyMask(rawValue: rawValue | (rawValue & 1) &<< 6 | (rawValue & 4) &<< 6)
  }
}

/// Somebody who wants to be told. Lives with its owner, who keeps it in place from `add` until `remove` returns.
public struct PollWaiter: ~Copyable {
  /// What is called, with its context and a `ReadyMask`'s bits: in any context, with preemption off; may not sleep, nor add to or remove from the same source.
  public typealias Function = @convention(c) (_ context: UnsafeMutableRawPointer, _ events: UInt32) -> Void

  let function: Function
  let context: UnsafeMutableRawPointer
  fileprivate var next: UnsafeMutablePointer<PollWaiter>?
  fileprivate var previous: UnsafeMutablePointer<PollWaiter>?
  /// Links of the two stacks.
  fileprivate var newer: UInt = 0
  fileprivate var leaving: UInt = 0
  fileprivate var remover: UInt = 0
  fileprivate let hasLeft = Atomic<Bool>(false)

  /// A waiter that is in no source.
  public init(_ context: UnsafeMutableRawPointer, _ function: @escaping Function) {
    self.function = function
    self.context = context
  }
}

/// Announces readiness.
public final class PollSource {
  /// Threads that sleep in a call on the file.
  private let queue = WaitQueue()
  private let rings = Atomic<UInt>(0)
  private let events = Atomic<UInt32>(0)
  private let newcomers = Atomic<UInt>(0)
  private let leavers = Atomic<UInt>(0)
  private let population = Atomic<Int>(0)
  private var first: UnsafeMutablePointer<PollWaiter>?

  /// A source that nobody listens to.
  public init() {}

  /// Announces that `events` may have become true. Any context.
  public func notify(_ events: ReadyMask) {
    queue.wakeAll()  // Fences before it looks.
    guard population.load(ordering: .sequentiallyConsistent) != 0 else { return }
    _ = self.events.bitwiseOr(events.rawValue, ordering: .sequentiallyConsistent)
    ring()
  }

  /// Wakes those who sleep in a call on the file, and nobody else: others have been told before, and look for themselves. Any context.
  public func wakeSleepers() { queue.wakeAll() }

  /// Sleeps while the condition holds, looking again after every `notify`; see `WaitQueue.wait`.
  public func wait(until deadline: Deadline = .never, interruptible: Bool = true, while condition: () -> Bool)
    -> WaitResult
  { queue.wait(until: deadline, interruptible: interruptible, while: condition) }

  /// Lets a waiter hear of every `notify` from now on. After it returns, look at `readyMask`: what came before is not told.
  public func add(_ waiter: UnsafeMutablePointer<PollWaiter>) {
    waiter.pointee.hasLeft.store(false, ordering: .relaxed)
    waiter.pointee.next = nil
    waiter.pointee.previous = nil
    population.wrappingAdd(1, ordering: .sequentiallyConsistent)
    push(UInt(bitPattern: waiter), on: newcomers) { waiter.pointee.newer = $0 }
    ring()
  }

  /// Takes a waiter out; after that its function is not called any more. Thread context.
  public func remove(_ waiter: UnsafeMutablePointer<PollWaiter>) {
    waiter.pointee.remover = Parking.current.rawValue
    push(UInt(bitPattern: waiter), on: leavers) { waiter.pointee.leaving = $0 }
    ring()
    while !waiter.pointee.hasLeft.load(ordering: .acquiring) {
      _ = Parking.park(until: .never, interruptible: false)
    }
  }

  private func push(_ word: UInt, on stack: borrowing Atomic<UInt>, link: (UInt) -> Void) {
    var head = stack.load(ordering: .relaxed)
    while true {
      link(head)
      let result = stack.compareExchange(expected: head, desired: word, ordering: .sequentiallyConsistent)
      if result.exchanged { return }
      head = result.original
    }
  }

  private func ring() {
    Preemption.disable()
    if rings.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue == 0 {
      var seen: UInt = 1
      while true {
        serve()
        let before = rings.wrappingSubtract(seen, ordering: .sequentiallyConsistent).oldValue
        if before == seen { break }
        seen = before &- seen
      }
    }
    Preemption.enable()
  }

  private func serve() {
    // SAFETY: the words hold 0 or addresses of waiters whose owners keep them in place (`add`, `remove`).
    var going = leavers.exchange(0, ordering: .sequentiallyConsistent)
    let happened = events.exchange(0, ordering: .sequentiallyConsistent)
    var coming = newcomers.exchange(0, ordering: .sequentiallyConsistent)
    while let waiter = UnsafeMutablePointer<PollWaiter>(bitPattern: coming) {
      coming = waiter.pointee.newer
      waiter.pointee.next = first
      waiter.pointee.previous = nil
      first?.pointee.previous = waiter
      first = waiter
    }
    var next = happened == 0 ? nil : first
    while let waiter = next {
      next = waiter.pointee.next
      waiter.pointee.function(waiter.pointee.context, happened)
    }
    while let waiter = UnsafeMutablePointer<PollWaiter>(bitPattern: going) {
      going = waiter.pointee.leaving
      let (next, previous) = (waiter.pointee.next, waiter.pointee.previous)
      next?.pointee.previous = previous
      if let previous { previous.pointee.next = next } else { first = next }
      population.wrappingSubtract(1, ordering: .sequentiallyConsistent)
      let remover = waiter.pointee.remover
      waiter.pointee.hasLeft.store(true, ordering: .releasing)  // The last touch: the waiter may be gone now.
      if remover != Parking.current.rawValue { Parking.unpark(Parker(rawValue: remover)) }
    }
  }
}
