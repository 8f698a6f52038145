// A region: one mapping of an address space, a node of its tree and of its object's list of mappings.
//
// Regions are records of the kernel heap, handled by pointer and changed only under the write lock of their address space
// (`faultEnd` and `faultPages`, hints for fault-around, under the read lock too: losing an update does no harm).
import Base
import Pages

/// A mapping's record.
struct Region {
  /// First byte, a multiple of 4096.
  var start: UInt64
  /// One behind the last.
  var end: UInt64
  var protection: Protection
  var flags: RegionFlags
  var label: MappingLabel
  /// What is mapped; nil for anonymous private memory.
  var object: MemoryObject?
  /// Offset of `start` in the object, a multiple of 4096.
  var offset: UInt64
  var owner: (any MappingOwner)?
  /// Who changes its code; or, with the label `patches`, whose own code it is.
  var patcher: (any CodePatcher)?

  /// One behind what the last anonymous fault mapped, and how many pages that were.
  var faultEnd: UInt64 = 0
  var faultPages: Int = 0

  // The tree, kept by `RegionTree`.
  var left: RegionPointer?
  var right: RegionPointer?
  var height: Int = 1
  /// First byte, last byte + 1 and largest hole of the subtree.
  var treeStart: UInt64 = 0
  var treeEnd: UInt64 = 0
  var treeGap: UInt64 = 0

  // The object's list of mappings, kept by `MemoryObject` under its mappings lock.
  var nextMapping: RegionPointer?
  var previousMapping: RegionPointer?
  /// The address space, for those who come from the object; it outlives its regions.
  var space: Unmanaged<AddressSpace>?

  init(
    start: UInt64, end: UInt64, protection: Protection, flags: RegionFlags, label: MappingLabel = .none,
    object: MemoryObject? = nil, offset: UInt64 = 0, owner: (any MappingOwner)? = nil
  ) {
    self.start = start
    self.end = end
    self.protection = protection
    self.flags = flags
    self.label = label
    self.object = object
    self.offset = offset
    self.owner = owner
  }

  /// What of a range lies in the region; they overlap.
  func part(of range: VirtualRange) -> VirtualRange {
    VirtualRange(
      start: VirtualAddress(max(start, range.start.rawValue)), end: VirtualAddress(min(end, range.end.rawValue)))
  }

  /// Whether it counts as the program's data: private, writable, no stack (RLIMIT_DATA).
  var isData: Bool {
    protection.contains(.write) && flags.isDisjoint(with: [.shared, .growsDown])
  }

  /// The offset in the object that belongs to an address.
  func objectOffset(_ address: UInt64) -> UInt64 { offset &+ (address &- start) }

  /// Whether it is code of a file that may be patched.
  var isPatchable: Bool {
    object != nil && label != .patches && protection.contains(.execute) && !protection.contains(.write)
      && flags.isDisjoint(with: [.shared, .wasWritable])
  }

  /// What is told of it.
  var information: MappingInformation {
    MappingInformation(
      range: VirtualRange(start: VirtualAddress(start), end: VirtualAddress(end)), protection: protection,
      isShared: flags.contains(.shared), offset: offset, owner: owner, label: label)
  }

  /// Whether `next`, which starts where this one ends, could be one region with it.
  func continues(into next: borrowing Region) -> Bool {
    guard end == next.start, protection == next.protection, flags == next.flags, label == next.label,
      object === next.object, owner === next.owner, patcher === next.patcher
    else { return false }
    return object == nil || offset &+ (end &- start) == next.offset
  }
}

/// A region's record in the kernel heap.
typealias RegionPointer = UnsafeMutablePointer<Region>

extension UnsafeMutablePointer where Pointee == Region {
  /// A new record; nil if memory is out.
  static func make(_ region: consuming Region) -> RegionPointer? {
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Region>.stride) else { return nil }
    // SAFETY: fresh heap memory of the right size, aligned to 16.
    let pointer = memory.bindMemory(to: Region.self, capacity: 1)
    pointer.initialize(to: region)
    return pointer
  }

  /// Frees a record that is in no tree and no list.
  func discard() {
    deinitialize(count: 1)
    KernelHeap.free(UnsafeMutableRawPointer(self))
  }
}

/// Lasting properties of a region.
struct RegionFlags: OptionSet {
  let rawValue: UInt16
  /// Stores go to the object.
  static var shared: RegionFlags { RegionFlags(rawValue: 1 << 0) }
  /// Grows downwards at faults below it.
  static var growsDown: RegionFlags { RegionFlags(rawValue: 1 << 1) }
  /// A stack: small fault-around, no 2 MiB pages.
  static var stack: RegionFlags { RegionFlags(rawValue: 1 << 2) }
  /// No 2 MiB pages (MADV_NOHUGEPAGE).
  static var noHugePages: RegionFlags { RegionFlags(rawValue: 1 << 3) }
  /// 2 MiB pages wanted even where they must be cleared (MADV_HUGEPAGE).
  static var hugePages: RegionFlags { RegionFlags(rawValue: 1 << 4) }
  /// mprotect may not add the right to write.
  static var neverWrite: RegionFlags { RegionFlags(rawValue: 1 << 5) }
  /// Its pages stay (mlock); they are made present when it is mapped or grows, but for `lockedOnFault`.
  static var locked: RegionFlags { RegionFlags(rawValue: 1 << 6) }
  /// With `locked`: pages are made present by faults only (MLOCK_ONFAULT).
  static var lockedOnFault: RegionFlags { RegionFlags(rawValue: 1 << 7) }
  /// 2 MiB pages, all present from the start, never split (MAP_HUGETLB).
  static var hugeOnly: RegionFlags { RegionFlags(rawValue: 1 << 8) }
  /// A copy of the address space does not get it (MADV_DONTFORK).
  static var notCopied: RegionFlags { RegionFlags(rawValue: 1 << 9) }
  /// A copy of the address space gets it empty (MADV_WIPEONFORK).
  static var copiedEmpty: RegionFlags { RegionFlags(rawValue: 1 << 10) }
  /// Not promised: does not count as memory that the program asked for (MAP_NORESERVE).
  static var noReserve: RegionFlags { RegionFlags(rawValue: 1 << 11) }
  /// Not in core dumps (MADV_DONTDUMP).
  static var notDumped: RegionFlags { RegionFlags(rawValue: 1 << 12) }
  /// Stores were allowed at some time: its code is not patched (any more).
  static var wasWritable: RegionFlags { RegionFlags(rawValue: 1 << 13) }
}
