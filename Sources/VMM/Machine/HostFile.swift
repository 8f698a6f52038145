// Whole files of the host in our address space.

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
}
