// The page tables of x86-64: four levels, pages of 4 KiB and 2 MiB.
//
// Every entry at every level has U=1 (kvm_pvm needs it, hardware does not mind with SMEP and SMAP off); W^X is kept
// by those who choose the rights. Tables are frames of the linear map. Entries change by atomic operations only: the CPU
// sets accessed and dirty bits at any moment, and faults on other threads install entries beside us. A table,
// once linked, stays until `removeTables` or `destroy`, whose callers exclude everybody else from its range.
import Base
import Platform
import Synchronization

/// An entry of a page table.
public struct PageTableEntry: Equatable {
  /// The bits.
  public var rawValue: UInt64
  /// An entry from its bits.
  @inline(__always) public init(_ rawValue: UInt64) { self.rawValue = rawValue }

  static let presentBit: UInt64 = 1 << 0
  static let writableBit: UInt64 = 1 << 1
  static let userBit: UInt64 = 1 << 2
  static let uncachedBits: UInt64 = 1 << 4 | 1 << 3
  static let accessedBit: UInt64 = 1 << 5
  static let dirtyBit: UInt64 = 1 << 6
  static let largeBit: UInt64 = 1 << 7
  static let noExecuteBit: UInt64 = 1 << 63
  static let addressMask: UInt64 = 0x000f_ffff_ffff_f000

  /// No page.
  public static var absent: PageTableEntry { PageTableEntry(0) }

  /// A leaf.
  /// - Parameters:
  ///   - frame: the page's first byte.
  ///   - writable: whether stores are allowed.
  ///   - executable: whether fetches are allowed.
  @inline(__always)
  public static func leaf(_ frame: PhysicalAddress, writable: Bool, executable: Bool) -> PageTableEntry {
    var bits = frame.rawValue | presentBit | userBit | accessedBit
    if writable { bits |= writableBit | dirtyBit }
    if !executable { bits |= noExecuteBit }
    return PageTableEntry(bits)
  }

  /// The same page as a 2 MiB leaf.
  @inline(__always) public var asLarge: PageTableEntry { PageTableEntry(rawValue | Self.largeBit) }
  /// The same page, uncached (device registers).
  @inline(__always) public var asUncached: PageTableEntry { PageTableEntry(rawValue | Self.uncachedBits) }
  /// The same page without the right to write.
  @inline(__always) public var asReadOnly: PageTableEntry { PageTableEntry(rawValue & ~Self.writableBit) }
  /// The first byte of the page or table.
  @inline(__always) public var frame: PhysicalAddress { PhysicalAddress(rawValue & Self.addressMask) }
  /// Whether the CPU uses the entry.
  @inline(__always) public var isPresent: Bool { rawValue & Self.presentBit != 0 }
  /// Whether stores are allowed.
  @inline(__always) public var isWritable: Bool { rawValue & Self.writableBit != 0 }
  /// Whether fetches are allowed.
  @inline(__always) public var isExecutable: Bool { rawValue & Self.noExecuteBit == 0 }
  /// Whether the page was written since the bit was cleared.
  @inline(__always) public var isDirty: Bool { rawValue & Self.dirtyBit != 0 }
  /// Whether the page was used since the bit was cleared.
  @inline(__always) public var isAccessed: Bool { rawValue & Self.accessedBit != 0 }
  /// Whether it is a 2 MiB page (in a page directory).
  @inline(__always) public var isLarge: Bool { rawValue & Self.largeBit != 0 }
}

/// One place in a table.
public struct PageTableSlot {
  // SAFETY: the pointer is into a table's frame in the linear map, which stays while the slot is in use (see the head
  // of this file); the atomic has the size and alignment of an entry.
  let pointer: UnsafeMutablePointer<Atomic<UInt64>>

  @inline(__always)
  init(table: PhysicalAddress, index: Int) {
    pointer = LinearMap.pointer(table).assumingMemoryBound(to: Atomic<UInt64>.self) + index
  }

  /// The entry.
  @inline(__always) public var entry: PageTableEntry { PageTableEntry(pointer.pointee.load(ordering: .acquiring)) }
  /// Writes the entry, whatever was there.
  @inline(__always) public func store(_ entry: PageTableEntry) {
    pointer.pointee.store(entry.rawValue, ordering: .releasing)
  }
  /// Takes the entry out, with the accessed and dirty bits as the CPU left them.
  @inline(__always) public func exchange(_ entry: PageTableEntry) -> PageTableEntry {
    PageTableEntry(pointer.pointee.exchange(entry.rawValue, ordering: .acquiringAndReleasing))
  }
  /// Replaces `old` by `new` if it is still there.
  @inline(__always) public func replace(_ old: PageTableEntry, by new: PageTableEntry) -> Bool {
    pointer.pointee.compareExchange(
      expected: old.rawValue, desired: new.rawValue, ordering: .acquiringAndReleasing
    ).exchanged
  }
  /// Takes the right to write away.
  @inline(__always) public func makeReadOnly() {
    pointer.pointee.bitwiseAnd(~PageTableEntry.writableBit, ordering: .acquiringAndReleasing)
  }
  /// Forgets that the page was used.
  @inline(__always) public func clearAccessed() {
    pointer.pointee.bitwiseAnd(~PageTableEntry.accessedBit, ordering: .acquiringAndReleasing)
  }
  /// The slot `count` places further in the same table.
  @inline(__always) public func advanced(by count: Int) -> PageTableSlot { PageTableSlot(pointer: pointer + count) }

  @inline(__always) private init(pointer: UnsafeMutablePointer<Atomic<UInt64>>) { self.pointer = pointer }
}

/// A tree of page tables.
public struct PageTable {
  /// The frame of the top table (CR3).
  public let root: PhysicalAddress

  /// The tree below a root.
  @inline(__always) public init(root: PhysicalAddress) { self.root = root }

  /// A new tree that has the kernel's part in common with `kernel`; nil if memory is out.
  public static func create(sharing kernel: PageTable) -> PageTable? {
    guard let root = Frames.allocate(zeroed: true, use: .table) else { return nil }
    for index in AddressMap.kernelSlotStart..<AddressMap.kernelSlotEnd {
      let entry = PageTableSlot(table: kernel.root, index: index).entry
      if entry.isPresent { PageTableSlot(table: root, index: index).store(entry) }
    }
    return PageTable(root: root)
  }

  @inline(__always)
  static func index(_ address: VirtualAddress, level: Int) -> Int {
    (address.rawValue >> (12 &+ 9 &* (level &- 1).u64)).int & 511
  }

  /// The slot for an address at a level (1: 4 KiB pages, 2: 2 MiB pages), making the tables above it.
  /// - Returns: nil if memory is out, or if a 2 MiB page is in the way.
  public func slotMakingTables(_ address: VirtualAddress, level: Int = 1) -> PageTableSlot? {
    var table = root
    var current = 4
    while current > level {
      let slot = PageTableSlot(table: table, index: Self.index(address, level: current))
      var entry = slot.entry
      if !entry.isPresent {
        guard let frame = Frames.allocate(zeroed: true, use: .table) else { return nil }
        let bits = PageTableEntry.presentBit | PageTableEntry.writableBit | PageTableEntry.userBit
        let made = PageTableEntry(frame.rawValue | bits | PageTableEntry.accessedBit)
        // The first access writes: read first, a page that the host has not made yet would be made twice, its zero page and its own.
        PageTableSlot(table: frame, index: 0).store(.absent)
        if slot.replace(.absent, by: made) {
          entry = made
        } else {
          Frames.free(frame, zeroed: true)
          entry = slot.entry
        }
      }
      if current <= 3 && entry.isLarge { return nil }
      table = entry.frame
      current &-= 1
    }
    return PageTableSlot(table: table, index: Self.index(address, level: level))
  }

  /// The slot that decides about an address, without making tables.
  /// - Returns: the slot at the lowest level that exists, and that level: 1 or 2 for pages (also absent ones), 3 and 4
  ///   if whole tables are missing.
  public func slot(_ address: VirtualAddress) -> (slot: PageTableSlot, level: Int) {
    var table = root
    var current = 4
    while true {
      let slot = PageTableSlot(table: table, index: Self.index(address, level: current))
      let entry = slot.entry
      if current == 1 || !entry.isPresent || (current <= 3 && entry.isLarge) { return (slot, current) }
      table = entry.frame
      current &-= 1
    }
  }

  /// Where an address is mapped, nil if nowhere: for debugging and tests.
  public func translate(_ address: VirtualAddress) -> PhysicalAddress? {
    let (slot, level) = slot(address)
    let entry = slot.entry
    guard entry.isPresent else { return nil }
    let mask = (UInt64(1) << (12 &+ 9 &* (level &- 1).u64)) &- 1
    return PhysicalAddress((entry.frame.rawValue & ~mask) | (address.rawValue & mask))
  }

  /// Calls `body` with every entry for a page that is not 0 (it may be marked not present) in a range of whole pages; tables
  /// that are missing are skipped at once.
  /// - Parameter body: gets the slot, its level (1 or 2), and the address of the page's start.
  @inline(__always)
  public func forEachPage(in range: VirtualRange, _ body: (PageTableSlot, Int, VirtualAddress) -> Void) {
    var address = range.start
    while address < range.end {
      let (slot, level) = slot(address)
      let size = PageSize.small << (9 &* (level &- 1).u64)
      if level == 1 {
        var here = slot
        var left = 512 &- Self.index(address, level: 1)
        while left > 0 && address < range.end {
          if here.entry.rawValue != 0 { body(here, 1, address) }
          left &-= 1
          address += PageSize.small
          if left > 0 { here = here.advanced(by: 1) }
        }
        continue
      }
      if slot.entry.rawValue != 0 { body(slot, level, address.alignedDown(to: size)) }
      address = address.alignedDown(to: size) + size
    }
  }

  /// Replaces a 2 MiB page by a table of 4 KiB pages with the same rights.
  /// - Returns: false if memory is out.
  public func splitLarge(_ slot: PageTableSlot) -> Bool {
    let entry = slot.entry
    guard entry.isLarge else { return true }
    guard let table = Frames.allocate(use: .table) else { return false }
    let rights = entry.rawValue & ~(PageTableEntry.addressMask | PageTableEntry.largeBit)
    for index in 0..<512 {
      let bits = (entry.frame.rawValue &+ index.u64 << frameShift) | rights
      PageTableSlot(table: table, index: index).store(PageTableEntry(bits))
    }
    let bits = PageTableEntry.presentBit | PageTableEntry.writableBit | PageTableEntry.userBit
    slot.store(PageTableEntry(table.rawValue | bits | PageTableEntry.accessedBit))
    return true
  }

  /// Unlinks the lowest tables that lie wholly within a range with no page left in it, and hands them to `body` to be freed
  /// after the flush. The caller excludes everybody else from the range.
  public func removeTables(in range: VirtualRange, _ body: (PhysicalAddress) -> Void) {
    var address = range.start.alignedUp(to: PageSize.large)
    while address < range.end && range.end - address >= PageSize.large {
      let (slot, level) = slot(address)
      if level == 1 {
        let directory = directorySlot(address)
        body(directory.exchange(.absent).frame)
      }
      let step = level <= 2 ? PageSize.large : PageSize.small << (9 &* (level &- 1).u64)
      _ = slot
      address = address.alignedDown(to: step) + step
    }
  }

  /// Frees all tables of the programs' part and the root. Nobody may use the tree any more; no page may be left in it.
  public func destroy() {
    destroyTable(root, level: 4, end: AddressMap.kernelSlotStart)
    Frames.free(root)
  }

  private func destroyTable(_ table: PhysicalAddress, level: Int, end: Int) {
    for index in 0..<end {
      let entry = PageTableSlot(table: table, index: index).entry
      guard entry.isPresent && !(level <= 3 && entry.isLarge) else { continue }
      if level > 2 { destroyTable(entry.frame, level: level &- 1, end: 512) }
      Frames.free(entry.frame)
    }
  }

  /// The page-directory slot above an address whose tables exist.
  private func directorySlot(_ address: VirtualAddress) -> PageTableSlot {
    let top = PageTableSlot(table: root, index: Self.index(address, level: 4)).entry.frame
    let middle = PageTableSlot(table: top, index: Self.index(address, level: 3)).entry.frame
    return PageTableSlot(table: middle, index: Self.index(address, level: 2))
  }
}
