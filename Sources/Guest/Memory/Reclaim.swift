// Reclaim: those who keep memory they could do without are asked for it when it runs out. Shrinkers.
import Base
import Locks
import Pages

/// The registered givers of memory.
public enum Reclaim {
  /// Gives back about so many pages and says how many it gave. Called without locks; must not allocate much.
  public typealias Shrinker = @convention(c) (Int) -> Int

  private static let capacity = 8
  nonisolated(unsafe) private static var shrinkers: UnsafeMutablePointer<Shrinker>?
  private static let count = Atomic<Int>(0)

  /// Adds a shrinker; by one thread at a time, eight at most. The page cache and unused kernel stacks need none.
  /// - Returns: false if there are too many, or memory is out.
  public static func register(_ shrinker: @escaping Shrinker) -> Bool {
    if shrinkers == nil {
      // SAFETY: heap memory for `capacity` function pointers; only the first `count`, all initialised, are read.
      shrinkers = KernelHeap.allocate(byteCount: capacity &* MemoryLayout<Shrinker>.stride)?
        .bindMemory(to: Shrinker.self, capacity: capacity)
    }
    let number = count.load(ordering: .relaxed)
    guard let shrinkers, number < capacity else { return false }
    (shrinkers + number).initialize(to: shrinker)
    count.store(number &+ 1, ordering: .releasing)
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
    _ = run(pages: shortage)
    return Frames.hasHalfReserve
  }

  /// Pages in which contents of files are kept that can be read again; a snapshot.
  public static var cachedPages: Int { PageCache.pageCount }

  /// Asks for memory.
  /// - Returns: whether any was given.
  public static func run(pages: Int) -> Bool {
    let before = Frames.statistics.free
    KernelStack.trim()
    var given = PageCache.shrink(pages: pages)
    var index = 0
    while index < count.load(ordering: .acquiring) && given < pages {
      given &+= shrinkers.unsafelyUnwrapped[index](pages &- given)
      index &+= 1
    }
    return given > 0 || Frames.statistics.free > before
  }
}
