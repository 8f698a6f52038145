// Opening files by path.
import Base
import Locks

extension FileSystemContext {
  /// Opens a file (openat).
  /// - Parameters:
  ///   - path: its path.
  ///   - base: where the path starts if it is relative.
  ///   - flags: how.
  ///   - mode: permission bits if it is created; the umask is taken from them.
  ///   - credentials: for whom.
  ///   - resolve: how far the walk may go (openat2).
  /// - Throws: EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EPERM, EROFS…
  public func open(
    _ path: PathBytes, from base: Location?, _ flags: OpenFlags, mode: UInt32 = 0, _ credentials: Credentials,
    resolve: ResolveFlags = []
  ) throws(Errno) -> OpenFile {
    if flags.contains(.pathOnly) { return try openPath(path, from: base, flags, credentials, resolve) }
    if flags.contains(.temporary) {
      guard flags.contains(.directory), !flags.contains(.create), flags.allowsWriting else { throw .EINVAL }
      let place = try find(path, from: base, credentials, resolve: resolve)
      return try openTemporary(in: place, flags, mode & ~umask & FileMode.permissionMask, credentials)
    }
    if flags.contains(.create), flags.contains(.directory) { throw .EINVAL }
    guard flags.contains(.create) else {
      let place = try find(
        path, from: base, flags: flags.contains(.noFollow) ? .noFollow : [], credentials, resolve: resolve)
      return try open(place, flags, credentials)
    }
    var walk = try walk(path, from: base, credentials, resolve)
    while true {
      guard walk.last == .name else { throw flags.contains(.exclusive) ? .EEXIST : .EISDIR }
      guard !walk.hasTrailingSlash else { throw .EISDIR }
      let (entry, isNew) = try findOrCreate(walk, flags, mode & ~umask & FileMode.permissionMask, credentials)
      let place = mounts.top(of: Location(mount: walk.location.mount, dentry: entry))
      if isNew {
        return try opened(place, flags.subtracting(.truncate))
      }
      if flags.contains(.exclusive) { throw .EEXIST }
      if place.vnode.type == .symbolicLink, !flags.contains(.noFollow) {
        guard let target = try walk.followLast(entry) else { continue }
        return try openExisting(target, flags, credentials)
      }
      return try openExisting(place, flags, credentials)
    }
  }

  private func openExisting(_ place: Location, _ flags: OpenFlags, _ credentials: Credentials) throws(Errno)
    -> OpenFile
  {
    if place.vnode.isDirectory { throw .EISDIR }
    return try open(place, flags, credentials)
  }

  /// The entry of the walk's last name, made if there is none; with the file that is created.
  private func findOrCreate(_ walk: PathWalk, _ flags: OpenFlags, _ mode: UInt32, _ credentials: Credentials)
    throws(Errno) -> (Dentry, isNew: Bool)
  {
    let known = try walk.child(walk.name)
    if known.vnode != nil { return (known, false) }
    let directory = walk.location.vnode
    guard let directoryLock = directory.directoryLock else { throw .ENOTDIR }
    directoryLock.lock.writeLock()
    defer { directoryLock.lock.writeUnlock() }
    let entry = try walk.childLocked(walk.name)
    if entry.vnode != nil { return (entry, false) }
    try checkNewName(walk)
    let file = newFile(.regular, mode: mode, in: try directory.getAttributes(), credentials)
    let names = walk.location.mount.fileSystem.names
    let result: LookupResult
    do throws(Errno) { result = try directory.create(walk.name, file) } catch {
      // Somebody beyond this kernel has made it since we looked: a file like any other, unless it had to be a new one.
      guard error == .EEXIST, !flags.contains(.exclusive) else { throw error }
      names.forget(entry)
      let found = try walk.childLocked(walk.name)
      guard found.vnode != nil else { throw error }
      return (found, false)
    }
    let made = names.enter(walk.location.dentry, walk.name, result)
    if let vnode = made.vnode { Watching.tell(directory, .created, walk.name, of: vnode) }
    return (made, true)
  }

  /// Opens the file at a place, as if it had been found by path: what reopening through procfs does.
  public func open(_ place: Location, _ flags: OpenFlags, _ credentials: Credentials) throws(Errno) -> OpenFile {
    let vnode = place.vnode
    // With both bits of the access mode set one needs both rights and can do neither.
    let needsBoth = flags.rawValue & OpenFlags.accessModeMask == 3
    let writes = flags.allowsWriting || flags.contains(.truncate) || needsBoth
    if flags.contains(.directory), !vnode.isDirectory { throw .ENOTDIR }
    switch vnode.type {
    case .symbolicLink: throw .ELOOP
    case .directory: if writes { throw .EISDIR }
    case .characterDevice, .blockDevice: if place.mount.flags.contains(.noDevices) { throw .EACCES }
    case .regular: if writes, place.mount.flags.contains(.readOnly) { throw .EROFS }
    default: break
    }
    var rights: AccessRights = []
    if flags.allowsReading || needsBoth { rights.insert(.read) }
    if writes { rights.insert(.write) }
    try vnode.checkAccess(rights, credentials)
    if flags.contains(.noAccessTime), !credentials.isPrivileged {
      guard try vnode.getAttributes().userID == credentials.effectiveUserID else { throw .EPERM }
    }
    let file = try opened(place, flags)
    if flags.contains(.truncate), vnode.type == .regular {
      var change = AttributeChange()
      change.byteCount = 0
      try vnode.change(change, of: place.dentry)
    }
    return file
  }

  private func opened(_ place: Location, _ flags: OpenFlags) throws(Errno) -> OpenFile {
    let file = try place.vnode.open(flags, at: place)
    Watching.tell(place.dentry, .opened)
    return file
  }

  private func openPath(
    _ path: PathBytes, from base: Location?, _ flags: OpenFlags, _ credentials: Credentials, _ resolve: ResolveFlags
  ) throws(Errno) -> OpenFile {
    let place = try find(
      path, from: base, flags: flags.contains(.noFollow) ? .noFollow : [], credentials, resolve: resolve)
    if flags.contains(.directory), !place.vnode.isDirectory { throw .ENOTDIR }
    return OpenFile(
      vnode: place.vnode, location: place, flags: flags.intersection([.pathOnly, .directory, .noFollow]))
  }

  /// Makes a file without a name in a directory (O_TMPFILE). With `exclusive` it never gets one.
  private func openTemporary(
    in place: Location, _ flags: OpenFlags, _ mode: UInt32, _ credentials: Credentials
  ) throws(Errno) -> OpenFile {
    let directory = place.vnode
    guard directory.isDirectory else { throw .ENOTDIR }
    if place.mount.flags.contains(.readOnly) { throw .EROFS }
    try directory.checkAccess([.write, .execute], credentials)
    let file = newFile(.regular, mode: mode, in: try directory.getAttributes(), credentials)
    let vnode = try directory.createTemporary(file, canBeLinked: !flags.contains(.exclusive))
    // It shows as Linux shows it, as a name that is gone.
    var name: [UInt8] = [0x23]
    name.append(decimal: vnode.inode)
    let entry = name.withPath { Dentry(parent: place.dentry, name: $0, vnode: vnode, validUntil: .max) }
    entry.state.noteUnlinked()
    return try opened(Location(mount: place.mount, dentry: entry), flags)
  }
}
