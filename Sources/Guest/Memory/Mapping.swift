// What a caller says when it maps memory, and what it hears about mappings.
import Base

/// Modifiers of a mapping.
public struct MapFlags: OptionSet, Sendable {
  /// The bits.
  public let rawValue: UInt16
  /// Flags from bits.
  public init(rawValue: UInt16) { self.rawValue = rawValue }
  /// Stores are seen by every mapping of the object (MAP_SHARED); otherwise they are private copies.
  public static var shared: MapFlags { MapFlags(rawValue: 1 << 0) }
  /// Exactly at the address, replacing what is there (MAP_FIXED).
  public static var fixed: MapFlags { MapFlags(rawValue: 1 << 1) }
  /// Exactly at the address, EEXIST if something is there (MAP_FIXED_NOREPLACE).
  public static var fixedNoReplace: MapFlags { MapFlags(rawValue: 1 << 2) }
  /// Memory need not be there for all of it (MAP_NORESERVE).
  public static var noReserve: MapFlags { MapFlags(rawValue: 1 << 3) }
  /// Make all pages present now (MAP_POPULATE).
  public static var populate: MapFlags { MapFlags(rawValue: 1 << 4) }
  /// Grows downwards at faults below it (MAP_GROWSDOWN).
  public static var growsDown: MapFlags { MapFlags(rawValue: 1 << 5) }
  /// A stack: no 2 MiB pages, small fault-around (MAP_STACK).
  public static var stack: MapFlags { MapFlags(rawValue: 1 << 6) }
  /// In the low 2 GiB (MAP_32BIT).
  public static var low2GiB: MapFlags { MapFlags(rawValue: 1 << 7) }
  /// Pages stay present (MAP_LOCKED).
  public static var locked: MapFlags { MapFlags(rawValue: 1 << 8) }
  /// 2 MiB pages only, all of them present at once or ENOMEM (MAP_HUGETLB).
  public static var hugeOnly: MapFlags { MapFlags(rawValue: 1 << 9) }
}

/// What a mapping is for, where no file says it.
public enum MappingLabel: UInt8 {
  /// Nothing particular.
  case none
  /// The program break: `[heap]`.
  case heap
  /// The first thread's stack: `[stack]`.
  case stack
  /// The kernel's code for programs: `[vdso]`.
  case vdso
  /// The clock page: `[vvar]`.
  case vvar
  /// A patcher's own code: `[patches]`.
  case patches
}

/// Who stands behind a mapped object: kept alive by its mappings, asked for /proc/self/maps. An open file or a vnode.
public protocol MappingOwner: AnyObject {
  /// Device number of the file.
  var mappingDevice: UInt64 { get }
  /// Inode number of the file.
  var mappingInode: UInt64 { get }
  /// Calls `body` with the file's path.
  func withMappingPath(_ body: (UnsafeRawBufferPointer) -> Void)
}

/// A request for a mapping: mmap's arguments, understood.
public struct MapRequest {
  /// Where (must be page-aligned if fixed), or a hint, or 0.
  public var address: VirtualAddress
  /// Bytes, rounded up to pages; not 0.
  public var byteCount: UInt64
  /// Rights.
  public var protection: Protection
  /// Modifiers.
  public var flags: MapFlags
  /// What is mapped; nil for anonymous memory.
  public var object: MemoryObject?
  /// Offset of the first byte in the object, a multiple of 4096.
  public var offset: UInt64
  /// Who stands behind the object.
  public var owner: (any MappingOwner)?
  /// Name without a file.
  public var label: MappingLabel
  /// Whether mprotect may add the right to write (a shared mapping of a file that was opened read-only may not).
  public var mayWrite: Bool

  /// A request; by default anonymous, private and anywhere.
  public init(
    address: VirtualAddress = .zero, byteCount: UInt64, protection: Protection, flags: MapFlags = [],
    object: MemoryObject? = nil, offset: UInt64 = 0, owner: (any MappingOwner)? = nil, label: MappingLabel = .none,
    mayWrite: Bool = true
  ) {
    self.address = address
    self.byteCount = byteCount
    self.protection = protection
    self.flags = flags
    self.object = object
    self.offset = offset
    self.owner = owner
    self.label = label
    self.mayWrite = mayWrite
  }
}

/// One mapping, as /proc/self/maps shows it.
public struct MappingInformation {
  /// Where.
  public var range: VirtualRange
  /// Rights.
  public var protection: Protection
  /// Whether stores are shared.
  public var isShared: Bool
  /// Offset in the object.
  public var offset: UInt64
  /// Who stands behind it.
  public var owner: (any MappingOwner)?
  /// Name without a file.
  public var label: MappingLabel
}

/// madvise's advice, as far as it means something here.
public enum MemoryAdvice {
  /// Forget the contents now: zero, or the object's bytes, at the next access (MADV_DONTNEED).
  case discard
  /// The same, of locked memory too (MADV_DONTNEED_LOCKED).
  case discardLocked
  /// The contents may be forgotten; anonymous memory only (MADV_FREE).
  case free
  /// Fetch the object's pages into the cache (MADV_WILLNEED).
  case willNeed
  /// Make the pages present (MADV_POPULATE_READ).
  case populateRead
  /// Make the pages present and writable (MADV_POPULATE_WRITE).
  case populateWrite
  /// 2 MiB pages are welcome (MADV_HUGEPAGE).
  case hugePages
  /// No 2 MiB pages (MADV_NOHUGEPAGE).
  case noHugePages
  /// Punch a hole into the shared object (MADV_REMOVE).
  case remove
  /// Copy what is there into 2 MiB pages (MADV_COLLAPSE).
  case collapse
  /// Whether a copy of the address space gets the mapping, and with its contents (MADV_DONTFORK, DOFORK, WIPEONFORK,
  /// KEEPONFORK).
  case copying(CopyRule)
  /// Whether core dumps have it (MADV_DONTDUMP, DODUMP).
  case dumping(Bool)
  /// Any other hint: checked for being mapped, otherwise ignored.
  case hint

  /// What becomes of a mapping when the address space is copied.
  public enum CopyRule {
    case copied, notCopied, copiedEmpty, copiedFull
  }
}
