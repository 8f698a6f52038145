// Where the machine's devices are: their address ranges, their interrupt vectors, and who serves an access.
//
// A notification is served by the CPU thread that made it, as a plain exit, unless its device has threads and gets an ioeventfd once it is busy.
// That is what measures best for short runs
// (an ioeventfd or a coalesced zone makes closing a young VM 13 ms slower) and costs nothing while idle.

import KVM
import Synchronization
import VirtioABI

/// What the board needs of a device: a memory BAR with registers, and queues that can be notified.
protocol BoardDevice: AnyObject {
  /// Reads a register; 1, 2, 4 or 8 bytes.
  func readRegister(_ offset: UInt64, byteCount: Int) -> UInt64
  /// Writes a register; 1, 2, 4 or 8 bytes.
  func writeRegister(_ offset: UInt64, _ value: UInt64, byteCount: Int)
  /// Serves a queue that the driver has put buffers into.
  func notify(queue: Int)
}

// SAFETY: complete before the guest runs; devices have locks of their own.
/// All devices of a machine.
final class DeviceBoard: @unchecked Sendable {
  /// First physical address of the devices, and the distance between two of them.
  static let start: UInt64 = 0xd000_0000
  static let stride: UInt64 = 0x1_0000

  /// A device in its place.
  final class Slot {
    let device: any BoardDevice
    /// As the guest is told.
    let description: BootDevice
    /// Held while a write to the common configuration may start the device: reading the status and acting on it are one step.
    let starting = Mutex(())

    init(device: any BoardDevice, description: BootDevice) {
      self.device = device
      self.description = description
    }
  }

  private(set) var slots: [Slot] = []
  private var nextVector = BootVectors.firstDevice
  private let memory: GuestMemory

  /// A board for a machine with this memory.
  init(memory: GuestMemory) { self.memory = memory }

  /// Descriptions for the boot information.
  var descriptions: [BootDevice] { slots.map(\.description) }

  /// The place and the first interrupt vector of the next device: one vector for each queue and one more.
  func reserve(queueCount: Int) throws(Failure) -> (address: UInt64, firstVector: UInt32) {
    let vectors = UInt32(queueCount) + 1
    guard slots.count < 32, nextVector + vectors <= BootVectors.lastDevice + 1 else {
      throw Failure(
        .unsupported,
        "the machine has more devices than its interrupt vectors allow: attach fewer volumes or interfaces")
    }
    defer { nextVector += vectors }
    return (Self.start + UInt64(slots.count) * Self.stride, nextVector)
  }

  /// Puts a device into the place reserved last.
  func add(_ device: any BoardDevice, _ description: BootDevice) {
    slots.append(Slot(device: device, description: description))
  }

  /// The device that answers at an address, and the offset in its BAR.
  private func find(_ address: UInt64) -> (slot: Slot, offset: UInt64)? {
    guard address >= Self.start else { return nil }
    let index = (address - Self.start) / Self.stride
    guard index < UInt64(slots.count) else { return nil }
    let slot = slots[Int(index)]
    let offset = (address - Self.start) % Self.stride
    return offset < slot.description.barByteCount ? (slot, offset) : nil
  }

  /// A guest's read of a device register; all ones where there is none.
  func read(_ address: UInt64, byteCount: Int) -> UInt64 {
    guard let (slot, offset) = find(address) else { return .max }
    return slot.device.readRegister(offset, byteCount: byteCount)
  }

  /// A guest's write to a device; true if it was a notification.
  func write(_ address: UInt64, _ value: UInt64, byteCount: Int) -> Bool {
    guard let (slot, offset) = find(address) else { return false }
    let description = slot.description
    let queues = UInt64(description.queueCount)
    if offset >= UInt64(description.notifyOffset),
      offset < UInt64(description.notifyOffset) + queues * UInt64(max(2, description.notifyMultiplier))
    {
      if value & 0xffff < queues { slot.device.notify(queue: Int(value & 0xffff)) }
      return true
    }
    let common = UInt64(description.commonOffset)
    guard offset == common + DirectStart.deviceStatus else {
      slot.device.writeRegister(offset, value, byteCount: byteCount)
      return false
    }
    slot.starting.withLock { _ in
      let status = slot.device.readRegister(offset, byteCount: 1)
      if DirectStart.isAsked(value: value, status: status) {
        start(slot, status: value)
      } else {
        slot.device.writeRegister(offset, value, byteCount: byteCount)
      }
    }
    return false
  }

  /// Starts a device from its set-up record and writes back the status it came to.
  private func start(_ slot: Slot, status: UInt64) {
    let common = UInt64(slot.description.commonOffset)
    guard
      let record = memory.pointer(
        at: slot.description.setupPhysical, count: UInt64(MemoryLayout<BootDeviceSetup>.size))
    else { return }
    // SAFETY: the record lies in RAM that stays mapped; it is copied once and the copy checked.
    let setup = record.load(as: BootDeviceSetup.self)
    let isAccepted = DirectStart.replay(
      setup, queueCount: slot.description.queueCount,
      write: { slot.device.writeRegister(common + $0, $1, byteCount: $2) },
      read: { slot.device.readRegister(common + $0, byteCount: $1) })
    if isAccepted { slot.device.writeRegister(common + DirectStart.deviceStatus, status, byteCount: 1) }
    let result = UInt32(slot.device.readRegister(common + DirectStart.deviceStatus, byteCount: 1) & 0xff)
    if let offset = MemoryLayout<BootDeviceSetup>.offset(of: \.status) {
      record.storeBytes(of: result, toByteOffset: offset, as: UInt32.self)
    }
  }
}
