// Operations on extended attributes: who may, and which.
//
// Names begin with the class that they belong to: user.* are for everybody who may read or write the file, and only of regular files
// and directories; trusted.* are for root; security.* are the file system's business; system.* (access control lists) there are none.
import Base

extension FileSystemContext {
  /// The longest value (XATTR_SIZE_MAX).
  public static let maximumAttributeByteCount = 65_536

  private func has(_ name: PathBytes, _ prefix: StaticString) -> Bool {
    let prefix = PathBytes(prefix)
    return name.count >= prefix.count && name.slice(0, prefix.count) == prefix
  }

  /// Whether an attribute may be read or written.
  private func check(_ place: Location, _ name: PathBytes, writes: Bool, _ credentials: Credentials) throws(Errno) {
    guard !name.isEmpty, name.count <= PathBytes.maximumNameByteCount else { throw .ERANGE }
    if writes, place.mount.flags.contains(.readOnly) { throw .EROFS }
    let vnode = place.vnode
    if name[name.count &- 1] == dot, has(name, "user.") || has(name, "trusted.") || has(name, "security.") {
      let isOnlyClass = name == PathBytes("user.") || name == PathBytes("trusted.") || name == PathBytes("security.")
      if isOnlyClass { throw .EINVAL }
    }
    if has(name, "system.") {
      throw .EOPNOTSUPP
    } else if has(name, "security.") {
      guard credentials.isPrivileged || !writes else { throw .EPERM }
    } else if has(name, "trusted.") {
      guard credentials.isPrivileged else { throw writes ? .EPERM : .ENODATA }
    } else if has(name, "user.") {
      guard vnode.type == .regular || vnode.isDirectory else { throw writes ? .EPERM : .ENODATA }
      if vnode.isDirectory, writes, !credentials.isPrivileged {
        let attributes = try vnode.getAttributes()
        if attributes.mode & FileMode.sticky != 0, attributes.userID != credentials.effectiveUserID { throw .EPERM }
      }
      try vnode.checkAccess(writes ? .write : .read, credentials)
    } else {
      throw .EOPNOTSUPP
    }
  }

  /// Reads an extended attribute (getxattr).
  /// - Throws: ENODATA, EOPNOTSUPP, ERANGE (the name), EACCES.
  public func getExtendedAttribute(_ place: Location, _ name: PathBytes, _ credentials: Credentials) throws(Errno)
    -> [UInt8]
  {
    try check(place, name, writes: false, credentials)
    return try place.vnode.getExtendedAttribute(name)
  }

  /// Sets an extended attribute (setxattr).
  /// - Throws: EEXIST, ENODATA, ENOSPC, EOPNOTSUPP, EPERM, EACCES, EROFS, ERANGE (the name).
  public func setExtendedAttribute(
    _ place: Location, _ name: PathBytes, _ value: UnsafeRawBufferPointer, _ mode: AttributeSetting,
    _ credentials: Credentials
  ) throws(Errno) {
    try check(place, name, writes: true, credentials)
    try place.vnode.setExtendedAttribute(name, value, mode)
    Watching.tell(place.dentry, .attributes)
  }

  /// Removes an extended attribute (removexattr).
  /// - Throws: ENODATA, EOPNOTSUPP, EPERM, EACCES, EROFS, ERANGE (the name).
  public func removeExtendedAttribute(_ place: Location, _ name: PathBytes, _ credentials: Credentials) throws(Errno) {
    try check(place, name, writes: true, credentials)
    try place.vnode.removeExtendedAttribute(name)
    Watching.tell(place.dentry, .attributes)
  }
}
