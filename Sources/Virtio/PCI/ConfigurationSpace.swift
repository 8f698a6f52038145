// The function's configuration space: identity, one memory BAR, the capabilities by which a foreign driver finds its way.
//
// Everything the guest may write is masked; nothing else changes.
import VirtioABI

/// Where things lie in the BAR. The notification area has a page of its own, as have the table and pending bits of MSI-X.
enum BARLayout {
  static let byteCount: UInt64 = 0x4000
  static let common = 0
  static let interruptStatus = 0x80
  static let device = 0x100
  static let deviceByteCount = 0x100
  static let notify = 0x1000
  static let notifyMultiplier = 4
  static let table = 0x2000
  static let pending = 0x3000
}

/// The 256 bytes of configuration space.
struct ConfigurationSpace {
  private var bytes = [UInt8](repeating: 0, count: 256)
  private var writable = [UInt8](repeating: 0, count: 256)

  static let messageControl = 0x42
  /// The capability that is a window onto the BAR; its data is 16 bytes further.
  static let window = 0x98

  init(deviceID: UInt32, pciClass: UInt32, vectorCount: Int) {
    set(0x00, UInt32(VirtioPCI.vendor) | (UInt32(VirtioPCI.firstDevice) + deviceID) << 16)
    // Command: memory decoding, bus master and interrupt disable may be written. Status: there is a capability list.
    set(0x04, 0x0010_0000, writable: 0x0406)
    set(0x08, pciClass << 8 | 1)
    set(0x10, 0, writable: ~UInt32(BARLayout.byteCount - 1))
    set(0x2c, UInt32(VirtioPCI.vendor) | 0x0040 << 16)
    set(0x34, 0x40)
    set(0x3c, 0, writable: 0xff)
    // MSI-X; bits 14 and 15 of its control live in InterruptVectors.
    set(0x40, 0x11 | 0x50 << 8 | UInt32(vectorCount - 1) << 16)
    set(0x44, UInt32(BARLayout.table))
    set(0x48, UInt32(BARLayout.pending))
    capability(0x50, next: 0x60, VirtioPCI.commonCapability, BARLayout.common, VirtioPCICommon.byteCount)
    capability(0x60, next: 0x78, VirtioPCI.notifyCapability, BARLayout.notify, 0x1000, byteCount: 20)
    set(0x70, UInt32(BARLayout.notifyMultiplier))
    capability(0x78, next: 0x88, VirtioPCI.interruptStatusCapability, BARLayout.interruptStatus, 4)
    capability(0x88, next: 0x98, VirtioPCI.deviceCapability, BARLayout.device, BARLayout.deviceByteCount)
    capability(Self.window, next: 0, VirtioPCI.windowCapability, 0, 0, byteCount: 20)
    set(Self.window + 4, 0, writable: 0xff)
    set(Self.window + 8, 0, writable: ~0)
    set(Self.window + 12, 0, writable: ~0)
  }

  private mutating func set(_ offset: Int, _ value: UInt32, writable mask: UInt32 = 0) {
    for index in 0..<4 {
      bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * UInt32(index)))
      writable[offset + index] = UInt8(truncatingIfNeeded: mask >> (8 * UInt32(index)))
    }
  }

  private mutating func capability(
    _ offset: Int, next: UInt32, _ type: UInt8, _ start: Int, _ length: Int, byteCount: UInt32 = 16
  ) {
    set(offset, 0x09 | next << 8 | byteCount << 16 | UInt32(type) << 24)
    set(offset + 4, 0)  // BAR 0
    set(offset + 8, UInt32(start))
    set(offset + 12, UInt32(length))
  }

  /// Reads up to 4 bytes; what is behind the end is 0.
  func read(_ offset: Int, _ count: Int) -> UInt32 {
    var value: UInt32 = 0
    for index in 0..<count where offset + index < bytes.count {
      value |= UInt32(bytes[offset + index]) << (8 * UInt32(index))
    }
    return value
  }

  /// Writes up to 4 bytes, as far as they may be written.
  mutating func write(_ offset: Int, _ count: Int, _ value: UInt32) {
    for index in 0..<count where offset + index < bytes.count {
      let byte = UInt8(truncatingIfNeeded: value >> (8 * UInt32(index)))
      let mask = writable[offset + index]
      bytes[offset + index] = bytes[offset + index] & ~mask | byte & mask
    }
  }

  /// Where the BAR is, nil while the guest has memory decoding off.
  var barAddress: UInt64? {
    read(0x04, 2) & 2 != 0 ? UInt64(read(0x10, 4) & ~0xf) : nil
  }

  /// Puts the BAR somewhere, and switches memory decoding and bus mastering on.
  mutating func place(at address: UInt64) {
    write(0x10, 4, UInt32(truncatingIfNeeded: address))
    write(0x04, 2, 6)
  }
}
