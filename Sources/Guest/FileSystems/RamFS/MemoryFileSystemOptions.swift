// The options of a file system in memory, as mount(2) takes them: "mode=1777,size=10m,uid=0,gid=0".
import Base
import Files
import Pages

/// What a file system in memory is to be.
public struct MemoryFileSystemOptions {
  /// Permissions of the root directory.
  public var mode: UInt32 = 0o1777
  /// Its owner.
  public var userID: UInt32 = 0
  /// Its group.
  public var groupID: UInt32 = 0
  /// What the files may take together; half of the memory.
  public var byteLimit: UInt64 = Frames.statistics.total.u64 &* 4096 / 2

  /// The options without any.
  public init() {}

  /// Takes options from a text.
  /// - Throws: EINVAL: one is not known, or its value makes no sense.
  public mutating func parse(_ text: PathBytes) throws(Errno) {
    var start = 0
    while start < text.count {
      var end = start
      while end < text.count, text[end] != 0x2c { end &+= 1 }
      if end > start { try take(text.slice(start, end)) }
      start = end &+ 1
    }
  }

  private mutating func take(_ option: PathBytes) throws(Errno) {
    var equals = 0
    while equals < option.count, option[equals] != 0x3d { equals &+= 1 }
    guard equals < option.count else { throw .EINVAL }
    let (name, value) = (option.slice(0, equals), option.slice(equals &+ 1, option.count))
    if name == PathBytes("mode") {
      mode = try Self.number(value, base: 8).u32 & FileMode.permissionMask
    } else if name == PathBytes("uid") {
      userID = try Self.number(value, base: 10).u32
    } else if name == PathBytes("gid") {
      groupID = try Self.number(value, base: 10).u32
    } else if name == PathBytes("size") {
      byteLimit = try Self.size(value)
      if byteLimit == 0 { byteLimit = .max &- 4096 }  // 0: without a limit.
    } else if name == PathBytes("nr_blocks") {
      byteLimit = try Self.size(value) &* 4096
    } else if name == PathBytes("nr_inodes") {
      _ = try Self.size(value)  // A file costs the kernel's memory, which has limits of its own.
    } else {
      throw .EINVAL
    }
  }

  /// Bytes, with k, m or g behind, or per cent of the memory.
  private static func size(_ text: PathBytes) throws(Errno) -> UInt64 {
    guard text.count > 0 else { throw .EINVAL }
    let digits = text.slice(0, text.count &- 1)
    switch text[text.count &- 1] | 0x20 {
    case 0x6b: return try number(digits, base: 10) &<< 10
    case 0x6d: return try number(digits, base: 10) &<< 20
    case 0x67: return try number(digits, base: 10) &<< 30
    case 0x25: return Frames.statistics.total.u64 / 100 &* 4096 &* (try number(digits, base: 10))
    default: return try number(text, base: 10)
    }
  }

  private static func number(_ text: PathBytes, base: UInt64) throws(Errno) -> UInt64 {
    guard text.count > 0, text.count <= 12 else { throw .EINVAL }
    var result: UInt64 = 0
    for index in 0..<text.count {
      guard text[index] >= 0x30, (text[index] &- 0x30).u64 < base else { throw .EINVAL }
      result = result &* base &+ (text[index] &- 0x30).u64
    }
    return result
  }
}
