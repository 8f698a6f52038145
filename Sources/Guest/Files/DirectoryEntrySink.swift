// DirectoryEntrySink: collects the entries of a directory in the layout of getdents64, in kernel memory.
//
// Each is a `struct linux_dirent64`: u64 inode, u64 cookie of what follows, u16 length, u8 type, name, NUL, padding to 8.
import Base

/// Takes directory entries until its buffer is full.
public struct DirectoryEntrySink {
  /// What has been collected: `byteCount` bytes at its start. The caller's.
  public let buffer: UnsafeMutableRawBufferPointer
  /// Bytes collected.
  public private(set) var byteCount = 0
  /// Where the last entry says that the listing goes on; nil if there is no entry.
  public private(set) var nextCookie: UInt64?
  /// Whether an entry did not fit.
  public private(set) var isFull = false
  /// The directory that is listed, if the name cache shall learn of what comes by.
  let directory: Dentry?

  /// A sink into `buffer`, which must outlive it.
  public init(_ buffer: UnsafeMutableRawBufferPointer, directory: Dentry? = nil) {
    self.buffer = buffer
    self.directory = directory
  }

  /// Adds an entry.
  /// - Parameters:
  ///   - name: its name.
  ///   - inode: number of its file.
  ///   - type: its type.
  ///   - nextCookie: what a listing that goes on behind it is given.
  /// - Returns: false if it does not fit: stop.
  public mutating func add(_ name: PathBytes, inode: UInt64, type: FileType, nextCookie: UInt64) -> Bool {
    let length = (19 &+ name.count &+ 1).alignedUp(to: 8)
    guard !isFull, length <= buffer.count &- byteCount else {
      isFull = true
      return false
    }
    // SAFETY: the record lies within the buffer, as just checked.
    let record = UnsafeMutableRawBufferPointer(rebasing: buffer[byteCount..<byteCount &+ length])
    record.storeBytes(of: inode, toByteOffset: 0, as: UInt64.self)
    record.storeBytes(of: nextCookie, toByteOffset: 8, as: UInt64.self)
    record.storeBytes(of: length.u16, toByteOffset: 16, as: UInt16.self)
    record[18] = type.rawValue
    for index in 0..<name.count { record[19 &+ index] = name[index] }
    for index in 19 &+ name.count..<length { record[index] = 0 }
    byteCount &+= length
    self.nextCookie = nextCookie
    return true
  }

  /// Adds "." and "..", for file systems whose listings start with cookies 1 and 2 for these.
  /// - Returns: false if they do not fit: stop.
  public mutating func addDots(from cookie: UInt64, own: UInt64, parent: UInt64) -> Bool {
    if cookie < 1, !add(PathBytes("."), inode: own, type: .directory, nextCookie: 1) { return false }
    if cookie < 2, !add(PathBytes(".."), inode: parent, type: .directory, nextCookie: 2) { return false }
    return true
  }

  /// Tells the name cache about an entry of the directory that is listed, so that a lookup need not ask again.
  public func remember(_ name: PathBytes, _ result: LookupResult) {
    guard let directory, let vnode = directory.vnode else { return }
    _ = vnode.fileSystem.names.enter(directory, name, result)
  }
}
