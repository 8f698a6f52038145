// Serving the queues: notifications from any thread, one server at a time.
import Synchronization
import VirtioQueue

// SAFETY: `queue`, and what is in it, is touched with `lock`; the rest is atomic.
/// A queue's place in the function: empty unless the driver is there.
final class QueueSlot: @unchecked Sendable {
  /// Notifications that nobody has answered yet.
  let notifications = Atomic<Int>(0)
  private let lock = Mutex(())
  // Guarded by `lock`.
  private var queue: SplitQueue?

  /// Puts a queue in, or takes it out; waits for whoever serves it.
  func install(_ queue: SplitQueue?) { lock.withLock { _ in self.queue = queue } }

  /// What a look at the queue found.
  struct Outcome {
    var wantsInterrupt = false
    var isFaulty = false
  }

  func use(_ body: (SplitQueue) -> Void) -> Outcome {
    lock.withLock { _ in
      guard let queue, queue.fault == nil else { return Outcome() }
      body(queue)
      return Outcome(wantsInterrupt: queue.takeInterrupt(), isFaulty: queue.fault != nil)
    }
  }
}

extension PCIFunction {
  /// The guest has notified a queue: serves it on this thread, unless another thread is at it, which will then look again, or the
  /// device has threads of its own for it.
  public func notify(queue index: Int) {
    guard index < queues.count, !device.isServedElsewhere(queue: index) else { return }
    let slot = queues[index]
    guard slot.notifications.add(1, ordering: .acquiringAndReleasing).oldValue == 0 else { return }
    var answered = 1
    while true {
      use(index) { device.serve(queue: index, $0) }
      let before = slot.notifications.subtract(answered, ordering: .acquiringAndReleasing).oldValue
      if before == answered { return }
      answered = before - answered
    }
  }

  /// See `VirtioDeviceHost`.
  public func withQueue(_ index: Int, _ body: (SplitQueue) -> Void) { use(index, body) }

  private func use(_ index: Int, _ body: (SplitQueue) -> Void) {
    let outcome = queues[index].use(body)
    if outcome.isFaulty { breakDevice() }
    if outcome.wantsInterrupt { vectors.raise(index) }
  }

  /// See `VirtioDeviceHost`.
  public func configurationChanged() {
    generation.add(1, ordering: .releasing)
    vectors.raise(queues.count)
  }

  /// The guest broke the rules: DEVICE_NEEDS_RESET, and the guest is told so.
  func breakDevice() {
    if !isBroken.exchange(true, ordering: .acquiringAndReleasing) { vectors.raise(queues.count) }
  }
}
