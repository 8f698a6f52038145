// Lists of pieces of memory, as readv(2) and writev(2) take them: copying to and from any place in them.
//
// SAFETY of all: pieces were checked by the queue, or are a device's own memory; nothing here goes beyond their lengths.
import Glibc

extension UnsafeBufferPointer<iovec> {
  /// Bytes in all pieces.
  public var byteCount: Int { reduce(0) { $0 + $1.iov_len } }

  /// Calls the body with the parts of the pieces from byte `offset` on, `limit` bytes in all at most.
  @inline(__always) func visit(at offset: Int, limit: Int, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
    var skip = offset
    var left = limit
    for piece in self {
      guard left > 0 else { return }
      if skip >= piece.iov_len {
        skip -= piece.iov_len
        continue
      }
      let count = Swift.min(piece.iov_len - skip, left)
      body(UnsafeMutableRawBufferPointer(start: piece.iov_base + skip, count: count))
      left -= count
      skip = 0
    }
  }

  /// Copies bytes into the pieces, as far as there is room.
  /// - Returns: How many there was room for.
  @discardableResult
  public func write(at offset: Int, from bytes: UnsafeRawBufferPointer) -> Int {
    var done = 0
    visit(at: offset, limit: bytes.count) { part in
      part.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[done..<(done + part.count)]))
      done += part.count
    }
    return done
  }

  /// Copies bytes out of the pieces. The guest may change them: what is checked afterwards is the copy, so that the compiler must not
  /// go back to the original.
  /// - Returns: How many there were.
  @inline(never) public func read(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) -> Int {
    var done = 0
    visit(at: offset, limit: buffer.count) { part in
      UnsafeMutableRawBufferPointer(rebasing: buffer[done...]).copyMemory(from: UnsafeRawBufferPointer(part))
      done += part.count
    }
    return done
  }
}

extension UnsafeMutableBufferPointer<iovec> {
  /// Fills this list with the parts of `pieces` from byte `skip` on, as many as there is room for.
  /// - Returns: The part of this list that was filled.
  @discardableResult @inlinable @inline(__always)
  public func fill(from pieces: UnsafeBufferPointer<iovec>, skip: Int) -> UnsafeBufferPointer<iovec> {
    var count = 0
    var skip = skip
    for piece in pieces {
      if skip >= piece.iov_len {
        skip -= piece.iov_len
        continue
      }
      guard count < self.count else { break }
      initializeElement(at: count, to: iovec(iov_base: piece.iov_base + skip, iov_len: piece.iov_len - skip))
      skip = 0
      count += 1
    }
    return UnsafeBufferPointer(start: baseAddress, count: count)
  }
}
