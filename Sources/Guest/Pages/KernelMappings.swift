// Kernel memory that needs a mapping of its own: stacks with guard pages, windows onto devices.
//
// Both live in one 512 GiB slot each of their region, chosen at random at boot, so that the kernel's part of the top table is
// complete before the first address space copies it. Addresses are given out upwards.
import Base
import Platform
import Synchronization

/// The kernel's own tree of page tables.
public enum KernelMappings {
  // SAFETY: set at boot by the only CPU; from then on touched with `mappingLock`, but for `table` and `firstStack`, which
  // stay as they are.
  nonisolated(unsafe) static var table = PageTable(root: PhysicalAddress(0))
  nonisolated(unsafe) static var firstStack = VirtualAddress(0)
  nonisolated(unsafe) static var nextStack = VirtualAddress(0)
  nonisolated(unsafe) static var nextWindow = VirtualAddress(0)
  // SAFETY: as those above, with `mappingLock`; stacks in the two lists belong to nobody.
  /// Lowest byte of the first free stack; each has the next one's address in its first word.
  nonisolated(unsafe) static var freeStacks = VirtualAddress(0)
  /// First address of a free stack without memory; the entry of its first page has the next one's address.
  nonisolated(unsafe) static var emptyStacks = VirtualAddress(0)

  /// The tree that the kernel started with: every address space shares its upper part.
  public static var kernelTable: PageTable { table }

  /// Where stacks have been given out: each behind as many bytes without pages.
  public static var stackAddresses: VirtualRange { VirtualRange(start: firstStack, end: nextStack) }

  /// Adopts the first page tables. Runs once, on CPU 0, when `Frames` works.
  /// - Parameters:
  ///   - root: what CR3 holds.
  ///   - seed: random bits.
  /// - Returns: false if memory is out.
  public static func initialise(root: PhysicalAddress, seed: UInt64) -> Bool {
    table = PageTable(root: root)
    let slot: UInt64 = 512 << 30
    let stacks = AddressMap.kernelMappings
    let windows = AddressMap.deviceWindows
    nextStack = stacks.start + (seed % (stacks.count / slot)) &* slot + ((seed >> 8) & 0xffff) &* PageSize.large
    firstStack = nextStack
    nextWindow = windows.start + ((seed >> 24) % (windows.count / slot)) &* slot
    nextWindow += ((seed >> 32) & 0xffff) &* PageSize.large
    return table.slotMakingTables(nextStack, level: 3) != nil && table.slotMakingTables(nextWindow, level: 3) != nil
  }
}

extension KernelMappings {
  /// Addresses for the debugging heap: enough for an object in each frame, in a 512 GiB slot beside that of the stacks. At boot.
  static func guardedWindow() -> VirtualRange? {
    let slot: UInt64 = 512 << 30
    let region = AddressMap.kernelMappings
    let own = (nextStack - region.start) / slot
    let start = region.start + (own &+ 1) % (region.count / slot) &* slot
    guard table.slotMakingTables(start, level: 3) != nil else { return nil }
    let count = min(Frames.promisedByteCount &* (GuardWord.guardPages &+ 1), slot)
    return VirtualRange(start: start, count: count)
  }
}

/// A thread's stack in the kernel: 16 KiB, always present, with unmapped pages below.
public struct KernelStack {
  /// Bytes of a stack.
  public static let byteCount: UInt64 = 16384
  static let order = 2

  /// Its lowest usable byte.
  public let base: VirtualAddress
  /// One behind its highest byte; 16 KiB aligned.
  public var top: VirtualAddress { base + KernelStack.byteCount }

  /// A new stack; nil if memory is out.
  public static func allocate() -> KernelStack? {
    guard let state = Frames.state else { return nil }
    let free: VirtualAddress = state.pointee.mappingLock.withLock {
      let free = KernelMappings.freeStacks
      guard free.rawValue != 0 else { return free }
      // SAFETY: stacks in the list are mapped and belong to nobody.
      KernelMappings.freeStacks = VirtualAddress(nextWord(of: free).pointee)
      return free
    }
    if free.rawValue != 0 { return KernelStack(base: free) }
    guard let memory = Frames.allocate(order: order, use: .stack) else { return nil }
    let base: VirtualAddress = state.pointee.mappingLock.withLock {
      let empty = KernelMappings.emptyStacks
      if empty.rawValue != 0 {
        let entry = KernelMappings.table.slot(empty).slot.entry
        KernelMappings.emptyStacks = VirtualAddress(entry.rawValue & ~0xfff)
        return empty
      }
      // As many bytes of nothing as of stack: an overflow of up to 16 KiB faults.
      KernelMappings.nextStack += 2 &* byteCount
      return KernelMappings.nextStack - byteCount
    }
    var offset: UInt64 = 0
    while offset < byteCount {
      guard let slot = KernelMappings.table.slotMakingTables(base + offset) else {
        Frames.free(memory, order: order)
        return nil
      }
      slot.store(.leaf(memory + offset, writable: true, executable: false))
      offset &+= PageSize.small
    }
    return KernelStack(base: base)
  }

  /// Gives the stack back; nobody may run on it any more. Usable with preemption off: the stack stays mapped for the next
  /// thread.
  public func free() {
    guard let state = Frames.state else { return }
    state.pointee.mappingLock.withLock {
      // SAFETY: the stack is mapped, and nobody uses it any more.
      KernelStack.nextWord(of: base).pointee = KernelMappings.freeStacks.rawValue
      KernelMappings.freeStacks = base
    }
  }

  /// Gives the memory of unused stacks back. Called when memory is short, with interrupts and preemption on.
  public static func trim() {
    guard let state = Frames.state else { return }
    while true {
      // Some at a time: a flush on all CPUs is dear, and none may be used by anybody until it is done.
      var bases = InlineArray<16, VirtualAddress>(repeating: VirtualAddress(0))
      var blocks = InlineArray<16, PhysicalAddress>(repeating: PhysicalAddress(0))
      var count = 0
      while count < 16 {
        let base: VirtualAddress = state.pointee.mappingLock.withLock {
          let base = KernelMappings.freeStacks
          if base.rawValue != 0 {
            // SAFETY: stacks in the list are mapped and belong to nobody.
            KernelMappings.freeStacks = VirtualAddress(nextWord(of: base).pointee)
          }
          return base
        }
        guard base.rawValue != 0 else { break }
        bases[count] = base
        blocks[count] = KernelMappings.table.slot(base).slot.entry.frame
        var offset: UInt64 = 0
        while offset < byteCount {
          KernelMappings.table.slot(base + offset).slot.store(.absent)
          offset &+= PageSize.small
        }
        count &+= 1
      }
      guard count > 0 else { return }
      Preemption.disable()
      TLB.flushAllEverywhere()
      Preemption.enable()
      for index in 0..<count {
        Frames.free(blocks[index], order: order)
        state.pointee.mappingLock.withLock {
          // An entry that is not present may hold anything: here, the next empty stack.
          KernelMappings.table.slot(bases[index]).slot.store(PageTableEntry(KernelMappings.emptyStacks.rawValue))
          KernelMappings.emptyStacks = bases[index]
        }
      }
    }
  }

  private static func nextWord(of base: VirtualAddress) -> UnsafeMutablePointer<UInt64> {
    #if HOSTED
      // SAFETY: tests look at the stack through the linear map, because the host has not these tables.
      let physical = KernelMappings.table.translate(base).unsafelyUnwrapped
      return LinearMap.pointer(physical).assumingMemoryBound(to: UInt64.self)
    #else
      return base.unsafePointer.assumingMemoryBound(to: UInt64.self)
    #endif
  }
}

/// Windows onto device memory.
public enum DeviceWindows {
  /// Maps a device's registers, uncached and not executable, for good.
  /// - Returns: where the range's first byte appears; nil if memory is out.
  public static func map(_ range: PhysicalRange) -> UnsafeMutableRawPointer? {
    guard let state = Frames.state, !range.isEmpty else { return nil }
    let first = range.start.alignedDown()
    let count = range.end.alignedUp() - first
    let window: VirtualAddress = state.pointee.mappingLock.withLock {
      let window = KernelMappings.nextWindow
      KernelMappings.nextWindow += count &+ PageSize.small
      return window
    }
    var offset: UInt64 = 0
    while offset < count {
      guard let slot = KernelMappings.table.slotMakingTables(window + offset) else { return nil }
      slot.store(PageTableEntry.leaf(first + offset, writable: true, executable: false).asUncached)
      offset &+= PageSize.small
    }
    return (window + range.start.pageOffset).unsafePointer
  }
}
