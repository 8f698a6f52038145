// The files that lie in the guest's physical memory: the program, mapped and never copied, and small generated ones.
//
// A host file may shrink while it is mapped. KVM then cannot provide the page (EFAULT): `repair` puts zero pages where
// the file has ended, and the guest goes on as a program does whose file was truncated, but without SIGBUS.

import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// A file to place in the window.
public struct GuestFile {
  /// Where its bytes come from.
  public enum Source {
    /// These bytes.
    case bytes([UInt8])
    /// An open regular file of the host; it stays open as long as the machine lives.
    case descriptor(CInt)
  }

  /// Absolute path in the guest.
  public var path: [UInt8]
  /// Type and permission bits, as in `st_mode`.
  public var mode: UInt32
  /// Its bytes.
  public var source: Source

  /// A file with all its fields.
  public init(path: [UInt8], mode: UInt32, source: Source) {
    self.path = path
    self.mode = mode
    self.source = source
  }
}

// SAFETY: laid out in `init`; the mappings, which alone change after it, are touched with `repairs`' lock.
/// The memory behind `GuestMemory.filesStart`, laid out once.
final class FilesWindow: @unchecked Sendable {
  private struct Mapping {
    let descriptor: CInt
    let offset: UInt64
    let byteCount: UInt64
    var intact: UInt64
  }

  /// The files as the boot information lists them.
  private(set) var files: [BootContent.File] = []
  /// Bytes of the window, whole pages; 0 without files.
  private(set) var byteCount: UInt64 = 0
  /// The host memory behind it.
  // SAFETY: one reservation of `byteCount` bytes made in `init` and never unmapped; all offsets below come from it.
  private(set) var host: UnsafeMutableRawPointer?
  private var mappings: [Mapping] = []
  /// How often `repair` has replaced pages; guarded by the lock, as are the mappings once the guest runs.
  private let repairs = Mutex(0)

  /// Lays the files out one behind the other, each on its own pages.
  init(_ sources: [GuestFile]) throws(Failure) {
    var plan: [(file: GuestFile, offset: UInt64, byteCount: UInt64, time: UInt64)] = []
    for file in sources {
      var count: UInt64
      var time: UInt64 = 0
      switch file.source {
      case .bytes(let bytes): count = UInt64(bytes.count)
      case .descriptor(let descriptor):
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_size >= 0 else {
          throw Failure(.file, "a file for the guest cannot be examined: \(String(cString: strerror(errno)))")
        }
        count = UInt64(status.st_size)
        time = UInt64(max(0, status.st_mtim.tv_sec))
      }
      plan.append((file, byteCount, count, time))
      byteCount += max(1, (count + GuestMemory.pageSize - 1) / GuestMemory.pageSize) * GuestMemory.pageSize
    }
    guard byteCount > 0 else { return }
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | CInt(MAP_NORESERVE)
    let window = mmap(nil, Int(byteCount), PROT_READ | PROT_WRITE, flags, -1, 0)
    guard let window, window != MAP_FAILED else {
      throw Failure(.memory, "the host cannot map \(byteCount >> 20) MiB of files")
    }
    host = window
    for (file, offset, count, time) in plan {
      switch file.source {
      case .bytes(let bytes):
        bytes.withUnsafeBytes {
          if let base = $0.baseAddress { (window + Int(offset)).copyMemory(from: base, byteCount: $0.count) }
        }
      case .descriptor(let descriptor) where count > 0:
        let flags = MAP_PRIVATE | MAP_FIXED
        guard mmap(window + Int(offset), Int(count), PROT_READ, flags, descriptor, 0) != MAP_FAILED else {
          throw Failure(.file, "a file for the guest cannot be mapped: \(String(cString: strerror(errno)))")
        }
        mappings.append(Mapping(descriptor: descriptor, offset: offset, byteCount: count, intact: count))
      case .descriptor: break
      }
      files.append(
        BootContent.File(
          path: file.path, mode: file.mode, physical: GuestMemory.filesStart + offset, byteCount: count,
          modificationTime: time))
    }
  }

  /// Replaces the pages of files that have become shorter by zero pages. `seen` is the caller's: what it knows of repairs.
  /// - Returns: Whether something was replaced, by this call or by another CPU's since the caller's last.
  func repair(seen: inout Int) -> Bool {
    let count = repairs.withLock { count -> Int in
      if replaceLostPages() { count += 1 }
      return count
    }
    defer { seen = count }
    return count != seen
  }

  private func replaceLostPages() -> Bool {
    var repaired = false
    for index in mappings.indices {
      var status = stat()
      guard let host, fstat(mappings[index].descriptor, &status) == 0 else { continue }
      let page = GuestMemory.pageSize
      let end = (UInt64(max(0, status.st_size)) + page - 1) / page * page
      let intact = (mappings[index].intact + page - 1) / page * page
      guard end < intact else { continue }
      let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
      let start = host + Int(mappings[index].offset + end)
      if mmap(start, Int(intact - end), PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED {
        mappings[index].intact = end
        repaired = true
      }
    }
    return repaired
  }
}
