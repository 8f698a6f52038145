// Free page reporting: what was surplus for a while goes to the host, until it is used again.
//
// From the first surplus on, the thread looks at it once a window, and reports as much as there was all the time (Frames:
// `beginSurplusWindow`): a program that maps and unmaps the same memory over and over keeps it. Blocks are taken out of the
// allocator while they are reported, a few megabytes at a time, and after each batch the thread sleeps for as long as that took.
// When the surplus is gone nothing is armed.
import Base
import Locks
import Pages
import Platform
import Threads
import VirtioABI

extension BalloonDriver {
  /// How often the surplus is looked at, ns: memory leaves after one to two of these.
  static var window: UInt64 { 200_000_000 }
  /// Most pieces of a report; more would take a table from the heap.
  static var reportLimit: Int { Virtqueue.smallTableCount }
  /// Most frames of a report: 8 MiB, for the host about a millisecond's work, for which this CPU stands still.
  private static var batchLimit: Int { 2048 }

  /// Reports what was surplus all the time since the last look.
  /// - Returns: when to look again.
  func report() -> Deadline {
    let smallest = 1 << Frames.surplusOrder
    var budget = Frames.beginSurplusWindow()
    var isStuck = false
    while budget >= smallest && !function.isDead {
      let start = Clock.now()
      let count = reportBatch(min(budget, Self.batchLimit))
      isStuck = count == 0
      if isStuck { break }
      budget &-= count
      if budget >= smallest { _ = Thread.sleep(until: .after(Clock.now() &- start)) }
    }
    _ = Frames.beginSurplusWindow()
    if Frames.surplus >= smallest && !isStuck { return .after(Self.window) }
    Self.watch()
    // Somebody may have made one before we watched. What cannot be reported now waits for the next who frees something.
    if !isStuck { Frames.noticeSurplus() }
    return .never
  }

  /// Reports blocks of up to so many frames together.
  /// - Returns: how many; 0 if memory is too short to take any out, or the device at fault.
  private func reportBatch(_ limit: Int) -> Int {
    guard let reportingQueue else { return 0 }
    lock.lock()
    defer { lock.unlock() }
    var count = 0
    var frames = 0
    while count < Self.reportLimit && limit &- frames >= 1 << Frames.surplusOrder {
      guard let block = Frames.takeSurplus(maximumOrder: (limit &- frames).uint.log2Floor) else { break }
      (segments + count).initialize(
        to: DeviceSegment(address: LinearMap.pointer(block.frame), count: frameByteCount.int << block.order))
      count &+= 1
      frames &+= 1 << block.order
    }
    guard count > 0 else { return 0 }
    var isDiscarded = true
    do throws(Errno) { _ = try reportingQueue.perform(segments, readable: 0, writable: count) } catch {
      function.stop()
      isDiscarded = false
    }
    for index in 0..<count {
      let order = (segments[index].count.uint >> frameShift.uint).log2Floor
      let frame = LinearMap.physical(of: segments[index].address)
      Frames.giveSurplusBack(frame, order: order, isDiscarded: isDiscarded)
    }
    return isDiscarded ? frames : 0
  }
}
