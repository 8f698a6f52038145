// What the client keeps nothing of, so that each use is a request: extended attributes, holes, files that are made without a name.
import Base
import Files
import VirtioABI

extension VirtioNode {
  // MARK: Files without a name

  /// Makes a file in this directory that no name leads to. Like one that has lost its last name it stands in no table, so that it ends
  /// with its last user; linking it puts it there.
  func makeTemporary(_ file: NewFile, canBeLinked: Bool) throws(Errno) -> Vnode {
    guard isDirectory else { throw .ENOTDIR }
    let asked = tree.ask()
    let created = try retryingWithoutPins { () throws(Errno) in
      try self.tree.client.createTemporary(
        self.node, mode: FileType.regular.modeBits | file.mode & FileMode.permissionMask, exclusive: !canBeLinked)
    }
    guard created.entry.nodeID != 0, created.entry.nodeID != FUSE.rootNodeID else { throw .EIO }
    let made = try tree.enter(created.entry, asked: asked)
    guard made.type == .regular else { throw .EIO }
    tree.serverUser.store(created.entry.attributes.uid.u64, ordering: .relaxed)
    if created.handle != 0 { made.setHandle(created.handle, access: 2) }
    made.markFresh()
    tree.orphan(made)
    return made
  }

  // MARK: Holes

  func nextData(from offset: UInt64) throws(Errno) -> UInt64 {
    type == .regular ? try seek(from: offset, whence: 3) : offset
  }

  func nextHole(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 {
    type == .regular ? min(try seek(from: offset, whence: 4), end) : end
  }

  /// SEEK_DATA (3) or SEEK_HOLE (4), of a file that has all that was written.
  private func seek(from offset: UInt64, whence: UInt32) throws(Errno) -> UInt64 {
    try writeBackDirty()
    let found: UInt64
    do throws(Errno) {
      found = try tree.client.seek(node, handle: readingHandle(), offset: offset, whence: whence)
    } catch {
      guard error == .ENOSYS else { throw error }
      // A server that knows of no holes: everything is data, and the hole is behind the end.
      return whence == 3 ? offset : Int64.max.u64
    }
    guard found >= offset, found <= Int64.max.u64 else { throw .EIO }
    return found
  }

  // MARK: Extended attributes

  func attribute(_ name: PathBytes) throws(Errno) -> [UInt8] {
    try tree.withBuffer { (buffer) throws(Errno) in
      let count = try tree.client.getxattr(node, name.bytes, into: buffer)
      return PathBytes(UnsafeRawBufferPointer(rebasing: buffer[..<count])).copy
    }
  }

  func attributeNames() throws(Errno) -> [UInt8] {
    try tree.withBuffer { (buffer) throws(Errno) in
      let count = try tree.client.listxattr(node, into: buffer)
      return PathBytes(UnsafeRawBufferPointer(rebasing: buffer[..<count])).copy
    }
  }

  func setAttribute(_ name: PathBytes, _ value: UnsafeRawBufferPointer, _ mode: AttributeSetting) throws(Errno) {
    try tree.withBuffer { (buffer) throws(Errno) in
      guard value.count <= buffer.count else { throw .E2BIG }
      let sent = UnsafeMutableRawBufferPointer(rebasing: buffer[..<value.count])
      sent.copyMemory(from: value)
      changeBegins()
      // The time of the change is the server's to tell, when somebody asks.
      defer { changeEnds() }
      try tree.client.setxattr(node, name.bytes, value: sent, flags: mode.rawValue)
    }
  }

  func removeAttribute(_ name: PathBytes) throws(Errno) {
    changeBegins()
    defer { changeEnds() }
    try tree.client.removexattr(node, name.bytes)
  }
}
