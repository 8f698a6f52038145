// The allocator's own memory: one structure at the start of RAM, and a small area for each CPU behind it.
import Base
import Platform
import Synchronization

/// What one CPU keeps for itself; used with interrupts off. All zero is a valid, empty area.
struct CPULocal: ~Copyable {
  /// Frames a magazine can hold.
  static let magazineCapacity = 64
  /// Frames moved at once between a magazine and what is behind it.
  static let magazineBatch = FrameDepot.batch

  /// Even while nothing below changes: whoever changes the magazine raises it before and after, so that `account` can tell.
  let changes = Atomic<UInt>(0)
  /// Single frames in use, by `FrameUse`: taken here less freed here.
  var used: InlineArray<8, Int> = InlineArray(repeating: 0)
  /// Frames in the magazine, `frames[0..<frameCount]`.
  var frameCount: Int = 0
  /// Frame numbers, with `FrameState.zeroBit` if the frame is zero.
  var frames: InlineArray<64, UInt32> = InlineArray(repeating: 0)
  /// The same for zeroed frames from the stock (ZeroedFrames), for those who ask for zero.
  var zeroedCount: Int = 0
  var zeroedFrames: InlineArray<32, UInt32> = InlineArray(repeating: 0)
  /// What the idle thread is clearing.
  var zeroing = ZeroingBatch()
  /// Free objects of the kernel heap, by size class.
  var objects: InlineArray<18, ObjectCache> = InlineArray(repeating: ObjectCache())

  init() {}

  /// Free frames that this CPU has.
  var held: Int { frameCount &+ zeroedCount &+ (zeroing.node == 0 ? 0 : FrameDepot.batch) }
}

/// The state of `Frames` and of the kernel heap.
struct FrameState: ~Copyable {
  /// Marks a frame number whose frame is zero.
  static let zeroBit: UInt32 = 1 << 31

  /// Guards the addresses of kernel mappings and the lists of stacks.
  let mappingLock = SpinLock()
  /// Guards `allocator`.
  let lock = SpinLock()
  /// Guards the slabs of the kernel heap. Taken before `lock`, never the other way round.
  let heapLock = SpinLock()
  var allocator: FrameAllocator
  /// Batches of frames, of zeroed frames and of heap objects between the CPUs' magazines.
  let depot: FrameDepot
  let zeroed: FrameDepot
  let objects: ObjectDepot
  /// Frames of larger blocks and of slabs in use, by `FrameUse`; under `lock`.
  var used: InlineArray<8, Int> = InlineArray(repeating: 0)
  /// Slabs with free objects, by size class: frame number of the first one.
  var partialSlabs: InlineArray<18, UInt32> = InlineArray(repeating: 0)
  /// Bytes of RAM that the allocator has been told of.
  let knownByteCount = Atomic<UInt64>(0)
  /// Frames that only the kernel may use: programs fail, or reclaim for themselves, when no more are left.
  var reserve = 0
  /// Frames in stashes: allocated, and of use to nobody.
  let stashedFrames = Atomic<Int>(0)
  /// Fewer free frames wake the reclaimer, who goes on until there are `highMark`.
  var lowMark = 0
  var highMark = 0
  /// Whether free frames hold poison (`FramePoison`).
  var checksFrames = false
  /// The areas of the CPUs.
  var locals = UnsafeMutableRawPointer(bitPattern: 1).unsafelyUnwrapped
  var localStride = 0
  var cpuCount = 0
  #if HOSTED
    /// On the host any thread may play the one CPU.
    let localLock = SpinLock()
  #endif

  /// - Parameter memory: zero bytes for the depots, as many as `depotByteCount` says.
  init(cpuCount: Int, depotMemory memory: UnsafeMutableRawPointer, isFreshZero: Bool) {
    allocator = FrameAllocator(isFreshZero: isFreshZero)
    let capacity = Self.depotCapacity(cpuCount)
    depot = FrameDepot(capacity: capacity, memory: memory)
    let second = memory + FrameDepot.byteCount(capacity: capacity)
    zeroed = FrameDepot(capacity: Self.zeroedCapacity, memory: second)
    objects = ObjectDepot(
      capacity: Self.objectCapacity(cpuCount), mostOfClass: capacity.int,
      memory: second + FrameDepot.byteCount(capacity: Self.zeroedCapacity))
  }

  /// Batches in depots: a few for each CPU, because what lies there is not joined to larger blocks.
  private static func depotCapacity(_ cpuCount: Int) -> UInt32 { (2 &+ 2 &* cpuCount).u32 }
  private static func objectCapacity(_ cpuCount: Int) -> UInt32 { 8 &* depotCapacity(cpuCount) }
  private static func depotByteCount(_ cpuCount: Int) -> Int {
    FrameDepot.byteCount(capacity: depotCapacity(cpuCount)) &+ FrameDepot.byteCount(capacity: zeroedCapacity)
      &+ ObjectDepot.byteCount(capacity: objectCapacity(cpuCount))
  }

  /// Sets the allocator up on a piece of RAM, at whose start its own structures go.
  static func make(
    start: PhysicalAddress, end: PhysicalAddress, cpuCount: Int, isFreshZero: Bool = true
  ) -> UnsafeMutablePointer<FrameState> {
    var first = start.alignedUp()
    // SAFETY: the frames taken here lie at the start of memory that nobody else knows of yet.
    let state = LinearMap.pointer(first).bindMemory(to: FrameState.self, capacity: 1)
    let stateBytes = (MemoryLayout<FrameState>.stride &+ 63) & ~63
    let depotBytes = (depotByteCount(cpuCount) &+ 63) & ~63
    let localBytes = (MemoryLayout<CPULocal>.stride &+ 63) & ~63
    let depotMemory = UnsafeMutableRawPointer(state) + (stateBytes &+ localBytes &* cpuCount)
    if !isFreshZero {
      clearMemory(LinearMap.pointer(first), byteCount: stateBytes &+ localBytes &* cpuCount &+ depotBytes)
    }
    state.initialize(to: FrameState(cpuCount: cpuCount, depotMemory: depotMemory, isFreshZero: isFreshZero))
    state.pointee.locals = UnsafeMutableRawPointer(state) + stateBytes
    state.pointee.localStride = localBytes
    state.pointee.cpuCount = cpuCount
    // The CPUs' areas and the depots are zero already, and zero is empty: do not touch their pages.
    first = (first + (stateBytes &+ localBytes &* cpuCount &+ depotBytes)).alignedUp()
    // What the monitor has prepared gets a range of its own, with a table there as well, and is used first.
    let early = earlyEnd(first: first.frameNumber)
    if early &+ leastRest < end.frameNumber, state.pointee.allocator.add(first: first.frameNumber, end: early) {
      first = PhysicalAddress(early.u64 << frameShift)
    }
    _ = state.pointee.allocator.add(first: first.frameNumber, end: end.frameNumber)
    state.setReserve()
    return state
  }

  /// Frames behind the first range below which there is one range only.
  private static let leastRest: UInt32 = 2048

  /// Where the first range ends: behind the first whole chunk of the allocator's.
  private static func earlyEnd(first: UInt32) -> UInt32 {
    let chunk: UInt32 = 1 << FrameAllocator.chunkOrder.u32
    return (first &+ 2 &* chunk) & ~(chunk &- 1)
  }
}

extension UnsafeMutablePointer where Pointee == CPULocal {
  // SAFETY: the area does not move, and only its CPU uses these, with interrupts off.
  @inline(__always) func withFrames<Result>(_ body: (UnsafeMutablePointer<UInt32>) -> Result) -> Result {
    withUnsafeMutablePointer(to: &pointee.frames) {
      body(UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt32.self))
    }
  }
  @inline(__always) func withZeroedFrames<Result>(_ body: (UnsafeMutablePointer<UInt32>) -> Result) -> Result {
    withUnsafeMutablePointer(to: &pointee.zeroedFrames) {
      body(UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt32.self))
    }
  }
}

// The state is used through a pointer only: closures under a lock may then change what the lock guards.
extension UnsafeMutablePointer where Pointee == FrameState {
  /// Keeps 1/64 of memory, 256 frames to 4096, for the kernel; of very small memories 1/8.
  func setReserve() {
    let total = pointee.allocator.totalFrames
    pointee.reserve = min(max(total >> 6, min(256, total >> 3)), 4096)
    pointee.lowMark = pointee.reserve &+ pointee.reserve >> 1
    pointee.highMark = pointee.reserve &* 2
  }

  /// The descriptor of the frame that an address lies in, nil if it is not RAM of the allocator.
  @inline(__always)
  func record(_ address: PhysicalAddress) -> UnsafeMutablePointer<FrameDescriptor>? {
    guard address.rawValue >> 43 == 0 else { return nil }
    return pointee.allocator.descriptor(address.frameNumber)
  }

  /// Runs `body` on the area of this CPU with interrupts off.
  @inline(__always)
  func withLocal<Result>(_ body: (UnsafeMutablePointer<CPULocal>) -> Result) -> Result {
    #if HOSTED
      return pointee.localLock.withLock { body(pointee.locals.assumingMemoryBound(to: CPULocal.self)) }
    #else
      let interrupts = Interrupts.disable()
      defer { Interrupts.restore(interrupts) }
      // SAFETY: each CPU uses its own area only, and nothing else runs on it now.
      return body((pointee.locals + CPU.current &* pointee.localStride).assumingMemoryBound(to: CPULocal.self))
    #endif
  }

  /// Free frames, those in magazines and depots included (approximate while other CPUs work).
  var freeCount: Int {
    var count = sharedCount
    for cpu in 0..<pointee.cpuCount {
      count &+= (pointee.locals + cpu &* pointee.localStride).assumingMemoryBound(to: CPULocal.self).pointee.held
    }
    return count
  }

  /// Free frames that any CPU may have.
  @inline(__always) var sharedCount: Int {
    pointee.allocator.freeFrames &+ pointee.depot.frameCount &+ pointee.zeroed.frameCount
  }

  /// Free frames as the reserve counts them: those in magazines serve one CPU each, so they make up half of it at most.
  var availableCount: Int {
    let free = sharedCount
    return free &+ min(freeCount &- free, pointee.reserve &>> 1)
  }

  /// One frame with one reference, from the magazine.
  /// - Parameter zeroed: a zero one rather than another.
  /// - Returns: its number and possibly `zeroBit`; 0 if memory is out.
  func popFrame(_ use: FrameUse, zeroed: Bool = false) -> UInt32 {
    let entry: UInt32 = withLocal { local in
      beginChange(local)
      defer { endChange(local) }
      if zeroed, let entry = popZeroed(local) {
        local.pointee.used[use.rawValue.int] &+= 1
        return entry
      }
      if local.pointee.frameCount == 0 { refill(local) }
      let count = local.pointee.frameCount
      guard count > 0 else { return 0 }
      local.pointee.frameCount = count &- 1
      local.pointee.used[use.rawValue.int] &+= 1
      return local.pointee.frames[count &- 1]
    }
    guard entry != 0 else { return 0 }
    let record = pointee.allocator.descriptor(entry & ~FrameState.zeroBit).unsafelyUnwrapped
    record.pointee.kind = FrameKind.allocated
    record.pointee.order = 0
    record.pointee.sizeClass = use.rawValue
    record.pointee.references.store(1, ordering: .relaxed)
    return entry
  }

  /// Gives one frame back to the magazine.
  func pushFrame(_ frame: UInt32, isZero: Bool) {
    let use = pointee.allocator.descriptor(frame)?.pointee.sizeClass.int ?? 0
    withLocal { local in
      beginChange(local)
      defer { endChange(local) }
      local.pointee.used[use] &-= 1
      if local.pointee.frameCount == CPULocal.magazineCapacity { drain(local) }
      local.pointee.frames[local.pointee.frameCount] = frame | (isZero ? FrameState.zeroBit : 0)
      local.pointee.frameCount &+= 1
    }
  }

  /// A zeroed frame from the stock, unless the magazine would give a zero one as well.
  @inline(__always)
  private func popZeroed(_ local: UnsafeMutablePointer<CPULocal>) -> UInt32? {
    let count = local.pointee.frameCount
    if count > 0 && local.pointee.frames[count &- 1] & FrameState.zeroBit != 0 { return nil }
    if local.pointee.zeroedCount == 0 {
      if pointee.zeroed.isEmpty { return nil }
      refillZeroed(local)
      if local.pointee.zeroedCount == 0 { return nil }
    }
    local.pointee.zeroedCount &-= 1
    return local.pointee.zeroedFrames[local.pointee.zeroedCount]
  }

  private func refillZeroed(_ local: UnsafeMutablePointer<CPULocal>) {
    if local.withZeroedFrames({ pointee.zeroed.take(into: $0) }) { local.pointee.zeroedCount = FrameDepot.batch }
  }

  /// Half a magazine for an empty one: from the depot, from the buddy allocator, or, if that has nothing, from the stock of zeroed frames.
  fileprivate func refill(_ local: UnsafeMutablePointer<CPULocal>) {
    if local.withFrames({ pointee.depot.take(into: $0) }) {
      local.pointee.frameCount = FrameDepot.batch
      return
    }
    refillFromLists(local)
    if local.pointee.frameCount > 0 { return }
    if local.pointee.zeroedCount == 0 { refillZeroed(local) }
    let count = local.pointee.zeroedCount
    for index in 0..<count { local.pointee.frames[index] = local.pointee.zeroedFrames[index] }
    local.pointee.frameCount = count
    local.pointee.zeroedCount = 0
  }

  /// From the buddy allocator: contiguous if possible, lowest address on top.
  private func refillFromLists(_ local: UnsafeMutablePointer<CPULocal>) {
    pointee.lock.withLock {
      var order = 5
      while order >= 0 {
        if let block = pointee.allocator.take(order: order) {
          let mark = block.isZero ? FrameState.zeroBit : 0
          var index: UInt32 = 0
          let frames: UInt32 = 1 << order.u32
          while index < frames {
            local.pointee.frames[index.int] = (block.frame &+ (frames &- 1 &- index)) | mark
            index &+= 1
          }
          // The head's record says that a block of 2^order is allocated; from here on it is single frames.
          pointee.allocator.descriptor(block.frame).unsafelyUnwrapped.pointee.order = 0
          local.pointee.frameCount = frames.int
          return
        }
        order &-= 1
      }
    }
  }

  /// A CPU's whole magazine, and all that is in the depots, back to the buddy allocator.
  func drainAll(_ local: UnsafeMutablePointer<CPULocal>) {
    local.withFrames { give($0, local.pointee.frameCount) }
    local.pointee.frameCount = 0
    local.withZeroedFrames { give($0, local.pointee.zeroedCount) }
    local.pointee.zeroedCount = 0
    drainDepots()
  }

  /// What is in the depots, `limit` batches at most, back to the buddy allocator; within a change of the CPU's area.
  private func drainDepots(_ limit: Int = .max) {
    var left = limit
    empty(pointee.depot, &left)
    empty(pointee.zeroed, &left)
  }

  /// The batches of a depot, `left` at most, back to the buddy allocator.
  private func empty(_ depot: borrowing FrameDepot, _ left: inout Int) {
    while left > 0, let node = depot.take() {
      give(depot.entries(of: node), FrameDepot.batch)
      depot.nodes.give(node)
      left &-= 1
    }
  }

  private func give(_ entries: UnsafeMutablePointer<UInt32>, _ count: Int) {
    pointee.lock.withLock {
      for index in 0..<count {
        let entry = entries[index]
        pointee.allocator.give(entry & ~FrameState.zeroBit, order: 0, isZero: entry & FrameState.zeroBit != 0)
      }
    }
  }

  /// A block of several frames, counted as used. What is in the depots may join to one. `local`: this CPU's area, for those who have it.
  func takeBlock(
    order: Int, _ use: FrameUse, _ local: UnsafeMutablePointer<CPULocal>? = nil
  ) -> (frame: UInt32, isZero: Bool)? {
    while true {
      if let block = pointee.lock.withLock({ take(order: order, use) }) { return block }
      guard !pointee.depot.isEmpty || !pointee.zeroed.isEmpty else { return nil }
      // A few batches with interrupts off, and another look.
      if let local { drainDepots(local) } else { withLocal { drainDepots($0) } }
    }
  }

  private func drainDepots(_ local: UnsafeMutablePointer<CPULocal>) {
    beginChange(local)
    drainDepots(4)
    endChange(local)
  }

  /// The older half of a full magazine, to the depot or, if there is no room, back to the buddy allocator.
  fileprivate func drain(_ local: UnsafeMutablePointer<CPULocal>) {
    local.withFrames { frames in
      if !pointee.depot.put(copying: frames) { give(frames, CPULocal.magazineBatch) }
      frames.update(from: frames + CPULocal.magazineBatch, count: CPULocal.magazineBatch)
    }
    local.pointee.frameCount = CPULocal.magazineBatch
  }
}
