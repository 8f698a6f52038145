// A virtio-pci device as a driver sees it: started once, notified, and stopped for good if it breaks the rules.
//
// The device was placed, described and given its interrupt vectors by the monitor; nothing is probed. Starting takes one exit
// where the monitor reads our wishes from memory (`BootDeviceSetup`), and the specification's register writes elsewhere.
import Base
import Locks
import Platform
import VirtioABI

/// One device.
public final class VirtioFunction {
  /// What the monitor said about it.
  public let description: BootDevice
  private let registers: DeviceRegisters
  private let lock = Mutex()
  private var queues: [DeviceQueue?] = []
  private let dead = Atomic<Bool>(false)
  /// Called in any context when the device's configuration has changed. Set before the device starts.
  var onConfigurationChange: (() -> Void)?

  #if HOSTED
    /// A device whose registers are the host's, in this process.
    public init(_ description: BootDevice, registers: any HostedRegisters) {
      self.description = description
      self.registers = DeviceRegisters(registers)
    }
  #else
    /// Maps the device's registers; nil if memory is out.
    public init?(_ description: BootDevice) {
      let start = PhysicalAddress(description.barPhysical)
      guard let registers = DeviceRegisters(PhysicalRange(start: start, count: description.barByteCount)) else {
        return nil
      }
      self.description = description
      self.registers = registers
    }
  #endif

  /// Whether the device offers all of these features.
  func offers(_ features: UInt64) -> Bool { description.features & features == features }

  /// Agrees on features, hands the queues over and says DRIVER_OK. What was put into them before is served at once.
  /// - Parameter queues: by index; nil for a queue that stays off.
  /// - Throws: ENODEV if the device lacks a feature or refuses, or was stopped.
  func start(_ queues: [DeviceQueue?], features: UInt64 = 0) throws(Errno) {
    let features = features | VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
    guard offers(features), queues.count <= min(description.queueCount.int, BootDeviceSetup.maximumQueueCount), !isDead
    else { throw .ENODEV }
    self.queues = queues
    // Interrupt handlers know the queues by address: a function that was started stays for ever.
    _ = Unmanaged.passRetained(self)
    for (index, queue) in queues.enumerated() {
      guard let queue else { continue }
      queue.attach(to: self, index: index)
      if description.sharesVector { continue }
      InterruptTable.register(
        description.firstVector &+ index.u32,
        handler: { context in
          guard let context else { return }
          // SAFETY: the context is a queue of a function that is never freed.
          Unmanaged<DeviceQueue>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.interrupted() }
        }, context: Unmanaged.passUnretained(queue).toOpaque())
    }
    if description.sharesVector {
      InterruptTable.register(
        description.firstVector,
        handler: { context in
          guard let context else { return }
          // SAFETY: the context is a function that is never freed, and its queues are set.
          Unmanaged<VirtioFunction>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.interrupted() }
        }, context: Unmanaged.passUnretained(self).toOpaque())
    }
    if onConfigurationChange != nil {
      InterruptTable.register(
        description.firstVector &+ description.vectorCount &- 1,
        handler: { context in
          guard let context else { return }
          // SAFETY: the context is a function that is never freed.
          Unmanaged<VirtioFunction>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.onConfigurationChange?() }
        }, context: Unmanaged.passUnretained(self).toOpaque())
    }
    let status =
      description.setupPhysical != 0 ? startByRecord(queues, features) : startByRegisters(queues, features)
    guard status & VirtioStatus.driverOK != 0, status & (VirtioStatus.needsReset | VirtioStatus.failed) == 0 else {
      stop()
      throw .ENODEV
    }
    for queue in queues { queue?.wasStarted() }
  }

  /// The vector that all queues share: any of them may have something.
  private func interrupted() { for queue in queues { queue?.interrupted() } }

  private var common: UInt32 { description.commonOffset }

  private static var allButOK: UInt8 { VirtioStatus.acknowledge | VirtioStatus.driver | VirtioStatus.featuresOK }

  private func startByRecord(_ queues: [DeviceQueue?], _ features: UInt64) -> UInt8 {
    // SAFETY: the monitor set this record aside for this device's driver.
    let record = LinearMap.pointer(PhysicalAddress(description.setupPhysical))
      .assumingMemoryBound(to: BootDeviceSetup.self)
    record.pointee.features = features
    record.pointee.queueCount = queues.count.u32
    for (index, queue) in queues.enumerated() {
      guard let queue else { continue }
      record.pointee.queues[index].descriptors = queue.descriptorsPhysical.rawValue
      record.pointee.queues[index].available = queue.availablePhysical.rawValue
      record.pointee.queues[index].used = queue.usedPhysical.rawValue
      record.pointee.queues[index].size = queue.size.u32
    }
    registers.write8(common &+ VirtioPCICommon.status.u32, Self.allButOK | VirtioStatus.driverOK)
    atomicMemoryFence(ordering: .acquiring)
    return record.pointee.status.u8
  }

  private func startByRegisters(_ queues: [DeviceQueue?], _ features: UInt64) -> UInt8 {
    let status = common &+ VirtioPCICommon.status.u32
    guard reset() else { return VirtioStatus.failed }
    registers.write8(status, VirtioStatus.acknowledge)
    registers.write8(status, VirtioStatus.acknowledge | VirtioStatus.driver)
    for half: UInt32 in 0..<2 {
      registers.write32(common &+ VirtioPCICommon.driverFeatureSelect.u32, half)
      registers.write32(common &+ VirtioPCICommon.driverFeature.u32, (features &>> (32 &* half.u64)).u32)
    }
    registers.write8(status, Self.allButOK)
    guard registers.read8(status) & VirtioStatus.featuresOK != 0 else { return VirtioStatus.failed }
    // The reset has taken the vectors away.
    registers.write16(common &+ VirtioPCICommon.configurationVector.u32, (description.vectorCount &- 1).u16)
    for (index, queue) in queues.enumerated() {
      guard let queue else { continue }
      registers.write16(common &+ VirtioPCICommon.queueSelect.u32, index.u16)
      registers.write16(common &+ VirtioPCICommon.queueSize.u32, queue.size.u16)
      registers.write16(common &+ VirtioPCICommon.queueVector.u32, description.entry(ofQueue: index.u32).u16)
      write64(VirtioPCICommon.queueDescriptors, queue.descriptorsPhysical.rawValue)
      write64(VirtioPCICommon.queueAvailable, queue.availablePhysical.rawValue)
      write64(VirtioPCICommon.queueUsed, queue.usedPhysical.rawValue)
      registers.write16(common &+ VirtioPCICommon.queueEnable.u32, 1)
    }
    registers.write8(status, Self.allButOK | VirtioStatus.driverOK)
    return registers.read8(status)
  }

  private func write64(_ offset: Int, _ value: UInt64) {
    registers.write32(common &+ offset.u32, value.u32)
    registers.write32(common &+ offset.u32 &+ 4, (value &>> 32).u32)
  }

  /// Reads 32 bits of the device's configuration.
  func readConfiguration(at offset: Int) -> UInt32 {
    registers.read32(description.configurationOffset &+ offset.u32)
  }

  /// Writes 32 bits of the device's configuration.
  func writeConfiguration(at offset: Int, _ value: UInt32) {
    registers.write32(description.configurationOffset &+ offset.u32, value)
  }

  /// Tells the device that a queue has something for it.
  @inline(__always) func notify(queue index: Int) {
    if isDead { return }
    registers.write16(description.notifyOffset &+ index.u32 &* description.notifyMultiplier, index.u16)
  }

  /// Whether the device was stopped.
  var isDead: Bool { dead.load(ordering: .acquiring) }

  /// Resets the device for good: afterwards it touches no memory of ours, and every request fails. Thread context.
  func stop() {
    lock.withLock {
      guard !dead.exchange(true, ordering: .sequentiallyConsistent) else { return }
      // A device that never gets there is beyond help.
      _ = reset()
    }
    for queue in queues { queue?.fail() }
  }

  /// Resets the device; the reset is over when the status reads 0 (virtio 1.2, 4.1.4.3.2).
  private func reset() -> Bool {
    registers.write8(common &+ VirtioPCICommon.status.u32, 0)
    for _ in 0..<1000 where registers.read8(common &+ VirtioPCICommon.status.u32) == 0 { return true }
    return false
  }
}
