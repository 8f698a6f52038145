// Accounts: how many frames are used for what, exactly, at any moment.
//
// Every frame is in the buddy allocator, in a magazine or a depot, or in use for one of `FrameUse`. Larger blocks are counted under the
// allocator's lock; single frames by each CPU in its own area, whose `changes` is odd while it takes or frees one. A
// snapshot is exact if, with the lock held, no CPU's count of changes has moved: nothing can have been on its way then.
import Base
import Platform
import Synchronization

extension UnsafeMutablePointer where Pointee == FrameState {
  // MARK: Counting blocks, under the lock

  /// A block, counted as used.
  @inline(__always)
  func take(order: Int, _ use: FrameUse) -> (frame: UInt32, isZero: Bool)? {
    guard let block = pointee.allocator.take(order: order) else { return nil }
    pointee.allocator.descriptor(block.frame).unsafelyUnwrapped.pointee.sizeClass = use.rawValue
    pointee.used[use.rawValue.int] &+= 1 << order
    return block
  }

  /// Takes a block back.
  @inline(__always)
  func give(_ frame: UInt32, order: Int, isZero: Bool) {
    let use = pointee.allocator.descriptor(frame)?.pointee.sizeClass.int ?? 0
    pointee.used[use] &-= 1 << order
    pointee.allocator.give(frame, order: order, isZero: isZero)
  }

  // MARK: Changes of a CPU's own area, with interrupts off

  @inline(__always)
  func beginChange(_ local: UnsafeMutablePointer<CPULocal>) {
    let count = local.pointee.changes.load(ordering: .relaxed)
    local.pointee.changes.store(count &+ 1, ordering: .relaxed)
    // Orders what follows behind the store for the compiler; the processor keeps the order of stores.
    atomicMemoryFence(ordering: .acquiringAndReleasing)
  }

  @inline(__always)
  func endChange(_ local: UnsafeMutablePointer<CPULocal>) {
    let count = local.pointee.changes.load(ordering: .relaxed)
    local.pointee.changes.store(count &+ 1, ordering: .releasing)
  }

  // MARK: Looking

  private func local(_ cpu: Int) -> UnsafeMutablePointer<CPULocal> {
    // SAFETY: the areas of all CPUs lie one behind the other, for ever; others' are only read.
    (pointee.locals + cpu &* pointee.localStride).assumingMemoryBound(to: CPULocal.self)
  }

  /// The sum of all counts of changes; nil if some CPU is in the middle of one.
  private func changes() -> UInt? {
    var sum: UInt = 0
    for cpu in 0..<pointee.cpuCount {
      let count = local(cpu).pointee.changes.load(ordering: .acquiring)
      if count & 1 != 0 { return nil }
      sum &+= count
    }
    return sum
  }

  /// Where all frames are. A CPU that the host has stopped in the middle of a change is waited for, a while.
  func account() -> FrameAccount {
    var account = FrameAccount()
    let deadline = Clock.now() &+ 100_000_000
    repeat {
      let before = changes()
      account = pointee.lock.withLock { sum() }
      atomicMemoryFence(ordering: .acquiringAndReleasing)
      account.isExact = before != nil && changes() == before
    } while !account.isExact && Clock.now() < deadline
    return account
  }

  private func sum() -> FrameAccount {
    var account = FrameAccount()
    account.total = pointee.allocator.totalFrames
    account.free = pointee.allocator.freeFrames
    account.inMagazines = pointee.depot.frameCount &+ pointee.zeroed.frameCount
    for use in 0..<FrameUse.count { account.used[use] = pointee.used[use] }
    for cpu in 0..<pointee.cpuCount {
      let local = local(cpu)
      account.inMagazines &+= local.pointee.held
      for use in 0..<FrameUse.count { account.used[use] &+= local.pointee.used[use] }
    }
    return account
  }
}
