// The split virtqueue in memory (virtio 1.2, 2.7): descriptors, available ring, used ring. All little-endian.

/// One piece of a buffer, in the descriptor table or in an indirect table; 16 bytes.
@frozen public struct VirtqueueDescriptor: BitwiseCopyable {
  /// Guest-physical address of the first byte.
  public var address: UInt64
  /// Bytes.
  public var length: UInt32
  /// `VirtqueueDescriptor.next`, `.write` and `.indirect`.
  public var flags: UInt16
  /// Index of the chain's next descriptor, where `flags` has `.next`.
  public var nextIndex: UInt16

  /// A descriptor with all its fields.
  @inline(__always) public init(address: UInt64, length: UInt32, flags: UInt16 = 0, nextIndex: UInt16 = 0) {
    self.address = address
    self.length = length
    self.flags = flags
    self.nextIndex = nextIndex
  }

  /// Flag: the chain goes on at `nextIndex`.
  public static let next: UInt16 = 1
  /// Flag: the device writes this piece (otherwise it reads it).
  public static let write: UInt16 = 2
  /// Flag: the piece is a table of descriptors.
  public static let indirect: UInt16 = 4
  /// Bytes of a descriptor.
  public static let byteCount = 16
}

/// Where things lie in the three areas of a split virtqueue. Sizes are in entries, offsets and counts in bytes.
public enum VirtqueueLayout {
  /// The largest queue there can be.
  public static let maximumSize = 32768
  /// Offset of the flags in the available and in the used ring (16 bits).
  public static let flags = 0
  /// Offset of the index in the available and in the used ring (16 bits).
  public static let index = 2
  /// Offset of the first entry of either ring.
  public static let entries = 4
  /// Bytes of an entry of the used ring: descriptor index and bytes written, 32 bits each.
  public static let usedEntryByteCount = 8
  /// Flag of the available ring: no interrupts, please (a hint; without `eventIndex` only).
  public static let noInterrupt: UInt16 = 1
  /// Flag of the used ring: no notifications, please (likewise).
  public static let noNotification: UInt16 = 1

  /// Bytes of the descriptor table; it is aligned to 16.
  @inline(__always) public static func tableByteCount(_ size: Int) -> Int { 16 &* size }
  /// Bytes of the available ring with its event field; it is aligned to 2.
  @inline(__always) public static func availableByteCount(_ size: Int) -> Int { 6 &+ 2 &* size }
  /// Bytes of the used ring with its event field; it is aligned to 4.
  @inline(__always) public static func usedByteCount(_ size: Int) -> Int { 6 &+ 8 &* size }
  /// Offset in the available ring of `used_event`: interrupt when the used index passes this.
  @inline(__always) public static func usedEvent(_ size: Int) -> Int { 4 &+ 2 &* size }
  /// Offset in the used ring of `avail_event`: notify when the available index passes this.
  @inline(__always) public static func availableEvent(_ size: Int) -> Int { 4 &+ 8 &* size }

  /// Whether an index that went from `old` to `new` passed the other side's event: the entry of number `event` is new.
  @inline(__always) public static func passes(event: UInt16, new: UInt16, old: UInt16) -> Bool {
    new &- event &- 1 < new &- old
  }
}

/// Feature bits that are no device's own.
public enum VirtioFeature {
  /// Indirect descriptors.
  public static let indirectDescriptors: UInt64 = 1 << 28
  /// `used_event` and `avail_event` instead of the flags.
  public static let eventIndex: UInt64 = 1 << 29
  /// Virtio 1: not negotiable here.
  public static let version1: UInt64 = 1 << 32
}

/// Bits of the device status.
public enum VirtioStatus {
  /// The guest has seen the device.
  public static let acknowledge: UInt8 = 1
  /// The guest knows how to drive it.
  public static let driver: UInt8 = 2
  /// The driver is set up: queues are live from here.
  public static let driverOK: UInt8 = 4
  /// Features are agreed on; the device clears it where it does not agree.
  public static let featuresOK: UInt8 = 8
  /// The device found the driver at fault and serves nothing until it is reset.
  public static let needsReset: UInt8 = 64
  /// The driver gave up.
  public static let failed: UInt8 = 128
}

/// Device ids (virtio 1.2, 5).
public enum VirtioDeviceID {
  /// Network interface.
  public static let network: UInt32 = 1
  /// Console.
  public static let console: UInt32 = 3
  /// Entropy source.
  public static let entropy: UInt32 = 4
  /// Balloon.
  public static let balloon: UInt32 = 5
  /// File system.
  public static let fileSystem: UInt32 = 26
}
