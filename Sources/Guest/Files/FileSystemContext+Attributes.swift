// Operations on attributes, by place: find it first (`find`), or take an open file's.
import Base

extension FileSystemContext {
  /// The attributes of the file that a path names (fstatat, statx), into a place of the caller's.
  public func getAttributes(
    _ path: PathBytes, from base: Location?, flags: AtFlags = [], _ credentials: Credentials,
    into result: inout StatInformation
  ) throws(Errno) {
    if !path.isEmpty {
      let end = glance(path, from: base, followsLink: !flags.contains(.noFollow), credentials) {
        $0.withVnode { $0.glanceAttributes(&result) }
      }
      switch end {
      case .arrived: return
      case .absent: throw .ENOENT
      case .unknown: break
      }
    }
    try askForAttributes(path, from: base, flags, credentials, &result)
  }

  @inline(never) private func askForAttributes(
    _ path: PathBytes, from base: Location?, _ flags: AtFlags, _ credentials: Credentials,
    _ result: inout StatInformation
  ) throws(Errno) {
    let vnode = try find(path, from: base, flags: flags, credentials).vnode
    vnode.settleTimes()
    result = try vnode.getAttributes()
  }

  /// The same as a value.
  public func getAttributes(_ path: PathBytes, from base: Location?, flags: AtFlags = [], _ credentials: Credentials)
    throws(Errno) -> StatInformation
  {
    var result = StatInformation()
    try getAttributes(path, from: base, flags: flags, credentials, into: &result)
    return result
  }

  /// Checks rights (faccessat): for the real user unless the flags say `effectiveAccess`. No rights: existence.
  /// - Throws: EACCES, EROFS…
  public func checkAccess(
    _ path: PathBytes, from base: Location?, _ rights: AccessRights, flags: AtFlags = [], _ credentials: Credentials
  ) throws(Errno) {
    // Those are usually the same, and a copy is dearer than a look.
    if flags.contains(.effectiveAccess) || credentials.isReal {
      return try check(path, from: base, rights, flags, credentials)
    }
    try check(path, from: base, rights, flags, credentials.real)
  }

  private func check(
    _ path: PathBytes, from base: Location?, _ rights: AccessRights, _ flags: AtFlags, _ who: Credentials
  ) throws(Errno) {
    if !path.isEmpty {
      let end = glance(path, from: base, followsLink: !flags.contains(.noFollow), who) {
        guard case .yes = $0.glanceRights(rights, who) else { return false }
        return true
      }
      switch end {
      case .arrived: return
      case .absent: throw .ENOENT
      case .unknown: break
      }
    }
    let place = try find(path, from: base, flags: flags, who)
    let vnode = place.vnode
    if rights.contains(.write), place.mount.flags.contains(.readOnly),
      vnode.isDirectory || vnode.type == .regular || vnode.type == .symbolicLink
    {
      throw .EROFS
    }
    if rights.contains(.execute), vnode.type == .regular, place.mount.flags.contains(.noExecute) { throw .EACCES }
    if rights.rawValue != 0 { try vnode.checkAccess(rights, who) }
  }

  /// Changes permission bits (fchmodat, fchmod).
  /// - Throws: EPERM, EROFS, EOPNOTSUPP (a symbolic link).
  public func changeMode(_ place: Location, _ mode: UInt32, _ credentials: Credentials) throws(Errno) {
    try checkWritable(place)
    let vnode = place.vnode
    guard vnode.type != .symbolicLink else { throw .EOPNOTSUPP }
    var change = AttributeChange()
    change.mode = mode & FileMode.permissionMask
    if !credentials.isPrivileged {
      let attributes = try vnode.getAttributes()
      guard attributes.userID == credentials.effectiveUserID else { throw .EPERM }
      if !vnode.isDirectory, !credentials.isMember(of: attributes.groupID) {
        change.mode = mode & FileMode.permissionMask & ~FileMode.setGroup
      }
    }
    try vnode.change(change, of: place.dentry)
  }

  /// Changes owner and group (fchownat, fchown); nil stays.
  /// - Throws: EPERM, EROFS.
  public func changeOwner(_ place: Location, userID: UInt32?, groupID: UInt32?, _ credentials: Credentials)
    throws(Errno)
  {
    try checkWritable(place)
    let vnode = place.vnode
    let attributes = try vnode.getAttributes()
    if !credentials.isPrivileged {
      let isOwner = attributes.userID == credentials.effectiveUserID
      if let userID, !isOwner || userID != attributes.userID { throw .EPERM }
      if let groupID, !isOwner || !(groupID == attributes.groupID || credentials.isMember(of: groupID)) {
        throw .EPERM
      }
    }
    var change = AttributeChange()
    change.userID = userID
    change.groupID = groupID
    if !vnode.isDirectory, userID != nil || groupID != nil {
      // Whom the bits were given for has changed.
      var mode = attributes.mode & FileMode.permissionMask & ~FileMode.setUser
      if mode & 0o010 != 0 { mode &= ~FileMode.setGroup }
      if mode != attributes.mode & FileMode.permissionMask { change.mode = mode }
    }
    try vnode.change(change, of: place.dentry)
  }

  /// Sets times (utimensat, futimens); nil stays.
  /// - Throws: EPERM (given times are for owners), EACCES (the present is also for who may write), EROFS.
  public func changeTimes(
    _ place: Location, access: TimeChange?, modification: TimeChange?, _ credentials: Credentials
  ) throws(Errno) {
    guard access != nil || modification != nil else { return }
    try checkWritable(place)
    let vnode = place.vnode
    if !credentials.isPrivileged, try vnode.getAttributes().userID != credentials.effectiveUserID {
      guard case .now = access, case .now = modification else { throw .EPERM }
      try vnode.checkAccess(.write, credentials)
    }
    var change = AttributeChange()
    change.accessTime = access
    change.modificationTime = modification
    try vnode.change(change, of: place.dentry)
  }

  /// Sets the size of the file that a path names (truncate).
  /// - Throws: EISDIR, EINVAL (no regular file), EACCES, EROFS…
  public func truncate(_ path: PathBytes, from base: Location?, to byteCount: UInt64, _ credentials: Credentials)
    throws(Errno)
  {
    guard byteCount <= 0x7fff_ffff_ffff_ffff else { throw .EINVAL }
    let place = try find(path, from: base, credentials)
    let vnode = place.vnode
    if vnode.isDirectory { throw .EISDIR }
    guard vnode.type == .regular else { throw .EINVAL }
    try checkWritable(place)
    try vnode.checkAccess(.write, credentials)
    try FileSizeLimit.check(byteCount, from: try vnode.getAttributes().byteCount)
    var change = AttributeChange()
    change.byteCount = byteCount
    try vnode.change(change, of: place.dentry)
  }

  private func checkWritable(_ place: Location) throws(Errno) {
    if place.mount.flags.contains(.readOnly) { throw .EROFS }
  }
}
