// The surplus: free blocks of 2 MiB and more for which the host still keeps memory, and how it is given back.
//
// Memory that a program frees it often takes again at once, and a page that the host has taken away costs a hundred times as much as
// one that it has not. So only what was not needed for a while is given back: the allocator notes the least surplus that there was
// (`leastSurplus`), and whoever gives memory back looks at it from time to time, and gives no more than that. While there is
// no surplus nobody looks; the first to notice that there is some wakes them.
import Base
import Synchronization

extension Frames {
  /// log2 of the frames of the smallest block that is worth giving back: 2 MiB.
  public static let surplusOrder = FrameAllocator.surplusOrder

  /// Called by a thread that has made a surplus, once for each `watchSurplus`. May wake threads; holds no lock of ours, perhaps
  /// sleeping locks of others.
  public typealias SurplusHandler = @convention(c) () -> Void

  // SAFETY: the same each time, written before `isWatching` is raised, and read by who has lowered it.
  nonisolated(unsafe) private static var handler: SurplusHandler?
  private static let isWatching = Atomic<Bool>(false)

  /// Frames in the surplus.
  public static var surplus: Int { state?.pointee.allocator.surplusFrames ?? 0 }

  /// From now on the next thread that notices a surplus calls `handler`, the same each time.
  public static func watchSurplus(_ handler: @escaping SurplusHandler) {
    self.handler = handler
    isWatching.store(true, ordering: .sequentiallyConsistent)
  }

  /// To be called by threads, without spin locks, where programs have given memory back.
  @inline(__always) public static func noticeSurplus() {
    guard isWatching.load(ordering: .relaxed), surplus >= 1 << surplusOrder else { return }
    tellSurplus()
  }

  @inline(never) private static func tellSurplus() {
    guard isWatching.exchange(false, ordering: .acquiringAndReleasing), let handler else { return }
    _ = beginSurplusWindow()
    handler()
  }

  /// Begins to note the least surplus anew.
  /// - Returns: what it was since the last call.
  public static func beginSurplusWindow() -> Int {
    guard let state else { return 0 }
    return state.pointee.lock.withLock {
      let least = state.pointee.allocator.leastSurplus
      state.pointee.allocator.leastSurplus = state.pointee.allocator.surplusFrames
      return least
    }
  }

  /// Takes a block out of the surplus, of at most 2^maximumOrder frames and at most half of what is free: whoever needs memory
  /// meanwhile shall find some.
  /// - Returns: its first frame and its order, `surplusOrder` or more; to be given back by `giveSurplusBack`.
  public static func takeSurplus(maximumOrder: Int) -> (frame: PhysicalAddress, order: Int)? {
    guard let state else { return nil }
    return state.pointee.lock.withLock {
      let half = (state.pointee.allocator.freeFrames &- state.pointee.reserve) >> 1
      var order = maximumOrder
      while order >= surplusOrder && 1 << order > half { order &-= 1 }
      guard order >= surplusOrder, let block = state.pointee.allocator.takeSurplus(maximumOrder: order) else {
        return nil
      }
      // Counted as the kernel's until it comes back.
      // SAFETY: a block that the allocator has given has a descriptor, and is ours.
      state.pointee.allocator.descriptor(block.frame).unsafelyUnwrapped.pointee.sizeClass = FrameUse.kernel.rawValue
      state.pointee.used[FrameUse.kernel.rawValue.int] &+= 1 << block.order
      return (PhysicalAddress(block.frame.u64 << frameShift), block.order)
    }
  }

  /// Gives a block of the surplus back.
  /// - Parameter isDiscarded: whether the host has taken its memory, so that it is zero.
  public static func giveSurplusBack(_ frame: PhysicalAddress, order: Int, isDiscarded: Bool) {
    free(frame, order: order, zeroed: isDiscarded)
  }
}

/// Blocks of frames that are set aside for nobody: what is in a balloon. They are not touched. One thread at a time.
public struct FrameStash: ~Copyable {
  /// Largest order of a block.
  public static let maximumOrder = 9
  /// First frames, by order, linked through their descriptors.
  private var heads: InlineArray<10, UInt32> = InlineArray(repeating: 0)
  /// Frames in it.
  public private(set) var frameCount = 0

  /// An empty stash.
  public init() {}

  /// Puts in a block whose only holder the caller is.
  public mutating func push(_ frame: PhysicalAddress, order: Int) {
    guard let state = Frames.state, let record = state.record(frame) else { return }
    record.pointee.next = heads[order]
    heads[order] = frame.frameNumber
    frameCount &+= 1 << order
    state.pointee.stashedFrames.add(1 << order, ordering: .relaxed)
  }

  /// Takes a block out, of at most 2^maximumOrder frames: the largest there is.
  public mutating func pop(maximumOrder: Int) -> (frame: PhysicalAddress, order: Int)? {
    guard let state = Frames.state else { return nil }
    var order = min(maximumOrder, Self.maximumOrder)
    while order >= 0 {
      let frame = heads[order]
      if frame != 0 {
        let address = PhysicalAddress(frame.u64 << frameShift)
        // SAFETY: `push` put in only frames with a record, and nobody else has the frame.
        heads[order] = state.record(address).unsafelyUnwrapped.pointee.next
        frameCount &-= 1 << order
        state.pointee.stashedFrames.subtract(1 << order, ordering: .relaxed)
        return (address, order)
      }
      order &-= 1
    }
    return nil
  }
}
