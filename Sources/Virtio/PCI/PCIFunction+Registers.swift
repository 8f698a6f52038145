// The registers in the BAR, and what a write to them sets off.
// SAFETY of all: a value's own bytes, within the closures: `count` is 1, 2, 4 or 8. The image of the common configuration is
// 72 bytes; the registers are its first `VirtioPCICommon.byteCount`, so that 8 bytes from any of them are inside.
import Synchronization
import VirtioABI
import VirtioQueue

/// The common configuration as the driver left it.
struct Registers {
  struct Queue {
    var size: UInt16
    var isEnabled = false
    var descriptors: UInt64 = 0
    var available: UInt64 = 0
    var used: UInt64 = 0
  }

  var deviceFeatureSelect: UInt32 = 0
  var driverFeatureSelect: UInt32 = 0
  var driverFeatures: UInt64 = 0
  var status: UInt8 = 0
  var queueSelect: UInt16 = 0
  var queues: [Queue]

  init(queueCount: Int, queueSize: UInt16) {
    queues = Array(repeating: Queue(size: queueSize), count: queueCount)
  }
}

extension PCIFunction {
  /// Reads 1, 2, 4 or 8 bytes of the BAR; 0 where there is nothing.
  public func readBAR(at offset: UInt64, count: Int) -> UInt64 {
    guard offset < BARLayout.byteCount, [1, 2, 4, 8].contains(count) else { return 0 }
    let offset = Int(offset)
    if offset < VirtioPCICommon.byteCount { return readCommon(offset, count) }
    if offset == BARLayout.interruptStatus { return UInt64(vectors.takeStatus()) }
    if (BARLayout.device..<BARLayout.device + BARLayout.deviceByteCount).contains(offset) {
      var value: UInt64 = 0
      withUnsafeMutableBytes(of: &value) {
        device.readConfiguration(
          at: offset - BARLayout.device, into: UnsafeMutableRawBufferPointer(rebasing: $0[..<count]))
      }
      return value
    }
    guard offset >= BARLayout.table, offset % 4 == 0, count >= 4 else { return 0 }
    if offset >= BARLayout.pending {
      let word =
        offset == BARLayout.pending ? vectors.pending : offset == BARLayout.pending + 4 ? vectors.pending >> 32 : 0
      return count == 8 ? word : word & 0xffff_ffff
    }
    let low = UInt64(vectors.readTable(at: offset - BARLayout.table))
    return count == 4 ? low : low | UInt64(vectors.readTable(at: offset - BARLayout.table + 4)) << 32
  }

  /// Writes 1, 2, 4 or 8 bytes of the BAR; nothing happens where there is nothing to write. A notification serves its queue
  /// before this returns.
  public func writeBAR(at offset: UInt64, count: Int, _ value: UInt64) {
    guard offset < BARLayout.byteCount, [1, 2, 4, 8].contains(count) else { return }
    let offset = Int(offset)
    if offset < VirtioPCICommon.byteCount { return writeCommon(offset, count, value) }
    if (BARLayout.notify..<BARLayout.table).contains(offset) {
      let queue = (offset - BARLayout.notify) / BARLayout.notifyMultiplier
      guard offset % BARLayout.notifyMultiplier == 0, value & 0xffff == UInt64(queue) else { return }
      return notify(queue: queue)
    }
    if (BARLayout.device..<BARLayout.device + BARLayout.deviceByteCount).contains(offset) {
      withUnsafeBytes(of: value.littleEndian) {
        device.writeConfiguration(at: offset - BARLayout.device, from: UnsafeRawBufferPointer(rebasing: $0[..<count]))
      }
      return
    }
    guard (BARLayout.table..<BARLayout.pending).contains(offset), offset % 4 == 0, count >= 4 else { return }
    vectors.writeTable(at: offset - BARLayout.table, UInt32(truncatingIfNeeded: value))
    if count == 8 { vectors.writeTable(at: offset - BARLayout.table + 4, UInt32(truncatingIfNeeded: value >> 32)) }
  }

  private func readCommon(_ offset: Int, _ count: Int) -> UInt64 {
    var image = (UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0), UInt64(0))
    return registers.withLock { registers in
      withUnsafeMutableBytes(of: &image) { bytes in
        func put<Value: FixedWidthInteger>(_ offset: Int, _ value: Value) {
          bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
        }
        put(VirtioPCICommon.deviceFeatureSelect, registers.deviceFeatureSelect)
        put(VirtioPCICommon.deviceFeature, Self.half(registers.deviceFeatureSelect, of: offeredFeatures))
        put(VirtioPCICommon.driverFeatureSelect, registers.driverFeatureSelect)
        put(VirtioPCICommon.driverFeature, Self.half(registers.driverFeatureSelect, of: registers.driverFeatures))
        put(VirtioPCICommon.configurationVector, vectors.vector(of: queues.count))
        put(VirtioPCICommon.queueCount, UInt16(queues.count))
        put(VirtioPCICommon.status, status(registers))
        put(VirtioPCICommon.generation, generation.load(ordering: .acquiring))
        put(VirtioPCICommon.queueSelect, registers.queueSelect)
        let index = Int(registers.queueSelect)
        put(VirtioPCICommon.queueVector, vectors.vector(of: index < queues.count ? index : Int.max))
        if index < queues.count {
          let queue = registers.queues[index]
          put(VirtioPCICommon.queueSize, queue.size)
          put(VirtioPCICommon.queueEnable, UInt16(queue.isEnabled ? 1 : 0))
          put(VirtioPCICommon.queueNotifyOffset, UInt16(index))
          put(VirtioPCICommon.queueDescriptors, queue.descriptors)
          put(VirtioPCICommon.queueAvailable, queue.available)
          put(VirtioPCICommon.queueUsed, queue.used)
        }
        // One word more than the registers have: a read of 8 bytes at the end stays inside.
        let word = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
        return count == 8 ? word : word & (1 << (8 * UInt64(count)) - 1)
      }
    }
  }

  private static func half(_ select: UInt32, of features: UInt64) -> UInt32 {
    select < 2 ? UInt32(truncatingIfNeeded: features >> (32 * UInt64(select))) : 0
  }

  private func writeCommon(_ offset: Int, _ count: Int, _ value: UInt64) {
    let started = registers.withLock { registers -> Bool in
      if offset == VirtioPCICommon.status { return setStatus(UInt8(truncatingIfNeeded: value), &registers) }
      // Live queues and agreed features do not change.
      let isLive = registers.status & VirtioStatus.driverOK != 0
      let word = UInt32(truncatingIfNeeded: value)
      let index = Int(registers.queueSelect)
      switch (offset, count) {
      case (VirtioPCICommon.deviceFeatureSelect, 4): registers.deviceFeatureSelect = word
      case (VirtioPCICommon.driverFeatureSelect, 4): registers.driverFeatureSelect = word
      case (VirtioPCICommon.driverFeature, 4):
        guard registers.status & VirtioStatus.featuresOK == 0 else { break }
        switch registers.driverFeatureSelect {
        case 0: registers.driverFeatures = registers.driverFeatures & ~0xffff_ffff | UInt64(word)
        case 1: registers.driverFeatures = registers.driverFeatures & 0xffff_ffff | UInt64(word) << 32
        default: break
        }
      case (VirtioPCICommon.configurationVector, 2):
        vectors.setVector(of: queues.count, UInt16(truncatingIfNeeded: word))
      case (VirtioPCICommon.queueSelect, 2): registers.queueSelect = UInt16(truncatingIfNeeded: word)
      case (VirtioPCICommon.queueVector, 2):
        if index < queues.count { vectors.setVector(of: index, UInt16(truncatingIfNeeded: word)) }
      case _ where isLive || index >= queues.count: break
      case (VirtioPCICommon.queueSize, 2): registers.queues[index].size = UInt16(truncatingIfNeeded: word)
      case (VirtioPCICommon.queueEnable, 2): if word & 0xffff == 1 { registers.queues[index].isEnabled = true }
      case (VirtioPCICommon.queueDescriptors..., _):
        Self.setAddress(&registers.queues[index], offset, count, value)
      default: break
      }
      return false
    }
    // What the driver gave before it said DRIVER_OK was not notified of.
    if started { for index in queues.indices { notify(queue: index) } }
  }

  private static func setAddress(_ queue: inout Registers.Queue, _ offset: Int, _ count: Int, _ value: UInt64) {
    func merge(_ address: inout UInt64) {
      switch (offset % 8, count) {
      case (0, 8): address = value
      case (0, 4): address = address & ~0xffff_ffff | value & 0xffff_ffff
      case (4, 4): address = address & 0xffff_ffff | value << 32
      default: break
      }
    }
    switch offset & ~7 {
    case VirtioPCICommon.queueDescriptors: merge(&queue.descriptors)
    case VirtioPCICommon.queueAvailable: merge(&queue.available)
    case VirtioPCICommon.queueUsed: merge(&queue.used)
    default: break
    }
  }

  /// The status as the guest reads it.
  private func status(_ registers: Registers) -> UInt8 {
    registers.status | (isBroken.load(ordering: .acquiring) ? VirtioStatus.needsReset : 0)
  }

  /// A write of the status. Says whether queues went live.
  private func setStatus(_ value: UInt8, _ registers: inout Registers) -> Bool {
    guard value != 0 else {
      reset(&registers)
      return false
    }
    let old = registers.status
    // Bits are only ever added; a driver that takes one back gets what it deserves at the next step.
    registers.status |= value & ~VirtioStatus.needsReset
    if registers.status & ~old & VirtioStatus.featuresOK != 0 {
      let isAgreed =
        registers.driverFeatures & ~offeredFeatures == 0 && registers.driverFeatures & VirtioFeature.version1 != 0
      if !isAgreed { registers.status &= ~VirtioStatus.featuresOK }
    }
    guard registers.status & ~old & VirtioStatus.driverOK != 0 else { return false }
    guard registers.status & VirtioStatus.featuresOK != 0 else {
      breakDevice()
      return false
    }
    return activate(registers)
  }

  private func activate(_ registers: Registers) -> Bool {
    var live: [SplitQueue?] = []
    do {
      for queue in registers.queues {
        guard queue.isEnabled else {
          live.append(nil)
          continue
        }
        guard queue.size <= device.queueSize else { throw SplitQueue.Fault.badSize }
        let configuration = SplitQueue.Configuration(
          size: queue.size, descriptors: GuestAddress(queue.descriptors), available: GuestAddress(queue.available),
          used: GuestAddress(queue.used), features: registers.driverFeatures)
        live.append(try SplitQueue(configuration, memory: memory))
      }
    } catch {
      breakDevice()
      return false
    }
    device.activate(host: self, features: registers.driverFeatures)
    for (slot, queue) in zip(queues, live) { slot.install(queue) }
    return true
  }

  private func reset(_ registers: inout Registers) {
    let wasLive = registers.status & VirtioStatus.driverOK != 0
    for slot in queues { slot.install(nil) }
    if wasLive { device.reset() }
    vectors.reset()
    isBroken.store(false, ordering: .releasing)
    registers = Registers(queueCount: queues.count, queueSize: device.queueSize)
  }
}
