// Names in directories of the host that the guest makes, moves and removes: one request each.
//
// The VFS holds the directories' locks, so what is known of their names changes here with them: the listing is amended, the
// answer has the directory's new attributes. If it was not as we knew it before, somebody else changes it too, and the listing goes.
import Base
import Files
import Locks
import VirtioABI

extension VirtioNode {
  /// Runs a change of this directory's names. The body's answer has the report.
  private func changeNames<R>(_ body: (RequestTime) throws(Errno) -> (R, FUSEChangeReport)) throws(Errno) -> R {
    guard tree.client.isWritable else { throw .EROFS }
    let asked = tree.ask()
    changeBegins()
    do throws(Errno) {
      let (result, report) = try body(asked)
      namesChanged(report, asked)
      return result
    } catch {
      changeEnds()
      // The names may not be what we know.
      lock.withLock { listing = nil }
      throw error
    }
  }

  private func namesChanged(_ report: FUSEChangeReport, _ asked: RequestTime) {
    if changeEnds(report, asked: asked) { lock.withLock { listing = nil } }
  }

  private func noteAdded(_ name: PathBytes, _ node: VirtioNode) {
    lock.withLock {
      listing?.add(name, node: node.node, birth: node.birth, inode: node.inode, type: node.type.rawValue)
    }
  }

  private func noteRemoved(_ name: PathBytes) { lock.withLock { listing?.remove(name) } }

  /// A name that has been made: its node, and how long it holds.
  private func made(_ name: PathBytes, _ entry: FUSEEntryOut, _ asked: RequestTime) throws(Errno) -> LookupResult {
    guard entry.nodeID != 0 else { throw .EIO }
    let node = try tree.enter(entry, asked: asked)
    noteAdded(name, node)
    let valid = VirtioFileSystem.expiry(0, entry.entryValid, entry.entryValidNanoseconds)
    return LookupResult(node, validity: valid)
  }

  func makeFile(_ name: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    guard isDirectory else { throw .ENOTDIR }
    switch file.type {
    case .regular: break
    case .fifo, .socket:
      return try changeNames { (asked) throws(Errno) in
        let (entry, report) = try self.tree.client.mknod(
          self.node, name.bytes, mode: file.type.modeBits | file.mode & FileMode.permissionMask)
        return (try self.made(name, entry, asked), report)
      }
    // The host's devices are none of ours.
    default: throw .EPERM
    }
    return try changeNames { (asked) throws(Errno) in
      let (created, report) = try self.tree.client.create(
        self.node, name.bytes, mode: FileType.regular.modeBits | file.mode & FileMode.permissionMask)
      let result = try self.made(name, created.entry, asked)
      self.tree.serverUser.store(created.entry.attributes.uid.u64, ordering: .relaxed)
      if let node = result.vnode as? VirtioNode {
        if created.handle != 0 { node.setHandle(created.handle, access: 2) }
        node.markFresh()
      }
      return (result, report)
    }
  }

  func makeSubdirectory(_ name: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    try changeNames { (asked) throws(Errno) in
      let (entry, report) = try self.tree.client.mkdir(self.node, name.bytes, mode: file.mode & FileMode.permissionMask)
      let result = try self.made(name, entry, asked)
      if let node = result.vnode as? VirtioNode { node.beginEmpty(asked) }
      return (result, report)
    }
  }

  /// A directory that has just been made has no names: none needs to be looked up, as long as what is known may be believed.
  private func beginEmpty(_ asked: RequestTime) {
    var empty = DirectoryListing(start: 0, expires: asked.time &+ tree.validity)
    empty.isComplete = true
    lock.withLock { listing = empty }
  }

  func makeLink(_ name: PathBytes, target: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    guard target.count <= FUSE.symlinkMax else { throw .ENAMETOOLONG }
    return try changeNames { (asked) throws(Errno) in
      try self.tree.withBuffer { (buffer) throws(Errno) in
        for index in 0..<target.count { buffer[index] = target[index] }
        buffer[target.count] = 0
        let text = UnsafeMutableRawBufferPointer(rebasing: buffer[..<(target.count &+ 1)])
        let (entry, report) = try self.tree.client.symlink(self.node, name.bytes, target: text)
        return (try self.made(name, entry, asked), report)
      }
    }
  }

  func addName(_ name: PathBytes, to vnode: Vnode) throws(Errno) {
    let file = unsafeDowncast(vnode, to: VirtioNode.self)
    try changeNames { (asked) throws(Errno) -> (Void, FUSEChangeReport) in
      let (entry, report) = try self.tree.client.link(file.node, self.node, name.bytes)
      guard entry.nodeID == file.node else { throw .EIO }
      // A file that had no name has one again.
      self.tree.adopt(file)
      _ = try self.made(name, entry, asked)
      return ((), report)
    }
  }

  func removeName(_ name: PathBytes, _ vnode: Vnode, directory: Bool) throws(Errno) {
    tree.settle()
    try changeNames { (_) throws(Errno) -> (Void, FUSEChangeReport) in
      let report = try self.retryingWithoutPins { () throws(Errno) in
        try self.tree.client.unlink(self.node, name.bytes, directory: directory)
      }
      self.noteRemoved(name)
      return ((), report)
    }
    unsafeDowncast(vnode, to: VirtioNode.self).nameRemoved()
  }

  /// Runs a request that may need one of the server's descriptors for a file without a name; a second time where there was none.
  func retryingWithoutPins<R>(_ body: () throws(Errno) -> R) throws(Errno) -> R {
    do throws(Errno) { return try body() } catch {
      guard error == .ENFILE else { throw error }
      tree.giveBackAll()
      return try body()
    }
  }

  /// One of the file's names has gone. With the last one the node leaves the table: the server keeps the file for us until we forget it.
  func nameRemoved() {
    let isLast = tree.lock.withLock { () -> Bool in
      attributesExpire = 0
      if isDirectory { attributes.linkCount = 0 }
      if attributes.linkCount > 0 { attributes.linkCount &-= 1 }
      return attributes.linkCount == 0
    }
    if isLast { tree.orphan(self) }
  }

  func moveName(
    _ name: PathBytes, _ vnode: Vnode, to directory: Vnode, as newName: PathBytes, replacing replaced: Vnode?,
    flags: RenameFlags
  ) throws(Errno) {
    let target = unsafeDowncast(directory, to: VirtioNode.self)
    let file = unsafeDowncast(vnode, to: VirtioNode.self)
    let other = replaced.map { unsafeDowncast($0, to: VirtioNode.self) }
    let isExchange = flags.contains(.exchange)
    tree.settle()
    if target !== self { target.changeBegins() }
    do throws(Errno) {
      try changeNames { (asked) throws(Errno) -> (Void, FUSEChangeReport) in
        let (first, second) = try self.retryingWithoutPins { () throws(Errno) in
          try self.tree.client.rename(self.node, name.bytes, to: target.node, newName.bytes, flags: flags.rawValue)
        }
        if target !== self { target.namesChanged(second, asked) }
        self.noteRemoved(name)
        target.noteAdded(newName, file)
        if isExchange, let other { self.noteAdded(name, other) }
        return ((), first)
      }
    } catch {
      if target !== self {
        target.changeEnds()
        target.lock.withLock { target.listing = nil }
      }
      throw error
    }
    file.expireAttributes()
    if let other {
      if isExchange { other.expireAttributes() } else { other.nameRemoved() }
    }
  }
}
