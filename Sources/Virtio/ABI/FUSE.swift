// FUSE, the messages of virtio-fs (virtio 1.2, 5.11; Linux include/uapi/linux/fuse.h, protocol 7.39): headers, opcodes, flags.
//
// A request is an in-header and the opcode's arguments in the driver's readable buffers; its reply is an out-header and the
// opcode's results in the writable ones. All integers are little-endian, every structure is a multiple of 8 bytes, and the
// structures here have exactly the wire's layout (FUSETests hold sizes and offsets to the C header).

/// Numbers of the protocol as a whole.
public enum FUSE {
  /// Major version; nothing else is spoken.
  public static let majorVersion: UInt32 = 7
  /// Minor version of these definitions.
  public static let minorVersion: UInt32 = 39
  /// Oldest minor version we speak (READDIRPLUS, BATCH_FORGET, time granularity: all of our replies have that form).
  public static let oldestMinorVersion: UInt32 = 23
  /// The node id of the root directory; it needs no lookup and is never forgotten.
  public static let rootNodeID: UInt64 = 1
  /// Longest name of a directory entry in bytes.
  public static let nameMax = 255
  /// Longest target of a symbolic link in bytes.
  public static let symlinkMax = 4095
  /// Most pages of 4 KiB in the data of one READ (what Linux clients take at most by default).
  public static let maxPages: UInt16 = 256
  /// The same in bytes.
  public static let maxData = 1 << 20
  /// The room a reply of READDIR or READDIRPLUS leaves at its end unless the directory is at its end
  /// (`FUSEInit.directoryEnd`): no entry needs more.
  public static let directoryEntryMax = 512

  /// A record's length in a READDIR or READDIRPLUS reply, given the length of everything in it.
  @inline(__always) public static func align(_ byteCount: Int) -> Int { (byteCount &+ 7) & ~7 }
}

/// Before every request.
public struct FUSEInHeader: BitwiseCopyable {
  /// Bytes of the request, this header included.
  public var length: UInt32 = 0
  /// A `FUSEOpcode`.
  public var opcode: UInt32 = 0
  /// Chosen by the client; the reply repeats it.
  public var unique: UInt64 = 0
  /// The node it is about; 0 where there is none.
  public var nodeID: UInt64 = 0
  /// The caller's user id.
  public var uid: UInt32 = 0
  /// The caller's group id.
  public var gid: UInt32 = 0
  /// The caller's process id.
  public var pid: UInt32 = 0
  /// Bytes of extensions at the request's end, divided by 8.
  public var extensionLength: UInt16 = 0
  /// Zero.
  public var padding: UInt16 = 0
  /// A zero header.
  public init() {}
}

/// Before every reply.
public struct FUSEOutHeader: BitwiseCopyable {
  /// Bytes of the reply, this header included.
  public var length: UInt32 = 0
  /// 0 or a negated Linux error number; an error's reply has nothing behind this header.
  public var error: Int32 = 0
  /// Of the request.
  public var unique: UInt64 = 0
  /// A zero header.
  public init() {}
}

/// `FUSEInHeader.opcode`.
public enum FUSEOpcode {
  /// Name in a directory → `FUSEEntryOut`; a lookup is counted unless the node id is 0.
  public static let lookup: UInt32 = 1
  /// Gives lookups back; has no reply.
  public static let forget: UInt32 = 2
  /// Attributes.
  public static let getattr: UInt32 = 3
  /// Change of attributes.
  public static let setattr: UInt32 = 4
  /// Target of a symbolic link.
  public static let readlink: UInt32 = 5
  /// New symbolic link.
  public static let symlink: UInt32 = 6
  /// New file or special file.
  public static let mknod: UInt32 = 8
  /// New directory.
  public static let mkdir: UInt32 = 9
  /// Removes a name.
  public static let unlink: UInt32 = 10
  /// Removes an empty directory.
  public static let rmdir: UInt32 = 11
  /// Moves a name.
  public static let rename: UInt32 = 12
  /// New hard link.
  public static let link: UInt32 = 13
  /// Opens a file.
  public static let open: UInt32 = 14
  /// Reads data.
  public static let read: UInt32 = 15
  /// Writes data.
  public static let write: UInt32 = 16
  /// Sizes of the file system.
  public static let statfs: UInt32 = 17
  /// Closes a file.
  public static let release: UInt32 = 18
  /// Makes a file durable.
  public static let fsync: UInt32 = 20
  /// Sets an extended attribute.
  public static let setxattr: UInt32 = 21
  /// Value or size of an extended attribute.
  public static let getxattr: UInt32 = 22
  /// Names of the extended attributes or their size.
  public static let listxattr: UInt32 = 23
  /// Removes an extended attribute.
  public static let removexattr: UInt32 = 24
  /// A descriptor of an open file was closed.
  public static let flush: UInt32 = 25
  /// The first request: versions and features.
  public static let initialise: UInt32 = 26
  /// Opens a directory.
  public static let opendir: UInt32 = 27
  /// Names in a directory.
  public static let readdir: UInt32 = 28
  /// Closes a directory.
  public static let releasedir: UInt32 = 29
  /// Makes a directory durable.
  public static let fsyncdir: UInt32 = 30
  /// Asks for a lock.
  public static let getlk: UInt32 = 31
  /// Takes a lock or fails.
  public static let setlk: UInt32 = 32
  /// Takes a lock, waiting.
  public static let setlkw: UInt32 = 33
  /// Checks what the server may do with a file.
  public static let access: UInt32 = 34
  /// Makes and opens a file.
  public static let create: UInt32 = 35
  /// The answer to an earlier request is no longer wanted.
  public static let interrupt: UInt32 = 36
  /// The file system goes away.
  public static let destroy: UInt32 = 38
  /// Device control.
  public static let ioctl: UInt32 = 39
  /// Readiness.
  public static let poll: UInt32 = 40
  /// `forget` for many nodes.
  public static let batchForget: UInt32 = 42
  /// Allocates or frees a file's blocks.
  public static let fallocate: UInt32 = 43
  /// `readdir` with a `lookup` of each entry.
  public static let readdirplus: UInt32 = 44
  /// `rename` with flags.
  public static let rename2: UInt32 = 45
  /// Next hole or data.
  public static let lseek: UInt32 = 46
  /// Copies within the server.
  public static let copyFileRange: UInt32 = 47
  /// Maps a range of a file into the shared window.
  public static let setupmapping: UInt32 = 48
  /// Unmaps it.
  public static let removemapping: UInt32 = 49
  /// Makes the whole file system durable.
  public static let syncfs: UInt32 = 50
  /// New file without a name.
  public static let tmpfile: UInt32 = 51
  /// Attributes, the long form.
  public static let statx: UInt32 = 52
}

/// The features that INIT negotiates; bits 32 and up travel in `flags2` (with `initExt`).
public enum FUSEInit {
  /// Reads of one file may be under way together.
  public static let asyncRead: UInt64 = 1 << 0
  /// OPEN and CREATE truncate for O_TRUNC: no SETATTR is needed.
  public static let atomicTruncate: UInt64 = 1 << 3
  /// A WRITE may have more than one page.
  public static let bigWrites: UInt64 = 1 << 5
  /// Cached pages go when the server shows another mtime or size.
  public static let autoInvalData: UInt64 = 1 << 12
  /// READDIRPLUS exists.
  public static let doReaddirplus: UInt64 = 1 << 13
  /// The client chooses between READDIR and READDIRPLUS.
  public static let readdirplusAuto: UInt64 = 1 << 14
  /// ENOSYS to OPEN means that no OPEN and RELEASE are needed. A server that sets it in its reply will answer so.
  public static let noOpenSupport: UInt64 = 1 << 17
  /// Lookups and readdirs of one directory may be under way together.
  public static let parallelDirops: UInt64 = 1 << 18
  /// `FUSEInitOut.maxPages` counts.
  public static let maxPages: UInt64 = 1 << 22
  /// Targets of symbolic links may be cached.
  public static let cacheSymlinks: UInt64 = 1 << 23
  /// The same as `noOpenSupport` for OPENDIR and RELEASEDIR.
  public static let noOpendirSupport: UInt64 = 1 << 24
  /// Attributes tell roots of other mounts.
  public static let submounts: UInt64 = 1 << 27
  /// The server takes set-user and set-group bits away where a write or a change of owner or size must.
  public static let handleKillPrivilegesV2: UInt64 = 1 << 28
  /// The request has `flags2`.
  public static let initExt: UInt64 = 1 << 30
  /// Ours, in no Linux: a READDIR or READDIRPLUS reply that leaves `FUSE.directoryEntryMax` bytes or more of its room
  /// ends the directory, which saves the request that would be answered by nothing. Only if both sides set it.
  public static let directoryEnd: UInt64 = 1 << 63
  /// Ours, in no Linux: replies to changes tell what became of the attributes (`FUSEChangeReport`); and though opens are
  /// needless, an OPEN is served, and CREATE and TMPFILE give a handle where the file's own mode would keep the server from opening it
  /// again (the client gives such handles back by RELEASE). Only if both sides set it.
  public static let changeReports: UInt64 = 1 << 62
}

/// `FUSEAttributes.flags`.
public enum FUSEAttributeFlags {
  /// The object is the root of another mount of the host.
  public static let submount: UInt32 = 1 << 0
}

/// `FUSEOpenOut.openFlags`.
public enum FUSEOpenFlags {
  /// Cached pages stay.
  public static let keepCache: UInt32 = 1 << 1
  /// The directory's entries may be cached.
  public static let cacheDirectory: UInt32 = 1 << 3
  /// Closing needs no FLUSH.
  public static let noFlush: UInt32 = 1 << 5
}

/// `FUSEGetattrIn.flags`.
public enum FUSEGetattrFlags {
  /// `handle` counts.
  public static let handle: UInt32 = 1 << 0
}

/// virtio-fs as a device (virtio 1.2, 5.11).
public enum VirtioFSDevice {
  /// The device id.
  public static let deviceID: UInt32 = 26
  /// Queue for FORGET, BATCH_FORGET and INTERRUPT.
  public static let highPriorityQueue = 0
  /// First request queue (without the notification feature, which we do not offer).
  public static let firstRequestQueue = 1
  /// Bytes of the tag, the first field of the configuration: UTF-8, padded with NULs.
  public static let tagByteCount = 36
  /// Bytes of the configuration: the tag, then the number of request queues as 32 bits.
  public static let configurationByteCount = 40
}
