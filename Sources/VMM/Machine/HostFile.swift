// Whole files of the host in our address space.

import CSystemCalls

#if canImport(Glibc)
  import Glibc
#endif

/// Mapping files.
public enum HostFile {
  /// Maps all of an open file, private and read-only, for the life of the process.
  public static func map(_ descriptor: CInt) throws(Failure) -> UnsafeRawBufferPointer {
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_size >= 0 else {
      throw Failure(.file, "the image cannot be examined: \(String(cString: strerror(errno)))")
    }
    guard status.st_size > 0 else { return UnsafeRawBufferPointer(start: nil, count: 0) }
    let address = mmap(nil, Int(status.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0)
    guard let address, address != MAP_FAILED else {
      throw Failure(.file, "the image cannot be mapped: \(String(cString: strerror(errno)))")
    }
    return UnsafeRawBufferPointer(start: address, count: Int(status.st_size))
  }

  /// The same, but the path is taken as if the directory `root` were the root. Negative: an error number.
  public static func open(_ path: [UInt8], inRoot root: CInt) -> CInt {
    withPath(path) { osv_open_in_root(root, $0) }
  }

  /// Opens a directory to look names up beneath it. Negative: an error number.
  public static func openDirectory(_ path: [UInt8]) -> CInt { withPath(path) { osv_open_directory($0) } }

  /// Opens a file for reading, without waiting for what is no regular file (a pipe's writer, say). Negative: an error number.
  public static func open(_ path: [UInt8]) -> CInt {
    withPath(path) { path in
      let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
      return descriptor < 0 ? -errno : descriptor
    }
  }

  /// Opens a file for writing, made or emptied. Negative: an error number.
  /// - Parameter waits: whether a pipe is waited for, here for somebody who reads it and later for room. If not, ENXIO says that nobody reads it.
  public static func create(_ path: [UInt8], waits: Bool = true) -> CInt {
    withPath(path) { path in
      let flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | (waits ? 0 : O_NONBLOCK)
      let descriptor = Glibc.open(path, flags, 0o666)
      return descriptor < 0 ? -errno : descriptor
    }
  }

  /// The path of an open file, symbolic links followed; nil if it has none or the host shows no /proc.
  public static func path(of descriptor: CInt) -> [UInt8]? {
    let link = "/proc/self/fd/\(descriptor)"
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = bytes.withUnsafeMutableBytes { readlink(link, $0.baseAddress!, $0.count) }
    guard count > 0, count < bytes.count, bytes[0] == UInt8(ascii: "/") else { return nil }
    // A file that has been removed has " (deleted)" behind a path that leads elsewhere by now.
    let path = Array(bytes.prefix(count))
    var status = stat()
    var other = stat()
    guard fstat(descriptor, &status) == 0, withPath(path, { stat($0, &other) }) == 0,
      status.st_dev == other.st_dev, status.st_ino == other.st_ino
    else { return nil }
    return path
  }

  private static func withPath(_ path: [UInt8], _ body: (UnsafePointer<CChar>) -> CInt) -> CInt {
    (path + [0]).withUnsafeBufferPointer { bytes in
      bytes.withMemoryRebound(to: CChar.self) { body($0.baseAddress!) }
    }
  }
}
