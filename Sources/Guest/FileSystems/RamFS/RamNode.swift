// RamNode: what all files of a RamFileSystem have: attributes, which change under a lock of their own and are read without it.
import Base
import Files
import Locks

/// A file in memory.
class RamNode: Vnode {
  /// Attributes change with it.
  let attributesLock = Mutex()
  private let attributes: SharedAttributes
  // Guarded by `attributesLock`.
  /// It has never had a name and may get one (O_TMPFILE).
  private var isTemporary = false
  private var extendedAttributes = AttributeList()
  private let birthTime: FileTime
  private let specialDevice: UInt64

  init(_ fileSystem: RamFileSystem, inode: UInt64, _ file: NewFile) {
    let now = FileTime.now
    attributes = SharedAttributes(
      mode: file.mode | file.type.modeBits, linkCount: file.type == .directory ? 2 : 1, userID: file.userID,
      groupID: file.groupID)
    attributes.accessTime = now
    attributes.modificationTime = now
    attributes.changeTime = now
    birthTime = now
    specialDevice = file.specialDevice
    super.init(fileSystem: fileSystem, inode: inode, type: file.type)
  }

  var ramFileSystem: RamFileSystem { unsafeDowncast(fileSystem, to: RamFileSystem.self) }
  /// Size in bytes, for stat.
  var byteCount: UInt64 { 0 }
  /// Space taken, in units of 512 bytes.
  var blockCount: UInt64 { 0 }
  /// Sets the size of the contents.
  func resize(to byteCount: UInt64) throws(Errno) { throw .EINVAL }

  override func getAttributes() throws(Errno) -> StatInformation {
    var result = StatInformation()
    if !glanceAttributes(&result) {
      // They keep changing: with the lock they do not.
      attributesLock.withLock { _ = glanceAttributes(&result) }
    }
    return result
  }

  override func glanceAttributes(_ result: inout StatInformation) -> Bool {
    guard attributes.load(into: &result) != nil else { return false }
    result.device = fileSystem.device
    result.inode = inode
    result.byteCount = byteCount
    result.blockCount = blockCount
    result.specialDevice = specialDevice
    result.birthTime = birthTime
    return true
  }

  override func glanceRights(_ rights: AccessRights, _ credentials: Credentials) -> WalkAnswer {
    guard let answer = attributes.allow(rights, credentials) else { return .unknown }
    return answer.isAllowed ? .yes : .no
  }

  override func currentSize() throws(Errno) -> UInt64 { byteCount }

  /// Changes attributes.
  @inline(__always) private func change(_ body: (borrowing SharedAttributes) -> Void) {
    attributesLock.lock()
    attributes.change(body)
    attributesLock.unlock()
  }

  override func setAttributes(_ change: AttributeChange) throws(Errno) {
    if let byteCount = change.byteCount { try resize(to: byteCount) }
    let now = FileTime.now
    self.change {
      if let mode = change.mode { $0.mode = mode & FileMode.permissionMask | type.modeBits }
      if let userID = change.userID { $0.userID = userID }
      if let groupID = change.groupID { $0.groupID = groupID }
      if change.byteCount != nil { $0.modificationTime = now }
      if let time = change.accessTime { $0.accessTime = time.time }
      if let time = change.modificationTime { $0.modificationTime = time.time }
      $0.changeTime = now
    }
  }

  /// The access time moves where it would otherwise lie before the last change, or is a day old (relatime).
  override func contentsRead() {
    let now = FileTime.now
    guard attributes.isAccessBehind || now.seconds &- attributes.accessTime.seconds >= 86_400 else { return }
    change { $0.accessTime = now }
  }

  override func contentsChanged() {
    let now = FileTime.now
    change {
      $0.modificationTime = now
      $0.changeTime = now
    }
  }

  /// One name more (+1) or less (-1); for directories, one directory below.
  func changeLinkCount(_ difference: Int32) {
    let now = FileTime.now
    change {
      $0.linkCount = ($0.linkCount.i32 &+ difference).u32
      $0.changeTime = now
    }
  }

  /// It has no name yet.
  func makeTemporary(canBeLinked: Bool) {
    attributesLock.withLock {
      isTemporary = canBeLinked
      attributes.change { $0.linkCount = 0 }
    }
  }

  /// One name more; false if the last one has gone.
  func addLink() -> Bool {
    let now = FileTime.now
    return attributesLock.withLock {
      guard attributes.linkCount > 0 || isTemporary else { return false }
      isTemporary = false
      attributes.change {
        $0.linkCount &+= 1
        $0.changeTime = now
      }
      return true
    }
  }

  // MARK: Extended attributes

  override func getExtendedAttribute(_ name: PathBytes) throws(Errno) -> [UInt8] {
    attributesLock.lock()
    defer { attributesLock.unlock() }
    guard let value = extendedAttributes.value(name) else { throw .ENODATA }
    return PathBytes(value).copy
  }

  override func listExtendedAttributes() throws(Errno) -> [UInt8] {
    attributesLock.withLock { extendedAttributes.names }
  }

  override func setExtendedAttribute(_ name: PathBytes, _ value: UnsafeRawBufferPointer, _ mode: AttributeSetting)
    throws(Errno)
  {
    let now = FileTime.now
    attributesLock.lock()
    defer { attributesLock.unlock() }
    let isThere = extendedAttributes.value(name) != nil
    if isThere, mode == .create { throw .EEXIST }
    if !isThere, mode == .replace { throw .ENODATA }
    try extendedAttributes.set(name, value)
    attributes.change { $0.changeTime = now }
  }

  override func removeExtendedAttribute(_ name: PathBytes) throws(Errno) {
    let now = FileTime.now
    attributesLock.lock()
    defer { attributesLock.unlock() }
    guard extendedAttributes.remove(name) else { throw .ENODATA }
    attributes.change { $0.changeTime = now }
  }

  /// The change time moves: it has been renamed.
  func renamed() { changeLinkCount(0) }

  /// No name any more.
  func removedDirectory() { change { $0.linkCount = 0 } }

  func setUp(mode: UInt32, time: FileTime) {
    change {
      $0.mode = mode | type.modeBits
      $0.accessTime = time
      $0.modificationTime = time
      $0.changeTime = time
    }
  }
}

/// A device, a FIFO or a socket: only a name here.
final class RamSpecial: RamNode {
  private let pipe: Pipe?

  override init(_ fileSystem: RamFileSystem, inode: UInt64, _ file: NewFile) {
    pipe = file.type == .fifo ? Pipe() : nil
    super.init(fileSystem, inode: inode, file)
  }

  override var isSeekable: Bool { false }

  override func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    guard let pipe else { throw .ENXIO }
    return try pipe.open(flags, vnode: self, at: location)
  }
}

/// A symbolic link.
final class RamLink: RamNode {
  private let target: [UInt8]

  init(_ fileSystem: RamFileSystem, inode: UInt64, _ file: NewFile, target: [UInt8]) {
    self.target = target
    super.init(fileSystem, inode: inode, file)
  }

  override var byteCount: UInt64 { target.count.u64 }
  override func readLink() throws(Errno) -> [UInt8] { target }
}
