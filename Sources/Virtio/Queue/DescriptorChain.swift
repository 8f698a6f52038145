// One request of the guest: its buffers as lists of host memory, readable ones first.
//
// A chain object is used again and again: `SplitQueue.pop` fills it, and its contents hold until the next pop. All bounds were
// checked by then and cannot change; the bytes can, at any time, so whatever is checked must be copied first.
import Glibc
import VirtioABI

/// A request's buffers. Used by one thread at a time.
public final class DescriptorChain {
  /// Most pieces of a chain: what one readv or writev takes.
  public static let pieceLimit = 1024

  // SAFETY: `pieceLimit` entries, of which the first `pieceCount` are valid; owned by this object.
  private let pieces: UnsafeMutablePointer<iovec>
  private var pieceCount = 0
  private var readablePieces = 0
  /// Index of the first descriptor; the request's name in the used ring.
  public private(set) var head: UInt16 = 0
  /// Bytes that the device may read.
  public private(set) var readableByteCount = 0
  /// Bytes that the device may write.
  public private(set) var writableByteCount = 0

  /// An empty chain; 16 KiB.
  public init() { pieces = .allocate(capacity: Self.pieceLimit) }

  deinit { pieces.deallocate() }

  /// What the device may read, in order, without empty pieces.
  public var readable: UnsafeBufferPointer<iovec> { UnsafeBufferPointer(start: pieces, count: readablePieces) }
  /// What the device may write, likewise.
  public var writable: UnsafeBufferPointer<iovec> {
    UnsafeBufferPointer(start: pieces + readablePieces, count: pieceCount - readablePieces)
  }

  /// Copies what is readable from byte `offset` on.
  /// - Returns: Bytes copied, less than `buffer` holds only at the end.
  public func read(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) -> Int {
    readable.read(at: offset, into: buffer)
  }

  /// Copies bytes to what is writable, from byte `offset` on.
  /// - Returns: Bytes copied, less than `bytes` holds only at the end.
  public func write(at offset: Int, from bytes: UnsafeRawBufferPointer) -> Int {
    writable.write(at: offset, from: bytes)
  }

  /// Copies a fixed structure from the front of what is readable; nil if there are not enough bytes.
  public func read<Value: BitwiseCopyable>(_ type: Value.Type, at offset: Int = 0) -> Value? {
    withUnsafeTemporaryAllocation(byteCount: MemoryLayout<Value>.size, alignment: MemoryLayout<Value>.alignment) {
      read(at: offset, into: $0) == $0.count ? $0.load(as: type) : nil
    }
  }

  // MARK: Filling, by SplitQueue

  func clear(head: UInt16) {
    self.head = head
    pieceCount = 0
    readablePieces = 0
    readableByteCount = 0
    writableByteCount = 0
  }

  /// Appends what a descriptor names, split where regions meet. Nil if it is in order.
  func append(_ descriptor: VirtqueueDescriptor, memory: GuestMemoryMap) -> SplitQueue.Fault? {
    let isWritable = descriptor.flags & VirtqueueDescriptor.write != 0
    if !isWritable && pieceCount > readablePieces { return .readableAfterWritable }
    var left = UInt64(descriptor.length)
    // The used ring counts in 32 bits; so does the sum.
    if UInt64(readableByteCount + writableByteCount) + left > UInt64(UInt32.max) { return .tooManyBytes }
    var address = GuestAddress(descriptor.address)
    while left > 0 {
      guard pieceCount < Self.pieceLimit else { return .tooManyPieces }
      guard let piece = memory.piece(at: address, limit: left, forWriting: isWritable) else { return .outsideMemory }
      (pieces + pieceCount).initialize(to: iovec(iov_base: piece.baseAddress, iov_len: piece.count))
      pieceCount += 1
      if isWritable {
        writableByteCount += piece.count
      } else {
        readablePieces += 1
        readableByteCount += piece.count
      }
      left -= UInt64(piece.count)
      address.rawValue &+= UInt64(piece.count)
    }
    return nil
  }
}
