// Pseudo nodes: what file systems that invent their files (devfs, procfs, sysfs) are made of.
import Base
import Locks

/// A file that exists because the kernel says so: root's, with fixed permissions.
open class PseudoNode: Vnode {
  /// Permission bits.
  public let mode: UInt32
  /// Device number, for devices.
  public let specialDevice: UInt64
  private let time = FileTime.now

  /// A file of a type.
  public init(
    _ fileSystem: FileSystem, inode: UInt64, type: FileType, mode: UInt32, specialDevice: UInt64 = 0
  ) {
    self.mode = mode
    self.specialDevice = specialDevice
    super.init(fileSystem: fileSystem, inode: inode, type: type)
  }

  /// Owner and group; by default root.
  open var owner: (userID: UInt32, groupID: UInt32) { (0, 0) }

  open override func getAttributes() throws(Errno) -> StatInformation {
    var result = StatInformation()
    result.device = fileSystem.device
    result.inode = inode
    result.mode = type.modeBits | mode
    (result.userID, result.groupID) = owner
    result.linkCount = isDirectory ? 2 : 1
    result.specialDevice = specialDevice
    result.accessTime = time
    result.modificationTime = time
    result.changeTime = time
    return result
  }

  /// Devices forget changes of their attributes, so that `touch /dev/null` and `> /dev/null` do no harm.
  open override func setAttributes(_ change: AttributeChange) throws(Errno) {
    if type != .characterDevice { throw .EPERM }
  }
}

/// A symbolic link with a fixed text.
public final class PseudoLink: PseudoNode {
  private let target: [UInt8]

  /// A link to `target`.
  public init(_ fileSystem: FileSystem, inode: UInt64, target: PathBytes) {
    self.target = target.copy
    super.init(fileSystem, inode: inode, type: .symbolicLink, mode: 0o777)
  }

  public override func readLink() throws(Errno) -> [UInt8] { target }
}

/// A directory whose names the kernel adds and nobody removes.
open class PseudoDirectory: PseudoNode {
  private struct Entry {
    let name: [UInt8]
    let node: Vnode
  }
  private let lock = Mutex()
  private var entries: [Entry] = []

  /// An empty directory.
  public init(_ fileSystem: FileSystem, inode: UInt64, mode: UInt32 = 0o555) {
    super.init(fileSystem, inode: inode, type: .directory, mode: mode)
  }

  /// Adds a name, or puts another file in its place. Any time; lookups that have failed before are tried again.
  public final func add(_ name: PathBytes, _ node: Vnode) {
    let entry = Entry(name: name.copy, node: node)
    lock.withLock {
      for index in 0..<entries.count where entries[index].name.withPath({ $0 == name }) {
        entries[index] = entry
        return
      }
      entries.append(entry)
    }
  }

  /// The file with that name.
  public final func node(_ name: PathBytes) -> Vnode? {
    lock.withLock {
      for entry in entries where entry.name.withPath({ $0 == name }) { return entry.node }
      return nil
    }
  }

  /// How many names there are: their cookies are 3 and up.
  public final var count: Int { lock.withLock { entries.count } }

  /// Names are believed for good; that a name is absent is not kept.
  open override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult {
    guard let found = node(name) else { return LookupResult(nil, validity: 0) }
    return LookupResult(found)
  }

  /// The fixed names; a subclass with more goes on behind `firstCookie(behind:)`.
  open override func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink)
    throws(Errno)
  {
    guard sink.addDots(from: cookie, own: inode, parent: parent) else { return }
    let entries = lock.withLock { self.entries }
    var index = max(cookie, 2).int &- 2
    while index < entries.count {
      let entry = entries[index]
      index &+= 1
      let fits = entry.name.withPath {
        sink.add($0, inode: entry.node.inode, type: entry.node.type, nextCookie: (index &+ 2).u64)
      }
      guard fits else { return }
    }
  }
}
