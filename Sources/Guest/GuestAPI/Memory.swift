// Memory for Swift's objects in an image: what `malloc` is elsewhere.
//
// Blocks of up to 32 KiB come from size classes (powers of two, 16 bytes of header included) that are cut from chunks
// and never given back; larger ones are mappings of their own. Every block has, just below it, a header
// that says which.
import Base

#if GUEST
  /// Below every block.
  private struct BlockHeader {
    /// Start of the piece that goes back.
    var start: UInt64
    /// Its size class, or for a mapping its bytes.
    var size: UInt64
  }

  private let headerByteCount = 16
  private let largestClass = 15
  private let chunkByteCount = 1 << 18

  private struct ProgramHeap: ~Copyable {
    var lock = Lock()
    /// First free block of each class; a free block's first word points to the next.
    var free: [16 of UInt64] = .init(repeating: 0)
    /// The part of the current chunk that has not been cut yet.
    var chunk: UInt64 = 0
    var chunkEnd: UInt64 = 0
  }

  // SAFETY: `lock` is held by whoever touches the rest.
  nonisolated(unsafe) private var heap = ProgramHeap()

  private func mapMemory(_ byteCount: Int) -> UInt64 {
    let readWrite = 3
    let privateAnonymous = 0x22
    let result = call(Call.mmap, 0, byteCount, readWrite, privateAnonymous, -1, 0)
    return result < 0 && result >= -4095 ? 0 : result.u64
  }

  /// A piece of class `index` (2^index bytes), 0 if memory is out.
  private func allocatePiece(_ index: Int) -> UInt64 {
    heap.lock.lock()
    defer { heap.lock.unlock() }
    let first = heap.free[index]
    if first != 0 {
      // SAFETY: the first word of a free piece is its link.
      heap.free[index] = UnsafePointer<UInt64>(bitPattern: first.uint)!.pointee
      return first
    }
    let size: UInt64 = 1 &<< index.u64
    if heap.chunkEnd &- heap.chunk < size {
      let chunk = mapMemory(chunkByteCount)
      guard chunk != 0 else { return 0 }
      heap.chunk = chunk
      heap.chunkEnd = chunk &+ chunkByteCount.u64
    }
    let piece = heap.chunk
    heap.chunk &+= size
    return piece
  }

  /// Swift's allocation function.
  @c(posix_memalign)
  public func allocateAligned(_ result: UnsafeMutablePointer<UInt>, _ alignment: UInt, _ byteCount: UInt) -> Int32 {
    let slack = alignment > 16 ? alignment : 0
    let (total, overflow) = byteCount.addingReportingOverflow(slack &+ headerByteCount.uint)
    guard !overflow, total < 1 << 46 else { return Errno.ENOMEM.rawValue }
    var start: UInt64
    var size: UInt64
    if total <= 1 << largestClass {
      let index = max(5, total.log2Ceiling)
      start = allocatePiece(index)
      size = index.u64
    } else {
      size = total.u64.alignedUp(to: PageSize.small)
      start = mapMemory(size.int)
    }
    guard start != 0 else { return Errno.ENOMEM.rawValue }
    var block = start &+ headerByteCount.u64
    if slack != 0 { block = block.alignedUp(to: alignment.u64) }
    // SAFETY: header and block lie within the piece: `total` has room for both and for the alignment.
    UnsafeMutablePointer<BlockHeader>(bitPattern: block.uint &- headerByteCount.uint)!
      .initialize(to: BlockHeader(start: start, size: size))
    result.pointee = block.uint
    return 0
  }

  /// Swift's deallocation function. (The compiler reserves the name `free`: images/link.sh gives it to this one.)
  @c(osv_image_free)
  public func release(_ block: UnsafeMutableRawPointer?) {
    guard let block else { return }
    // SAFETY: every block that was handed out has its header below it.
    let header = (block - headerByteCount).assumingMemoryBound(to: BlockHeader.self).pointee
    if header.size > largestClass.u64 {
      _ = call(Call.munmap, header.start.int, header.size.int)
      return
    }
    heap.lock.lock()
    UnsafeMutablePointer<UInt64>(bitPattern: header.start.uint)!.pointee = heap.free[header.size.int]
    heap.free[header.size.int] = header.start
    heap.lock.unlock()
  }

  /// Swift's source of random bytes.
  @c(arc4random_buf)
  public func fillRandom(_ buffer: UnsafeMutableRawPointer, _ byteCount: UInt) {
    var done = 0
    while done < byteCount.int {
      var piece: [32 of UInt8] = .init(repeating: 0)
      let count = min(32, byteCount.int &- done)
      withUnsafeMutableBytes(of: &piece) { bytes in
        _ = call(Call.getrandom, argument(bytes.baseAddress), count, 0)
        (buffer + done).copyMemory(from: bytes.baseAddress!, byteCount: count)
      }
      done &+= count
    }
  }
#endif
