// Reclaim: those who keep memory they could do without are asked for it when it runs short. Shrinkers.
//
// Levels, by free frames (`FrameState`): below the low mark the work thread begins to give back, until the high mark is reached;
// at the reserve programs get none, and who wants some gives back for himself (`run`) or fails. The page cache gives
// first, then unused stacks, then the shrinkers in the order in which they were added.
//
// What a shrinker gives, and what programs have just given up (a file that they have removed), may be freed only when no reader sees it any
// more (`RCU.later`). Who may wait, and still lacks memory, waits for that: those calls take none of the locks that it may hold, for an
// object ends with its own locks and those that come last (PageCache, a file system's list of what it owes). The work thread, which
// makes those calls itself, goes back to do so before it asks for more.
//
// While osv-run has RAM to add (its slots behind the first), nobody is asked and nobody refused: who lacks memory waits for that.
//
// A shrinker may allocate a little, and so come back to `run`: shrinkers do not run inside one another.
import Base
import Locks
import Pages
import Platform
import Synchronization
import Threads

/// The registered givers of memory.
public enum Reclaim {
  /// Gives back about so many pages and says how many it gave. Called without locks; must not allocate much.
  public typealias Shrinker = @convention(c) (Int) -> Int

  private static let capacity = 8
  // SAFETY: set by the first `register`, which come one after the other, and read only where `count`, stored after it, is
  // above 0.
  nonisolated(unsafe) private static var shrinkers: UnsafeMutablePointer<Shrinker>?
  private static let count = Atomic<Int>(0)
  /// Those that are asked only by who holds no lock, a bit each.
  private static let reluctant = Atomic<UInt>(0)
  private static let shrinkersLock = Mutex()

  /// Adds a shrinker; by one thread at a time, eight at most. The page cache and unused kernel stacks need none.
  /// - Parameters:
  ///   - needsNoLocks: it is asked only by who holds no lock at all.
  /// - Returns: false if there are too many, or memory is out.
  public static func register(needsNoLocks: Bool = false, _ shrinker: @escaping Shrinker) -> Bool {
    if shrinkers == nil {
      // SAFETY: heap memory for `capacity` function pointers; only the first `count`, all initialised, are read.
      shrinkers = KernelHeap.allocate(byteCount: capacity &* MemoryLayout<Shrinker>.stride)?
        .bindMemory(to: Shrinker.self, capacity: capacity)
    }
    let index = count.load(ordering: .relaxed)
    guard let shrinkers, index < capacity else { return false }
    (shrinkers + index).initialize(to: shrinker)
    if needsNoLocks { reluctant.bitwiseOr(1 << index.uint, ordering: .relaxed) }
    count.store(index &+ 1, ordering: .releasing)
    return true
  }

  /// Sees to it that there is memory for kernel objects, whose allocation cannot fail gracefully: called before the work
  /// of a system call, without locks.
  /// - Returns: whether at least half of the reserve is there; without it nothing that makes objects may be begun.
  @inline(__always) public static func keepReserve() -> Bool {
    Frames.reserveShortage == 0 || refillReserve()
  }

  @inline(never) private static func refillReserve() -> Bool {
    let shortage = Frames.reserveShortage
    _ = run(pages: shortage, .noLocks)
    return Frames.hasHalfReserve
  }

  /// Pages in which contents of files are kept that can be read again; a snapshot.
  public static var cachedPages: Int { PageCache.pageCount }

  /// Asks the shrinkers that may be asked.
  private static func ask(_ given: inout Int, _ wasBusy: inout Bool, _ pages: Int, _ caller: Caller) {
    guard shrinkersLock.tryLock() else { return wasBusy = true }
    defer { shrinkersLock.unlock() }
    let all = count.load(ordering: .acquiring)
    var index = 0
    while index < all && given < pages {
      if caller == .noLocks || reluctant.load(ordering: .relaxed) >> index.uint & 1 == 0 {
        given &+= shrinkers.unsafelyUnwrapped[index](pages &- given)
      }
      index &+= 1
    }
  }

  /// What the caller holds, and so what may be done for it.
  public enum Caller: Sendable {
    /// Perhaps locks of memory objects and address spaces: nothing is waited for.
    case anyLocks
    /// At most locks that are held over a request to a device; what has been deferred is waited for.
    case requestLocks
    /// None.
    case noLocks
  }

  /// Asks for memory.
  /// - Parameters:
  ///   - pages: how many are wanted.
  ///   - caller: what the caller holds.
  /// - Returns: whether any was given, or may be there by now.
  public static func run(pages: Int, _ caller: Caller) -> Bool {
    if caller != .anyLocks && waitForNewMemory() { return true }
    let before = Frames.statistics.free
    var (given, wasBusy) = PageCache.shrink(pages: pages)
    if given < pages {
      #if GUEST
        Thread.trimStacks()
      #endif
      KernelStack.trim()
    }
    if given < pages { ask(&given, &wasBusy, pages, caller) }
    if given < pages { KernelHeap.trim() }
    waitForDeferred(caller, wanting: pages, since: before)
    if given > 0 || Frames.statistics.free > before { return true }
    guard wasBusy && caller != .anyLocks else { return false }
    // Its holder is about to be done with it.
    #if GUEST
      _ = Thread.sleep(until: .after(100_000))
    #endif
    return true
  }

  /// Returns when osv-run has added some of the RAM that it still owes; it waits for nobody in the guest. A busy host can take seconds.
  /// - Returns: whether there was any to wait for.
  private static func waitForNewMemory() -> Bool {
    guard Frames.awaitsMemory else { return false }
    #if GUEST
      let present = Boot.presentMemoryByteCount
      while Boot.presentMemoryByteCount == present && Frames.awaitsMemory { _ = Thread.sleep(until: .after(500_000)) }
    #endif
    Frames.adoptNewMemory()
    return true
  }

  /// Returns when memory that was given behind a grace period has come back, unless so many pages have come without it or the caller
  /// may not wait.
  /// - Parameter before: how many were free before anybody was asked.
  static func waitForDeferred(_ caller: Caller, wanting pages: Int, since before: Int) {
    guard caller != .anyLocks, Frames.statistics.free &- before < pages, RCU.pendingCalls > 0, !WorkQueue.isWorkThread
    else { return }
    RCU.barrier()
    KernelHeap.trim()
  }

  #if GUEST
    // SAFETY: initialised before anybody can submit it; afterwards only handed to the work queue.
    nonisolated(unsafe) private static var work: UnsafeMutablePointer<WorkItem>! = nil
    /// Until when nobody is woken: there was nothing to give.
    private static let quietUntil = Atomic<UInt64>(0)

    /// Has the work thread give memory back in good time. At boot, when there are threads.
    /// - Throws: ENOMEM.
    public static func begin() throws(Errno) {
      guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<WorkItem>.stride) else { throw .ENOMEM }
      // SAFETY: fresh heap memory of the right size, never freed.
      work = memory.bindMemory(to: WorkItem.self, capacity: 1)
      work.initialize(to: WorkItem({ _ in Reclaim.giveInAdvance() }, context: nil))
      Frames.wakeReclaimer = {
        if Clock.now() >= Reclaim.quietUntil.load(ordering: .relaxed) { WorkQueue.submit(Reclaim.work) }
      }
    }

    private static func giveInAdvance() {
      // Signals come by this thread too: it does not wait.
      if Frames.awaitsMemory { return }
      // Some of what is given comes back only when this thread has made the calls that are pending, so no more is asked for
      // than is short now. If it was not enough, this is woken again.
      var left = Frames.shortage
      var isGiven = true
      while isGiven, left > 0, Frames.shortage > 0 {
        let pages = min(left, 64)
        isGiven = run(pages: pages, .noLocks)
        left &-= pages
      }
      if !isGiven { quietUntil.store(Clock.now() &+ 20_000_000, ordering: .relaxed) }
    }
  #endif
}
