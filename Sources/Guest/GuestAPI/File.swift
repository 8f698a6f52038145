// Files of attached directories and of the guest's own file system.
import Base

/// An open file, closed when the value goes away.
public struct File: ~Copyable {
  /// How to open a file.
  public enum Mode {
    /// For reading; it must exist.
    case read
    /// For writing, from scratch: created, or emptied if it exists.
    case write
    /// For writing at its end; created if it does not exist.
    case append
    /// For reading and writing; created if it does not exist.
    case readWrite

    var flags: Int {
      switch self {
      case .read: 0o2000000
      case .write: 0o2000000 | 0o1 | 0o100 | 0o1000
      case .append: 0o2000000 | 0o1 | 0o100 | 0o2000
      case .readWrite: 0o2000000 | 0o2 | 0o100
      }
    }
  }

  let descriptor: Int

  /// Opens the file at `path` (relative to the working directory unless it starts with a slash).
  /// - Throws: ENOENT, EACCES, EROFS, EISDIR…: what open(2) gives.
  public init(_ path: String, _ mode: Mode = .read) throws(Errno) {
    var bytes = Array(path.utf8)
    bytes.append(0)
    let atWorkingDirectory = -100
    let result = bytes.withUnsafeBufferPointer {
      call(Call.openat, atWorkingDirectory, argument($0.baseAddress), mode.flags, 0o666)
    }
    descriptor = try checked(result)
  }

  deinit { _ = call(Call.close, descriptor) }

  /// Reads into `buffer` from the current position on.
  /// - Returns: bytes read; 0 at the end of the file.
  public borrowing func read(into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
    guard let base = buffer.baseAddress else { return 0 }
    return try checked(call(Call.read, descriptor, argument(base), buffer.count))
  }

  /// Reads everything from the current position to the end.
  public borrowing func readAll() throws(Errno) -> [UInt8] {
    var all: [UInt8] = []
    let pieceByteCount = 65_536
    // SAFETY: freed below on every path; `read` stays within it.
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: pieceByteCount, alignment: 16)
    defer { piece.deallocate() }
    while true {
      let count = try read(into: piece)
      guard count > 0 else { return all }
      all.append(contentsOf: UnsafeRawBufferPointer(rebasing: piece[..<count]))
    }
  }

  /// Writes all bytes at the current position.
  /// - Throws: ENOSPC, EIO, EBADF (opened for reading)…
  public borrowing func write(_ bytes: UnsafeRawBufferPointer) throws(Errno) { try writeAll(descriptor, bytes) }

  /// Writes a text at the current position.
  public borrowing func write(_ text: String) throws(Errno) {
    let bytes = Array(text.utf8)
    var failure: Errno?
    bytes.withUnsafeBytes {
      do throws(Errno) { try writeAll(descriptor, $0) } catch { failure = error }
    }
    if let failure { throw failure }
  }

  /// Moves the position to `offset` from the file's start.
  public borrowing func seek(to offset: UInt64) throws(Errno) {
    _ = try checked(call(Call.lseek, descriptor, offset.int, 0))
  }
}
