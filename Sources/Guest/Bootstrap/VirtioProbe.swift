// One virtio function on PCI, made a `BootDevice`.
import Base
import VirtioABI

/// What a function's capabilities say.
struct VirtioProbe {
  /// A structure in a BAR (`virtio_pci_cap`).
  private struct Structure {
    var address: UInt64 = 0
    var byteCount: UInt64 = 0
    var end: UInt64 { address &+ byteCount }
  }

  /// Bytes between the first and the last structure of a device at most: they are mapped as one window.
  private static var windowLimit: UInt64 { 16 << 20 }
  private static var vendorCapability: UInt32 { 0x09 }
  private static var messageCapability: UInt32 { 0x11 }
  private static var messageEnable: UInt32 { 1 << 15 }
  private static var messageMask: UInt32 { 1 << 14 }
  private static var noDevice: UInt64 { 1 << 32 }

  /// The device of a function, its interrupts on CPU 0 from `vector` on and switched on; nil if it is no virtio device.
  /// - Throws: why the kernel cannot drive it.
  static func describe(_ machine: some BareMachine, _ place: PCIPlace, vector: UInt32) throws(BootstrapFailure)
    -> BootDevice?
  {
    guard place.read16(machine, 0) == VirtioPCI.vendor.u32, let deviceID = deviceID(machine, place) else { return nil }
    var common = Structure()
    var notify = Structure()
    var own = Structure()
    var multiplier: UInt32 = 0
    var message: UInt32 = 0
    var offset = place.firstCapability(machine)
    var capabilities = PCIPlace.capabilityLimit
    while offset != 0 && capabilities > 0 {
      defer {
        offset = place.nextCapability(machine, offset)
        capabilities &-= 1
      }
      let id = place.read8(machine, offset)
      if id == messageCapability { message = offset }
      guard id == vendorCapability, let found = structure(machine, place, offset) else { continue }
      switch place.read8(machine, offset &+ 3).u8 {
      case VirtioPCI.commonCapability where common.address == 0: common = found
      case VirtioPCI.notifyCapability where notify.address == 0:
        notify = found
        multiplier = place.read32(machine, offset &+ 16)
      case VirtioPCI.deviceCapability where own.address == 0: own = found
      default: break
      }
    }
    guard common.byteCount >= 56, common.address.isAligned(to: 4), notify.address != 0, notify.address.isAligned(to: 2)
    else { throw BootstrapFailure("it has no registers of virtio 1.0 in memory below 4 GiB") }
    guard message != 0 else { throw BootstrapFailure("it has no MSI-X") }
    // A device without a configuration of its own (entropy) has no structure for it.
    if own.address == 0 { own = Structure(address: common.address, byteCount: 0) }
    let start = min(min(common.address, notify.address), own.address)
    let end = max(max(common.end, notify.end), own.end)
    guard end &- start <= windowLimit, end <= noDevice else {
      throw BootstrapFailure("its registers lie too far from each other")
    }
    // Memory and bus mastering on, the old interrupt pin off.
    place.write16(machine, 4, place.read16(machine, 4) | 0x406)

    var device = BootDevice()
    device.deviceID = deviceID
    device.barPhysical = start
    device.barByteCount = end &- start
    device.commonOffset = (common.address &- start).u32
    device.notifyOffset = (notify.address &- start).u32
    device.notifyMultiplier = multiplier
    device.configurationOffset = (own.address &- start).u32
    device.firstVector = vector
    let registers = CommonRegisters(machine: machine, start: common.address)
    // Firmware may have used it.
    registers.write(VirtioPCICommon.status, 1, 0)
    var patience = 1000
    while registers.read(VirtioPCICommon.status, 1) != 0 {
      patience &-= 1
      if patience == 0 { throw BootstrapFailure("it cannot be reset") }
    }
    for half: UInt32 in 0..<2 {
      registers.write(VirtioPCICommon.deviceFeatureSelect, 4, half)
      device.features |= registers.read(VirtioPCICommon.deviceFeature, 4).u64 &<< (32 &* half.u64)
    }
    let vectors = place.read16(machine, message &+ 2) & 0x7ff &+ 1
    let queues = registers.read(VirtioPCICommon.queueCount, 2)
    device.queueCount = min(queues, BootDeviceSetup.maximumQueueCount.u32)
    // One for each queue and one for changes, or one for all queues where there are fewer.
    device.vectorCount = vectors > device.queueCount ? device.queueCount &+ 1 : 2
    guard device.queueCount > 0,
      (device.queueCount &- 1).u64 &* multiplier.u64 &+ 2 <= notify.byteCount
    else { throw BootstrapFailure("it has no queues, or too few places to notify them by") }
    guard vectors >= 2, vector &+ device.vectorCount &- 1 <= BootVectors.lastDevice,
      setMessages(machine, place, message, vector: vector, count: device.vectorCount)
    else { throw BootstrapFailure("there are too few interrupt vectors for it") }
    device.queueSize = queueSize(registers, count: device.queueCount)
    guard device.queueSize > 0 else {
      throw BootstrapFailure("its first queue is missing, or it wants queues to be notified in another order")
    }
    var words: [16 of UInt32] = .init(repeating: 0)
    for index in 0..<16 where (index &* 4 &+ 4).u64 <= own.byteCount {
      words[index] = machine.readRegister(own.address &+ (index &* 4).u64, count: 4)
    }
    func pair(_ index: Int) -> UInt64 { words[2 &* index].u64 | words[2 &* index &+ 1].u64 &<< 32 }
    device.configuration = (pair(0), pair(1), pair(2), pair(3), pair(4), pair(5), pair(6), pair(7))
    return device
  }

  /// The virtio device id: the PCI device id says it, or for a device that can be driven the old way too its subsystem (virtio 1.2, 4.1.2).
  private static func deviceID(_ machine: some BareMachine, _ place: PCIPlace) -> UInt32? {
    let id = place.read16(machine, 2)
    if 0x1040...0x107f ~= id { return id &- VirtioPCI.firstDevice.u32 }
    return 0x1000...0x103f ~= id ? place.read16(machine, 0x2e) : nil
  }

  private static func structure(
    _ machine: some BareMachine, _ place: PCIPlace, _ offset: UInt32
  ) -> Structure? {
    guard let bar = place.bar(machine, place.read8(machine, offset &+ 4)) else { return nil }
    let start = bar &+ place.read32(machine, offset &+ 8).u64
    let byteCount = place.read32(machine, offset &+ 12).u64
    return start &+ byteCount <= noDevice ? Structure(address: start, byteCount: byteCount) : nil
  }

  /// Entries 0 to `count` - 1 interrupt CPU 0 with `vector` and the following, and all of MSI-X is on.
  private static func setMessages(
    _ machine: some BareMachine, _ place: PCIPlace, _ capability: UInt32, vector: UInt32, count: UInt32
  ) -> Bool {
    let position = place.read32(machine, capability &+ 4)
    guard let bar = place.bar(machine, position & 7), bar &+ (position & ~7).u64 &+ 0x8000 <= noDevice else {
      return false
    }
    let table = bar &+ (position & ~7).u64
    let control = place.read16(machine, capability &+ 2)
    place.write16(machine, capability &+ 2, control | messageEnable | messageMask)
    for entry in 0..<count {
      let address = table &+ entry.u64 &* 16
      machine.writeRegister(address, count: 4, 0xfee0_0000)
      machine.writeRegister(address &+ 4, count: 4, 0)
      machine.writeRegister(address &+ 8, count: 4, vector &+ entry)
      machine.writeRegister(address &+ 12, count: 4, 0)
    }
    place.write16(machine, capability &+ 2, (control | messageEnable) & ~messageMask)
    return true
  }

  /// The size of the device's first two queues, a power of two: drivers have fewer entries in the others. 0 if the queues are not notified at
  /// the places in their order, as the kernel expects.
  private static func queueSize(_ registers: CommonRegisters<some BareMachine>, count: UInt32) -> UInt32 {
    var least: UInt32 = 1 << 15
    for queue in 0..<count {
      registers.write(VirtioPCICommon.queueSelect, 2, queue)
      guard registers.read(VirtioPCICommon.queueNotifyOffset, 2) == queue else { return 0 }
      let size = registers.read(VirtioPCICommon.queueSize, 2)
      if queue == 0 && size == 0 { return 0 }
      if size > 0 && queue < 2 { least = min(least, size) }
    }
    var power: UInt32 = 1
    while power &* 2 <= least { power &*= 2 }
    return power
  }
}

/// A device's common configuration.
private struct CommonRegisters<Machine: BareMachine> {
  let machine: Machine
  let start: UInt64

  func read(_ offset: Int, _ count: Int) -> UInt32 { machine.readRegister(start &+ offset.u64, count: count) }
  func write(_ offset: Int, _ count: Int, _ value: UInt32) {
    machine.writeRegister(start &+ offset.u64, count: count, value)
  }
}
