// The linear map: all physical memory, once, at a random base. Not executable; text and constants of the kernel and the
// boot files are read-only in it too.
import Base
import VirtioABI

/// Where physical addresses appear.
public enum LinearMap {
  // SAFETY: set once, by the boot CPU before there is another (by unit tests, when their arena is made).
  nonisolated(unsafe) private static var baseAddress: UInt64 = 0

  /// The virtual address of physical address 0.
  @inline(__always) public static var base: VirtualAddress { VirtualAddress(baseAddress) }

  /// Sets the base. The kernel does so once, from the boot information; a unit test installs the address of an arena,
  /// which then holds "physical" memory from 0 up.
  public static func install(base: VirtualAddress) { baseAddress = base.rawValue }

  /// The pointer to a physical address. The caller vouches that there is memory and that it is the one to touch it.
  @inline(__always) public static func pointer(_ address: PhysicalAddress) -> UnsafeMutableRawPointer {
    VirtualAddress(baseAddress &+ address.rawValue).unsafePointer
  }

  /// The physical address of a pointer that `pointer(_:)` gave, or one into the same object.
  @inline(__always) public static func physical(of pointer: UnsafeRawPointer) -> PhysicalAddress {
    PhysicalAddress(VirtualAddress(pointer).rawValue &- baseAddress)
  }
}
