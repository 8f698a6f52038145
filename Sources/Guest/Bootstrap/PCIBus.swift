// Finding the virtio devices on PCI, as a driver for any monitor has to: configuration space by the ports of mechanism 1 (PCI 3.0, 3.2.2.3.2),
// capabilities (virtio 1.2, 4.1.4), MSI-X (PCI 3.0, 6.8.2).
//
// Firmware has placed the BARs. Each device found becomes a `BootDevice` as osv-run would describe it, with its MSI-X table programmed and
// switched on. A device that is not as the kernel needs it (no modern transport, no MSI-X, a BAR above 4 GiB) is left alone.
import Base
import VirtioABI

/// The functions on PCI.
struct PCIBus {
  /// Devices that are described at most.
  static var limit: Int { 32 }

  private var bus: UInt32 = 0
  private var function: UInt32 = 0
  private var last: UInt32 = 0

  /// Before the first function.
  init() {}

  /// The next function that there is; nil behind the last one. Buses behind bridges have been numbered by firmware, so that all of
  /// them are found by looking at all numbers up to the last bridge's.
  mutating func next(_ machine: some BareMachine) -> PCIPlace? {
    while bus <= last {
      while function < 256 {
        let place = PCIPlace(bus: bus, device: function &>> 3, function: function & 7)
        let isThere = place.read16(machine, 0) != 0xffff
        let kind = isThere ? place.read8(machine, 0x0e) : 0
        // Behind a device's first function: the others only if it says that it has them.
        function = function & 7 != 0 || isThere && kind & 0x80 != 0 ? function &+ 1 : (function | 7) &+ 1
        guard isThere else { continue }
        // A bridge's type of header says where the buses behind it end.
        if kind & 0x7f == 1 { last = max(last, place.read8(machine, 0x1a)) }
        return place
      }
      (bus, function) = (bus &+ 1, 0)
    }
    return nil
  }
}

/// One function's configuration space.
struct PCIPlace {
  private let base: UInt32

  init(bus: UInt32, device: UInt32, function: UInt32) {
    base = 1 &<< 31 | bus &<< 16 | device &<< 11 | function &<< 8
  }

  private static var addressPort: UInt16 { 0xcf8 }
  private static var dataPort: UInt16 { 0xcfc }

  /// Reads 32 bits; the offset is a multiple of 4.
  func read32(_ machine: some BareMachine, _ offset: UInt32) -> UInt32 {
    machine.writePort(Self.addressPort, count: 4, base | offset & 0xfc)
    return machine.readPort(Self.dataPort, count: 4)
  }
  /// Reads 16 bits; the offset is even.
  func read16(_ machine: some BareMachine, _ offset: UInt32) -> UInt32 {
    read32(machine, offset) &>> (8 &* (offset & 2)) & 0xffff
  }
  /// Reads 8 bits.
  func read8(_ machine: some BareMachine, _ offset: UInt32) -> UInt32 {
    read32(machine, offset) &>> (8 &* (offset & 3)) & 0xff
  }
  /// Writes 16 bits; the offset is even. The other half of the word is left alone.
  func write16(_ machine: some BareMachine, _ offset: UInt32, _ value: UInt32) {
    machine.writePort(Self.addressPort, count: 4, base | offset & 0xfc)
    machine.writePort(Self.dataPort &+ (offset & 2).u16, count: 2, value)
  }

  /// Where a memory BAR is; nil for one of I/O ports, an unplaced one, or one that begins at or above 4 GiB.
  func bar(_ machine: some BareMachine, _ index: UInt32) -> UInt64? {
    guard index < 6 else { return nil }
    let low = read32(machine, 0x10 &+ 4 &* index)
    guard low & 1 == 0, low & ~15 != 0 else { return nil }
    if low & 6 == 4 { guard index < 5, read32(machine, 0x14 &+ 4 &* index) == 0 else { return nil } }
    return (low & ~15).u64
  }

  /// Capabilities that there is room for: a list may lead back to itself.
  static var capabilityLimit: Int { 48 }

  /// The offset of the first capability, 0 if there is none.
  func firstCapability(_ machine: some BareMachine) -> UInt32 {
    read16(machine, 0x06) & 0x10 != 0 ? place(read8(machine, 0x34)) : 0
  }
  /// The offset of the capability behind another one, 0 if there is none.
  func nextCapability(_ machine: some BareMachine, _ offset: UInt32) -> UInt32 {
    place(read8(machine, offset &+ 1))
  }
  private func place(_ offset: UInt32) -> UInt32 { offset & 0xfc >= 0x40 ? offset & 0xfc : 0 }
}
