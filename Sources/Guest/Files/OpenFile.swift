// OpenFile: an open file description: what descriptors, in any number, refer to.
//
// `position` is guarded by a lock of the open file, which calls that move it hold while they move data (Linux's
// f_pos rule: two threads that read one open file get different bytes). It is no lock of the file: other open files of
// it, and pread and pwrite on this one, run beside. Files without positions (pipes, terminals) do not take it.
//
// An open file ends in two steps: `closed` when the last descriptor goes, though calls on it may still be running; the
// object's end when they, and the mappings made through it, are gone too.
import Base
import Locks
import Memory

/// Where a seek counts from; the numbers are lseek's.
public enum SeekOrigin: UInt32 {
  /// The start (SEEK_SET).
  case start = 0
  /// The position (SEEK_CUR).
  case current = 1
  /// The end (SEEK_END).
  case end = 2
  /// The next data from there on (SEEK_DATA).
  case data = 3
  /// The next hole from there on (SEEK_HOLE).
  case hole = 4
}

/// An open file.
open class OpenFile: MappingOwner {
  /// The file.
  public let vnode: Vnode
  /// Where it was found.
  public let location: Location
  private let flagBits: Atomic<UInt32>
  private let positionLock = Mutex()
  private var position: UInt64 = 0
  private let descriptorCount = Atomic<Int>(0)
  let epollLinks = EpollLinks()

  /// An open file of a vnode; `flags` as given to open.
  public init(vnode: Vnode, location: Location, flags: OpenFlags) {
    self.vnode = vnode
    self.location = location
    flagBits = Atomic(flags.subtracting(.notKept).rawValue)
    location.use(1, writes: flags.allowsWriting)
  }

  deinit {
    vnode.fileLocks?.removeAll(of: lockOwner)
    location.use(-1, writes: isWritable)
  }

  // SAFETY: a number, never followed. No other open file has it meanwhile: its locks go in `deinit`, before its memory can
  // be another's.
  /// Its name as an owner of locks.
  public final var lockOwner: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

  /// Where the next read or write is, for /proc/N/fdinfo.
  public final var currentPosition: UInt64 { positionLock.withLock { position } }

  /// Adds lines about what kind of file it is, for /proc/N/fdinfo.
  open func describe(_ text: inout TextBuffer) {}

  // MARK: Flags

  /// Access mode and status flags, as fcntl(F_GETFL) shows them.
  public final var flags: OpenFlags { OpenFlags(rawValue: flagBits.load(ordering: .relaxed)) }
  /// Sets the status flags that can change (`OpenFlags.changeable`), like fcntl(F_SETFL).
  public final func setFlags(_ new: OpenFlags) {
    let changeable = OpenFlags.changeable.rawValue
    let old = flagBits.load(ordering: .relaxed)
    flagBits.store(old & ~changeable | new.rawValue & changeable, ordering: .relaxed)
  }
  /// Whether it was opened for reading.
  @inline(__always) public final var isReadable: Bool { flags.allowsReading }
  /// Whether it was opened for writing.
  @inline(__always) public final var isWritable: Bool { flags.allowsWriting }
  /// Whether it is only a place (O_PATH): most calls give EBADF.
  @inline(__always) public final var isPathOnly: Bool { flags.contains(.pathOnly) }
  /// Whether calls give EAGAIN instead of sleeping.
  @inline(__always) public final var isNonBlocking: Bool { flags.contains(.nonBlocking) }

  // MARK: Data

  /// Reads at the position and moves it.
  /// - Returns: bytes read; 0 at the end.
  /// - Throws: EBADF, EISDIR, EINVAL, EAGAIN, EINTR, EFAULT, EIO…
  public final func read(into transfer: inout Transfer) throws(Errno) -> Int {
    guard isReadable else { throw .EBADF }
    guard !vnode.isDirectory else { throw .EISDIR }
    guard vnode.isSeekable else { return told(try readData(at: 0, into: &transfer), .read) }
    positionLock.lock()
    defer { positionLock.unlock() }
    let count = try readData(at: position, into: &transfer)
    position &+= count.u64
    return told(count, .read)
  }

  /// Writes at the position, or at the end with O_APPEND, and moves it.
  /// - Returns: bytes written.
  /// - Throws: EBADF, EPIPE (send SIGPIPE), EAGAIN, EINTR, EFAULT, ENOSPC, EFBIG, EIO…
  public final func write(from transfer: inout Transfer) throws(Errno) -> Int {
    guard isWritable else { throw .EBADF }
    guard vnode.isSeekable else { return told(try writeData(at: 0, from: &transfer), .changed) }
    positionLock.lock()
    defer { positionLock.unlock() }
    if flags.contains(.append) {
      let end = try append(from: &transfer)
      position = end.position
      return told(end.count, .changed)
    }
    try limit(&transfer, at: position)
    let count = try writeData(at: position, from: &transfer)
    position &+= count.u64
    return told(count, .changed)
  }

  /// Reads at an offset (pread).
  /// - Throws: like `read`; ESPIPE if the file has no positions.
  public final func read(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    guard !isPathOnly else { throw .EBADF }
    guard offset <= Self.maximumOffset else { throw .EINVAL }
    guard vnode.isSeekable else { throw .ESPIPE }
    guard isReadable else { throw .EBADF }
    guard !vnode.isDirectory else { throw .EISDIR }
    return told(try readData(at: offset, into: &transfer), .read)
  }

  /// Writes at an offset (pwrite); with O_APPEND at the end all the same, as Linux does.
  /// - Throws: like `write`; ESPIPE if the file has no positions.
  public final func write(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    guard !isPathOnly else { throw .EBADF }
    guard offset <= Self.maximumOffset else { throw .EINVAL }
    guard vnode.isSeekable else { throw .ESPIPE }
    guard isWritable else { throw .EBADF }
    if flags.contains(.append) { return told(try append(from: &transfer).count, .changed) }
    try limit(&transfer, at: offset)
    return told(try writeData(at: offset, from: &transfer), .changed)
  }

  /// Tells those who watch the file that so many bytes have been moved; returns the number.
  @inline(__always) private final func told(_ count: Int, _ events: FileEvents) -> Int {
    if count > 0 { Watching.tell(location.dentry, events) }
    return count
  }

  private final func append(from transfer: inout Transfer) throws(Errno) -> (position: UInt64, count: Int) {
    vnode.appendLock.lock()
    defer { vnode.appendLock.unlock() }
    let end = try vnode.currentSize()
    try limit(&transfer, at: end)
    let count = try writeData(at: end, from: &transfer)
    return (end &+ count.u64, count)
  }

  /// Lets no more be written at an offset than a file and the process may have.
  @inline(__always) private final func limit(_ transfer: inout Transfer, at offset: UInt64) throws(Errno) {
    if vnode.type == .regular { try FileSizeLimit.apply(&transfer, at: offset) }
    try transfer.limit(toFitAt: offset, below: Self.maximumOffset)
  }

  /// The largest offset of a byte.
  private static var maximumOffset: UInt64 { 0x7fff_ffff_ffff_ffff }

  /// Moves bytes out of the file; rights and offset have been checked. Files without positions ignore `offset`.
  open func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    let count = try vnode.read(at: offset, into: &transfer, flags: flags)
    if count > 0, !flags.contains(.noAccessTime) { vnode.contentsRead() }
    return count
  }

  /// Moves bytes into the file; rights and offset have been checked.
  open func writeData(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    let count = try vnode.write(at: offset, from: &transfer, flags: flags)
    if count > 0, flags.rawValue & (OpenFlags.dataSynchronous.rawValue | OpenFlags.synchronous.rawValue) != 0 {
      try vnode.synchronise(dataOnly: !flags.contains(.synchronous))
    }
    return count
  }

  /// Moves the position (lseek).
  /// - Returns: where it is.
  /// - Throws: EBADF, ESPIPE, EINVAL, EOVERFLOW, ENXIO (no data, or no hole, from there on).
  open func seek(_ offset: Int64, from origin: SeekOrigin) throws(Errno) -> UInt64 {
    guard !isPathOnly else { throw .EBADF }
    guard vnode.isSeekable else { throw .ESPIPE }
    positionLock.lock()
    defer { positionLock.unlock() }
    let base: Int64
    switch origin {
    case .start: base = 0
    case .current: base = position.i64
    case .end: base = try vnode.currentSize().i64
    case .data, .hole:
      let end = try vnode.currentSize()
      guard offset >= 0, offset.u64 < end else { throw .ENXIO }
      position =
        try origin == .data ? vnode.findData(from: offset.u64, end: end) : vnode.findHole(from: offset.u64, end: end)
      return position
    }
    let (sum, overflow) = base.addingReportingOverflow(offset)
    guard !overflow else { throw .EOVERFLOW }
    guard sum >= 0 else { throw .EINVAL }
    position = sum.u64
    return position
  }

  /// What a mapping of the file maps.
  /// - Throws: EBADF, ENODEV.
  open func memoryObject() throws(Errno) -> MemoryObject {
    guard !isPathOnly else { throw .EBADF }
    return try vnode.memoryObject()
  }

  /// Sets the size (ftruncate).
  /// - Throws: EBADF, EINVAL, EFBIG…
  public final func truncate(to byteCount: UInt64) throws(Errno) {
    guard !isPathOnly else { throw .EBADF }
    guard isWritable, vnode.type == .regular else { throw .EINVAL }
    guard byteCount <= Self.maximumOffset else { throw .EINVAL }
    try FileSizeLimit.check(byteCount, from: try vnode.getAttributes().byteCount)
    var change = AttributeChange()
    change.byteCount = byteCount
    try vnode.change(change, of: location.dentry)
  }

  /// Allocates or frees space (fallocate).
  /// - Throws: EBADF, ESPIPE, EISDIR, ENODEV, what the file throws.
  public final func allocate(mode: UInt32, offset: UInt64, byteCount: UInt64) throws(Errno) {
    guard isWritable else { throw .EBADF }
    switch vnode.type {
    case .fifo: throw .ESPIPE
    case .directory: throw .EISDIR
    case .regular, .blockDevice: break
    default: throw .ENODEV
    }
    if mode & 1 == 0, vnode.type == .regular {
      try FileSizeLimit.check(offset &+ byteCount, from: try vnode.getAttributes().byteCount)
    }
    try vnode.allocate(mode: mode, offset: offset, byteCount: byteCount)
    Watching.tell(location.dentry, .changed)
  }

  /// Lists the directory from the position on (getdents64) and moves it behind the last entry that fitted.
  /// - Parameter buffer: kernel memory for `struct linux_dirent64`s.
  /// - Returns: bytes used; 0 at the end.
  /// - Throws: ENOTDIR, EINVAL (the first entry does not fit), ENOENT (the directory has been removed).
  public final func readDirectory(into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
    guard !isPathOnly else { throw .EBADF }
    guard let directoryLock = vnode.directoryLock else { throw .ENOTDIR }
    positionLock.lock()
    defer { positionLock.unlock() }
    guard !location.dentry.isUnlinked else { throw .ENOENT }
    let parent = vnode.fileSystem.names.parent(of: location.dentry)?.vnode?.inode ?? vnode.inode
    var sink = DirectoryEntrySink(buffer, directory: location.dentry)
    try directoryLock.lock.withReadLock { () throws(Errno) in
      try vnode.readDirectory(from: position, parent: parent, into: &sink)
    }
    if let cookie = sink.nextCookie {
      position = cookie
    } else if sink.isFull {
      throw .EINVAL
    }
    vnode.contentsRead()
    Watching.tell(location.dentry, .read)
    return sink.byteCount
  }

  /// A device's own calls (ioctl); `argument` is the program's, unchecked. Regular files say what is left to read.
  /// - Throws: ENOTTY.
  open func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    guard !isPathOnly else { throw .EBADF }
    guard request == ControlRequest.readableByteCount, vnode.type == .regular else {
      return try vnode.control(request, argument)
    }
    let left = try vnode.getAttributes().byteCount.i64 &- positionLock.withLock { position.i64 }
    try UserSpan.write(left.i32, at: VirtualAddress(argument))
    return 0
  }

  /// The attributes (fstat).
  public final func getAttributes() throws(Errno) -> StatInformation {
    var result = StatInformation()
    try getAttributes(into: &result)
    return result
  }
  /// The same, into a place of the caller's.
  @inline(__always) public final func getAttributes(into result: inout StatInformation) throws(Errno) {
    // The file is there as long as it is open, so what is known of it is known here too.
    if !vnode.glanceAttributes(&result) { try askForAttributes(&result) }
  }

  @inline(never) private final func askForAttributes(_ result: inout StatInformation) throws(Errno) {
    vnode.settleTimes()
    result = try vnode.getAttributes()
  }

  /// Stores what has been written (fsync, fdatasync).
  open func synchronise(dataOnly: Bool) throws(Errno) { try vnode.synchronise(dataOnly: dataOnly) }

  // MARK: Readiness

  /// What can be done without sleeping.
  open var readyMask: ReadyMask { vnode.readyMask }
  /// Tells when `readyMask` changes; nil: it never does.
  open var pollSource: PollSource? { vnode.pollSource }

  // MARK: The end

  /// A descriptor is being closed (FUSE's FLUSH); the error is what close returns.
  open func flush() throws(Errno) {}
  /// The last descriptor has gone. Called once at most; never if there was none.
  open func closed() {}

  /// A descriptor refers to it from now on.
  public final func descriptorAdded() {
    if descriptorCount.wrappingAdd(1, ordering: .relaxed).oldValue == 0 {
      vnode.openCount.wrappingAdd(1, ordering: .relaxed)
    }
  }

  /// A descriptor refers to it no more.
  /// - Throws: what `flush` throws; it is closed all the same.
  public final func descriptorRemoved() throws(Errno) {
    defer {
      if descriptorCount.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
        epollLinks.removeAll()
        closed()
        let isLast = vnode.openCount.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0
        if Watching.isOn {
          if !isPathOnly { Watching.tell(location.dentry, isWritable ? .closedWriter : .closedReader) }
          if isLast { Watching.lastClosed(vnode) }
        }
      }
    }
    if !isPathOnly { try flush() }
  }

  // MARK: MappingOwner

  /// Device number of the file.
  public final var mappingDevice: UInt64 { vnode.fileSystem.device }
  /// Inode number of the file.
  public final var mappingInode: UInt64 { vnode.inode }
  /// Calls `body` with the file's path.
  public final func withMappingPath(_ body: (UnsafeRawBufferPointer) -> Void) {
    location.path(from: nil).withUnsafeBytes { body($0) }
  }
}

extension Transfer {
  /// Lets no more bytes be copied than lie between `offset` and `maximum`.
  /// - Throws: EFBIG if that is none.
  mutating func limit(toFitAt offset: UInt64, below maximum: UInt64) throws(Errno) {
    guard offset < maximum else { throw .EFBIG }
    if remaining.u64 > maximum &- offset { limit(to: (maximum &- offset).int) }
  }
}
