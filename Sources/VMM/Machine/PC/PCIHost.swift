// The PCI bus of the little PC: bus 0 with a host bridge and one function a device, reached by ports (mechanism 1) and by memory (ECAM).
//
// The functions' BARs are placed before the kernel runs, as firmware does; it may move them, so an access is matched against where they are now.
import Synchronization
import VirtioPCI

/// What the bus needs of a function.
protocol PCIBusFunction: AnyObject, Sendable {
  func readConfiguration(at offset: Int, count: Int) -> UInt32
  func writeConfiguration(at offset: Int, count: Int, _ value: UInt32)
  /// Where its BAR is; nil while it decodes no memory.
  var barAddress: UInt64? { get }
  func readBAR(at offset: UInt64, count: Int) -> UInt64
  func writeBAR(at offset: UInt64, count: Int, _ value: UInt64)
}

extension PCIFunction: PCIBusFunction {}

/// The host bridge, and what is behind it.
final class PCIHost: Sendable {
  /// Device numbers 1 to 31.
  static let functionLimit = 31
  private let functions: [any PCIBusFunction]
  private let address = Mutex<UInt32>(0)

  /// A bus with these functions as devices 1, 2 and so on.
  init(_ functions: [any PCIBusFunction]) {
    precondition(functions.count <= Self.functionLimit)
    self.functions = functions
  }

  // MARK: Configuration space

  /// The bridge's own: an identity and a class, nothing to be written.
  private static func bridge(_ offset: Int, _ count: Int) -> UInt32 {
    let word: UInt32 =
      switch offset & ~3 {
      case 0x00: 0x0008_1b36  // The generic host bridge that other virtual machines have.
      case 0x08: 0x0600_0000
      default: 0
      }
    return word >> UInt32(8 * (offset & 3)) & mask(count)
  }

  private static func mask(_ count: Int) -> UInt32 { count >= 4 ? .max : 1 << UInt32(8 * count) - 1 }

  /// Reads 1, 2 or 4 bytes of a device's function 0; all ones where there is none.
  func readConfiguration(bus: Int, device: Int, function: Int, offset: Int, count: Int) -> UInt32 {
    guard bus == 0, function == 0, [1, 2, 4].contains(count), offset % count == 0 else { return Self.mask(count) }
    if device == 0 { return Self.bridge(offset, count) }
    guard functions.indices.contains(device - 1) else { return Self.mask(count) }
    return functions[device - 1].readConfiguration(at: offset, count: count)
  }

  /// Writes likewise.
  func writeConfiguration(bus: Int, device: Int, function: Int, offset: Int, count: Int, _ value: UInt32) {
    guard bus == 0, function == 0, [1, 2, 4].contains(count), offset % count == 0,
      functions.indices.contains(device - 1)
    else { return }
    functions[device - 1].writeConfiguration(at: offset, count: count, value)
  }

  /// An access to the ports of mechanism 1: the address register is 32 bits wide and nothing else.
  func readPort(_ port: UInt16, count: Int) -> UInt32 {
    let selected = address.withLock { $0 }
    if port == PCLayout.configurationAddress { return count == 4 ? selected : .max }
    guard selected >> 31 == 1, Int(port & 3) + count <= 4 else { return .max }
    return readConfiguration(
      bus: Int(selected >> 16 & 0xff), device: Int(selected >> 11 & 31), function: Int(selected >> 8 & 7),
      offset: Int(selected & 0xfc) + Int(port & 3), count: count)
  }

  /// A write there.
  func writePort(_ port: UInt16, count: Int, _ value: UInt32) {
    if port == PCLayout.configurationAddress {
      if count == 4 { address.withLock { $0 = value } }
      return
    }
    let selected = address.withLock { $0 }
    guard selected >> 31 == 1, Int(port & 3) + count <= 4 else { return }
    writeConfiguration(
      bus: Int(selected >> 16 & 0xff), device: Int(selected >> 11 & 31), function: Int(selected >> 8 & 7),
      offset: Int(selected & 0xfc) + Int(port & 3), count: count, value)
  }

  // MARK: Memory

  /// A read of configuration space as memory, or of a BAR; nil if nothing is there.
  func readMemory(_ address: UInt64, count: Int) -> UInt64? {
    if let place = configurationPlace(address) {
      guard count <= 4 else { return .max }
      return UInt64(
        readConfiguration(
          bus: 0, device: place.device, function: place.function, offset: place.offset, count: count))
    }
    guard let (function, offset) = find(address) else { return nil }
    return function.readBAR(at: offset, count: count)
  }

  /// A write there.
  func writeMemory(_ address: UInt64, count: Int, _ value: UInt64) {
    if let place = configurationPlace(address) {
      guard count <= 4 else { return }
      return writeConfiguration(
        bus: 0, device: place.device, function: place.function, offset: place.offset, count: count,
        UInt32(truncatingIfNeeded: value))
    }
    guard let (function, offset) = find(address) else { return }
    function.writeBAR(at: offset, count: count, value)
  }

  private func configurationPlace(_ address: UInt64) -> (device: Int, function: Int, offset: Int)? {
    let offset = address &- PCLayout.configuration
    guard offset < PCLayout.configurationByteCount else { return nil }
    return (Int(offset >> 15 & 31), Int(offset >> 12 & 7), Int(offset & 0xfff))
  }

  private func find(_ address: UInt64) -> (any PCIBusFunction, UInt64)? {
    for function in functions {
      guard let start = function.barAddress, address &- start < PCIFunction.barByteCount else { continue }
      return (function, address - start)
    }
    return nil
  }
}
