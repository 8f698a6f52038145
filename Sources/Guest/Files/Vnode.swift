// Vnode: a file of any type, as its file system implements it.
//
// One object for each file in use, however many names and open files it has: a file system hands out the same object for
// the same file (identity is what the name cache and the page cache go by). Operations default to the error that a
// file without them gives.
//
// Who holds what when an operation runs:
//   * lookup and readDirectory: the directory's lock, shared;
//   * create, makeDirectory, makeSymbolicLink, link, unlink, removeDirectory, rename: the directory's lock (both
//     directories') exclusively, and that of a directory that disappears too; rights, name lengths, existence and
//     mount points have been checked under it;
//   * all others: nothing.
// An operation may sleep. It never touches program memory except through the `Transfer` it was given.
import Base
import Locks
import Memory

/// A file.
open class Vnode {
  /// Its file system.
  public let fileSystem: FileSystem
  /// Its number, unique within the file system.
  public let inode: UInt64
  /// Its type; a file never changes it.
  public let type: FileType
  /// Guards the names in a directory; others have none.
  let directoryLock: DirectoryLock?
  /// Keeps appending writes apart. Ordinary writes do not take it.
  let appendLock = Mutex()
  /// A reference to its `FileLocks`, counted; 0: nobody has asked for a lock.
  private let locksWord = Atomic<UInt>(0)
  /// The same for its `WatchList`.
  private let watchesWord = Atomic<UInt>(0)
  /// Open files of it that have descriptors.
  let openCount = Atomic<Int>(0)

  /// A file of a file system.
  public init(fileSystem: FileSystem, inode: UInt64, type: FileType) {
    self.fileSystem = fileSystem
    self.inode = inode
    self.type = type
    directoryLock = type == .directory ? DirectoryLock() : nil
  }

  deinit {
    // SAFETY: the word holds the reference that `makeFileLocks` has counted.
    if let locks = UnsafeRawPointer(bitPattern: locksWord.load(ordering: .acquiring)) {
      Unmanaged<FileLocks>.fromOpaque(locks).release()
    }
    if let watches = UnsafeRawPointer(bitPattern: watchesWord.load(ordering: .acquiring)) {
      Unmanaged<WatchList>.fromOpaque(watches).release()
    }
  }

  /// Who watches it; nil if nobody ever has.
  final var watchList: WatchList? {
    // SAFETY: as in `fileLocks`.
    guard let watches = UnsafeRawPointer(bitPattern: watchesWord.load(ordering: .acquiring)) else { return nil }
    return Unmanaged<WatchList>.fromOpaque(watches).takeUnretainedValue()
  }

  /// The same, made if need be.
  final func makeWatchList() -> WatchList {
    if let watchList { return watchList }
    let fresh = Unmanaged.passRetained(WatchList())
    let word = UInt(bitPattern: fresh.toOpaque())
    if !watchesWord.compareExchange(expected: 0, desired: word, ordering: .acquiringAndReleasing).exchanged {
      fresh.release()
    }
    return watchList.unsafelyUnwrapped
  }

  /// The locks that programs hold on it; nil if none was ever asked for.
  public final var fileLocks: FileLocks? {
    // SAFETY: a word that is not 0 holds a reference that lasts as long as the vnode.
    guard let locks = UnsafeRawPointer(bitPattern: locksWord.load(ordering: .acquiring)) else { return nil }
    return Unmanaged<FileLocks>.fromOpaque(locks).takeUnretainedValue()
  }

  /// The same, made if need be.
  public final func makeFileLocks() -> FileLocks {
    if let fileLocks { return fileLocks }
    let fresh = Unmanaged.passRetained(FileLocks())
    let word = UInt(bitPattern: fresh.toOpaque())
    if !locksWord.compareExchange(expected: 0, desired: word, ordering: .acquiringAndReleasing).exchanged {
      fresh.release()
    }
    return fileLocks.unsafelyUnwrapped
  }

  /// Whether it is a directory.
  @inline(__always) public final var isDirectory: Bool { type == .directory }

  // MARK: Attributes

  /// The attributes (VOP_GETATTR). `device`, `inode` and the type in `mode` must be right too.
  open func getAttributes() throws(Errno) -> StatInformation { throw .EIO }

  /// A program is about to be told the attributes: what still moves the times of its own accord comes first. Nothing is held.
  open func settleTimes() {}

  /// The size alone, for whoever writes at the end or moves to it; costs what the attributes cost, or less.
  open func currentSize() throws(Errno) -> UInt64 { try getAttributes().byteCount }

  /// Changes attributes (VOP_SETATTR); the right to has been checked. The change time is the file system's to set.
  open func setAttributes(_ change: AttributeChange) throws(Errno) { throw .EROFS }

  /// Checks rights (VOP_ACCESS): by default owner, group and mode.
  /// - Throws: EACCES, or why there are no attributes.
  open func checkAccess(_ rights: AccessRights, _ credentials: Credentials) throws(Errno) {
    if credentials.isPrivileged && (isDirectory || !rights.contains(.execute)) { return }
    let attributes = try getAttributes()
    guard
      credentials.allows(rights, mode: attributes.mode, userID: attributes.userID, groupID: attributes.groupID)
    else { throw .EACCES }
  }

  // MARK: What is known of it, for readers under RCU: without waiting, locking or counting

  /// Fills in the attributes; false if they have to be asked for.
  open func glanceAttributes(_ result: inout StatInformation) -> Bool { false }

  /// Whether the rights are granted, by owner, group and mode.
  open func glanceRights(_ rights: AccessRights, _ credentials: Credentials) -> WalkAnswer {
    credentials.isPrivileged && (isDirectory || !rights.contains(.execute)) ? .yes : .unknown
  }

  // MARK: Names in a directory

  /// Finds a name (VOP_LOOKUP), never "." or "..". A name that is not there is a result, not an error.
  open func lookup(_ name: PathBytes) throws(Errno) -> LookupResult { throw .ENOTDIR }

  /// Makes a file that is neither directory nor symbolic link (VOP_CREATE, VOP_MKNOD). The name is not there.
  open func create(_ name: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult { throw .EROFS }

  /// Makes a regular file without a name, which ends with its last open file unless `link` gives it one (O_TMPFILE). Nothing is
  /// held.
  open func createTemporary(_ file: NewFile, canBeLinked: Bool) throws(Errno) -> Vnode { throw .EOPNOTSUPP }

  /// Makes a directory (VOP_MKDIR). The name is not there.
  open func makeDirectory(_ name: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult { throw .EROFS }

  /// Makes a symbolic link to `target` (VOP_SYMLINK). The name is not there.
  open func makeSymbolicLink(_ name: PathBytes, target: PathBytes, _ file: NewFile) throws(Errno) -> LookupResult {
    throw .EROFS
  }

  /// Gives `vnode`, a file of the same file system and no directory, one more name (VOP_LINK). The name is not there.
  open func link(_ name: PathBytes, to vnode: Vnode) throws(Errno) { throw .EROFS }

  /// Removes the name of `vnode`, which is no directory (VOP_REMOVE).
  open func unlink(_ name: PathBytes, _ vnode: Vnode) throws(Errno) { throw .EROFS }

  /// Removes the directory `vnode` (VOP_RMDIR).
  /// - Throws: ENOTEMPTY.
  open func removeDirectory(_ name: PathBytes, _ vnode: Vnode) throws(Errno) { throw .EROFS }

  /// Moves `vnode` from here to a directory of the same file system (VOP_RENAME), which may be this one. Loops and types
  /// that do not fit have been refused.
  /// - Parameters:
  ///   - name: its name here.
  ///   - vnode: what is moved.
  ///   - directory: where to.
  ///   - newName: its name there.
  ///   - replaced: what has that name now: to be removed (an empty directory by a directory), or with
  ///     `RenameFlags.exchange` to be put in the other's place.
  /// - Throws: ENOTEMPTY; EINVAL for flags that the file system does not know.
  open func rename(
    _ name: PathBytes, _ vnode: Vnode, to directory: Vnode, as newName: PathBytes, replacing replaced: Vnode?,
    flags: RenameFlags
  ) throws(Errno) { throw .EROFS }

  /// Lists the names from `cookie` on (VOP_READDIR), "." and ".." included (`DirectoryEntrySink.addDots`).
  ///
  /// - Parameters:
  ///   - cookie: 0 for the start, or the cookie that came with an entry: go on behind it. Cookies stay good while the
  ///     directory changes: an entry that stays there is seen exactly once by a listing from start to end.
  ///   - parent: the number of the directory above.
  ///   - sink: takes entries until it is full. Returning without adding any means the end.
  open func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink) throws(Errno) {
    throw .ENOTDIR
  }

  /// Where a symbolic link leads (VOP_READLINK).
  open func readLink() throws(Errno) -> [UInt8] { throw .EINVAL }

  /// A place that a walk jumps to instead of following the text of `readLink`: the magic links of procfs.
  open func linkedLocation() throws(Errno) -> Location? { nil }

  // MARK: Contents

  /// The pages of a regular file, the same object each time; `OpenFile`s read, write and map through it.
  /// - Throws: ENODEV if the file has none.
  open func memoryObject() throws(Errno) -> MemoryObject { throw .ENODEV }

  /// Whether reads and writes have a position (otherwise lseek gives ESPIPE and positions are ignored).
  open var isSeekable: Bool { type == .regular || type == .blockDevice || type == .directory }

  /// Reads (VOP_READ). By default from the memory object.
  /// - Returns: bytes read; 0 at the end.
  open func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try memoryObject().read(at: offset, into: &transfer)
  }

  /// Writes (VOP_WRITE). By default to the memory object, then `contentsChanged`.
  /// - Returns: bytes written.
  open func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    let count = try memoryObject().write(at: offset, from: &transfer)
    if count > 0 { contentsChanged() }
    return count
  }

  /// Somebody has read the contents: the access time may move.
  open func contentsRead() {}
  /// Somebody has written contents: times move, set-user bits go.
  open func contentsChanged() {}

  /// Opens the file (VOP_OPEN); rights have been checked, O_TRUNC is done after.
  /// - Returns: the open file: of the class `OpenFile`, or a kind of the file system's own.
  open func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    guard type != .socket else { throw .ENXIO }
    return OpenFile(vnode: self, location: location, flags: flags)
  }

  /// Stores everything written so far (VOP_FSYNC).
  open func synchronise(dataOnly: Bool) throws(Errno) {}

  /// Allocates or frees space (fallocate's mode).
  open func allocate(mode: UInt32, offset: UInt64, byteCount: UInt64) throws(Errno) { throw .EOPNOTSUPP }

  /// A device's own calls (VOP_IOCTL). `argument` is the program's, unchecked.
  /// - Throws: ENOTTY for what it does not know.
  open func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int { throw .ENOTTY }

  /// What can be done without sleeping; files without a `pollSource` are always ready.
  open var readyMask: ReadyMask { [.readable, .writable] }
  /// Tells when `readyMask` changes.
  open var pollSource: PollSource? { nil }

  /// The first byte at or behind an offset that is data, and the first that is in a hole (SEEK_DATA, SEEK_HOLE); `offset` lies before
  /// the end, `end`, where the last hole begins. A file system that knows no holes has one only there.
  /// - Throws: ENXIO: there is no data any more.
  open func findData(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 { offset }
  /// See `findData`.
  open func findHole(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 { end }

  // MARK: Extended attributes

  /// Reads an extended attribute.
  /// - Throws: ENODATA if it is not there.
  open func getExtendedAttribute(_ name: PathBytes) throws(Errno) -> [UInt8] { throw .EOPNOTSUPP }
  /// The names of all extended attributes, each with a NUL behind.
  open func listExtendedAttributes() throws(Errno) -> [UInt8] { [] }
  /// Sets an extended attribute.
  /// - Throws: EEXIST, ENODATA (as `mode` says), ENOSPC, EOPNOTSUPP.
  open func setExtendedAttribute(_ name: PathBytes, _ value: UnsafeRawBufferPointer, _ mode: AttributeSetting)
    throws(Errno)
  { throw .EOPNOTSUPP }
  /// Removes an extended attribute.
  /// - Throws: ENODATA if it is not there.
  open func removeExtendedAttribute(_ name: PathBytes) throws(Errno) { throw .EOPNOTSUPP }
}

/// Which extended attributes a call is to set; the numbers are XATTR_*.
public enum AttributeSetting: UInt32, Sendable {
  /// New ones and others.
  case any = 0
  /// Only new ones.
  case create = 1
  /// Only those that are there.
  case replace = 2
}

/// What a directory says about a name.
public struct LookupResult {
  /// The file, or nil if the name is not there.
  public var vnode: Vnode?
  /// How long that may be believed without asking again, ns; `UInt64.max`: until the kernel itself changes it.
  public var validity: UInt64

  /// A result that is good for `validity` ns, or for good.
  public init(_ vnode: Vnode?, validity: UInt64 = .max) {
    self.vnode = vnode
    self.validity = validity
  }
}

/// The lock of a directory's names, in an object of its own because most files need none.
final class DirectoryLock {
  let lock = ReaderWriterLock()
}
