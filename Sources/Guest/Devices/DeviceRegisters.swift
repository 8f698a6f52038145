// A device's registers: loads and stores of exact widths, uncached, each an exit to the monitor.
import Base
import Pages
import VirtioABI

#if HOSTED
  /// What stands for the registers in unit tests: the host's own device, in the same process.
  public protocol HostedRegisters: AnyObject {
    /// Reads 1, 2, 4 or 8 bytes.
    func readRegister(at offset: UInt64, count: Int) -> UInt64
    /// Writes them.
    func writeRegister(at offset: UInt64, count: Int, _ value: UInt64)
  }
#endif

/// The BAR of one device.
struct DeviceRegisters {
  #if HOSTED
    private let device: any HostedRegisters

    init(_ device: any HostedRegisters) { self.device = device }

    func read8(_ offset: UInt32) -> UInt8 { device.readRegister(at: offset.u64, count: 1).u8 }
    func read32(_ offset: UInt32) -> UInt32 { device.readRegister(at: offset.u64, count: 4).u32 }
    func write8(_ offset: UInt32, _ value: UInt8) { device.writeRegister(at: offset.u64, count: 1, value.u64) }
    func write16(_ offset: UInt32, _ value: UInt16) { device.writeRegister(at: offset.u64, count: 2, value.u64) }
    func write32(_ offset: UInt32, _ value: UInt32) { device.writeRegister(at: offset.u64, count: 4, value.u64) }
  #else
    private let window: UnsafeMutableRawPointer

    /// Nil if memory for the window's page tables is out.
    init?(_ range: PhysicalRange) {
      guard let window = DeviceWindows.map(range) else { return nil }
      self.window = window
    }

    // SAFETY of all: offsets come from the boot information and lie inside the BAR, which is mapped for good; atomics
    // make each access exactly one instruction of its width.
    @inline(__always) func read8(_ offset: UInt32) -> UInt8 {
      (window + offset.int).assumingMemoryBound(to: Atomic<UInt8>.self).pointee.load(ordering: .acquiring)
    }
    @inline(__always) func read32(_ offset: UInt32) -> UInt32 {
      (window + offset.int).assumingMemoryBound(to: Atomic<UInt32>.self).pointee.load(ordering: .acquiring)
    }
    @inline(__always) func write8(_ offset: UInt32, _ value: UInt8) {
      (window + offset.int).assumingMemoryBound(to: Atomic<UInt8>.self).pointee.store(value, ordering: .releasing)
    }
    @inline(__always) func write16(_ offset: UInt32, _ value: UInt16) {
      (window + offset.int).assumingMemoryBound(to: Atomic<UInt16>.self).pointee.store(value, ordering: .releasing)
    }
    @inline(__always) func write32(_ offset: UInt32, _ value: UInt32) {
      (window + offset.int).assumingMemoryBound(to: Atomic<UInt32>.self).pointee.store(value, ordering: .releasing)
    }
  #endif
}
