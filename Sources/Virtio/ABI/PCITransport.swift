// The modern PCI transport (virtio 1.2, 4.1): ids, capabilities and registers.

/// Constants of the transport.
public enum VirtioPCI {
  /// PCI vendor id of all virtio devices.
  public static let vendor: UInt16 = 0x1af4
  /// PCI device id of the virtio device with id 0.
  public static let firstDevice: UInt16 = 0x1040
  /// A vector register's value for "no interrupt".
  public static let noVector: UInt16 = 0xffff

  /// Capability type: the common configuration.
  public static let commonCapability: UInt8 = 1
  /// Capability type: the notification area.
  public static let notifyCapability: UInt8 = 2
  /// Capability type: the interrupt status.
  public static let interruptStatusCapability: UInt8 = 3
  /// Capability type: the device's own configuration.
  public static let deviceCapability: UInt8 = 4
  /// Capability type: a window onto the BAR in configuration space.
  public static let windowCapability: UInt8 = 5
}

/// Offsets in the common configuration; 64 bytes in all.
public enum VirtioPCICommon {
  /// Which 32 bits of the device's features show (32 bits).
  public static let deviceFeatureSelect = 0
  /// They (32 bits, read-only).
  public static let deviceFeature = 4
  /// Which 32 bits of the driver's features show (32 bits).
  public static let driverFeatureSelect = 8
  /// They (32 bits).
  public static let driverFeature = 12
  /// MSI-X entry for configuration changes (16 bits).
  public static let configurationVector = 16
  /// Queues (16 bits, read-only).
  public static let queueCount = 18
  /// Device status (8 bits).
  public static let status = 20
  /// Changes with the configuration (8 bits, read-only).
  public static let generation = 21
  /// Which queue the registers below belong to (16 bits).
  public static let queueSelect = 22
  /// Its size in entries (16 bits).
  public static let queueSize = 24
  /// Its MSI-X entry (16 bits).
  public static let queueVector = 26
  /// 1 once it is set up (16 bits).
  public static let queueEnable = 28
  /// Its place in the notification area (16 bits, read-only).
  public static let queueNotifyOffset = 30
  /// Address of its descriptor table (64 bits, written in halves).
  public static let queueDescriptors = 32
  /// Address of its available ring (64 bits).
  public static let queueAvailable = 40
  /// Address of its used ring (64 bits).
  public static let queueUsed = 48
  /// Bytes of the whole.
  public static let byteCount = 64
}
