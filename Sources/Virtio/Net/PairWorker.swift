// The thread of a queue pair: looks at both queues, and sleeps when there has been nothing for a while.
//
// While it is awake the guest need not notify, and a vCPU that does so all the same goes on at once: before the worker sleeps it asks for
// notifications again and then looks once more. It announces first that it will sleep, so whoever notifies after that finds it asleep: a
// vCPU then serves the transmit queue itself (waking a thread costs more than sending a few frames, and takes longer), and wakes the worker
// for what it does not do. Memory orders: `isAsleep` is stored and loaded sequentially consistent, and `SplitQueue.rearm` has a
// fence between its store and its load.
//
// How long it looks before it sleeps adapts to how long it then has to wait: a wait that it could have looked through makes it longer, a long
// one shorter. It yields between two looks: on a machine with few CPUs whoever is to answer may be waiting for this one.
import CSystemCalls
import Glibc
import Synchronization
import VirtioABI
import VirtioQueue

/// What a worker does for its device.
protocol PairWork: AnyObject, Sendable {
  /// Looks at both queues of the pair once.
  func look(pair: Int) -> PairLook
  /// Asks the guest to notify where that is what the worker will wait for. True if there is something meanwhile, or another driver.
  func arm(pair: Int, for look: PairLook) -> Bool
  /// The descriptor of the pair's backend.
  func descriptor(ofPair pair: Int) -> CInt
  /// Sees to where the calling worker runs.
  func place(pair: Int)
}

/// What came of a look.
struct PairLook {
  /// Whose queues were looked at; nil: there is no driver, or it does not use the pair.
  var session: Session?
  /// Whether it found anything.
  var hasWorked = false
  /// Whether frames from the backend can be taken: the descriptor is to be watched for input.
  var wantsInput = false
  /// Whether the backend has no room: the descriptor is to be watched for that.
  var wantsRoom = false
  /// Whether there is nothing to be sent. If there is, but it has to wait, news of more are not wanted.
  var isDrained = true
  /// Whether frames of the guest wait for more: look again soon.
  var isHolding = false
  /// Whether the guest has given too few buffers.
  var isStarved = false
  /// Look again after so many nanoseconds at the latest; 0 for no such time.
  var retryAfter: UInt64 = 0
}

// SAFETY: atomics and a descriptor that never changes; `work` is set before the thread starts.
/// A pair's thread.
final class PairWorker: @unchecked Sendable {
  /// How long it looks before it sleeps, in nanoseconds, at most and at least.
  static let patiences: ClosedRange<UInt64> = 5_000...50_000

  /// So many looks, some microseconds each, lie between two times that it sees to where it runs.
  private static let looksBetweenPlacing: UInt = 64

  /// How long to look before the next sleep, after a wait of that many nanoseconds from the first look in vain to the next work: twice as long
  /// if so short a wait is worth being looked through, else half as long. If the guest has notified meanwhile, that was sooner (what it sends
  /// while the worker sleeps is sent at once, but that costs it an exit), so the wait counts as shorter.
  static func patience(_ old: UInt64, after waited: UInt64, wasNotified: Bool) -> UInt64 {
    let limit = patiences.upperBound * (wasNotified ? 4 : 2)
    return waited <= limit ? min(patiences.upperBound, old * 2) : max(patiences.lowerBound, old / 2)
  }

  let pair: Int
  /// What wakes it: an eventfd, which KVM may signal too.
  let event: CInt
  /// Times that it went to sleep.
  let sleeps = Atomic<UInt64>(0)
  /// Times that the guest has notified the pair's transmit queue by an exit.
  let kicks = Atomic<Int>(0)
  private let asleep = Atomic<Bool>(false)
  private let hasStarted = Atomic<Bool>(false)
  private let isStopped = Atomic<Bool>(false)
  private weak var work: (any PairWork)?

  /// A worker without a thread. Nil if the host gives no event descriptor.
  init?(pair: Int) {
    event = osv_eventfd()
    guard event >= 0 else { return nil }
    self.pair = pair
  }

  deinit { close(event) }

  /// Starts the thread, unless it was started before.
  func start(_ work: any PairWork, by startThread: (@escaping @Sendable () -> Void) -> Void) {
    guard !hasStarted.exchange(true, ordering: .acquiringAndReleasing) else { return wake() }
    self.work = work
    startThread { self.run() }
  }

  /// Whether it sleeps, or is about to and will look no more.
  var isAsleep: Bool { asleep.load(ordering: .sequentiallyConsistent) }

  /// Makes it look.
  func wake() {
    var one: UInt64 = 1
    _ = write(event, &one, 8)
  }

  /// Ends the thread soon.
  func stop() {
    isStopped.store(true, ordering: .releasing)
    wake()
  }

  private func run() {
    var patience = Self.patiences.upperBound
    var idleSince: UInt64 = 0
    var kicksBefore = 0
    var looks: UInt = 0
    while !isStopped.load(ordering: .acquiring) {
      guard let work else { return }
      let look = work.look(pair: pair)
      looks &+= 1
      if looks % Self.looksBetweenPlacing == 0 { work.place(pair: pair) }
      if look.hasWorked {
        if idleSince != 0 {
          patience = Self.patience(
            patience, after: MonotonicClock.now &- idleSince, wasNotified: kicks.load(ordering: .relaxed) != kicksBefore
          )
        }
        idleSince = 0
        continue
      }
      if look.isHolding {
        sched_yield()
        continue
      }
      if !look.wantsRoom, look.retryAfter == 0 {
        let now = MonotonicClock.now
        if idleSince == 0 {
          idleSince = now
          kicksBefore = kicks.load(ordering: .relaxed)
        }
        if now &- idleSince < patience {
          sched_yield()
          continue
        }
      }
      sleep(work, look)
    }
  }

  private func sleep(_ work: any PairWork, _ look: PairLook) {
    asleep.store(true, ordering: .sequentiallyConsistent)
    if !work.arm(pair: pair, for: look) {
      let events = (look.wantsInput ? POLLIN : 0) | (look.wantsRoom ? POLLOUT : 0)
      var waits = (
        pollfd(fd: event, events: Int16(POLLIN), revents: 0),
        pollfd(fd: events == 0 ? -1 : work.descriptor(ofPair: pair), events: Int16(events), revents: 0)
      )
      var limit = timespec(
        tv_sec: Int(look.retryAfter / 1_000_000_000), tv_nsec: Int(look.retryAfter % 1_000_000_000))
      sleeps.add(1, ordering: .relaxed)
      // SAFETY: a tuple of two is laid out as an array of two.
      withUnsafeMutablePointer(to: &waits) { pair in
        pair.withMemoryRebound(to: pollfd.self, capacity: 2) { first in
          withUnsafePointer(to: &limit) { _ = osv_ppoll(first, 2, look.retryAfter == 0 ? nil : $0) }
        }
      }
      if waits.0.revents != 0 {
        var count: UInt64 = 0
        _ = read(event, &count, 8)
      }
    }
    asleep.store(false, ordering: .sequentiallyConsistent)
  }
}
