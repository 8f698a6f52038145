// The address map: who lives where among the 128 TiB of the lower half.
//
//   from                 size      what
//   0x0000_0000_0000     64 KiB    never mapped: null pointers fault
//   0x0000_0001_0000     64 TiB    programs (non-PIE at 0x40_0000); one tree of tables for each address space
//   0x4000_0000_0000     16 TiB    linear map: physical address 0 at a random GiB of the first 12 TiB
//   0x5000_0000_0000      4 TiB    kernel image, at a random page
//   0x5800_0000_0000      4 TiB    kernel stacks and other mapped kernel memory
//   0x5c00_0000_0000      1 TiB    device windows
//
// The kernel is in the lower half because enums over class references keep their tag in pointer bits 62 and 63, and
// because a program linked with the kernel calls it directly. Everything from 64 TiB up (PML4 slots 128 to 255) is the
// same in every address space: those slots are filled once, at boot, and never change. PML4 slot 256 and all above
// stays unused (kvm_pvm's trampoline lives there).

/// The regions of virtual addresses; constants only (random bases come with the boot information).
public enum AddressMap {
  /// The lowest address a program may map.
  public static var programStart: VirtualAddress { VirtualAddress(0x1_0000) }
  /// The address behind the last a program may map; everything from here up is the kernel's.
  public static var programEnd: VirtualAddress { VirtualAddress(0x4000_0000_0000) }
  /// Where programs may map.
  public static var program: VirtualRange { VirtualRange(start: programStart, end: programEnd) }
  /// Kept for the first thread's stack, at a random place in it: nothing else comes here unasked.
  public static var firstStack: VirtualRange { VirtualRange(start: programEnd - (32 << 30), end: programEnd) }
  /// Where the linear map may lie; its base is `BootInformation.linearMapBase`.
  public static var linearMap: VirtualRange { region(0x4000_0000_0000, tebibytes: 16) }
  /// Where the kernel image may lie; its base is `BootInformation.kernelVirtual`.
  public static var kernelImage: VirtualRange { region(0x5000_0000_0000, tebibytes: 4) }
  /// Kernel stacks, with guard pages, and other kernel memory that needs a mapping of its own.
  public static var kernelMappings: VirtualRange { region(0x5800_0000_0000, tebibytes: 4) }
  /// Windows onto device memory.
  public static var deviceWindows: VirtualRange { region(0x5c00_0000_0000, tebibytes: 1) }

  /// The first PML4 slot of the kernel, shared by all address spaces from here to `kernelSlotEnd`.
  public static let kernelSlotStart: Int = 128
  /// The slot behind the kernel's last.
  public static let kernelSlotEnd: Int = 256

  /// RAM below the hole for devices: physical addresses below this are RAM (if there is that much).
  public static var lowMemoryEnd: PhysicalAddress { PhysicalAddress(0xc000_0000) }
  /// RAM that does not fit below goes on here.
  public static var highMemoryStart: PhysicalAddress { PhysicalAddress(0x1_0000_0000) }
  /// BARs of devices.
  public static var deviceMemory: PhysicalRange {
    PhysicalRange(start: PhysicalAddress(0xd000_0000), end: PhysicalAddress(0xe000_0000))
  }
  /// Files that the monitor has mapped into the guest, read-only, in a slot of their own, start here.
  public static var bootFilesStart: PhysicalAddress { PhysicalAddress(0x80_0000_0000) }

  /// The physical address of byte `offset` of RAM, counted as if RAM had no hole.
  @inline(__always) public static func physical(ofMemoryOffset offset: UInt64) -> PhysicalAddress {
    PhysicalAddress(
      offset < lowMemoryEnd.rawValue ? offset : offset &- lowMemoryEnd.rawValue &+ highMemoryStart.rawValue)
  }

  @inline(__always) private static func region(_ start: UInt64, tebibytes: UInt64) -> VirtualRange {
    VirtualRange(start: VirtualAddress(start), count: tebibytes &<< 40)
  }
}
