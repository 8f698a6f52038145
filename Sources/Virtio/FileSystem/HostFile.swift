// Files of the host as the server touches them: descriptors that close themselves, and the few calls on them with typed errors.
//
// Rules: a name reaches the kernel only as one component checked by `HostName`, or as a path joined from such names; every
// open resolves beneath its directory and follows no symbolic link; no special file is ever opened but with O_PATH.
import CSystemCalls
import Glibc

/// A Linux error number of the host, as the guest will see it.
struct HostError: Error, Equatable {
  /// Positive.
  let code: Int32

  static let invalid = HostError(code: EINVAL)
  static let stale = HostError(code: ESTALE)
  static let noEntry = HostError(code: ENOENT)

  /// The result of a wrapper in file_system_calls.h, or its error thrown.
  @inline(__always) static func check(_ result: Int) throws(HostError) -> Int {
    if result < 0 { throw HostError(code: Int32(truncatingIfNeeded: 0 &- result)) }
    return result
  }
}

/// What makes a file the same file: numbers alone may be reused, so the birth time belongs to it.
struct FileIdentity: Equatable {
  var device: UInt64
  var inode: UInt64
  /// Birth time in nanoseconds (wrapping), 0 where the file system has none.
  var birth: Int64

  init(_ attributes: osv_attributes) {
    device = attributes.device
    inode = attributes.inode
    birth = attributes.btime &* 1_000_000_000 &+ Int64(attributes.btime_ns)
  }

  init(device: UInt64, inode: UInt64, birth: Int64) {
    self.device = device
    self.inode = inode
    self.birth = birth
  }
}

extension osv_attributes {
  /// The type bits of the mode.
  var type: UInt32 { mode & UInt32(S_IFMT) }
}

/// The name of one directory entry: 1 to 255 bytes, no slash, no NUL, neither "." nor "..".
struct HostName {
  /// NUL-terminated.
  let bytes: [UInt8]

  /// Checks a name that the guest sent, without its terminator.
  init(_ name: UnsafeRawBufferPointer) throws(HostError) {
    guard name.count > 0, !(name[0] == 0x2e && (name.count == 1 || (name.count == 2 && name[1] == 0x2e))) else {
      throw .invalid
    }
    if name.count > 255 { throw HostError(code: ENAMETOOLONG) }
    for byte in name where byte == 0x2f || byte == 0 { throw .invalid }
    var bytes = [UInt8]()
    bytes.reserveCapacity(name.count + 1)
    bytes.append(contentsOf: name)
    bytes.append(0)
    self.bytes = bytes
  }

  /// Runs a body with the name as C sees it.
  func withCString(_ body: (UnsafePointer<CChar>?) -> Int32) -> Int32 {
    // SAFETY: the array ends with a NUL and outlives the call.
    bytes.withUnsafeBufferPointer { bytes in
      bytes.withMemoryRebound(to: CChar.self) { body($0.baseAddress) }
    }
  }
}

/// An open descriptor; the last reference closes it, so eviction from a cache never pulls it from under a request.
final class OpenDescriptor: Sendable {
  /// The number.
  let raw: Int32

  /// Takes a descriptor over.
  init(owning raw: Int32) { self.raw = raw }

  deinit { close(raw) }

  /// Opens `path` (NUL-terminated names joined by slashes) beneath this directory, following no symbolic link.
  func open(beneath path: borrowing [UInt8], flags: Int32) throws(HostError) -> OpenDescriptor {
    // SAFETY: the array ends with a NUL and outlives the call.
    let result = path.withUnsafeBufferPointer { path in
      path.withMemoryRebound(to: CChar.self) { osv_openat2(raw, $0.baseAddress, flags, osv_resolve_beneath) }
    }
    let descriptor = try HostError.check(Int(result))
    return OpenDescriptor(owning: Int32(truncatingIfNeeded: descriptor))
  }

  /// Opens this directory once more, for reading its entries: its own position, whatever its name is by now.
  func reopenDirectory() throws(HostError) -> OpenDescriptor {
    let descriptor = try HostError.check(Int(osv_openat(raw, ".", O_RDONLY | osv_o_directory)))
    return OpenDescriptor(owning: Int32(truncatingIfNeeded: descriptor))
  }

  /// The attributes of the file itself.
  func attributes() throws(HostError) -> osv_attributes {
    var attributes = osv_attributes()
    _ = try HostError.check(Int(osv_statx(raw, "", &attributes)))
    return attributes
  }

  /// The attributes of the entry `name` (NUL-terminated, one component) of this directory.
  func attributes(of name: borrowing [UInt8]) throws(HostError) -> osv_attributes {
    // SAFETY: the array ends with a NUL and outlives the call.
    try name.withUnsafeBufferPointer { (name) throws(HostError) in
      try name.withMemoryRebound(to: CChar.self) { (name) throws(HostError) in
        try attributes(ofNameAt: name.baseAddress)
      }
    }
  }

  /// The same for a name in a buffer of getdents64.
  func attributes(ofNameAt name: UnsafePointer<CChar>?) throws(HostError) -> osv_attributes {
    var attributes = osv_attributes()
    _ = try HostError.check(Int(osv_statx(raw, name, &attributes)))
    return attributes
  }
}

/// The door from an O_PATH descriptor, whose file has been looked at, to one that can be read: the kernel's own
/// /proc/self/fd. What is opened through it is the very file that was looked at, never what has its name by now.
struct ReopenDoor: Sendable {
  private let directory: OpenDescriptor
  private let user = geteuid()

  /// Opens /proc/self/fd; fails where /proc is not mounted. Must be made by the process that serves.
  init() throws(HostError) {
    let result = try HostError.check(Int(osv_openat(AT_FDCWD, "/proc/self/fd", osv_o_path | osv_o_directory)))
    directory = OpenDescriptor(owning: Int32(truncatingIfNeeded: result))
  }

  /// Opens a regular file for reading, without touching its access time where that is ours to say.
  func open(_ file: OpenDescriptor, owner: UInt32) throws(HostError) -> OpenDescriptor {
    var quiet = user == 0 || owner == user ? osv_o_noatime : 0
    while true {
      let result = withName(of: file) { osv_openat(directory.raw, $0, O_RDONLY | O_NONBLOCK | quiet) }
      if result == 0 &- EPERM, quiet != 0 {
        quiet = 0
        continue
      }
      let descriptor = try HostError.check(Int(result))
      return OpenDescriptor(owning: Int32(truncatingIfNeeded: descriptor))
    }
  }

  /// Opens a regular file for writing, and for reading as well where its mode allows that or `access` asks for it.
  /// - Parameter access: O_WRONLY, or O_RDWR: no less will do.
  func openForWriting(_ file: OpenDescriptor, access: Int32 = O_WRONLY) throws(HostError) -> OpenDescriptor {
    var result = withName(of: file) { osv_openat(directory.raw, $0, O_RDWR | O_NONBLOCK) }
    if result == 0 &- EACCES, access == O_WRONLY {
      result = withName(of: file) { osv_openat(directory.raw, $0, O_WRONLY | O_NONBLOCK) }
    }
    return OpenDescriptor(owning: Int32(truncatingIfNeeded: try HostError.check(Int(result))))
  }

  /// Sets the permissions of a file that is no symbolic link.
  func setMode(_ file: OpenDescriptor, _ mode: UInt32) throws(HostError) {
    _ = try HostError.check(Int(withName(of: file) { osv_fchmodat(directory.raw, $0, mode) }))
  }

  /// Gives a file one more name, in `parent`.
  func link(_ file: OpenDescriptor, in parent: OpenDescriptor, _ name: HostName) throws(HostError) {
    _ = try HostError.check(
      Int(withName(of: file) { old in name.withCString { osv_linkat(directory.raw, old, parent.raw, $0) } }))
  }

  private func withName(of file: OpenDescriptor, _ body: (UnsafePointer<CChar>?) -> Int32) -> Int32 {
    var name = decimal(file.raw)
    return withUnsafeBytes(of: &name) { body($0.baseAddress?.assumingMemoryBound(to: CChar.self)) }
  }

  /// A descriptor's number as NUL-terminated text.
  private func decimal(_ number: Int32) -> InlineArray<12, UInt8> {
    var text = InlineArray<12, UInt8>(repeating: 0)
    var digits = 1
    var rest = number / 10
    while rest > 0 {
      digits += 1
      rest /= 10
    }
    rest = number
    for place in stride(from: digits - 1, through: 0, by: -1) {
      text[place] = UInt8(0x30 + rest % 10)
      rest /= 10
    }
    return text
  }
}
