// Memory behind the image, given out upwards: for page tables and all else that stays, and for what the kernel is told.
import Base
import VirtioABI

/// Free RAM, before there is an allocator.
struct Arena: StartMemory {
  /// First byte that is free.
  private(set) var next: UInt64
  private let end: UInt64
  // SAFETY: where physical address 0 would be; the piece given to `init` is RAM that is reached from there.
  private let base: UnsafeMutableRawPointer

  /// - Parameter base: address of the piece's first byte.
  init(_ piece: StartInfo.Piece, at base: UnsafeMutableRawPointer) {
    next = piece.start
    end = piece.end
    self.base = base - piece.start.int
  }

  mutating func allocate(pages: UInt64, alignment: UInt64 = 4096) throws(BootstrapFailure) -> UInt64 {
    let start = next.alignedUp(to: alignment)
    guard start <= end, pages <= (end &- start) &>> 12 else {
      throw BootstrapFailure("there is too little memory for the kernel and its files: give more")
    }
    next = start &+ pages &<< 12
    // SAFETY: inside the piece, given out once.
    (base + start.int).initializeMemory(as: UInt8.self, repeating: 0, count: (pages &<< 12).int)
    return start
  }

  /// Memory for so many bytes, in whole pages.
  mutating func allocate(byteCount: UInt64) throws(BootstrapFailure) -> UInt64 {
    try allocate(pages: (byteCount &+ 4095) &>> 12, alignment: 4096)
  }

  /// A byte that was given out.
  func pointer(_ physical: UInt64) -> UnsafeMutableRawPointer { base + physical.int }

  func words(_ physical: UInt64) -> UnsafeMutablePointer<UInt64> {
    pointer(physical).assumingMemoryBound(to: UInt64.self)
  }
}
