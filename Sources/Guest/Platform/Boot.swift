// What osv-run told the kernel: the boot information and the clock page, as pointers that are valid for ever.
import Base
import VirtioABI

/// The boot information, and the tables and strings that hang on it.
public enum Boot {
  // SAFETY: set once, before anything reads it, to memory that stays.
  nonisolated(unsafe) private static var pointer: UnsafePointer<BootInformation>? = nil

  /// The head. Set by `Platform.start` (or by a unit test through `install`), before anything reads it.
  @inline(__always) public static var information: UnsafePointer<BootInformation> { pointer.unsafelyUnwrapped }

  /// Makes `information` point to `head`, which must stay where it is.
  public static func install(_ head: UnsafePointer<BootInformation>) { pointer = head }

  /// The clock page, through the linear map.
  @inline(__always) public static var clockPage: UnsafeMutablePointer<ClockPage> {
    // SAFETY: osv-run laid the page down at this address and never moves it.
    LinearMap.pointer(PhysicalAddress(information.pointee.clockPhysical)).assumingMemoryBound(to: ClockPage.self)
  }

  /// Bytes of RAM that are there now: grows while osv-run adds memory slots beside the running kernel.
  public static var presentMemoryByteCount: UInt64 { clockPage.pointee.memoryByteCount }

  /// The NUL-terminated string at `offset` of the boot information, or nil for offset 0.
  public static func string(at offset: UInt32) -> UnsafePointer<UInt8>? {
    guard offset != 0 else { return nil }
    // SAFETY: offsets come from osv-run of the same build and lie inside the boot information.
    return UnsafeRawPointer(information).advanced(by: offset.int).assumingMemoryBound(to: UInt8.self)
  }

  /// The string behind a string of a list (argv, environ) of the boot information.
  public static func string(after string: UnsafePointer<UInt8>) -> UnsafePointer<UInt8> {
    var end = string
    while end.pointee != 0 { end += 1 }
    return end + 1
  }

  /// The entries of a table of the boot information.
  private static func table<Entry>(_ offset: UInt32, _ count: UInt32) -> UnsafeBufferPointer<Entry> {
    // SAFETY: as for strings; tables are aligned to 8 bytes.
    let start = UnsafeRawPointer(information).advanced(by: offset.int).assumingMemoryBound(to: Entry.self)
    return UnsafeBufferPointer(start: start, count: count.int)
  }

  /// The files that lie in guest memory.
  public static var files: UnsafeBufferPointer<BootFile> {
    table(information.pointee.filesOffset, information.pointee.fileCount)
  }
  /// The directories to mount.
  public static var mounts: UnsafeBufferPointer<BootMount> {
    table(information.pointee.mountsOffset, information.pointee.mountCount)
  }
  /// The devices.
  public static var devices: UnsafeBufferPointer<BootDevice> {
    table(information.pointee.devicesOffset, information.pointee.deviceCount)
  }

  /// The network interfaces: eth0, eth1…
  public static var networks: UnsafeBufferPointer<BootNetwork> {
    table(information.pointee.networksOffset, information.pointee.networkCount)
  }

  /// Whether a `BootFlags` bit is set.
  public static func has(flag: UInt32) -> Bool { information.pointee.flags & flag != 0 }
  /// Whether a `BootLog` bit is set.
  public static func logs(_ what: UInt32) -> Bool { information.pointee.log & what != 0 }
}
