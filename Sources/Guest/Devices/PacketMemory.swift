// PacketMemory: reference-counted memory in which the bytes of packets lie, within reach of devices.
//
// A block begins with a header of 16 bytes: who refers to it, how large it is, where it came from. Small blocks are objects of the kernel
// heap, a page's worth is a frame of the CPU's magazine, more are a block of frames: each is given back to where the CPU that
// lets it go takes its next one from. Nothing here sleeps, or asks anybody for memory, so it may be called with preemption off. Packets
// are refused memory like programs (`FrameUse.packet`), objects of the heap too: who floods the network cannot use up the kernel's reserve.
//
// Orders: a reference more is taken by who has one (relaxed); the last to let go sees what all others wrote (acquire and release).
import Base
import Pages
import Platform

// SAFETY: a value is the address of a block, kept by the reference that the value stands for; in the block's header only an atomic changes.
/// Memory for bytes of packets, contiguous for devices. A value of this type is one reference, counted by hand.
public struct PacketMemory: BitwiseCopyable, Equatable, @unchecked Sendable {
  struct Header: ~Copyable {
    let references: Atomic<UInt32>
    /// Bytes behind the header.
    let capacity: UInt32
    /// log2 of its frames; `heapOrder` for an object of the heap.
    let order: UInt32
    let reserved: UInt32 = 0
  }

  private static var heapOrder: UInt32 { .max }
  /// Bytes of the header.
  static var headerByteCount: Int { 16 }
  /// The largest object taken from the heap, header included.
  private static var heapLimit: Int { 2048 }
  /// The largest block: 64 KiB, and room for headers in front.
  public static var maximumCapacity: Int { 65_536 &+ 512 }
  /// What fits into one frame: the size for buffers that devices fill.
  public static var pageCapacity: Int { 4096 &- headerByteCount }

  // SAFETY: the address of a header that `allocate` wrote, kept by the reference that this value is.
  let start: UnsafeMutableRawPointer

  @inline(__always) private var header: UnsafeMutablePointer<Header> { start.assumingMemoryBound(to: Header.self) }

  /// The memory whose reference was kept as this address.
  @inline(__always) init(start: UnsafeMutableRawPointer) { self.start = start }

  /// Memory of undefined content with one reference, which is the caller's.
  /// - Parameter capacity: bytes wanted, 0 to `maximumCapacity`; there may be more (`capacity`).
  /// - Returns: nil if memory is out. Never sleeps.
  public static func allocate(capacity: Int) -> PacketMemory? {
    guard capacity >= 0, capacity <= maximumCapacity else { return nil }
    let byteCount = objectByteCount(capacity)
    if byteCount <= heapLimit {
      guard let memory = KernelHeap.allocateAtOnce(byteCount: byteCount, use: .packet) else { return nil }
      // More than was asked for would have to be looked up; the heap's classes are close.
      return make(memory, byteCount: byteCount, order: heapOrder)
    }
    let frames = (byteCount &+ 4095) >> 12
    let order = frames == 1 ? 0 : 64 &- (frames &- 1).leadingZeroBitCount
    guard let frame = Frames.allocate(order: order, use: .packet) else { return nil }
    return make(LinearMap.pointer(frame), byteCount: 4096 << order, order: order.u32)
  }

  /// What is asked of the heap for so much capacity: all that the block then says it has.
  @inline(__always) static func objectByteCount(_ capacity: Int) -> Int {
    (capacity &+ headerByteCount).alignedUp(to: 16)
  }

  @inline(__always)
  private static func make(_ memory: UnsafeMutableRawPointer, byteCount: Int, order: UInt32) -> PacketMemory {
    // SAFETY: fresh memory of at least that size, aligned to 16.
    memory.bindMemory(to: Header.self, capacity: 1).initialize(
      to: Header(references: Atomic(1), capacity: (byteCount &- headerByteCount).u32, order: order))
    return PacketMemory(start: memory)
  }

  /// The first byte that may be used.
  @inline(__always) public var bytes: UnsafeMutableRawPointer { start + Self.headerByteCount }

  /// Bytes that may be used from there.
  @inline(__always) public var capacity: Int { header.pointee.capacity.int }

  /// Where a device finds `bytes`; what follows lies behind it.
  @inline(__always) public var devicePhysical: PhysicalAddress { KernelHeap.devicePhysical(of: bytes) }

  /// Whether the caller's reference is the only one: then nobody else sees what it writes.
  @inline(__always) public var isUnshared: Bool { header.pointee.references.load(ordering: .acquiring) == 1 }

  /// One reference more.
  @inline(__always) public func retain() { header.pointee.references.wrappingAdd(1, ordering: .relaxed) }

  /// One reference less; the last one gives the memory back.
  @inline(__always) public func release() {
    // Who has the only reference needs no locked instruction: nobody can take another meanwhile.
    if isUnshared || header.pointee.references.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
      free()
    }
  }

  @inline(never) private func free() {
    let order = header.pointee.order
    if order == Self.heapOrder { return KernelHeap.free(start) }
    Frames.free(LinearMap.physical(of: start), order: order.int)
  }
}

/// Bytes in packet memory. Whoever keeps one has a reference to its memory, counted by hand.
public struct PacketSlice: BitwiseCopyable {
  /// The memory.
  public var memory: PacketMemory
  /// The first byte's place in it.
  public var offset: UInt32
  /// Bytes.
  public var count: UInt32

  /// These bytes; takes no reference.
  @inline(__always) public init(memory: PacketMemory, offset: Int, count: Int) {
    self.memory = memory
    self.offset = offset.u32
    self.count = count.u32
  }

  /// The first byte.
  @inline(__always) public var start: UnsafeMutableRawPointer { memory.bytes + offset.int }

  /// All of them.
  @inline(__always) public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: start, count: count.int) }
}
