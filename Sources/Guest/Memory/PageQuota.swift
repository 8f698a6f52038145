// PageQuota: how many pages several memory objects may have together: those of a file system in memory with a size.
import Base
import Locks
import Threads

/// A number of pages, and how many of them are used.
public final class PageQuota: Sendable {
  /// The most there may be; `UInt64.max`: as many as memory has, and nothing is counted.
  public let limit: UInt64
  private let count = Atomic<UInt64>(0)

  /// A quota that nobody has used of yet.
  public init(limit: UInt64) { self.limit = limit }

  /// Pages that are used.
  public var used: UInt64 { count.load(ordering: .relaxed) }

  /// Takes one page; false if there is none left.
  @inline(__always) func take() -> Bool {
    if limit == .max { return true }
    guard count.wrappingAdd(1, ordering: .relaxed).newValue > limit else { return true }
    give(1)
    return false
  }

  /// For who got none: waits for files that have been removed and whose end readers under RCU still put off. May sleep; without locks.
  /// - Returns: whether there is room now.
  @inline(never) func waitForRemoved() -> Bool {
    if RCU.pendingCalls > 0, !WorkQueue.isWorkThread { RCU.barrier() }
    return used < limit
  }

  /// Gives pages back.
  @inline(__always) func give(_ pages: Int) {
    if limit != .max { count.wrappingSubtract(pages.u64, ordering: .relaxed) }
  }
}
