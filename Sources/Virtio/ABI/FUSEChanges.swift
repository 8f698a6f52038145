// FUSE: the arguments and results of requests that change something, in the wire's layout (see FUSE.swift for the rules).

/// Argument of WRITE; the data follows.
public struct FUSEWriteIn: BitwiseCopyable {
  /// The open file; 0 where nothing needs opening.
  public var handle: UInt64 = 0
  /// Byte offset.
  public var offset: UInt64 = 0
  /// Bytes of data.
  public var size: UInt32 = 0
  /// `FUSEWriteFlags`.
  public var writeFlags: UInt32 = 0
  /// Owner of locks.
  public var lockOwner: UInt64 = 0
  /// Linux `O_` flags of the open file.
  public var flags: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Result of WRITE and COPY_FILE_RANGE.
public struct FUSEWriteOut: BitwiseCopyable {
  /// Bytes written.
  public var size: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// `FUSEWriteIn.writeFlags`.
public enum FUSEWriteFlags {
  /// The data comes from the client's cache: nobody in particular writes it.
  public static let cache: UInt32 = 1 << 0
  /// The writer may not keep set-user and set-group bits.
  public static let killSetUser: UInt32 = 1 << 2
}

/// Argument of SETATTR.
public struct FUSESetattrIn: BitwiseCopyable {
  /// `FUSESetattrFlags`: which fields count.
  public var valid: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// An open file, if the flags say so.
  public var handle: UInt64 = 0
  /// New size in bytes.
  public var size: UInt64 = 0
  /// Owner of locks.
  public var lockOwner: UInt64 = 0
  /// New times: seconds (two's complement).
  public var atime: UInt64 = 0, mtime: UInt64 = 0, ctime: UInt64 = 0
  /// New times: nanoseconds.
  public var atimeNanoseconds: UInt32 = 0, mtimeNanoseconds: UInt32 = 0, ctimeNanoseconds: UInt32 = 0
  /// New permissions.
  public var mode: UInt32 = 0
  /// Zero.
  public var unused4: UInt32 = 0
  /// New owner.
  public var uid: UInt32 = 0, gid: UInt32 = 0
  /// Zero.
  public var unused5: UInt32 = 0
  /// All zero.
  public init() {}
}

/// `FUSESetattrIn.valid`.
public enum FUSESetattrFlags {
  /// `mode` counts.
  public static let mode: UInt32 = 1 << 0
  /// `uid` counts.
  public static let uid: UInt32 = 1 << 1
  /// `gid` counts.
  public static let gid: UInt32 = 1 << 2
  /// `size` counts.
  public static let size: UInt32 = 1 << 3
  /// `atime` counts.
  public static let atime: UInt32 = 1 << 4
  /// `mtime` counts.
  public static let mtime: UInt32 = 1 << 5
  /// `handle` counts.
  public static let handle: UInt32 = 1 << 6
  /// The access time becomes the server's present.
  public static let atimeNow: UInt32 = 1 << 7
  /// The modification time becomes the server's present.
  public static let mtimeNow: UInt32 = 1 << 8
  /// Set-user and set-group bits go with the change of size.
  public static let killSetUser: UInt32 = 1 << 11
}

/// Argument of CREATE and TMPFILE; the name follows.
public struct FUSECreateIn: BitwiseCopyable {
  /// Linux `O_` flags.
  public var flags: UInt32 = 0
  /// Type and permissions.
  public var mode: UInt32 = 0
  /// The caller's umask, which `mode` has been through.
  public var umask: UInt32 = 0
  /// Flags of the protocol.
  public var openFlags: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of MKNOD; the name follows.
public struct FUSEMknodIn: BitwiseCopyable {
  /// Type and permissions.
  public var mode: UInt32 = 0
  /// Device number.
  public var rdev: UInt32 = 0
  /// The caller's umask, which `mode` has been through.
  public var umask: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of MKDIR; the name follows.
public struct FUSEMkdirIn: BitwiseCopyable {
  /// Permissions.
  public var mode: UInt32 = 0
  /// The caller's umask, which `mode` has been through.
  public var umask: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of LINK; the new name follows, the request's node is its directory.
public struct FUSELinkIn: BitwiseCopyable {
  /// The file.
  public var oldNode: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Argument of RENAME; both names follow.
public struct FUSERenameIn: BitwiseCopyable {
  /// The directory to move to.
  public var newDirectory: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Argument of RENAME2; both names follow.
public struct FUSERename2In: BitwiseCopyable {
  /// The directory to move to.
  public var newDirectory: UInt64 = 0
  /// renameat2's flags.
  public var flags: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of FSYNC and FSYNCDIR.
public struct FUSEFsyncIn: BitwiseCopyable {
  /// The open file; 0 where nothing needs opening.
  public var handle: UInt64 = 0
  /// Bit 0: the data alone.
  public var flags: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of FALLOCATE.
public struct FUSEFallocateIn: BitwiseCopyable {
  /// The open file; 0 where nothing needs opening.
  public var handle: UInt64 = 0
  /// Byte offset.
  public var offset: UInt64 = 0
  /// Bytes.
  public var length: UInt64 = 0
  /// fallocate's mode.
  public var mode: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of SETXATTR; the name and the value follow.
public struct FUSESetxattrIn: BitwiseCopyable {
  /// Bytes of the value.
  public var size: UInt32 = 0
  /// setxattr's flags.
  public var flags: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of COPY_FILE_RANGE; the request's node is the source.
public struct FUSECopyIn: BitwiseCopyable {
  /// The source's open file; 0 where nothing needs opening.
  public var handle: UInt64 = 0
  /// Where it begins.
  public var offset: UInt64 = 0
  /// The file to write to.
  public var toNode: UInt64 = 0
  /// Its open file; 0 where nothing needs opening.
  public var toHandle: UInt64 = 0
  /// Where that begins.
  public var toOffset: UInt64 = 0
  /// Bytes.
  public var length: UInt64 = 0
  /// Zero.
  public var flags: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Ours, in no Linux (`FUSEInit.changeReports`): what a request has done to a file's attributes. It follows the result of
/// WRITE, FALLOCATE, COPY_FILE_RANGE (the file written), CREATE, MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR (the directory), and
/// RENAME, RENAME2 (both directories, the request's own first).
///
/// A client whose cached size and modification time were those before need ask nothing again; where they were others, somebody
/// else has changed the file too.
public struct FUSEChangeReport: BitwiseCopyable {
  /// Size before.
  public var sizeBefore: UInt64 = 0
  /// Modification time before.
  public var mtimeBefore: UInt64 = 0
  /// The same: nanoseconds.
  public var mtimeBeforeNanoseconds: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// Attributes after.
  public var after = FUSEAttributesOut()
  /// All zero.
  public init() {}
}
