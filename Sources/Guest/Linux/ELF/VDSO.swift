// The kernel's code for programs (Sources/Guest/VDSO) in a program's address space: the clock page, read-only, and behind it the
// shared object, executable. Both are shown as they lie in memory, nothing is copied.
//
// They lie a little above the stack, where page tables exist anyway, at a random page; both are mapped at once, so that a
// program's first look at a clock costs no page fault.
import Base
import Instructions
import Memory
import Platform
import VirtioABI

enum VDSO {
  /// Maps both.
  /// - Parameter stackTop: the end of the program's stack; the 2 MiB behind it are free.
  /// - Returns: where the shared object's ELF header lies.
  /// - Throws: ENOMEM.
  static func map(in space: AddressSpace, above stackTop: VirtualAddress) throws(Errno) -> VirtualAddress {
    let clock = MemoryObject(
      direct: PhysicalAddress(Boot.information.pointee.clockPhysical), byteCount: PageSize.small)
    let start = place(pageCount: byteCount / PageSize.small &+ 1, above: stackTop)
    _ = try space.map(
      MapRequest(
        address: start, byteCount: PageSize.small, protection: .read, flags: [.fixed, .shared, .populate],
        object: clock, label: .vvar, mayWrite: false))
    let code = MemoryObject(direct: physical, byteCount: byteCount)
    return try space.map(
      MapRequest(
        address: start + PageSize.small, byteCount: byteCount, protection: [.read, .execute],
        flags: [.fixed, .populate], object: code, label: .vdso))
  }

  /// A random place for so many pages: within the 2 MiB in which the stack ends, with a free page between, if there is room.
  static func place(pageCount: UInt64, above stackTop: VirtualAddress) -> VirtualAddress {
    let end = stackTop.alignedUp(to: PageSize.large)
    let room = (end - stackTop) / PageSize.small
    guard room > pageCount else { return end + Random.next() % 256 &* PageSize.small }
    return stackTop + (1 &+ Random.next() % (room &- pageCount)) &* PageSize.small
  }

  #if GUEST
    /// Bytes of the shared object, whole pages.
    private static var byteCount: UInt64 {
      VirtualAddress(address_of_vdso_end()) - VirtualAddress(address_of_vdso_start())
    }
    /// Where it lies.
    private static var physical: PhysicalAddress {
      let offset = VirtualAddress(address_of_vdso_start()) - VirtualAddress(Boot.information.pointee.kernelVirtual)
      return PhysicalAddress(Boot.information.pointee.kernelPhysical &+ offset)
    }
  #else
    // Unit tests have no image of the kernel: a page of their own stands for it.
    private static var byteCount: UInt64 { PageSize.small }
    private static var physical: PhysicalAddress { PhysicalAddress(Boot.information.pointee.clockPhysical) }
  #endif
}
