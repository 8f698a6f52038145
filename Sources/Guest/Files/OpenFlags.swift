// The flags of open, of the *at calls and of rename, with Linux's numbers.

/// How a file is opened (O_*).
public struct OpenFlags: OptionSet, Sendable {
  /// Linux's bits.
  public let rawValue: UInt32
  /// Flags from Linux's bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// The two bits that say what for.
  public static var accessModeMask: UInt32 { 3 }
  /// O_WRONLY.
  public static var writeOnly: OpenFlags { OpenFlags(rawValue: 0o1) }
  /// O_RDWR.
  public static var readWrite: OpenFlags { OpenFlags(rawValue: 0o2) }
  /// O_CREAT: make it if it is not there.
  public static var create: OpenFlags { OpenFlags(rawValue: 0o100) }
  /// O_EXCL: with `create`, fail if it is there.
  public static var exclusive: OpenFlags { OpenFlags(rawValue: 0o200) }
  /// O_NOCTTY.
  public static var noControllingTerminal: OpenFlags { OpenFlags(rawValue: 0o400) }
  /// O_TRUNC: empty it.
  public static var truncate: OpenFlags { OpenFlags(rawValue: 0o1000) }
  /// O_APPEND: every write goes to the end.
  public static var append: OpenFlags { OpenFlags(rawValue: 0o2000) }
  /// O_NONBLOCK: EAGAIN instead of sleeping.
  public static var nonBlocking: OpenFlags { OpenFlags(rawValue: 0o4000) }
  /// O_DSYNC: a write returns when the data is stored.
  public static var dataSynchronous: OpenFlags { OpenFlags(rawValue: 0o10000) }
  /// O_ASYNC.
  public static var asynchronous: OpenFlags { OpenFlags(rawValue: 0o20000) }
  /// O_DIRECT.
  public static var direct: OpenFlags { OpenFlags(rawValue: 0o40000) }
  /// O_LARGEFILE; means nothing here.
  public static var largeFile: OpenFlags { OpenFlags(rawValue: 0o100000) }
  /// O_DIRECTORY: fail if it is none.
  public static var directory: OpenFlags { OpenFlags(rawValue: 0o200000) }
  /// O_NOFOLLOW: fail if the last part is a symbolic link.
  public static var noFollow: OpenFlags { OpenFlags(rawValue: 0o400000) }
  /// O_NOATIME: reads leave the access time alone.
  public static var noAccessTime: OpenFlags { OpenFlags(rawValue: 0o1000000) }
  /// O_CLOEXEC; belongs to the descriptor, not to the open file.
  public static var closeOnExec: OpenFlags { OpenFlags(rawValue: 0o2000000) }
  /// O_SYNC without O_DSYNC's bit.
  public static var synchronous: OpenFlags { OpenFlags(rawValue: 0o4000000) }
  /// O_PATH: only a place in the tree, no access to the file.
  public static var pathOnly: OpenFlags { OpenFlags(rawValue: 0o10000000) }
  /// O_TMPFILE without O_DIRECTORY's bit.
  public static var temporary: OpenFlags { OpenFlags(rawValue: 0o20000000) }

  /// All that openat2 knows.
  public static var known: OpenFlags { OpenFlags(rawValue: 0o37777703) }

  /// What fcntl(F_SETFL) may change.
  public static var changeable: OpenFlags { [.append, .nonBlocking, .asynchronous, .direct, .noAccessTime] }
  /// What fcntl(F_GETFL) does not show.
  static var notKept: OpenFlags {
    [.create, .exclusive, .noControllingTerminal, .truncate, .closeOnExec]
  }

  /// Whether reads are allowed.
  @inline(__always) public var allowsReading: Bool {
    rawValue & 1 == 0 && !contains(.pathOnly)
  }
  /// Whether writes are allowed.
  @inline(__always) public var allowsWriting: Bool {
    let mode = rawValue & OpenFlags.accessModeMask
    return (mode == 1 || mode == 2) && !contains(.pathOnly)
  }
}

/// AT_* flags.
public struct AtFlags: OptionSet, Sendable {
  /// Linux's bits.
  public let rawValue: UInt32
  /// Flags from Linux's bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// AT_SYMLINK_NOFOLLOW: a symbolic link at the end is meant itself.
  public static var noFollow: AtFlags { AtFlags(rawValue: 0x100) }
  /// AT_REMOVEDIR: unlinkat removes a directory. (faccessat's AT_EACCESS has the same number.)
  public static var removeDirectory: AtFlags { AtFlags(rawValue: 0x200) }
  /// AT_EACCESS: check for the effective user.
  public static var effectiveAccess: AtFlags { AtFlags(rawValue: 0x200) }
  /// AT_SYMLINK_FOLLOW: linkat follows a symbolic link at the end.
  public static var follow: AtFlags { AtFlags(rawValue: 0x400) }
  /// AT_NO_AUTOMOUNT; means nothing here.
  public static var noAutomount: AtFlags { AtFlags(rawValue: 0x800) }
  /// AT_EMPTY_PATH: an empty path means the base itself.
  public static var emptyPath: AtFlags { AtFlags(rawValue: 0x1000) }
}

/// RENAME_* flags.
public struct RenameFlags: OptionSet, Sendable {
  /// Linux's bits.
  public let rawValue: UInt32
  /// Flags from Linux's bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// RENAME_NOREPLACE: fail if the new name exists.
  public static var noReplace: RenameFlags { RenameFlags(rawValue: 1) }
  /// RENAME_EXCHANGE: swap both.
  public static var exchange: RenameFlags { RenameFlags(rawValue: 2) }
}
