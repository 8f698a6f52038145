// A file of the host as a vnode: attributes, links, contents. Directories are in VirtioNode+Directory.swift.
//
// The server's word is believed for as long as it allows (a second, usually). When new attributes show another size or
// modification time, the cached pages go. Nothing is opened: the server reads by node.
import Base
import Files
import Locks
import Memory
import Platform
import VirtioABI

/// A file of the host.
final class VirtioNode: Vnode, Pager {
  /// The server's number.
  let node: UInt64
  unowned(unsafe) let tree: VirtioFileSystem

  // Under the tree's lock:
  /// Lookups that the server has counted.
  var lookups: UInt64 = 1
  var hashNext: VirtioNode?
  /// Found since the last sweep.
  var isUsed = true
  private var attributes: FUSEAttributes
  private var attributesExpire: UInt64
  /// The directory it was listed in last, and its place there: a hint, for reading ahead.
  var listedIn: (directory: UInt64, place: Int) = (0, 0)

  // Under the node's own lock, which is taken before the tree's and may be held over a request:
  let lock = Mutex()
  private var object: MemoryObject?
  private var target: [UInt8]?
  var listing: DirectoryListing?
  /// Where in the listing the last reader was.
  var listingHint = 0
  /// Replies in a row that brought no entry, yet were not the last.
  var emptyReplies = 0
  var readAhead = ReadAheadState()
  private var waiting: WaitingContents?
  /// Whether the server may read the file, as it said when last asked.
  private var readableUntil: UInt64 = 0

  init(_ tree: VirtioFileSystem, _ node: UInt64, _ attributes: FUSEAttributes, expires: UInt64) {
    self.tree = tree
    self.node = node
    self.attributes = attributes
    attributesExpire = expires
    super.init(fileSystem: tree, inode: attributes.ino, type: FileType(mode: attributes.mode))
  }

  // MARK: Attributes

  /// Caches attributes; what they show to be old goes.
  func update(_ new: FUSEAttributes, expires: UInt64) {
    let changed = tree.lock.withLock { () -> Bool in
      let old = attributes
      attributes = new
      attributesExpire = max(attributesExpire, expires)
      return old.size != new.size || old.mtime != new.mtime || old.mtimeNanoseconds != new.mtimeNanoseconds
    }
    guard changed, type == .regular else { return }
    if let old = takeWaiting() { MessageMemory.free(old.buffer) }
    guard let object = lock.withLock({ object }) else { return }
    object.invalidate()
    object.sourceChanged(byteCount: new.size)
  }

  /// The attributes, asked for again where they are too old.
  func freshAttributes() throws(Errno) -> FUSEAttributes {
    let now = tree.clock()
    let cached = tree.lock.withLock { () -> FUSEAttributes? in now < attributesExpire ? attributes : nil }
    if let cached { return cached }
    let answer = try tree.client.getattr(node)
    try VirtioFileSystem.check(answer.attributes)
    guard FileType(mode: answer.attributes.mode) == type else { throw .EIO }
    update(answer.attributes, expires: VirtioFileSystem.expiry(now, answer.valid, answer.validNanoseconds))
    return answer.attributes
  }

  override func getAttributes() throws(Errno) -> StatInformation {
    let attributes = try freshAttributes()
    var result = StatInformation()
    result.device = fileSystem.device
    result.inode = inode
    result.mode = attributes.mode
    result.linkCount = attributes.linkCount
    result.userID = attributes.uid
    result.groupID = attributes.gid
    let rdev = attributes.rdev
    result.specialDevice = DeviceNumber.make(rdev &>> 8 & 0xfff, rdev & 0xff | rdev &>> 12 & 0xfff00)
    result.byteCount = attributes.size
    result.blockByteCount = attributes.blockSize
    result.blockCount = attributes.blocks
    result.accessTime = VirtioNode.time(attributes.atime, attributes.atimeNanoseconds)
    result.modificationTime = VirtioNode.time(attributes.mtime, attributes.mtimeNanoseconds)
    result.changeTime = VirtioNode.time(attributes.ctime, attributes.ctimeNanoseconds)
    return result
  }

  private static func time(_ seconds: UInt64, _ nanoseconds: UInt32) -> FileTime {
    FileTime(seconds: Int64(bitPattern: seconds), nanoseconds: min(nanoseconds, 999_999_999))
  }

  // MARK: Links

  /// The target of a link never changes, so it is asked for once.
  override func readLink() throws(Errno) -> [UInt8] {
    guard type == .symbolicLink else { throw .EINVAL }
    lock.lock()
    defer { lock.unlock() }
    if let target { return target }
    let fresh = try tree.withBuffer { (buffer) throws(Errno) -> [UInt8] in
      let count = try tree.client.readlink(node, into: buffer)
      return PathBytes(UnsafeRawBufferPointer(rebasing: buffer[..<count])).copy
    }
    for byte in fresh where byte == 0 { throw .EIO }
    target = fresh
    return fresh
  }

  // MARK: Contents

  override func memoryObject() throws(Errno) -> MemoryObject {
    guard type == .regular else { throw .ENODEV }
    let size = try freshAttributes().size
    return lock.withLock {
      if let object { return object }
      let fresh = MemoryObject(byteCount: size, pager: self)
      object = fresh
      return fresh
    }
  }

  /// Devices and pipes of the host are not ours to open. For files whose mode does not let everybody read, the server is asked
  /// whether it may: it would find out at the first read only, where programs do not expect it.
  override func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    guard type == .regular || type == .directory || flags.contains(.pathOnly) else { throw .ENXIO }
    if flags.allowsReading { try checkReadable() }
    return try super.open(flags, at: location)
  }

  private func checkReadable() throws(Errno) {
    let needed: UInt32 = isDirectory ? 0o005 : 0o004
    if try freshAttributes().mode & needed == needed { return }
    let now = tree.clock()
    if lock.withLock({ now < readableUntil }) { return }
    try tree.client.access(node, mask: isDirectory ? 5 : 4)
    lock.withLock { readableUntil = now &+ 1_000_000_000 }
  }

  var maximumPages: Int { min(64, tree.client.maximumRead &>> 12) }

  func fill(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>) throws(Errno) {
    if page == 0, try fillWhole(frames) { return }
    _ = try tree.client.read(node, offset: page &<< 12, frames: frames)
  }

  func writeBack(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>, byteCount: Int) throws(Errno) {
    throw .EROFS
  }

  // MARK: Contents that wait (VirtioNode+ReadAhead.swift)

  /// The size, if the file is worth reading ahead: small, not empty, readable by everybody, not cached, known for sure.
  func sizeToReadAhead() -> UInt64? {
    let now = tree.clock()
    let size = tree.lock.withLock { () -> UInt64 in
      now < attributesExpire && attributes.mode & 0o004 != 0 ? attributes.size : 0
    }
    guard size > 0, size < ReadAheadState.largestFile, lock.tryLock() else { return nil }
    defer { lock.unlock() }
    return waiting == nil && (object?.residentPages ?? 0) == 0 ? size : nil
  }

  func takeWaiting() -> WaitingContents? {
    lock.withLock {
      defer { waiting = nil }
      return waiting
    }
  }

  /// Keeps contents; gives back those that were there.
  func setWaiting(_ contents: WaitingContents) -> WaitingContents? {
    lock.withLock {
      defer { waiting = contents }
      return waiting
    }
  }

  deinit {
    if let waiting { MessageMemory.free(waiting.buffer) }
  }

  // MARK: Names (VirtioNode+Directory.swift)

  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult { try find(name) }

  override func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink) throws(Errno) {
    guard isDirectory else { throw .ENOTDIR }
    guard sink.addDots(from: cookie, own: inode, parent: parent) else { return }
    try forEachEntry(from: VirtioNode.serverCookie(cookie)) { name, record in
      let type = FileType(rawValue: record.type) ?? .unknown
      return sink.add(name, inode: record.inode, type: type, nextCookie: VirtioNode.guestCookie(record.cookie))
    }
  }

  /// The server's cookies are whatever the host's file system makes of them; 0 to 2 mean the start and the dots here, so
  /// that these three, should they ever come, are moved out of the way.
  private static func guestCookie(_ cookie: UInt64) -> UInt64 { cookie <= 2 ? cookie | 1 &<< 62 : cookie }
  private static func serverCookie(_ cookie: UInt64) -> UInt64 {
    if cookie <= 2 { return 0 }
    let moved = cookie & ~(1 &<< 62)
    return moved <= 2 ? moved : cookie
  }

  // MARK: Extended attributes

  override func getExtendedAttribute(_ name: PathBytes) throws(Errno) -> [UInt8] {
    try tree.withBuffer { (buffer) throws(Errno) in
      let count = try tree.client.getxattr(node, name.bytes, into: buffer)
      return PathBytes(UnsafeRawBufferPointer(rebasing: buffer[..<count])).copy
    }
  }

  override func listExtendedAttributes() throws(Errno) -> [UInt8] {
    try tree.withBuffer { (buffer) throws(Errno) in
      let count = try tree.client.listxattr(node, into: buffer)
      return PathBytes(UnsafeRawBufferPointer(rebasing: buffer[..<count])).copy
    }
  }
}
