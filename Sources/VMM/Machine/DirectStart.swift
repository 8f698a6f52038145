// Starting a device from the record its driver left in memory: the register writes of virtio 1.2, 3.1.1, replayed.

import VirtioABI

/// Replays a `BootDeviceSetup` as writes to the common configuration.
enum DirectStart {
  // Offsets in virtio_pci_common_cfg (virtio 1.2, 4.1.4.3) and bits of the device status.
  static let driverFeatureSelect: UInt64 = 8
  static let driverFeature: UInt64 = 12
  static let deviceStatus: UInt64 = 20
  static let queueSelect: UInt64 = 22
  static let queueSize: UInt64 = 24
  static let queueEnable: UInt64 = 28
  static let queueDescriptors: UInt64 = 32
  static let queueAvailable: UInt64 = 40
  static let queueUsed: UInt64 = 48

  static let acknowledge: UInt64 = 1
  static let driver: UInt64 = 2
  static let driverOK: UInt64 = 4
  static let featuresOK: UInt64 = 8

  /// Whether a write of the device status asks for it: DRIVER_OK where the status was zero.
  static func isAsked(value: UInt64, status: UInt64) -> Bool { value & driverOK != 0 && status & 0xff == 0 }

  /// Writes what `setup` says, up to and with FEATURES_OK and the queues; the caller writes DRIVER_OK itself. False
  /// if the device refused the features or the record names more queues than there are.
  ///
  /// `setup` is the monitor's own copy: the guest may change the original meanwhile.
  static func replay(
    _ setup: BootDeviceSetup, queueCount: UInt32,
    write: (_ offset: UInt64, _ value: UInt64, _ byteCount: Int) -> Void,
    read: (_ offset: UInt64, _ byteCount: Int) -> UInt64
  ) -> Bool {
    write(deviceStatus, acknowledge, 1)
    write(deviceStatus, acknowledge | driver, 1)
    write(driverFeatureSelect, 0, 4)
    write(driverFeature, setup.features & 0xffff_ffff, 4)
    write(driverFeatureSelect, 1, 4)
    write(driverFeature, setup.features >> 32, 4)
    write(deviceStatus, acknowledge | driver | featuresOK, 1)
    guard read(deviceStatus, 1) & featuresOK != 0, setup.queueCount <= queueCount,
      setup.queueCount <= UInt32(BootDeviceSetup.maximumQueueCount)
    else { return false }
    for index in 0..<Int(setup.queueCount) where setup.queues[index].size != 0 {
      let queue = setup.queues[index]
      write(queueSelect, UInt64(index), 2)
      write(queueSize, UInt64(queue.size & 0xffff), 2)
      for (offset, address) in [
        (queueDescriptors, queue.descriptors), (queueAvailable, queue.available), (queueUsed, queue.used),
      ] {
        write(offset, address & 0xffff_ffff, 4)
        write(offset + 4, address >> 32, 4)
      }
      write(queueEnable, 1, 2)
    }
    return true
  }
}
