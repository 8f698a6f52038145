// Operations on names: making, linking, removing and renaming.
//
// Order of locks: the file system's rename lock (renames between two directories only), the directories (one that is
// above the other first, otherwise by address), the directory that disappears.
import Base
import Locks

extension FileSystemContext {
  // MARK: New names

  /// Makes a file (mknodat): regular, FIFO, socket or device. The umask is taken from `mode`.
  /// - Throws: EEXIST, EINVAL (a type that cannot be made), EPERM (a device for an ordinary user), EROFS…
  public func makeNode(
    _ path: PathBytes, from base: Location?, type: FileType, mode: UInt32, device: UInt64 = 0,
    _ credentials: Credentials
  ) throws(Errno) {
    switch type {
    case .regular, .fifo, .socket: break
    case .characterDevice, .blockDevice: if !credentials.isPrivileged { throw .EPERM }
    default: throw .EINVAL
    }
    let bits = mode & ~umask & FileMode.permissionMask
    try addName(path, from: base, isDirectory: false, credentials) { (directory, name, attributes) throws(Errno) in
      var file = self.newFile(type, mode: bits, in: attributes, credentials)
      file.specialDevice = device
      return try directory.create(name, file)
    }
  }

  /// Makes a directory (mkdirat). The umask is taken from `mode`.
  /// - Throws: EEXIST, EROFS…
  public func makeDirectory(_ path: PathBytes, from base: Location?, mode: UInt32, _ credentials: Credentials)
    throws(Errno)
  {
    let bits = mode & ~umask & 0o1777
    try addName(path, from: base, isDirectory: true, credentials) { (directory, name, attributes) throws(Errno) in
      try directory.makeDirectory(name, self.newFile(.directory, mode: bits, in: attributes, credentials))
    }
  }

  /// Makes a symbolic link to `target` (symlinkat).
  /// - Throws: ENOENT (the target is empty), ENAMETOOLONG, EEXIST, EROFS…
  public func makeSymbolicLink(
    _ path: PathBytes, from base: Location?, target: PathBytes, _ credentials: Credentials
  ) throws(Errno) {
    guard !target.isEmpty else { throw .ENOENT }
    guard target.count <= PathBytes.maximumPathByteCount else { throw .ENAMETOOLONG }
    try addName(path, from: base, isDirectory: false, credentials) { (directory, name, attributes) throws(Errno) in
      try directory.makeSymbolicLink(
        name, target: target, self.newFile(.symbolicLink, mode: 0o777, in: attributes, credentials))
    }
  }

  /// Gives a file one more name (linkat).
  /// - Parameters:
  ///   - old: the file's path; empty with `AtFlags.emptyPath`: `oldBase` itself.
  ///   - oldBase: where `old` starts.
  ///   - new: the new path.
  ///   - newBase: where `new` starts.
  ///   - flags: `follow`, `emptyPath`.
  ///   - credentials: for whom.
  /// - Throws: EPERM (a directory), EXDEV, EEXIST, EROFS…
  public func link(
    _ old: PathBytes, from oldBase: Location?, to new: PathBytes, from newBase: Location?, flags: AtFlags = [],
    _ credentials: Credentials
  ) throws(Errno) {
    var finding: AtFlags = flags.contains(.follow) ? [] : .noFollow
    if flags.contains(.emptyPath) { finding.insert(.emptyPath) }
    let place = try find(old, from: oldBase, flags: finding, credentials)
    let vnode = place.vnode
    try addName(new, from: newBase, isDirectory: false, mount: place.mount, credentials) {
      (directory, name, _) throws(Errno) in
      guard !vnode.isDirectory else { throw .EPERM }
      try directory.link(name, to: vnode)
      return LookupResult(vnode)
    }
  }

  /// Finds the directory for a new name, checks what all new names need, and lets the body make it.
  private func addName(
    _ path: PathBytes, from base: Location?, isDirectory: Bool, mount: Mount? = nil, _ credentials: Credentials,
    _ body: (Vnode, PathBytes, StatInformation) throws(Errno) -> LookupResult
  ) throws(Errno) {
    let walk = try walk(path, from: base, credentials)
    guard walk.last == .name else { throw .EEXIST }
    let directory = walk.location.vnode
    guard let directoryLock = directory.directoryLock else { throw .ENOTDIR }
    directoryLock.lock.writeLock()
    defer { directoryLock.lock.writeUnlock() }
    if try walk.childLocked(walk.name).vnode != nil { throw .EEXIST }
    if walk.hasTrailingSlash, !isDirectory { throw .ENOENT }
    if let mount, mount !== walk.location.mount { throw .EXDEV }
    try checkNewName(walk)
    let result = try body(directory, walk.name, try directory.getAttributes())
    _ = walk.location.mount.fileSystem.names.enter(walk.location.dentry, walk.name, result)
    if Watching.isOn, let vnode = result.vnode {
      // One that lies elsewhere too has one more name.
      if mount != nil { Watching.tell(vnode, .attributes) }
      Watching.tell(directory, .created, walk.name, of: vnode)
    }
  }

  /// Whether a name may be added where the walk is; with the directory's lock.
  func checkNewName(_ walk: PathWalk) throws(Errno) {
    guard !walk.location.isDeleted else { throw .ENOENT }
    if walk.location.mount.flags.contains(.readOnly) { throw .EROFS }
    try walk.location.vnode.checkAccess([.write, .execute], walk.credentials)
  }

  /// The attributes of a new file, by who makes it and in which directory.
  func newFile(_ type: FileType, mode: UInt32, in directory: StatInformation, _ credentials: Credentials) -> NewFile {
    var file = NewFile(
      type: type, mode: mode, userID: credentials.effectiveUserID, groupID: credentials.effectiveGroupID)
    if directory.mode & FileMode.setGroup != 0 {
      file.groupID = directory.groupID
      if type == .directory {
        file.mode |= FileMode.setGroup
      } else if file.mode & 0o2010 == 0o2010, !credentials.isPrivileged, !credentials.isMember(of: file.groupID) {
        file.mode &= ~FileMode.setGroup
      }
    }
    return file
  }

  // MARK: Removing

  /// Removes a name (unlinkat); with `AtFlags.removeDirectory` that of an empty directory.
  /// - Throws: ENOENT, EISDIR, ENOTDIR, ENOTEMPTY, EBUSY (something is mounted there), EPERM (sticky directory), EROFS…
  public func unlink(_ path: PathBytes, from base: Location?, flags: AtFlags = [], _ credentials: Credentials)
    throws(Errno)
  {
    let removesDirectory = flags.contains(.removeDirectory)
    let walk = try walk(path, from: base, credentials)
    switch walk.last {
    case .name: break
    case .dot: throw removesDirectory ? .EINVAL : .EISDIR
    case .dotDot: throw removesDirectory ? .ENOTEMPTY : .EISDIR
    case .root: throw removesDirectory ? .EBUSY : .EISDIR
    }
    let directory = walk.location.vnode
    guard let directoryLock = directory.directoryLock else { throw .ENOTDIR }
    directoryLock.lock.writeLock()
    defer { directoryLock.lock.writeUnlock() }
    let entry = try walk.childLocked(walk.name)
    guard let vnode = entry.vnode else { throw .ENOENT }
    try checkRemoval(vnode, walk)
    let names = walk.location.mount.fileSystem.names
    guard removesDirectory else {
      if vnode.isDirectory { throw .EISDIR }
      if walk.hasTrailingSlash { throw .ENOTDIR }
      if entry.mountCount.load(ordering: .acquiring) > 0 { throw .EBUSY }
      try directory.unlink(walk.name, vnode)
      names.remove(entry)
      Watching.nameRemoved(vnode)
      Watching.tell(directory, .deleted, walk.name, of: vnode)
      return
    }
    guard let victimLock = vnode.directoryLock else { throw .ENOTDIR }
    if entry.mountCount.load(ordering: .acquiring) > 0 { throw .EBUSY }
    victimLock.lock.writeLock()
    defer { victimLock.lock.writeUnlock() }
    try directory.removeDirectory(walk.name, vnode)
    names.remove(entry)
    Watching.nameRemoved(vnode)
    Watching.tell(directory, .deleted, walk.name, of: vnode)
  }

  /// Whether the file's name may be taken from the directory where the walk is.
  private func checkRemoval(_ vnode: Vnode, _ walk: PathWalk) throws(Errno) {
    if walk.location.mount.flags.contains(.readOnly) { throw .EROFS }
    let directory = walk.location.vnode
    try directory.checkAccess([.write, .execute], walk.credentials)
    guard !walk.credentials.isPrivileged else { return }
    let attributes = try directory.getAttributes()
    if attributes.mode & FileMode.sticky != 0 {
      let user = walk.credentials.effectiveUserID
      if attributes.userID == user { return }
      guard try vnode.getAttributes().userID == user else { throw .EPERM }
    }
  }

  // MARK: Renaming

  /// Renames a file or directory (renameat2).
  /// - Throws: ENOENT, EEXIST (`noReplace`), EINVAL (into itself, unknown flags), EISDIR, ENOTDIR, ENOTEMPTY, EBUSY, EXDEV,
  ///   EPERM, EROFS…
  public func rename(
    _ old: PathBytes, from oldBase: Location?, to new: PathBytes, from newBase: Location?, flags: RenameFlags = [],
    _ credentials: Credentials
  ) throws(Errno) {
    guard flags.rawValue & ~3 == 0, flags != [.noReplace, .exchange] else { throw .EINVAL }
    let source = try walk(old, from: oldBase, credentials)
    let target = try walk(new, from: newBase, credentials)
    guard source.location.mount === target.location.mount else { throw .EXDEV }
    guard source.last == .name else { throw .EBUSY }
    guard target.last == .name else { throw flags.contains(.noReplace) ? .EEXIST : .EBUSY }
    let fileSystem = source.location.mount.fileSystem
    let (first, second) = (source.location.vnode, target.location.vnode)
    guard let firstLock = first.directoryLock, let secondLock = second.directoryLock else { throw .ENOTDIR }
    if first === second {
      try firstLock.lock.withWriteLock { () throws(Errno) in try renameLocked(source, target, flags) }
      return
    }
    fileSystem.renameLock.lock()
    defer { fileSystem.renameLock.unlock() }
    let names = fileSystem.names
    let sourceIsAbove = names.isAncestor(source.location.dentry, of: target.location.dentry)
    let targetIsAbove = names.isAncestor(target.location.dentry, of: source.location.dentry)
    let sourceFirst =
      sourceIsAbove || (!targetIsAbove && source.location.dentry.address < target.location.dentry.address)
    let (outer, inner) = sourceFirst ? (firstLock, secondLock) : (secondLock, firstLock)
    try outer.lock.withWriteLock { () throws(Errno) in
      try inner.lock.withWriteLock { () throws(Errno) in try renameLocked(source, target, flags) }
    }
  }

  private func renameLocked(_ source: PathWalk, _ target: PathWalk, _ flags: RenameFlags) throws(Errno) {
    let names = source.location.mount.fileSystem.names
    let (oldDirectory, newDirectory) = (source.location, target.location)
    let entry = try source.childLocked(source.name)
    guard let vnode = entry.vnode else { throw .ENOENT }
    let targetEntry = try target.childLocked(target.name)
    let replaced = targetEntry.vnode
    if flags.contains(.noReplace), replaced != nil { throw .EEXIST }
    if flags.contains(.exchange), replaced == nil { throw .ENOENT }
    if !vnode.isDirectory, source.hasTrailingSlash || (target.hasTrailingSlash && !flags.contains(.exchange)) {
      throw .ENOTDIR
    }
    // A directory may not move below itself, nor swap with or replace one that it is in.
    if vnode.isDirectory, names.isAncestor(entry, of: newDirectory.dentry) { throw .EINVAL }
    if replaced != nil, names.isAncestor(targetEntry, of: oldDirectory.dentry) {
      throw flags.contains(.exchange) ? .EINVAL : .ENOTEMPTY
    }
    try checkRemoval(vnode, source)
    if let replaced { try checkRemoval(replaced, target) } else { try checkNewName(target) }
    // What a directory says is above it changes.
    if source.location.vnode !== target.location.vnode {
      if vnode.isDirectory { try vnode.checkAccess(.write, source.credentials) }
      if flags.contains(.exchange), let replaced, replaced.isDirectory {
        try replaced.checkAccess(.write, source.credentials)
      }
    }
    if vnode === replaced { return }  // Two names of one file: POSIX wants nothing done.
    if let replaced, !flags.contains(.exchange) {
      if vnode.isDirectory, !replaced.isDirectory { throw .ENOTDIR }
      if !vnode.isDirectory, replaced.isDirectory { throw .EISDIR }
    }
    if entry.mountCount.load(ordering: .acquiring) > 0 || targetEntry.mountCount.load(ordering: .acquiring) > 0 {
      throw .EBUSY
    }
    let victimLock = flags.contains(.exchange) ? nil : replaced?.directoryLock
    victimLock?.lock.writeLock()
    defer { victimLock?.lock.writeUnlock() }
    try oldDirectory.vnode.rename(
      source.name, vnode, to: newDirectory.vnode, as: target.name, replacing: replaced, flags: flags)
    if flags.contains(.exchange) {
      names.exchange(entry, targetEntry)
    } else {
      if replaced != nil { names.remove(targetEntry) }
      names.move(entry, to: newDirectory.dentry, target.name)
    }
    let isExchange = flags.contains(.exchange)
    Watching.moved(
      vnode, from: oldDirectory.vnode, source.name, to: newDirectory.vnode, target.name,
      replacing: isExchange ? nil : replaced)
    if isExchange, let replaced {
      Watching.moved(
        replaced, from: newDirectory.vnode, target.name, to: oldDirectory.vnode, source.name, replacing: nil)
    }
  }

  // MARK: Reading links

  /// The text of a symbolic link (readlinkat). An empty path means `base` itself, which must then be one.
  /// - Throws: EINVAL if it is no link, ENOENT…
  public func readLink(_ path: PathBytes, from base: Location?, _ credentials: Credentials) throws(Errno) -> [UInt8] {
    let place = try find(path, from: base, flags: [.noFollow, .emptyPath], credentials)
    guard place.vnode.type == .symbolicLink else { throw path.isEmpty ? .ENOENT : .EINVAL }
    return try place.vnode.readLink()
  }
}
