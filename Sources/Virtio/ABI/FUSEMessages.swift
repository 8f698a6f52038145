// FUSE: the arguments and results of the single requests, in the wire's layout (see FUSE.swift for the rules).

/// Attributes of a node (`struct fuse_attr`).
public struct FUSEAttributes: BitwiseCopyable {
  /// Inode number, unique in the file system.
  public var ino: UInt64 = 0
  /// Size in bytes.
  public var size: UInt64 = 0
  /// Space used, in 512 bytes.
  public var blocks: UInt64 = 0
  /// Times: seconds since the epoch (two's complement).
  public var atime: UInt64 = 0, mtime: UInt64 = 0, ctime: UInt64 = 0
  /// Times: nanoseconds, below 1e9.
  public var atimeNanoseconds: UInt32 = 0, mtimeNanoseconds: UInt32 = 0, ctimeNanoseconds: UInt32 = 0
  /// Type and permissions, as `st_mode`.
  public var mode: UInt32 = 0
  /// Number of hard links.
  public var linkCount: UInt32 = 0
  /// Owner.
  public var uid: UInt32 = 0, gid: UInt32 = 0
  /// Device number of a special file: (major & 0xfff) << 8 | minor & 0xff | (minor & ~0xff) << 12.
  public var rdev: UInt32 = 0
  /// Preferred transfer size in bytes.
  public var blockSize: UInt32 = 0
  /// `FUSEAttributeFlags`.
  public var flags: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Result of LOOKUP, and before every entry of READDIRPLUS (`struct fuse_entry_out`).
public struct FUSEEntryOut: BitwiseCopyable {
  /// The node; 0: there is none, and that may be cached for the entry's validity.
  public var nodeID: UInt64 = 0
  /// Tells two nodes of one id apart over time.
  public var generation: UInt64 = 0
  /// How long the name may be cached, seconds.
  public var entryValid: UInt64 = 0
  /// How long the attributes may be cached, seconds.
  public var attributesValid: UInt64 = 0
  /// The same: nanoseconds to add.
  public var entryValidNanoseconds: UInt32 = 0, attributesValidNanoseconds: UInt32 = 0
  /// The node's attributes.
  public var attributes = FUSEAttributes()
  /// All zero.
  public init() {}
}

/// Argument of FORGET.
public struct FUSEForgetIn: BitwiseCopyable {
  /// Lookups to give back.
  public var lookupCount: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Argument of BATCH_FORGET; `count` times `FUSEForgetOne` follow.
public struct FUSEBatchForgetIn: BitwiseCopyable {
  /// How many.
  public var count: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// One node of BATCH_FORGET.
public struct FUSEForgetOne: BitwiseCopyable {
  /// The node.
  public var nodeID: UInt64 = 0
  /// Lookups to give back.
  public var lookupCount: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Argument of GETATTR.
public struct FUSEGetattrIn: BitwiseCopyable {
  /// `FUSEGetattrFlags`.
  public var flags: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// An open file, if the flags say so.
  public var handle: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Result of GETATTR.
public struct FUSEAttributesOut: BitwiseCopyable {
  /// How long the attributes may be cached, seconds.
  public var valid: UInt64 = 0
  /// The same: nanoseconds to add.
  public var validNanoseconds: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// The attributes.
  public var attributes = FUSEAttributes()
  /// All zero.
  public init() {}
}

/// Argument of OPEN and OPENDIR.
public struct FUSEOpenIn: BitwiseCopyable {
  /// Linux `O_` flags.
  public var flags: UInt32 = 0
  /// Flags of the protocol.
  public var openFlags: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Result of OPEN and OPENDIR.
public struct FUSEOpenOut: BitwiseCopyable {
  /// The open file, in later requests.
  public var handle: UInt64 = 0
  /// `FUSEOpenFlags`.
  public var openFlags: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of RELEASE and RELEASEDIR.
public struct FUSEReleaseIn: BitwiseCopyable {
  /// The open file.
  public var handle: UInt64 = 0
  /// Linux `O_` flags it was opened with.
  public var flags: UInt32 = 0
  /// Flags of the protocol.
  public var releaseFlags: UInt32 = 0
  /// Owner of locks.
  public var lockOwner: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Argument of READ, READDIR and READDIRPLUS.
public struct FUSEReadIn: BitwiseCopyable {
  /// The open file; 0 where nothing needs opening.
  public var handle: UInt64 = 0
  /// Byte offset; of a directory, the `offset` of the last entry read, or 0.
  public var offset: UInt64 = 0
  /// Most bytes of data in the reply.
  public var size: UInt32 = 0
  /// Flags of the protocol.
  public var readFlags: UInt32 = 0
  /// Owner of locks.
  public var lockOwner: UInt64 = 0
  /// Linux `O_` flags of the open file.
  public var flags: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// An entry of a directory; its name follows, then NULs up to a multiple of 8 bytes (`struct fuse_dirent`).
public struct FUSEDirectoryEntry: BitwiseCopyable {
  /// Inode number.
  public var ino: UInt64 = 0
  /// Where the entry behind this one is found.
  public var offset: UInt64 = 0
  /// Bytes of the name, without a NUL.
  public var nameLength: UInt32 = 0
  /// `DT_` type: the type bits of the mode, divided by 4096.
  public var type: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Result of STATFS (`struct fuse_kstatfs`).
public struct FUSEStatFSOut: BitwiseCopyable {
  /// Sizes in `fragmentSize`: all, free, free for ordinary users.
  public var blocks: UInt64 = 0, blocksFree: UInt64 = 0, blocksAvailable: UInt64 = 0
  /// Inodes: all, free.
  public var files: UInt64 = 0, filesFree: UInt64 = 0
  /// Preferred transfer size in bytes.
  public var blockSize: UInt32 = 0
  /// Longest name in bytes.
  public var nameMax: UInt32 = 0
  /// Unit of the sizes in bytes.
  public var fragmentSize: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// Zero.
  public var spare: (UInt64, UInt64, UInt64) = (0, 0, 0)
  /// All zero.
  public init() {}
}

/// Argument of GETXATTR (the name follows) and LISTXATTR; and, as result where `size` was 0, the size needed.
public struct FUSEXattrSize: BitwiseCopyable {
  /// Bytes.
  public var size: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of ACCESS.
public struct FUSEAccessIn: BitwiseCopyable {
  /// 4 read, 2 write, 1 execute or search.
  public var mask: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Argument of INIT. Clients before 7.36 send the first four fields only.
public struct FUSEInitIn: BitwiseCopyable {
  /// Bytes of the short form.
  public static let shortByteCount = 16
  /// The client's version.
  public var major: UInt32 = 0, minor: UInt32 = 0
  /// Most bytes of readahead.
  public var maxReadahead: UInt32 = 0
  /// `FUSEInit`, bits 0 to 31.
  public var flags: UInt32 = 0
  /// `FUSEInit`, bits 32 to 63.
  public var flags2: UInt32 = 0
  /// Zero.
  public var unused: (UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32) =
    (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  /// All zero.
  public init() {}
}

/// Result of INIT.
public struct FUSEInitOut: BitwiseCopyable {
  /// The server's version.
  public var major: UInt32 = 0, minor: UInt32 = 0
  /// Most bytes of readahead.
  public var maxReadahead: UInt32 = 0
  /// `FUSEInit`, bits 0 to 31.
  public var flags: UInt32 = 0
  /// Requests in the background: most, and where the client slows down.
  public var maxBackground: UInt16 = 0, congestionThreshold: UInt16 = 0
  /// Most bytes of data in a WRITE.
  public var maxWrite: UInt32 = 0
  /// Granularity of times, ns.
  public var timeGranularity: UInt32 = 0
  /// Most pages of data in a request, if `FUSEInit.maxPages`.
  public var maxPages: UInt16 = 0
  /// log2 of the alignment of shared mappings.
  public var mapAlignment: UInt16 = 0
  /// `FUSEInit`, bits 32 to 63.
  public var flags2: UInt32 = 0
  /// Zero.
  public var unused: (UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0, 0, 0, 0)
  /// All zero.
  public init() {}
}

/// Argument of INTERRUPT.
public struct FUSEInterruptIn: BitwiseCopyable {
  /// Of the request meant.
  public var unique: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Argument of LSEEK.
public struct FUSESeekIn: BitwiseCopyable {
  /// The open file.
  public var handle: UInt64 = 0
  /// Where to start.
  public var offset: UInt64 = 0
  /// 3: next data, 4: next hole.
  public var whence: UInt32 = 0
  /// Zero.
  public var padding: UInt32 = 0
  /// All zero.
  public init() {}
}

/// Result of LSEEK.
public struct FUSESeekOut: BitwiseCopyable {
  /// Where it is.
  public var offset: UInt64 = 0
  /// All zero.
  public init() {}
}

/// Argument of STATX.
public struct FUSEStatXIn: BitwiseCopyable {
  /// `FUSEGetattrFlags`.
  public var flags: UInt32 = 0
  /// Zero.
  public var reserved: UInt32 = 0
  /// An open file, if the flags say so.
  public var handle: UInt64 = 0
  /// `AT_STATX_` flags and the mask of statx(2).
  public var statxFlags: UInt32 = 0, mask: UInt32 = 0
  /// All zero.
  public init() {}
}

/// A time of STATX.
public struct FUSEStatXTime: BitwiseCopyable {
  /// Seconds since the epoch.
  public var seconds: Int64 = 0
  /// Nanoseconds, below 1e9.
  public var nanoseconds: UInt32 = 0
  /// Zero.
  public var reserved: Int32 = 0
  /// All zero.
  public init() {}
}

/// Result of STATX (`struct fuse_statx_out` with its `struct fuse_statx`).
public struct FUSEStatXOut: BitwiseCopyable {
  /// How long the attributes may be cached, seconds.
  public var valid: UInt64 = 0
  /// The same: nanoseconds to add.
  public var validNanoseconds: UInt32 = 0
  /// Zero.
  public var flags: UInt32 = 0
  /// Zero.
  public var spare: (UInt64, UInt64) = (0, 0)
  /// From here on as `struct statx`: which fields are there.
  public var mask: UInt32 = 0
  /// Preferred transfer size in bytes.
  public var blockSize: UInt32 = 0
  /// `STATX_ATTR_` bits.
  public var attributes: UInt64 = 0
  /// Hard links and owner.
  public var linkCount: UInt32 = 0, uid: UInt32 = 0, gid: UInt32 = 0
  /// Type and permissions.
  public var mode: UInt16 = 0
  /// Zero.
  public var spare0: UInt16 = 0
  /// Inode number, size in bytes, space used in 512 bytes, and which `STATX_ATTR_` bits are meaningful.
  public var ino: UInt64 = 0, size: UInt64 = 0, blocks: UInt64 = 0, attributesMask: UInt64 = 0
  /// Access, birth, change, modification.
  public var atime = FUSEStatXTime(), btime = FUSEStatXTime(), ctime = FUSEStatXTime(), mtime = FUSEStatXTime()
  /// Device number of a special file.
  public var rdevMajor: UInt32 = 0, rdevMinor: UInt32 = 0
  /// Device number of the file system.
  public var devMajor: UInt32 = 0, devMinor: UInt32 = 0
  /// Zero.
  public var spare2:
    (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) =
      (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  /// All zero.
  public init() {}
}
