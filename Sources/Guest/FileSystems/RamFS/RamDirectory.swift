// RamDirectory: names in memory. The VFS's directory lock guards them (see Vnode.swift for who holds it when).
//
// Names are found by hash and listed in the order they were made. Each has a number that only grows, its cookie: a
// listing that goes on behind a cookie finds its place by binary search, whatever has come or gone since. Entries
// that were removed stay in the order, marked, until they are the larger part.
import Base
import Files

/// A name.
final class RamEntry {
  let name: [UInt8]
  let hash: UInt64
  let cookie: UInt64
  /// nil: removed.
  var node: RamNode?
  var next: RamEntry?

  init(_ name: PathBytes, _ node: RamNode, cookie: UInt64) {
    self.name = name.copy
    hash = name.hash
    self.cookie = cookie
    self.node = node
  }
}

/// A directory.
final class RamDirectory: RamNode {
  private var chains: [RamEntry?] = []
  private var order: [RamEntry] = []
  private var count = 0
  /// "." and ".." have cookies 1 and 2.
  private var lastCookie: UInt64 = 2

  override var byteCount: UInt64 { count.u64 &* 32 &+ 64 }

  // MARK: Entries

  private func entry(_ name: PathBytes) -> RamEntry? {
    guard count > 0 else { return nil }
    let hash = name.hash
    var next = chains[hash.int & (chains.count &- 1)]
    while let entry = next {
      if entry.hash == hash, entry.name.withPath({ $0 == name }) { return entry }
      next = entry.next
    }
    return nil
  }

  private func insert(_ name: PathBytes, _ node: RamNode) {
    if count >= chains.count { grow() }
    lastCookie &+= 1
    let entry = RamEntry(name, node, cookie: lastCookie)
    let index = entry.hash.int & (chains.count &- 1)
    entry.next = chains[index]
    chains[index] = entry
    order.append(entry)
    count &+= 1
  }

  private func remove(_ name: PathBytes) {
    guard let entry = entry(name) else { return }
    let index = entry.hash.int & (chains.count &- 1)
    if chains[index] === entry {
      chains[index] = entry.next
    } else {
      var before = chains[index]
      while let current = before, current.next !== entry { before = current.next }
      before?.next = entry.next
    }
    entry.next = nil
    entry.node = nil
    count &-= 1
    if order.count > count &* 2 &+ 16 { order.removeAll { $0.node == nil } }
  }

  private func grow() {
    let size = max(chains.count &* 2, 8)
    var grown = [RamEntry?](repeating: nil, count: size)
    for chain in chains {
      var next = chain
      while let entry = next {
        next = entry.next
        let index = entry.hash.int & (size &- 1)
        entry.next = grown[index]
        grown[index] = entry
      }
    }
    chains = grown
  }

  // MARK: Setting up

  /// The directory with that name, made if it is not there; before mounting only.
  func directory(named name: PathBytes) throws(Errno) -> RamDirectory {
    guard name.count <= PathBytes.maximumNameByteCount else { throw .ENAMETOOLONG }
    if let node = entry(name)?.node {
      guard node.isDirectory else { throw .ENOTDIR }
      return unsafeDowncast(node, to: RamDirectory.self)
    }
    let made = RamDirectory(ramFileSystem, inode: ramFileSystem.newInode(), NewFile(type: .directory, mode: 0o755))
    insert(name, made)
    changeLinkCount(1)
    return made
  }

  /// Puts a file that is no directory in the place of whatever has the name; before mounting only.
  func put(_ name: PathBytes, _ node: RamNode) {
    remove(name)
    insert(name, node)
  }

  // MARK: Vnode

  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult { LookupResult(entry(name)?.node) }

  override func create(_ name: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    let inode = ramFileSystem.newInode()
    let node =
      file.type == .regular
      ? RamFile(ramFileSystem, inode: inode, file) : RamSpecial(ramFileSystem, inode: inode, file)
    return add(name, node)
  }

  override func makeDirectory(_ name: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    let result = add(name, RamDirectory(ramFileSystem, inode: ramFileSystem.newInode(), file))
    changeLinkCount(1)
    return result
  }

  override func makeSymbolicLink(_ name: PathBytes, target: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    add(name, RamLink(ramFileSystem, inode: ramFileSystem.newInode(), file, target: target.copy))
  }

  private func add(_ name: PathBytes, _ node: RamNode) -> LookupResult {
    insert(name, node)
    contentsChanged()
    return LookupResult(node)
  }

  override func createTemporary(_ file: NewFile, canBeLinked: Bool) throws(Errno) -> Vnode {
    let node = RamFile(ramFileSystem, inode: ramFileSystem.newInode(), file)
    node.makeTemporary(canBeLinked: canBeLinked)
    return node
  }

  override func link(_ name: PathBytes, to vnode: Vnode) throws(Errno) {
    let node = unsafeDowncast(vnode, to: RamNode.self)
    guard node.addLink() else { throw .ENOENT }
    insert(name, node)
    contentsChanged()
  }

  override func unlink(_ name: PathBytes, _ vnode: Vnode) throws(Errno) {
    remove(name)
    unsafeDowncast(vnode, to: RamNode.self).changeLinkCount(-1)
    contentsChanged()
  }

  override func removeDirectory(_ name: PathBytes, _ vnode: Vnode) throws(Errno) {
    let victim = unsafeDowncast(vnode, to: RamDirectory.self)
    guard victim.count == 0 else { throw .ENOTEMPTY }
    remove(name)
    victim.removedDirectory()
    changeLinkCount(-1)
    contentsChanged()
  }

  override func rename(
    _ name: PathBytes, _ vnode: Vnode, to directory: Vnode, as newName: PathBytes, replacing replaced: Vnode?,
    flags: RenameFlags
  ) throws(Errno) {
    let node = unsafeDowncast(vnode, to: RamNode.self)
    let target = unsafeDowncast(directory, to: RamDirectory.self)
    if flags.contains(.exchange), let replaced {
      let other = unsafeDowncast(replaced, to: RamNode.self)
      entry(name)?.node = other
      target.entry(newName)?.node = node
      if node.isDirectory != other.isDirectory, target !== self {
        changeLinkCount(node.isDirectory ? -1 : 1)
        target.changeLinkCount(node.isDirectory ? 1 : -1)
      }
      other.renamed()
    } else {
      if let replaced {
        if replaced.isDirectory {
          try target.removeDirectory(newName, replaced)
        } else {
          try target.unlink(newName, replaced)
        }
      }
      remove(name)
      target.insert(newName, node)
      if node.isDirectory, target !== self {
        changeLinkCount(-1)
        target.changeLinkCount(1)
      }
    }
    node.renamed()
    contentsChanged()
    if target !== self { target.contentsChanged() }
  }

  override func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink) throws(Errno) {
    guard sink.addDots(from: cookie, own: inode, parent: parent) else { return }
    var (low, high) = (0, order.count)
    while low < high {
      let middle = (low &+ high) / 2
      if order[middle].cookie > cookie { high = middle } else { low = middle &+ 1 }
    }
    while low < order.count {
      let entry = order[low]
      low &+= 1
      guard let node = entry.node else { continue }
      let fits = entry.name.withPath { sink.add($0, inode: node.inode, type: node.type, nextCookie: entry.cookie) }
      guard fits else { return }
    }
  }
}
