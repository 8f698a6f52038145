// What of a mapping is present, page by page: for /proc/N/smaps. Counted when asked, under the read lock.
import Base
import Locks
import Pages

/// Bytes of one mapping, or of several.
public struct MappingUsage {
  /// Mapped.
  public var size: UInt64 = 0
  /// Present, and of that this mapping's share, what is mapped more than once being divided.
  public var resident: UInt64 = 0, proportional: UInt64 = 0, proportionalDirty: UInt64 = 0
  /// Present and mapped elsewhere too.
  public var sharedClean: UInt64 = 0, sharedDirty: UInt64 = 0
  /// Present here alone.
  public var privateClean: UInt64 = 0, privateDirty: UInt64 = 0
  /// Used since the last look of whoever looks for pages to forget.
  public var referenced: UInt64 = 0
  /// Pages of the mapping's own, and those of them that are 2 MiB.
  public var anonymous: UInt64 = 0, huge: UInt64 = 0
  /// Present and kept.
  public var locked: UInt64 = 0

  /// Nothing.
  public init() {}

  /// Adds another's.
  public static func += (sum: inout MappingUsage, other: MappingUsage) {
    sum.size &+= other.size
    sum.resident &+= other.resident
    sum.proportional &+= other.proportional
    sum.proportionalDirty &+= other.proportionalDirty
    sum.sharedClean &+= other.sharedClean
    sum.sharedDirty &+= other.sharedDirty
    sum.privateClean &+= other.privateClean
    sum.privateDirty &+= other.privateDirty
    sum.referenced &+= other.referenced
    sum.anonymous &+= other.anonymous
    sum.huge &+= other.huge
    sum.locked &+= other.locked
  }

  fileprivate mutating func add(_ entry: PageTableEntry, _ bytes: UInt64, holdersBesides: Int) {
    let holders = max(Frames.references(entry.frame) &- holdersBesides, 1).u64
    resident &+= bytes
    proportional &+= bytes / holders
    if entry.isDirty { proportionalDirty &+= bytes / holders }
    switch (holders > 1, entry.isDirty) {
    case (true, true): sharedDirty &+= bytes
    case (true, false): sharedClean &+= bytes
    case (false, true): privateDirty &+= bytes
    case (false, false): privateClean &+= bytes
    }
    if entry.isAccessed { referenced &+= bytes }
    guard entry.isOwned else { return }
    anonymous &+= bytes
    if bytes > PageSize.small { huge &+= bytes }
  }
}

/// What Linux calls a mapping's flags, as smaps abbreviates them.
public struct MappingTraits {
  fileprivate let region: (protection: Protection, flags: RegionFlags)

  /// Calls `body` with each abbreviation.
  public func forEach(_ body: (StaticString) -> Void) {
    let (rights, flags) = region
    if rights.contains(.read) { body("rd") }
    if rights.contains(.write) { body("wr") }
    if rights.contains(.execute) { body("ex") }
    if flags.contains(.shared) { body("sh") }
    body("mr")
    if !flags.contains(.neverWrite) { body("mw") }
    body("me")
    if flags.contains(.shared) { body("ms") }
    if flags.contains(.growsDown) { body("gd") }
    if flags.contains(.locked) { body("lo") }
    if flags.contains(.notCopied) { body("dc") }
    if flags.contains(.noReserve) { body("nr") }
    if flags.contains(.hugeOnly) { body("ht") }
    if flags.contains(.copiedEmpty) { body("wf") }
    if flags.contains(.notDumped) { body("dd") }
    if flags.contains(.hugePages) { body("hg") }
    if flags.contains(.noHugePages) { body("nh") }
  }

  /// Whether its pages are 2 MiB, all of them.
  public var isHugeOnly: Bool { region.flags.contains(.hugeOnly) }
  /// Whether it may get 2 MiB pages.
  public var mayBeHuge: Bool { region.flags.isDisjoint(with: [.noHugePages, .stack]) }
}

extension AddressSpace {
  /// What is present of the mapping that contains `address`, or else of the next one above it.
  public func usage(endingAbove address: UInt64) -> (
    mapping: MappingInformation, usage: MappingUsage, traits: MappingTraits
  )? {
    lock.readLock()
    defer { lock.readUnlock() }
    guard let region = regions.first(endingAbove: address) else { return nil }
    var usage = MappingUsage()
    usage.size = region.pointee.end &- region.pointee.start
    let range = VirtualRange(start: VirtualAddress(region.pointee.start), end: VirtualAddress(region.pointee.end))
    // The cache of an object holds its pages too.
    let hasObject = region.pointee.object != nil
    table.forEachPage(in: range) { slot, level, _ in
      let entry = slot.entry
      guard entry.rawValue != 0 else { return }
      usage.add(
        entry, level == 1 ? PageSize.small : PageSize.large, holdersBesides: hasObject && !entry.isOwned ? 1 : 0)
    }
    if region.pointee.flags.contains(.locked) { usage.locked = usage.proportional }
    return (
      region.pointee.information, usage,
      MappingTraits(region: (region.pointee.protection, region.pointee.flags))
    )
  }
}
