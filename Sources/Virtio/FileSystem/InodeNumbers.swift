// Inode numbers for the guest: unique over every file system of the host that is mounted beneath the root.
//
// Numbers below 2^48 (practically all) become device index << 48 | number, which leaves those of the root's own file system as
// they are. The rest, and devices beyond the table, get bit 63 and 63 bits of a keyed hash of both numbers.
import Synchronization

/// Maps (device, inode) of the host to one number.
final class InodeNumbers: Sendable {
  private let devices: Mutex<[UInt64]>
  private let key0 = UInt64.random(in: 0...UInt64.max)
  private let key1 = UInt64.random(in: 0...UInt64.max)

  init(rootDevice: UInt64) { devices = Mutex([rootDevice]) }

  /// The number that the guest sees.
  func number(device: UInt64, inode: UInt64) -> UInt64 {
    if inode < 1 << 48 {
      let index = devices.withLock { devices -> Int in
        if let known = devices.firstIndex(of: device) { return known }
        guard devices.count < 0x7fff else { return 0x7fff }
        devices.append(device)
        return devices.count - 1
      }
      if index < 0x7fff { return UInt64(index) << 48 | inode }
    }
    return 1 << 63 | mix(device, inode) >> 1
  }

  /// Two rounds of multiply-and-fold (wyhash's step) under the key.
  private func mix(_ a: UInt64, _ b: UInt64) -> UInt64 {
    func fold(_ x: UInt64, _ y: UInt64) -> UInt64 {
      let product = x.multipliedFullWidth(by: y)
      return product.high ^ product.low
    }
    return fold(fold(a ^ key0, b ^ key1) ^ key1, 0x9e37_79b9_7f4a_7c15 ^ b)
  }
}
