// RamNode: what all files of a RamFileSystem have: attributes, under a lock of their own.
import Base
import Files
import Locks

/// A file in memory.
class RamNode: Vnode {
  let attributesLock = Mutex()
  // Guarded by `attributesLock`.
  private var mode: UInt32
  private var userID: UInt32
  private var groupID: UInt32
  private var linkCount: UInt32
  /// It has never had a name and may get one (O_TMPFILE).
  private var isTemporary = false
  private var extendedAttributes = AttributeList()
  private var accessTime: FileTime
  private var modificationTime: FileTime
  private var changeTime: FileTime
  private let birthTime: FileTime
  private let specialDevice: UInt64

  init(_ fileSystem: RamFileSystem, inode: UInt64, _ file: NewFile) {
    let now = FileTime.now
    mode = file.mode
    userID = file.userID
    groupID = file.groupID
    linkCount = file.type == .directory ? 2 : 1
    accessTime = now
    modificationTime = now
    changeTime = now
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
    result.device = fileSystem.device
    result.inode = inode
    result.byteCount = byteCount
    result.blockCount = blockCount
    result.specialDevice = specialDevice
    result.birthTime = birthTime
    attributesLock.withLock {
      result.mode = mode | type.modeBits
      result.userID = userID
      result.groupID = groupID
      result.linkCount = linkCount
      result.accessTime = accessTime
      result.modificationTime = modificationTime
      result.changeTime = changeTime
    }
    return result
  }

  override func currentSize() throws(Errno) -> UInt64 { byteCount }

  override func setAttributes(_ change: AttributeChange) throws(Errno) {
    if let byteCount = change.byteCount { try resize(to: byteCount) }
    let now = FileTime.now
    attributesLock.withLock {
      if let mode = change.mode { self.mode = mode & FileMode.permissionMask }
      if let userID = change.userID { self.userID = userID }
      if let groupID = change.groupID { self.groupID = groupID }
      if change.byteCount != nil { modificationTime = now }
      if let time = change.accessTime { accessTime = time.time }
      if let time = change.modificationTime { modificationTime = time.time }
      changeTime = now
    }
  }

  /// The access time moves where it would otherwise lie before the last change, or is a day old (relatime).
  override func contentsRead() {
    let now = FileTime.now
    attributesLock.withLock {
      let isBehind = accessTime < modificationTime || accessTime < changeTime
      if isBehind || now.seconds &- accessTime.seconds >= 86_400 { accessTime = now }
    }
  }

  override func contentsChanged() {
    let now = FileTime.now
    attributesLock.withLock {
      modificationTime = now
      changeTime = now
    }
  }

  /// One name more (+1) or less (-1); for directories, one directory below.
  func changeLinkCount(_ difference: Int32) {
    let now = FileTime.now
    attributesLock.withLock {
      linkCount = (linkCount.i32 &+ difference).u32
      changeTime = now
    }
  }

  /// It has no name yet.
  func makeTemporary(canBeLinked: Bool) {
    attributesLock.withLock {
      linkCount = 0
      isTemporary = canBeLinked
    }
  }

  /// One name more; false if the last one has gone.
  func addLink() -> Bool {
    let now = FileTime.now
    return attributesLock.withLock {
      guard linkCount > 0 || isTemporary else { return false }
      isTemporary = false
      linkCount &+= 1
      changeTime = now
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
    changeTime = now
  }

  override func removeExtendedAttribute(_ name: PathBytes) throws(Errno) {
    let now = FileTime.now
    attributesLock.lock()
    defer { attributesLock.unlock() }
    guard extendedAttributes.remove(name) else { throw .ENODATA }
    changeTime = now
  }

  /// The change time moves: it has been renamed.
  func renamed() { changeLinkCount(0) }

  /// No name any more.
  func removedDirectory() { attributesLock.withLock { linkCount = 0 } }

  func setUp(mode: UInt32, time: FileTime) {
    attributesLock.withLock {
      self.mode = mode
      accessTime = time
      modificationTime = time
      changeTime = time
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
