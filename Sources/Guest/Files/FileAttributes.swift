// What files are: types, mode bits, times, attributes and changes of them.
import Base
import Platform

/// The type of a file; the numbers are those of `d_type` in directory entries.
public enum FileType: UInt8, Sendable {
  /// Not told.
  case unknown = 0
  /// A named pipe, or one without a name.
  case fifo = 1
  /// A character device.
  case characterDevice = 2
  /// A directory.
  case directory = 4
  /// A block device.
  case blockDevice = 6
  /// A regular file.
  case regular = 8
  /// A symbolic link.
  case symbolicLink = 10
  /// A socket.
  case socket = 12

  /// The type's bits in `st_mode`.
  @inline(__always) public var modeBits: UInt32 { rawValue.u32 &<< 12 }
  /// The type that a mode's bits say.
  @inline(__always) public init(mode: UInt32) { self = FileType(rawValue: (mode &>> 12 & 0xf).u8) ?? .unknown }
}

/// Bits of `st_mode`.
public enum FileMode {
  /// The bits of the type.
  public static let typeMask: UInt32 = 0o170000
  /// All that chmod can change.
  public static let permissionMask: UInt32 = 0o7777
  /// Set user at execution.
  public static let setUser: UInt32 = 0o4000
  /// Set group at execution; in a directory: new files get its group.
  public static let setGroup: UInt32 = 0o2000
  /// Only owners may remove names.
  public static let sticky: UInt32 = 0o1000
}

/// A time stamp.
public struct FileTime: Equatable, Sendable {
  /// Seconds since 1970, UTC.
  public var seconds: Int64
  /// Nanoseconds, 0 to 999,999,999.
  public var nanoseconds: UInt32
  /// A time from both parts.
  public init(seconds: Int64, nanoseconds: UInt32 = 0) {
    self.seconds = seconds
    self.nanoseconds = nanoseconds
  }
  /// The present.
  public static var now: FileTime {
    let time = Clock.realtime()
    return FileTime(seconds: (time / 1_000_000_000).i64, nanoseconds: (time % 1_000_000_000).u32)
  }
  /// Whether the left one is earlier.
  public static func < (left: FileTime, right: FileTime) -> Bool {
    (left.seconds, left.nanoseconds) < (right.seconds, right.nanoseconds)
  }
}

/// The attributes of a file, as stat and statx show them.
public struct StatInformation {
  /// Number of the file system.
  public var device: UInt64 = 0
  /// Number of the file within it.
  public var inode: UInt64 = 0
  /// Type and permissions.
  public var mode: UInt32 = 0
  /// Names the file has.
  public var linkCount: UInt32 = 1
  /// Owner.
  public var userID: UInt32 = 0
  /// Group.
  public var groupID: UInt32 = 0
  /// For devices: which one (`DeviceNumber`).
  public var specialDevice: UInt64 = 0
  /// Size in bytes.
  public var byteCount: UInt64 = 0
  /// Preferred unit of reads and writes, bytes.
  public var blockByteCount: UInt32 = 4096
  /// Space taken, in units of 512 bytes.
  public var blockCount: UInt64 = 0
  /// Last read.
  public var accessTime = FileTime(seconds: 0)
  /// Last change of the contents.
  public var modificationTime = FileTime(seconds: 0)
  /// Last change of the attributes.
  public var changeTime = FileTime(seconds: 0)
  /// Creation, if known.
  public var birthTime: FileTime?

  /// Attributes with everything zero and one name.
  public init() {}
  /// The type within `mode`.
  public var type: FileType { FileType(mode: mode) }
}

/// Device numbers as Linux encodes them in 64 bits.
public enum DeviceNumber {
  /// The number of a major and a minor.
  public static func make(_ major: UInt32, _ minor: UInt32) -> UInt64 {
    (minor & 0xff).u64 | (major & 0xfff).u64 &<< 8 | (minor & ~0xff).u64 &<< 12 | (major & ~0xfff).u64 &<< 32
  }
  /// The major of a number.
  public static func major(_ device: UInt64) -> UInt32 { (device &>> 8 & 0xfff | device &>> 32 & ~0xfff).u32 }
  /// The minor of a number.
  public static func minor(_ device: UInt64) -> UInt32 { (device & 0xff | device &>> 12 & 0xffff_ff00).u32 }
}

/// A time stamp to set.
public enum TimeChange {
  /// The present.
  case now
  /// A given time.
  case to(FileTime)

  /// The time meant.
  public var time: FileTime {
    switch self {
    case .now: .now
    case .to(let time): time
    }
  }
}

/// A change of attributes: what is nil stays.
public struct AttributeChange {
  /// Permission bits (07777).
  public var mode: UInt32?
  /// Owner.
  public var userID: UInt32?
  /// Group.
  public var groupID: UInt32?
  /// Size in bytes.
  public var byteCount: UInt64?
  /// Time of the last read.
  public var accessTime: TimeChange?
  /// Time of the last change.
  public var modificationTime: TimeChange?
  /// No change.
  public init() {}
}

/// What a new file is to be.
public struct NewFile {
  /// Its type.
  public var type: FileType
  /// Its permission bits, the umask applied.
  public var mode: UInt32
  /// Its owner.
  public var userID: UInt32
  /// Its group.
  public var groupID: UInt32
  /// For device files: which device.
  public var specialDevice: UInt64

  /// A file with those attributes.
  public init(type: FileType, mode: UInt32, userID: UInt32 = 0, groupID: UInt32 = 0, specialDevice: UInt64 = 0) {
    self.type = type
    self.mode = mode
    self.userID = userID
    self.groupID = groupID
    self.specialDevice = specialDevice
  }
}
