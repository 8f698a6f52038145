// A virtio device on the PCI bus: the modern transport (virtio 1.2, 4.1), for our own guest and for foreign ones.
//
// Locks, in the order in which they are taken: `registers` (held through activation and reset), a queue's, those of the
// interrupt vectors (a leaf). Serving a queue never takes `registers`; interrupts are raised with no queue's lock held but
// those that the caller of `withQueue` serves. A write to a register takes effect when it is seen, in order: writes that KVM
// coalesced may be handed in late, as long as they come before the next read and before any write of the status.
import Synchronization
import VirtioABI
import VirtioQueue

/// One PCI function with a virtio device behind it. Calls may come from any thread.
public final class PCIFunction: VirtioDeviceHost {
  /// Bytes of its only BAR, number 0, a 32-bit memory BAR.
  public static let barByteCount: UInt64 = BARLayout.byteCount
  /// Where in the BAR queue 0 is notified, by a write of its number, 16 bits; and how much further each next one.
  public static let notificationOffset = UInt64(BARLayout.notify)
  /// See `notificationOffset`.
  public static let notificationStride = UInt64(BARLayout.notifyMultiplier)
  /// Where in the BAR writes may be coalesced: registers that take effect only with a later write of the status.
  public static let coalescedRanges: [Range<UInt64>] = [
    UInt64(BARLayout.common)..<UInt64(VirtioPCICommon.status),
    UInt64(VirtioPCICommon.queueSelect)..<UInt64(VirtioPCICommon.byteCount),
  ]

  let device: any VirtioDevice
  let memory: GuestMemoryMap
  let vectors: InterruptVectors
  let queues: [QueueSlot]
  let registers: Mutex<Registers>
  /// Whether the guest broke a rule since the last reset.
  let isBroken = Atomic<Bool>(false)
  /// Changes with the device's configuration.
  let generation = Atomic<UInt8>(0)
  private let space: Mutex<ConfigurationSpace>

  /// A function for `device`, not yet placed.
  /// - Parameters:
  ///   - memory: the guest's memory, as its buffers name it.
  ///   - interrupt: delivers a message to the guest; called from any thread, often, and must not block.
  public init(
    device: any VirtioDevice, memory: GuestMemoryMap, interrupt: @escaping @Sendable (MSIMessage) -> Void
  ) {
    precondition((1...BootDeviceSetup.maximumQueueCount).contains(device.queueCount))
    self.device = device
    self.memory = memory
    vectors = InterruptVectors(queueCount: device.queueCount, interrupt: interrupt)
    queues = (0..<device.queueCount).map { _ in QueueSlot() }
    registers = Mutex(Registers(queueCount: device.queueCount, queueSize: device.queueSize))
    space = Mutex(
      ConfigurationSpace(deviceID: device.deviceID, pciClass: device.pciClass, vectorCount: vectors.count))
  }

  // MARK: For a guest that probes nothing

  /// Puts the BAR at a physical address below 4 GiB, a multiple of its size, and enables the function.
  public func place(at address: UInt64) {
    precondition(address % BARLayout.byteCount == 0 && address < 1 << 32)
    space.withLock { $0.place(at: address) }
  }

  /// Programs and enables MSI-X in the guest's stead: queue i interrupts with message i, configuration changes with the last.
  /// Resets of the device keep that.
  public func presetVectors(_ messages: [MSIMessage]) { vectors.preset(messages) }

  /// What the boot information says about the device. It must be placed already.
  /// - Parameter firstVector: the interrupt vector of queue 0, as in the messages given to `presetVectors`.
  public func description(firstVector: UInt32) -> BootDevice {
    var entry = BootDevice()
    entry.deviceID = device.deviceID
    entry.queueCount = UInt32(device.queueCount)
    entry.vectorCount = entry.queueCount + 1
    entry.barPhysical = barAddress ?? 0
    entry.barByteCount = BARLayout.byteCount
    entry.features = offeredFeatures
    entry.commonOffset = UInt32(BARLayout.common)
    entry.notifyOffset = UInt32(BARLayout.notify)
    entry.notifyMultiplier = UInt32(BARLayout.notifyMultiplier)
    entry.configurationOffset = UInt32(BARLayout.device)
    entry.firstVector = firstVector
    entry.queueSize = UInt32(device.queueSize)
    withUnsafeMutableBytes(of: &entry.configuration) { device.readConfiguration(at: 0, into: $0) }
    return entry
  }

  /// Where the guest sees the BAR; nil while it has memory decoding off.
  public var barAddress: UInt64? { space.withLock { $0.barAddress } }

  var offeredFeatures: UInt64 {
    device.features | VirtioFeature.version1 | VirtioFeature.indirectDescriptors | VirtioFeature.eventIndex
  }

  // MARK: Configuration space

  /// Reads 1, 2 or 4 bytes of configuration space at a multiple of their number; 0 behind the 256 bytes there are.
  public func readConfiguration(at offset: Int, count: Int) -> UInt32 {
    guard (0..<256).contains(offset), count == 1 || count == 2 || count == 4 else { return 0 }
    if let (place, size) = window(offset, count) { return UInt32(truncatingIfNeeded: readBAR(at: place, count: size)) }
    let value = space.withLock { $0.read(offset, count) }
    let shift = 8 * (ConfigurationSpace.messageControl - offset)
    guard offset <= ConfigurationSpace.messageControl, shift < 8 * count else {
      return offset == ConfigurationSpace.messageControl + 1 ? value | UInt32(vectors.control >> 8) : value
    }
    return value | UInt32(vectors.control) << UInt32(shift)
  }

  /// Writes likewise.
  public func writeConfiguration(at offset: Int, count: Int, _ value: UInt32) {
    guard (0..<256).contains(offset), count == 1 || count == 2 || count == 4 else { return }
    if let (place, size) = window(offset, count) { return writeBAR(at: place, count: size, UInt64(value)) }
    let shift = 8 * (ConfigurationSpace.messageControl - offset)
    if shift >= 0, shift + 16 <= 8 * count {
      vectors.control = UInt16(truncatingIfNeeded: value >> UInt32(shift))
    } else if offset == ConfigurationSpace.messageControl + 1, count == 1 {
      vectors.control = UInt16(truncatingIfNeeded: value << 8)
    }
    space.withLock { $0.write(offset, count, value) }
  }

  /// An access to the data of the window capability: the place in the BAR it stands for.
  private func window(_ offset: Int, _ count: Int) -> (place: UInt64, size: Int)? {
    guard offset == ConfigurationSpace.window + 16 else { return nil }
    return space.withLock {
      let place = $0.read(ConfigurationSpace.window + 8, 4)
      let size = Int($0.read(ConfigurationSpace.window + 12, 4))
      guard $0.read(ConfigurationSpace.window + 4, 1) == 0, size == count else { return nil }
      return (UInt64(place), size)
    }
  }
}
