// A file of the host as a vnode: attributes, links, contents. Directories are in VirtioNode+Directory.swift.
//
// The server's word is believed for as long as it allows (a second, usually). When new attributes show another size or
// modification time, the cached pages go. Nothing is opened: the server reads and writes by node, but for files whose mode would keep it from
// that, or the server is a foreign one (VirtioNode+Opening.swift); those have a handle. What an answer says that was asked for before a change
// of ours is not believed.
import Base
import Files
import Locks
import Memory
import Platform
import Synchronization
import VirtioABI

/// A file of the host.
final class VirtioNode: Vnode, Pager {
  /// The server's number.
  let node: UInt64
  unowned(unsafe) let tree: VirtioFileSystem

  // Under the tree's lock:
  /// When it came into the table, counted in nodes: set once, before anybody else knows the node.
  var birth: UInt32 = 0
  /// Lookups that the server has counted.
  var lookups: UInt64 = 1
  var hashNext: VirtioNode?
  /// Found since the last sweep.
  var isUsed = true
  /// Without a name, and not in the table any more.
  var isOrphan = false
  var attributes: FUSEAttributes
  private let isMadeWhenRead: Atomic<Bool>
  var attributesExpire: UInt64
  /// Changes of ours that are under way, and the number of the last that is over.
  var changesUnderWay = 0
  var lastChange: UInt64 = 0
  /// The server's open file where it must have one: `access` is O_RDONLY, O_WRONLY or O_RDWR.
  var handle: UInt64 = 0
  var handleAccess: UInt32 = 0
  /// What a server that works by handles only has given to read by; any number.
  var readingHandleKept: UInt64?
  /// Whether the size may be ahead of the server's, and when the data was written that the server has not got: nil where that is all there.
  private let delayed = Atomic<Bool>(false)
  var delayedTime: FileTime?
  /// The server did not take what was to be written back: until it does, writes do not wait, so that whoever writes hears of it.
  var isRefused = false
  /// The directory it was listed in last, and its place there: a hint, for reading ahead.
  var listedIn: (directory: UInt64, place: Int) = (0, 0)

  // Under the lock of the list of dirty files:
  var nextDirty: VirtioNode?
  var isListedDirty = false

  // Under the node's own lock, which is taken before the tree's and may be held over a request:
  let lock = Mutex()
  private var contents: VirtioContents?
  private var pipe: Pipe?
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
  private var writableUntil: UInt64 = 0
  /// Just made: the open that follows is the maker's, whatever the mode.
  private var isFresh = false
  /// Open files, mapped ones that were closed included.
  let openFiles = Atomic<Int>(0)

  init(_ tree: VirtioFileSystem, _ node: UInt64, _ attributes: FUSEAttributes, expires: UInt64) {
    self.tree = tree
    self.node = node
    self.attributes = attributes
    attributesExpire = expires
    isMadeWhenRead = Atomic(Self.isMadeWhenRead(attributes))
    super.init(fileSystem: tree, inode: attributes.ino, type: FileType(mode: attributes.mode))
  }

  /// Written under the tree's lock; who reads it without may see what was a moment ago.
  var isDelayed: Bool {
    get { delayed.load(ordering: .acquiring) }
    set { delayed.store(newValue, ordering: .releasing) }
  }

  // MARK: Attributes

  /// Caches attributes, unless they may be older than a change of ours; what they show to be old goes.
  func update(_ new: FUSEAttributes, asked: RequestTime, expires: UInt64) {
    isMadeWhenRead.store(Self.isMadeWhenRead(new), ordering: .relaxed)
    let changed = tree.lock.withLock { () -> Bool in
      guard changesUnderWay == 0, lastChange <= asked.stamp else { return false }
      let old = attributes
      attributes = new
      attributesExpire = max(attributesExpire, expires)
      return old.size != new.size || old.mtime != new.mtime || old.mtimeNanoseconds != new.mtimeNanoseconds
    }
    guard changed, type == .regular else { return }
    invalidate()
    guard let contents = knownContents, contents.object.byteCount != new.size else { return }
    // Nobody is between a look at the size and what follows from it. Whoever holds the lock is not waited for: this may be called with that of
    // another file. Then the size is to be asked for again, and to be seen to differ.
    guard contents.sizeLock.tryWriteLock() else {
      return tree.lock.withLock {
        attributes.size = contents.object.byteCount
        attributesExpire = 0
      }
    }
    sizeChanged(contents.object, new.size)
    contents.sizeLock.writeUnlock()
  }

  /// The server has told the size: it is the file's, unless more has been written than the server knows. Under the size lock, perhaps
  /// with others: a write that is about to wait has raised the flag, or its object finds that it has been cut.
  func sizeChanged(_ object: MemoryObject, _ size: UInt64) {
    guard size <= Int64.max.u64, size > object.byteCount || !isDelayed else { return }
    if size != object.byteCount { object.sourceChanged(byteCount: size, unlessAhead: true) }
  }

  /// Contents that nobody is changing go: somebody else has changed the file.
  func invalidate() {
    if let old = takeWaiting() { MessageMemory.free(old.buffer) }
    lock.withLock { contents }?.object.invalidate()
  }

  /// The attributes, asked for again where they are too old.
  func freshAttributes() throws(Errno) -> FUSEAttributes {
    let asked = tree.ask()
    let cached = tree.lock.withLock { () -> FUSEAttributes? in asked.time < attributesExpire ? attributes : nil }
    if let cached { return cached }
    let answer = try tree.client.getattr(node)
    try VirtioFileSystem.check(answer.attributes)
    guard FileType(mode: answer.attributes.mode) == type else { throw .EIO }
    let expires = VirtioFileSystem.expiry(asked.time, answer.valid, answer.validNanoseconds)
    update(answer.attributes, asked: asked, expires: expires)
    return answer.attributes
  }

  /// What waits in the cache is written: the server tells the times, and they stay what they were told to be.
  override func settleTimes() {
    if isDelayed { try? writeBackDirty() }
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
    addDelayed(&result)
    return result
  }

  override func currentSize() throws(Errno) -> UInt64 {
    if isDelayed, let object = knownContents?.object { return object.byteCount }
    return try freshAttributes().size
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

  override func memoryObject() throws(Errno) -> MemoryObject { try fileContents().object }

  /// What is made when it is read is read from the server each time, past the cache, whatever its size is said to be.
  override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    guard isMadeWhenRead.load(ordering: .relaxed), (knownContents?.object.residentPages ?? 0) == 0 else {
      return try memoryObject().read(at: offset, into: &transfer)
    }
    guard type == .regular else { throw .ENODEV }
    return try readDirectly(at: offset, into: &transfer)
  }

  private func readDirectly(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    let before = transfer.copied
    while transfer.remaining > 0 {
      let done = transfer.copied &- before
      do throws(Errno) {
        let isWhole = try tree.withBuffer { (buffer) throws(Errno) -> Bool in
          let most = min(buffer.count, min(transfer.remaining, tree.client.maximumRead))
          let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<most])
          let count = try tree.client.read(
            node, handle: readingHandle(), offset: offset &+ done.u64, into: part)
          return try transfer.copyOut(from: UnsafeRawBufferPointer(rebasing: part[..<count])) == most
        }
        if !isWhole { break }
      } catch {
        if done > 0 { break }
        throw error
      }
    }
    return transfer.copied &- before
  }

  /// Files of procfs, sysfs and the like: no blocks, and a size that says nothing or, in sysfs, a page. An empty file looks the same, and
  /// what becomes of it is read just as well.
  private static func isMadeWhenRead(_ attributes: FUSEAttributes) -> Bool {
    attributes.blocks == 0 && (attributes.size == 0 || attributes.size == 4096)
  }

  /// The pages and what guards their number.
  func fileContents() throws(Errno) -> VirtioContents {
    guard type == .regular else { throw .ENODEV }
    let size = try freshAttributes().size
    return lock.withLock {
      if let contents { return contents }
      let fresh = VirtioContents(MemoryObject(byteCount: size, pager: self))
      contents = fresh
      return fresh
    }
  }

  /// The same, if there are pages.
  var knownContents: VirtioContents? { lock.withLock { contents } }

  /// Devices and sockets of the host are not ours to open, and a FIFO is one between the guest's own. For files whose mode does not
  /// let everybody read (or write), the server is asked whether it may: it would find out at the first read only, where programs do not
  /// expect it.
  override func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    if flags.contains(.pathOnly) { return try super.open(flags, at: location) }
    switch type {
    case .regular: break
    case .directory:
      try checkUsable(0o005, mask: 5)
      return try super.open(flags, at: location)
    case .fifo:
      return try fifo().open(flags, vnode: self, at: location)
    default: throw .ENXIO
    }
    let isMakers = lock.withLock {
      defer { isFresh = false }
      return isFresh
    }
    if !isMakers {
      if flags.allowsReading { try checkUsable(0o004, mask: 4) }
      if flags.allowsWriting || flags.contains(.truncate) {
        guard tree.client.isWritable else { throw .EROFS }
        try checkUsable(0o002, mask: 2)
      }
    }
    return VirtioFile(self, location: location, flags: flags)
  }

  /// What the FIFO is: a pipe of this kernel's.
  private func fifo() -> Pipe {
    lock.withLock {
      if let pipe { return pipe }
      let fresh = Pipe()
      pipe = fresh
      return fresh
    }
  }

  /// It has just been made.
  func markFresh() { lock.withLock { isFresh = true } }

  private func checkUsable(_ rights: UInt32, mask: UInt32) throws(Errno) {
    let attributes = try freshAttributes()
    if attributes.mode & rights == rights { return }
    // Its own files, as far as their owner may use them.
    if attributes.uid.u64 == tree.serverUser.load(ordering: .relaxed), attributes.mode &>> 6 & rights == rights {
      return
    }
    // Where files are opened, to open this one is to ask.
    if opensToRead {
      _ = try readingHandle()
      return
    }
    let now = tree.clock()
    let isWriting = mask & 2 != 0
    if lock.withLock({ now < (isWriting ? writableUntil : readableUntil) }) { return }
    try tree.client.access(node, mask: mask)
    lock.withLock {
      if isWriting { writableUntil = now &+ 1_000_000_000 } else { readableUntil = now &+ 1_000_000_000 }
    }
  }

  var maximumPages: Int { min(64, tree.client.maximumRead &>> 12) }

  func fill(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>) throws(Errno) {
    let handle = try readingHandle()
    if page == 0, handle == 0, tree.client.isOurs, try fillWhole(frames) { return }
    _ = try tree.client.read(node, handle: handle, offset: page &<< 12, frames: frames)
  }

  // MARK: Contents that wait (VirtioNode+ReadAhead.swift)

  /// The size, if the file is worth reading ahead: small, not empty, readable by everybody, not cached, known for sure.
  func sizeToReadAhead() -> UInt64? {
    let now = tree.clock()
    let size = tree.lock.withLock { () -> UInt64 in
      now < attributesExpire && attributes.mode & 0o004 != 0 && !Self.isMadeWhenRead(attributes) ? attributes.size : 0
    }
    guard size > 0, size < ReadAheadState.largestFile, lock.tryLock() else { return nil }
    defer { lock.unlock() }
    return waiting == nil && (contents?.object.residentPages ?? 0) == 0 ? size : nil
  }

  func takeWaiting() -> WaitingContents? {
    lock.withLock {
      defer { waiting = nil }
      return waiting
    }
  }

  /// Keeps contents, unless they may be older than a change of ours; gives back those that are not needed.
  func setWaiting(_ contents: WaitingContents, asked: RequestTime) -> WaitingContents? {
    lock.withLock {
      // A change that begins later takes away what waits before it sends anything, under this lock.
      if tree.lock.withLock({ changesUnderWay > 0 || lastChange > asked.stamp }) { return contents }
      defer { waiting = contents }
      return waiting
    }
  }

  deinit {
    if let waiting { MessageMemory.free(waiting.buffer) }
    if isOrphan { tree.orphanEnds(self) }
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

  // MARK: Changes (VirtioNode+Changes.swift and VirtioNode+Writing.swift)

  override func create(_ name: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult { try makeFile(name, file) }

  override func makeDirectory(_ name: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    try makeSubdirectory(name, file)
  }

  override func makeSymbolicLink(_ name: PathBytes, target: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    try makeLink(name, target: target, file)
  }

  override func link(_ name: PathBytes, to vnode: Vnode) throws(Errno) { try addName(name, to: vnode) }

  override func unlink(_ name: PathBytes, _ vnode: Vnode) throws(Errno) {
    try removeName(name, vnode, directory: false)
  }

  override func removeDirectory(_ name: PathBytes, _ vnode: Vnode) throws(Errno) {
    try removeName(name, vnode, directory: true)
  }

  override func rename(
    _ name: PathBytes, _ vnode: Vnode, to directory: Vnode, as newName: PathBytes, replacing replaced: Vnode?,
    flags: RenameFlags
  ) throws(Errno) {
    try moveName(name, vnode, to: directory, as: newName, replacing: replaced, flags: flags)
  }

  override func setAttributes(_ change: AttributeChange) throws(Errno) { try changeAttributes(change) }

  override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try writeData(at: offset, from: &transfer, flags)
  }

  override func synchronise(dataOnly: Bool) throws(Errno) { try makeDurable(dataOnly: dataOnly) }

  override func allocate(mode: UInt32, offset: UInt64, byteCount: UInt64) throws(Errno) {
    try changeSpace(mode: mode, offset: offset, byteCount: byteCount)
  }

  // MARK: What is asked each time (VirtioNode+Uncached.swift)

  override func createTemporary(_ file: NewFile, canBeLinked: Bool) throws(Errno) -> Vnode {
    try makeTemporary(file, canBeLinked: canBeLinked)
  }

  override func findData(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 { try nextData(from: offset) }

  override func findHole(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 {
    try nextHole(from: offset, end: end)
  }

  override func getExtendedAttribute(_ name: PathBytes) throws(Errno) -> [UInt8] { try attribute(name) }

  override func listExtendedAttributes() throws(Errno) -> [UInt8] { try attributeNames() }

  override func setExtendedAttribute(_ name: PathBytes, _ value: UnsafeRawBufferPointer, _ mode: AttributeSetting)
    throws(Errno)
  {
    try setAttribute(name, value, mode)
  }

  override func removeExtendedAttribute(_ name: PathBytes) throws(Errno) { try removeAttribute(name) }
}
