// RCU without waiting: calls that are made after a grace period, by the work thread, in batches.
//
// The work thread never waits for a grace period: it begins one, lets itself be woken by a timer, and looks again. CPUs mostly
// pass by themselves meanwhile; those that have not are interrupted at the second look, or at once while somebody waits for
// the calls or there are many (`pressing`): so the calls that wait are bounded by what can be left in some tens of
// microseconds. Nothing ticks while there are none.

import Base
import Locks
import Pages
import Platform
import VirtioABI

extension RCU {
  /// What defers: embedded in what is to be freed.
  public typealias Call = DeferredCall<LiveWord>

  /// Calls `function(context)` on the work thread once every reader that is under way now has ended. From any context, also
  /// within such a call. The call must not sleep for long: others wait behind it.
  public static func later(
    _ call: UnsafeMutablePointer<Call>, _ function: @escaping @convention(c) (UnsafeMutableRawPointer?) -> Void,
    _ context: UnsafeMutableRawPointer?
  ) {
    guard let deferring = Deferring.shared else {
      #if HOSTED
        HostedDeferring.leave(call, function, context)
      #else
        function(context)  // There is no second thread yet, and so no reader.
      #endif
      return
    }
    if deferring.pointee.calls.leave(call, function, context) { WorkQueue.submit(deferring.item) }
  }

  /// Returns when all calls that were left before it have been made. Sleeps; not within such a call, nor inside a reader.
  public static func barrier() {
    guard let deferring = Deferring.shared else {
      #if HOSTED
        HostedDeferring.makeCalls()
      #endif
      return
    }
    var waiter = BarrierWaiter(parker: Parking.current)
    withUnsafeMutablePointer(to: &waiter) { waiter in
      _ = deferring.pointee.waiters.add(1)
      // SAFETY: it lies on this stack until the call has been made, which touches it for the last time when it sets `isDone`.
      later(
        withUnsafeMutablePointer(to: &waiter.pointee.call) { $0 },
        {
          let waiter = $0.unsafelyUnwrapped.assumingMemoryBound(to: BarrierWaiter.self)
          let parker = waiter.pointee.parker
          waiter.pointee.isDone.store(1)
          Parking.unpark(parker)
        }, waiter)
      WorkQueue.submit(deferring.item)
      while waiter.pointee.isDone.load() == 0 { _ = Parking.park() }
      _ = deferring.pointee.waiters.add(UInt.max)
    }
  }

  /// How many calls have been left and have not returned. At 0, what those before have given back is there.
  public static var pendingCalls: Int {
    #if HOSTED
      if Deferring.shared == nil { return HostedDeferring.count }
    #endif
    return Deferring.shared?.pointee.calls.count ?? 0
  }
}

/// A thread in `RCU.barrier`: not a semaphore, which its waiter may find raised while `post` still looks for whom to wake.
private struct BarrierWaiter: ~Copyable {
  var call = RCU.Call()
  let isDone = LiveWord(0)
  let parker: Parker

  init(parker: Parker) { self.parker = parker }
}

/// What the work thread keeps for deferred calls.
struct Deferring: ~Copyable {
  let calls = DeferredCallsCore<LiveWord>()
  /// Threads in `barrier`.
  let waiters = LiveWord(0)
  var item: WorkItem
  let timer: TimerEvent
  /// How often this grace period has been looked at.
  var looks: Int = 0

  // SAFETY: set once (`begin`), before there is a work thread and who defers.
  nonisolated(unsafe) private(set) static var shared: UnsafeMutablePointer<Deferring>? = nil

  /// More calls than this are pressing.
  private static var many: Int { 256 }
  /// How soon to look again, ns.
  private static var patience: UInt64 { 1_000_000 }
  private static var pressingPatience: UInt64 { 30_000 }

  /// Called once, by the work queue when it begins.
  /// - Throws: ENOMEM.
  static func begin() throws(Errno) {
    #if HOSTED
      let memory: UnsafeMutableRawPointer? = .allocate(byteCount: MemoryLayout<Deferring>.size, alignment: 64)
    #else
      let memory = KernelHeap.allocate(byteCount: MemoryLayout<Deferring>.size, alignment: 64)
    #endif
    guard let memory else { throw .ENOMEM }
    let timer = try TimerEvent(handler: { _ in Deferring.submit() }, context: nil)
    // SAFETY: fresh memory of that size, never freed.
    let deferring = memory.bindMemory(to: Deferring.self, capacity: 1)
    deferring.initialize(to: Deferring(item: WorkItem(deferringMain, context: nil), timer: timer))
    shared = deferring
  }

  private static func submit() { if let shared { WorkQueue.submit(shared.item) } }

  private var isPressing: Bool { waiters.load() != 0 || calls.count > Self.many }

  /// On the work thread.
  fileprivate mutating func work() {
    let progress = calls.work(begin: { GracePeriodClock.begin() }, isOver: { GracePeriodClock.isOver($0) })
    switch progress {
    case .done: return
    case .begun: looks = 0
    case .waiting: looks &+= 1
    }
    let isPressing = isPressing
    // At the first look after the period began, and not at every one: an interrupt is dear.
    if looks == (isPressing ? 0 : 1) || (isPressing && looks & 15 == 1) { GracePeriodClock.nudge() }
    timer.arm(at: .after(isPressing ? Self.pressingPatience : Self.patience))
  }
}

extension UnsafeMutablePointer<Deferring> {
  // SAFETY: inside a structure that is neither moved nor freed.
  fileprivate var item: UnsafeMutablePointer<WorkItem> { withUnsafeMutablePointer(to: &pointee.item) { $0 } }
}

private func deferringMain(_ argument: UnsafeMutableRawPointer?) { Deferring.shared?.pointee.work() }

/// Grace periods of the running machine, for who does not wait for them.
private enum GracePeriodClock {
  #if GUEST
    // SAFETY: the work thread's alone.
    nonisolated(unsafe) private static var period: GracePeriod?

    static func begin() -> UInt {
      let fresh = GracePeriod()
      period = fresh
      return fresh.number
    }

    static func isOver(_ number: UInt) -> Bool { period?.isOver() ?? true }
    static func nudge() { period?.nudge() }
  #else
    static func begin() -> UInt {
      HostedReaders.wait()
      return 1
    }
    static func isOver(_ number: UInt) -> Bool { true }
    static func nudge() {}
  #endif
}

#if HOSTED
  /// Calls in unit tests without a work thread: made by whoever leaves one when no reader is under way, or by `RCU.barrier`.
  private enum HostedDeferring {
    private static let calls = DeferredCallsCore<LiveWord>()
    private static let worker = Mutex()

    static var count: Int { calls.count }

    static func leave(
      _ call: UnsafeMutablePointer<RCU.Call>, _ function: @escaping @convention(c) (UnsafeMutableRawPointer?) -> Void,
      _ context: UnsafeMutableRawPointer?
    ) {
      _ = calls.leave(call, function, context)
      guard worker.tryLock() else { return }
      defer { worker.unlock() }
      _ = calls.work(begin: { 1 }, isOver: { _ in HostedReaders.areGone })
    }

    static func makeCalls() {
      worker.lock()
      defer { worker.unlock() }
      HostedReaders.wait()
      _ = calls.work(begin: { 1 }) { _ in
        HostedReaders.wait()
        return true
      }
    }
  }
#endif
