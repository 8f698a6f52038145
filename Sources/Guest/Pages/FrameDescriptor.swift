// What is known about each 4 KiB frame of RAM: 32 bytes, in a table at the start of the range that the frame belongs to.
//
// A descriptor that was never written is zero, and zero means "part of some larger thing": the table costs
// memory only where the frames it describes were used. Exactly the first frame of every block, free or
// allocated, has a kind other than `part`.
import Base
import Synchronization

/// Bytes of a frame, the unit of physical memory.
public let frameByteCount: UInt64 = 4096
/// log2 of `frameByteCount`.
public let frameShift: UInt64 = 12

/// What a frame is used for, as its descriptor says.
enum FrameKind {
  /// Not the first frame of a block, or never used.
  static let part: UInt8 = 0
  /// First frame of a free block.
  static let free: UInt8 = 1
  /// First frame of an allocated block.
  static let allocated: UInt8 = 2
  /// First frame of a slab of the kernel heap.
  static let slab: UInt8 = 3
  /// Later frame of a slab; `next` is the number of its first frame.
  static let slabPart: UInt8 = 4
}

/// One frame's record. Fields other than `references` belong to whoever holds the block: the allocator's lock while
/// it is free, the kernel heap's while it is a slab, the owner otherwise.
struct FrameDescriptor: ~Copyable {
  /// Holders of an allocated block; the last one to go frees it.
  let references: Atomic<UInt32>
  /// A `FrameKind`.
  var kind: UInt8
  /// log2 of the block's frames, in its first frame.
  var order: UInt8
  /// Of a free block: 1 if every byte of it is known to be zero.
  var isZero: UInt8
  /// Of a slab: its size class. Of an allocated block: its `FrameUse`.
  var sizeClass: UInt8
  /// Free blocks and slabs: the next one's frame number in the list, 0 at its end.
  var next: UInt32
  /// The same list backwards.
  var previous: UInt32
  /// Of a slab: address of its first free object, 0 for none.
  var freeObject: UInt64
  /// Of a slab: objects handed out.
  var used: UInt32
  /// Of a slab: objects never handed out so far start at this index.
  var fresh: UInt32
}
