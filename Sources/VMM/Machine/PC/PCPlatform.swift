// Everything of the little PC that answers at a port or an address: pure dispatch, with no KVM in it.
import Synchronization

/// The ports and the memory of the little PC that are no RAM.
final class PCPlatform: Sendable {
  let serial: SerialPort
  let host: PCIHost
  let interrupts: IOInterruptController

  init(serial: SerialPort, host: PCIHost, interrupts: IOInterruptController) {
    self.serial = serial
    self.host = host
    self.interrupts = interrupts
  }

  /// A read of 1, 2 or 4 bytes at a port; all ones where there is nothing.
  func readPort(_ port: UInt16, count: Int) -> UInt32 {
    switch port {
    case PCLayout.serial..<PCLayout.serial + 8: UInt32(serial.read(port - PCLayout.serial))
    case PCLayout.sleepStatus, PCLayout.sleepControl, PCLayout.reset: 0
    case PCLayout.configurationAddress where count == 4, PCLayout.configurationData..<PCLayout.configurationData + 4:
      host.readPort(port, count: count)
    default: .max
    }
  }

  /// A write there; how the machine ends, if it does by that.
  func writePort(_ port: UInt16, count: Int, _ value: UInt32) -> PCEnd? {
    let byte = UInt8(truncatingIfNeeded: value)
    switch port {
    case PCLayout.serial..<PCLayout.serial + 8: serial.write(port - PCLayout.serial, byte)
    case PCLayout.configurationAddress where count == 4, PCLayout.configurationData..<PCLayout.configurationData + 4:
      host.writePort(port, count: count, value)
    // Bit 5 does it; the three below say how deep (the DSDT's _S5).
    case PCLayout.sleepControl: if byte & 0x20 != 0, byte >> 2 & 7 == 5 { return .powerOff }
    case PCLayout.reset: if byte == 1 { return .reset }
    case PCLayout.resetControl: if byte & 4 != 0 { return .reset }
    case PCLayout.keyboardCommand: if byte == 0xfe { return .reset }
    default: break
    }
    return nil
  }

  /// A read of memory that is no RAM; all ones where there is nothing.
  func readMemory(_ address: UInt64, count: Int) -> UInt64 {
    let offset = address &- PCLayout.interruptController
    if offset < 4096 { return UInt64(interrupts.read(offset)) }
    return host.readMemory(address, count: count) ?? .max
  }

  /// A write there.
  func writeMemory(_ address: UInt64, count: Int, _ value: UInt64) {
    let offset = address &- PCLayout.interruptController
    if offset < 4096 { return interrupts.write(offset, UInt32(truncatingIfNeeded: value)) }
    host.writeMemory(address, count: count, value)
  }
}
