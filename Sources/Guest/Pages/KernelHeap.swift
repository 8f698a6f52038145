// The kernel heap: objects by size class from slabs, larger ones from blocks of frames.
//
// All of it lies in the linear map, so heap memory is always present and in the lower half of the address space
// (Swift keeps tags in high pointer bits). Each CPU has a list of free objects per class, used with interrupts
// off; slabs stand behind them under one lock. Objects are carved from a slab only when needed: a slab
// touches its memory as it fills.
import Base
import Platform
import Synchronization

/// A CPU's free objects of one class, linked through their first word.
struct ObjectCache {
  /// Address of the first free object, 0 for none.
  var head: UInt = 0
  /// Objects in the list.
  var count: Int = 0
}

/// The sizes that slabs serve: multiples of 16 up to 128, then two steps a power of two up to 4096.
enum SizeClass {
  static let count = 18
  /// Largest size served by slabs.
  static let maximumSize = 4096

  /// The class of a size, 1 to `maximumSize`.
  @inline(__always)
  static func index(size: Int) -> Int {
    if size <= 128 { return size == 0 ? 0 : (size &- 1) >> 4 }
    let top = 63 &- (size &- 1).leadingZeroBitCount
    let middle = (1 << top) &+ (1 << (top &- 1))
    return 8 &+ ((top &- 7) << 1) &+ (size <= middle ? 0 : 1)
  }

  /// The size of a class's objects.
  @inline(__always)
  static func size(_ index: Int) -> Int {
    if index < 8 { return (index &+ 1) << 4 }
    let top = 7 &+ ((index &- 8) >> 1)
    return (index & 1) == 0 ? (1 << top) &+ (1 << (top &- 1)) : 2 << top
  }

  /// log2 of the frames of a slab: small ones stay in one frame, large ones waste little.
  @inline(__always)
  static func slabOrder(_ index: Int) -> Int { index < 10 ? 0 : (index < 14 ? 2 : 3) }

  /// Objects a CPU keeps before it gives half of them back.
  @inline(__always)
  static func cacheLimit(_ index: Int) -> Int { index < 10 ? 64 : (index < 14 ? 16 : 8) }
}

/// Memory for the kernel's own structures, Swift's objects among them.
public enum KernelHeap {
  /// At least `byteCount` bytes.
  /// - Parameters:
  ///   - byteCount: size wanted; 0 counts as 1.
  ///   - alignment: a power of two up to 4096 for objects, up to the size for whole blocks of frames.
  /// - Returns: memory of undefined content, nil if memory is out.
  public static func allocate(byteCount: Int, alignment: Int = 16) -> UnsafeMutableRawPointer? {
    if let memory = tryAllocate(byteCount: byteCount, alignment: alignment) { return memory }
    // Only where sleeping is allowed; what can be forgotten lies scattered, so a larger block takes more than its size.
    guard let reclaim, Preemption.count == 0, Interrupts.areEnabled else { return nil }
    if reclaim(max(64, byteCount >> 10)), let memory = tryAllocate(byteCount: byteCount, alignment: alignment) {
      return memory
    }
    return reclaim(.max) ? tryAllocate(byteCount: byteCount, alignment: alignment) : nil
  }

  /// At least `byteCount` bytes at once, or none: nobody is asked for memory, and nothing sleeps, whatever the caller may do.
  /// - Parameter use: what for: one that is for programs is refused once only the kernel's reserve is left. The frames that the heap takes
  ///   count as its own all the same.
  /// - Returns: memory of undefined content, aligned to 16; nil if there is none for this use.
  @inline(__always)
  public static func allocateAtOnce(byteCount: Int, use: FrameUse) -> UnsafeMutableRawPointer? {
    guard Frames.allows(use, byteCount: byteCount) else { return nil }
    return tryAllocate(byteCount: byteCount, alignment: 16)
  }

  // SAFETY: a C function pointer, set once at boot.
  /// Asked for so many pages when memory is out, where the caller may sleep; says whether it gave any. It takes no lock that may be
  /// held around an allocation. Installed once, at boot, by the module that has something to give.
  nonisolated(unsafe) public static var reclaim: (@convention(c) (Int) -> Bool)?

  private static func tryAllocate(byteCount: Int, alignment: Int) -> UnsafeMutableRawPointer? {
    guard let state = Frames.state, byteCount >= 0 else { return nil }
    var size = byteCount
    if alignment > 16 {
      // Power-of-two classes are aligned to their size, because slabs are aligned to frames.
      size = max(size, alignment)
      size = size <= 1 ? 1 : 1 << (64 &- (size &- 1).leadingZeroBitCount)
    }
    guard size <= SizeClass.maximumSize else { return allocateFrames(size, byteCount, alignment) }
    let sizeClass = SizeClass.index(size: size)
    let address: UInt = state.withLocal { local in
      if local.pointee.objects[sizeClass].head == 0 { state.refillObjects(local, sizeClass) }
      let head = local.pointee.objects[sizeClass].head
      guard let object = UnsafeMutablePointer<UInt>(bitPattern: head) else { return 0 }
      // SAFETY: a free object's first word is its link, and free objects belong to the heap.
      local.pointee.objects[sizeClass].head = object.pointee
      local.pointee.objects[sizeClass].count &-= 1
      return head
    }
    if let object = UnsafeMutableRawPointer(bitPattern: address) { return object }
    // The lists of a debugging heap are always empty.
    return GuardedHeap.installed?.allocate(byteCount: byteCount, alignment: alignment)
  }

  /// At least `byteCount` zero bytes; otherwise as `allocate`.
  public static func allocateZeroed(byteCount: Int, alignment: Int = 16) -> UnsafeMutableRawPointer? {
    guard let memory = allocate(byteCount: byteCount, alignment: alignment) else { return nil }
    clearMemory(memory, byteCount: byteCount)
    return memory
  }

  /// Gives memory of this heap back.
  public static func free(_ memory: UnsafeMutableRawPointer) {
    guard let state = Frames.state else { return }
    let frame = LinearMap.physical(of: memory)
    guard let record = state.record(frame) else { return freeGuarded(memory) }
    switch record.pointee.kind {
    case FrameKind.allocated:
      Frames.free(frame, order: record.pointee.order.int)
    case FrameKind.slab, FrameKind.slabPart:
      let sizeClass = record.pointee.sizeClass.int
      state.withLocal { local in
        // SAFETY: the object is dead, so its first word may become the link.
        memory.assumingMemoryBound(to: UInt.self).pointee = local.pointee.objects[sizeClass].head
        local.pointee.objects[sizeClass].head = UInt(bitPattern: memory)
        local.pointee.objects[sizeClass].count &+= 1
        if local.pointee.objects[sizeClass].count > SizeClass.cacheLimit(sizeClass) {
          state.drainObjects(local, sizeClass)
        }
      }
    default:
      panic("free of memory that is not allocated")
    }
  }

  /// Gives what this CPU keeps for the next allocations back. For when memory is short.
  public static func trim() { Frames.state?.trimLocal() }

  /// Memory outside the linear map is the debugging heap's, or nobody's.
  @inline(never) private static func freeGuarded(_ memory: UnsafeMutableRawPointer) {
    guard let guarded = GuardedHeap.installed, guarded.owns(memory) else {
      panic("free of memory that is not the heap's")
    }
    if let defect = guarded.free(memory) { panic(guarded.explanation(defect, VirtualAddress(memory))) }
  }

  /// Bytes that may be used at `memory`, at least as many as were asked for.
  public static func usableByteCount(_ memory: UnsafeMutableRawPointer) -> Int {
    guard let state = Frames.state else { return 0 }
    guard let record = state.record(LinearMap.physical(of: memory)) else {
      return GuardedHeap.installed?.byteCount(memory) ?? 0
    }
    if record.pointee.kind == FrameKind.allocated { return 4096 << record.pointee.order.int }
    return SizeClass.size(record.pointee.sizeClass.int)
  }

  private static func allocateFrames(_ size: Int, _ byteCount: Int, _ alignment: Int) -> UnsafeMutableRawPointer? {
    if let guarded = GuardedHeap.installed { return guarded.allocate(byteCount: byteCount, alignment: alignment) }
    let frames = (size &+ 4095) >> 12
    let order = 64 &- (frames &- 1).leadingZeroBitCount
    guard order <= FrameAllocator.maximumOrder, let frame = Frames.allocate(order: order, use: .heap)
    else { return nil }
    return LinearMap.pointer(frame)
  }
}
