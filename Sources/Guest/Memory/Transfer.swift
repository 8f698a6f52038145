// A transfer: a cursor over the memory that a read fills or a write is taken from.
//
// The pieces of a vector are read from the program one at a time as the cursor reaches them, so a transfer allocates
// nothing. A program that changes its vector meanwhile changes only what it gets: every piece is checked before it is used.
import Base
import Platform

/// Pieces of program memory, or one of kernel memory, with a position that moves as bytes are copied.
public struct Transfer {
  /// As Linux: one call moves no more.
  private static let most = 0x7fff_f000

  /// Bytes not copied yet.
  public private(set) var remaining: Int
  /// Bytes copied so far: what a system call returns when a later byte failed.
  public private(set) var copied: Int = 0

  /// What is left of the current piece.
  private var address: VirtualAddress
  private var pieceCount: Int
  private let isProgram: Bool
  /// The `struct iovec`s that follow.
  private var vectors: VirtualAddress = .zero
  private var vectorCount = 0

  /// One piece of program memory. Nothing is checked before bytes are copied.
  public init(program address: VirtualAddress, count: Int) {
    self.address = address
    pieceCount = max(count, 0)
    remaining = max(count, 0)
    isProgram = true
  }

  /// One piece of kernel memory, which must outlive the transfer.
  public init(kernel buffer: UnsafeMutableRawBufferPointer) {
    address = buffer.baseAddress.map { VirtualAddress($0) } ?? .zero
    pieceCount = buffer.count
    remaining = buffer.count
    isProgram = false
  }

  /// One piece of kernel memory to take bytes from, which must outlive the transfer; nothing may be copied out to it.
  public init(kernelSource buffer: UnsafeRawBufferPointer) {
    self.init(kernel: UnsafeMutableRawBufferPointer(mutating: buffer))
  }

  /// The pieces of an array of `struct iovec` in program memory.
  /// - Throws: EFAULT, EINVAL (more than 1,024 pieces, or one with a negative length).
  public init(programVectors address: VirtualAddress, count: Int) throws(Errno) {
    guard count >= 0, count <= 1024 else { throw .EINVAL }
    var sum = 0
    for index in 0..<count {
      let length = try UserSpan.read(Int.self, at: address + (index &* 16 &+ 8))
      guard length >= 0 else { throw .EINVAL }
      sum = min(sum &+ min(length, Self.most), Self.most)
    }
    self.address = .zero
    pieceCount = 0
    remaining = sum
    isProgram = true
    vectors = address
    vectorCount = count
  }

  /// Copies kernel bytes to the memory of the transfer: all of `source`, or as much as remains.
  /// - Returns: bytes copied.
  /// - Throws: EFAULT; bytes before the fault count as copied.
  @discardableResult
  public mutating func copyOut(from source: UnsafeRawBufferPointer) throws(Errno) -> Int {
    guard let start = source.baseAddress else { return 0 }
    return try advance(source.count) { address, done, count, isProgram in
      if isProgram { return UserCopy.copyToProgram(address, from: start + done, count: count) }
      // SAFETY: kernel memory that the caller of `init(kernel:)` vouched for.
      address.unsafePointer.copyMemory(from: start + done, byteCount: count)
      return 0
    }
  }

  /// Fills `destination` from the memory of the transfer, or as much as remains.
  /// - Returns: bytes copied.
  /// - Throws: EFAULT; bytes before the fault count as copied.
  @discardableResult
  public mutating func copyIn(into destination: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
    guard let start = destination.baseAddress else { return 0 }
    return try advance(destination.count) { address, done, count, isProgram in
      if isProgram { return UserCopy.copyFromProgram(address, to: start + done, count: count) }
      // SAFETY: kernel memory that the caller of `init(kernel:)` vouched for.
      (start + done).copyMemory(from: address.unsafePointer, byteCount: count)
      return 0
    }
  }

  /// Writes zeros to the memory of the transfer, as many as remain at most.
  /// - Returns: bytes written.
  /// - Throws: EFAULT.
  @discardableResult
  public mutating func zeroOut(count: Int) throws(Errno) -> Int {
    try advance(count) { address, _, count, isProgram in
      if isProgram { return UserCopy.zeroProgram(address, count: count) }
      // SAFETY: kernel memory that the caller of `init(kernel:)` vouched for.
      address.unsafePointer.initializeMemory(as: UInt8.self, repeating: 0, count: count)
      return 0
    }
  }

  /// Passes over bytes as if they had been copied (they were, by a device).
  public mutating func skip(_ count: Int) throws(Errno) {
    _ = try advance(count) { _, _, _, _ in 0 }
  }

  /// Lets no more than `count` further bytes be copied.
  public mutating func limit(to count: Int) { remaining = min(remaining, max(count, 0)) }

  /// Walks over up to `count` bytes; `body` gets an address, the bytes done before it, a count, and whether the memory is the
  /// program's, and says how many bytes it could not copy.
  @inline(__always)
  private mutating func advance(
    _ count: Int, _ body: (VirtualAddress, Int, Int, Bool) -> Int
  ) throws(Errno) -> Int {
    var done = 0
    let wanted = min(count, remaining)
    while done < wanted {
      while pieceCount == 0 {
        guard vectorCount > 0 else {
          // The program has shortened its vector since it was added up.
          remaining = 0
          return done
        }
        address = VirtualAddress(try UserSpan.read(UInt64.self, at: vectors))
        pieceCount = max(try UserSpan.read(Int.self, at: vectors + 8), 0)
        vectors += 16
        vectorCount &-= 1
      }
      let piece = min(pieceCount, wanted &- done)
      if isProgram && !UserSpan.isProgram(address, piece) { throw .EFAULT }
      let moved = piece &- body(address, done, piece, isProgram)
      address += moved
      pieceCount &-= moved
      remaining &-= moved
      copied &+= moved
      done &+= moved
      if moved < piece { throw .EFAULT }
    }
    return done
  }
}
