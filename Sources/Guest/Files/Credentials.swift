// Credentials: on whose behalf a file operation runs, and what the mode bits of a file allow them.
import Base

/// Users and groups of a process. A value: the caller passes its own with every operation that checks rights.
public struct Credentials {
  /// Real user.
  public var userID: UInt32 = 0
  /// The user that rights are checked for.
  public var effectiveUserID: UInt32 = 0
  /// Saved user.
  public var savedUserID: UInt32 = 0
  /// Real group.
  public var groupID: UInt32 = 0
  /// The group that rights are checked for.
  public var effectiveGroupID: UInt32 = 0
  /// Saved group.
  public var savedGroupID: UInt32 = 0
  /// Supplementary groups.
  public var groups: [UInt32] = []

  /// Root's.
  public init() {}
  /// A plain user's.
  public init(userID: UInt32, groupID: UInt32, groups: [UInt32] = []) {
    self.userID = userID
    effectiveUserID = userID
    savedUserID = userID
    self.groupID = groupID
    effectiveGroupID = groupID
    savedGroupID = groupID
    self.groups = groups
  }

  /// Whether rights are not checked at all, but for the execution of files that nobody may execute.
  @inline(__always) public var isPrivileged: Bool { effectiveUserID == 0 }
  /// Whether the group is the effective one or among the others.
  public func isMember(of group: UInt32) -> Bool {
    if group == effectiveGroupID { return true }
    for other in groups where other == group { return true }
    return false
  }
  /// Whether the effective user and group are the real ones.
  @inline(__always) var isReal: Bool { effectiveUserID == userID && effectiveGroupID == groupID }
  /// The same with the real user and group in the place of the effective ones: what access(2) asks about.
  public var real: Credentials {
    var result = self
    result.effectiveUserID = userID
    result.effectiveGroupID = groupID
    return result
  }
}

/// What one wants to do with a file; the numbers are access(2)'s.
public struct AccessRights: OptionSet, Sendable {
  /// R_OK, W_OK and X_OK.
  public let rawValue: UInt32
  /// Rights from the bits of access(2).
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// Reading a file, listing a directory.
  public static var read: AccessRights { AccessRights(rawValue: 4) }
  /// Writing a file, changing the names in a directory.
  public static var write: AccessRights { AccessRights(rawValue: 2) }
  /// Executing a file, passing through a directory.
  public static var execute: AccessRights { AccessRights(rawValue: 1) }
}

extension Credentials {
  /// Whether the mode bits of a file with this owner and group allow all of `rights`.
  public func allows(_ rights: AccessRights, mode: UInt32, userID: UInt32, groupID: UInt32) -> Bool {
    if isPrivileged {
      let isDirectory = mode & FileMode.typeMask == FileType.directory.modeBits
      return isDirectory || !rights.contains(.execute) || mode & 0o111 != 0
    }
    let shift: UInt32 = effectiveUserID == userID ? 6 : isMember(of: groupID) ? 3 : 0
    return mode &>> shift & rights.rawValue == rights.rawValue
  }
}
