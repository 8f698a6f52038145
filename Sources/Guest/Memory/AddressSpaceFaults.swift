// Page faults: from an address and a wish to a page, or to the signal the program gets.
//
// A fault costs 7 us on kvm_pvm, so each maps more than was asked for: files 64 KiB of what is in the cache, anonymous
// memory 64 KiB and four times as much each time while a program walks through fresh memory, large regions 2 MiB at once. Memory that
// was never used is zero already and costs nothing to map before it is needed.
import Base
import Locks
import Pages
import Platform
import Synchronization

/// How one attempt at a fault ended.
enum FaultStep {
  case done(FaultResult)
  /// A page of the object has to be fetched first, for writing or reading, without the address space's lock. The owner
  /// keeps the object's pager alive meanwhile, even if the mapping goes.
  case needsPage(MemoryObject, UInt64, forWriting: Bool, owner: (any MappingOwner)?)
  /// Too many pages are dirty: some of the object's have to be written first. The owner as above.
  case needsWriteBack(MemoryObject, owner: (any MappingOwner)?)
  /// Memory has to be reclaimed first.
  case needsMemory
}

extension AddressSpace {
  /// Pages around a fault on a file, by default and for files that lie in memory.
  static let filePages: UInt64 = 16
  static let directPages: UInt64 = 64
  /// Pages of a first fault on anonymous memory, of one on a stack, and of the longest run.
  static let anonymousPages: UInt64 = 16
  /// What the heap grows by that the C library keeps (glibc's 132 KiB): all of it is used at once.
  static let breakPages: UInt64 = 33
  static let stackPages: UInt64 = 4
  static let longestRun: UInt64 = 128

  /// As below, for those who need not know more.
  public func fault(at address: VirtualAddress, access: FaultAccess) -> FaultResult {
    var isMajor = false
    return fault(at: address, access: access, isMajor: &isMajor)
  }

  /// Resolves a page fault. Runs on the faulting thread with interrupts on; may sleep. `isMajor`: set if it waited for a page of a
  /// file that had to be read.
  public func fault(at address: VirtualAddress, access: FaultAccess, isMajor: inout Bool) -> FaultResult {
    guard AddressMap.program.contains(address) else { return .notMapped }
    var attempts = 0
    while true {
      switch faultOnce(at: address, access) {
      case .done(let result):
        return result
      case .needsPage(let object, let page, let forWriting, let owner):
        if object.hasPager { isMajor = true }
        do {
          try withExtendedLifetime(owner) { () throws(Errno) in try object.fetch(page: page, forWriting: forWriting) }
        } catch {
          return error == .ENOMEM ? .outOfMemory : .busError
        }
      case .needsWriteBack(let object, let owner):
        do {
          try withExtendedLifetime(owner) { () throws(Errno) in try object.writeBack() }
        } catch {
          return error == .ENOMEM ? .outOfMemory : .busError
        }
      case .needsMemory:
        // Others may take what was reclaimed first, but not for ever.
        guard attempts < 16, Reclaim.run(pages: 64, .noLocks) else { return .outOfMemory }
        attempts += 1
      }
    }
  }

  private func faultOnce(at address: VirtualAddress, _ access: FaultAccess) -> FaultStep {
    lock.readLock()
    if let region = regions.find(address.rawValue) {
      defer { lock.readUnlock() }
      return fault(in: region, at: address.alignedDown(), access)
    }
    lock.readUnlock()
    guard growStack(to: address) else { return .done(.notMapped) }
    lock.readLock()
    defer { lock.readUnlock() }
    guard let region = regions.find(address.rawValue) else { return .done(.notMapped) }
    return fault(in: region, at: address.alignedDown(), access)
  }

  /// Under the read lock.
  private func fault(in region: RegionPointer, at page: VirtualAddress, _ access: FaultAccess) -> FaultStep {
    let protection = region.pointee.protection
    switch access {
    case .read: guard protection != .none else { return .done(.accessDenied) }
    case .write: guard protection.contains(.write) else { return .done(.accessDenied) }
    case .execute: guard protection.contains(.execute) else { return .done(.accessDenied) }
    }
    let (slot, level) = table.slot(page)
    let entry = slot.entry
    if level <= 2 && entry.rawValue != 0 {
      if let step = faultOnPresent(region, page, access, slot, entry) { return step }
    }
    guard let object = region.pointee.object else { return faultOnAnonymous(region, page) }
    return faultOnObject(region, object, page, access)
  }

  /// There is a page already: parked, read-only, or just mapped by somebody else.
  /// - Returns: nil if the page has to be replaced by a private copy of the object's, or noted as written.
  private func faultOnPresent(
    _ region: RegionPointer, _ page: VirtualAddress, _ access: FaultAccess, _ slot: PageTableSlot,
    _ entry: PageTableEntry
  ) -> FaultStep? {
    var new = entry.withRights(region.pointee.protection)
    if access == .write && !new.isWritable {
      if mayWriteInPlace(entry, region) {
        new = new.asWritable
      } else if entry.isOwned && !region.pointee.flags.contains(.shared) {
        return copyShared(region, page, slot, entry)
      } else {
        return nil
      }
    }
    if new != entry { _ = slot.replace(entry, by: new) }
    // More rights need no flush, but on kvm_pvm it is cheaper than a second fault; a lost race retries.
    TLB.flush(page)
    return .done(.resolved)
  }

  /// A private page that another address space has too: this one gets a copy.
  private func copyShared(
    _ region: RegionPointer, _ page: VirtualAddress, _ slot: PageTableSlot, _ entry: PageTableEntry
  ) -> FaultStep {
    guard !entry.isLarge else {
      // Only whole 4 KiB pages are copied; the caller of the fault that created the sharing has split large ones.
      return .done(.outOfMemory)
    }
    guard let copy = Frames.allocate(use: .program) else { return .needsMemory }
    copyFrame(from: entry.frame, to: copy)
    var batch = GatherBatch()
    let new = PageTableEntry.leaf(
      copy, writable: true, executable: region.pointee.protection.contains(.execute)
    ).asOwned
    if slot.replace(entry, by: new) { batch.add(entry.frame, at: page) } else { Frames.free(copy) }
    batch.finish()
    return .done(.resolved)
  }

  // MARK: Anonymous memory

  private func faultOnAnonymous(_ region: RegionPointer, _ page: VirtualAddress) -> FaultStep {
    let address = page.rawValue
    let statistics = Frames.statistics
    let isShort = statistics.free < statistics.total >> 3
    if mapsLargePage(region, address, statistics), let step = mapLargePage(region, page) { return step }

    var count = Self.anonymousPages
    var start = address
    if region.pointee.flags.contains(.stack) {
      count = Self.stackPages
      start = address.alignedDown(to: count &* PageSize.small)
    } else if address == region.pointee.faultEnd {
      // A large region whose first fault this is has no run behind it.
      count = min(max(region.pointee.faultPages.u64 &* 4, Self.anonymousPages), Self.longestRun)
    } else {
      start = address.alignedDown(to: count &* PageSize.small)
    }
    if region.pointee.flags.contains(.hugeOnly) { return .needsMemory }
    if isShort { (start, count) = (address, 1) }
    // Within one table and within the region.
    let table2M = address.alignedDown(to: PageSize.large)
    let low = max(start, max(region.pointee.start, table2M))
    let high = min(start &+ count &* PageSize.small, min(region.pointee.end, table2M &+ PageSize.large))
    guard let end = installZeroes(region, low, high) else {
      // A 2 MiB page has come in between: look again.
      return table.slot(page).slot.entry.isLarge ? .done(.resolved) : .needsMemory
    }
    return end > address ? .done(.resolved) : .needsMemory
  }

  /// Maps zeroed pages wherever nothing is mapped between two addresses of one table and one region.
  /// - Returns: how far it came before memory was out; nil if it could not begin.
  private func installZeroes(_ region: RegionPointer, _ low: UInt64, _ high: UInt64) -> UInt64? {
    guard var here = table.slotMakingTables(VirtualAddress(low)) else { return nil }
    let protection = region.pointee.protection
    var mapped = 0
    var at = low
    while at < high {
      if here.entry.rawValue == 0 {
        guard let frame = Frames.allocate(zeroed: true, use: .program) else { break }
        let entry = PageTableEntry.leaf(
          frame, writable: protection.contains(.write), executable: protection.contains(.execute)
        ).asOwned
        if here.replace(.absent, by: entry) { mapped &+= 1 } else { Frames.free(frame, zeroed: true) }
      }
      at &+= PageSize.small
      if at < high { here = here.advanced(by: 1) }
    }
    residentPages.add(mapped, ordering: .relaxed)
    region.pointee.faultPages = ((high &- low) >> frameShift).int
    region.pointee.faultEnd = high
    return at
  }

  /// Maps the start of fresh anonymous memory before anybody touches it: a small region is nearly always used at once, and a fault
  /// costs ten times what its pages do. Large regions begin with a 2 MiB page at their first touch. Under the write lock.
  func mapFirstPages(_ start: UInt64, _ end: UInt64, atMost count: UInt64 = anonymousPages) {
    guard let region = regions.find(start), region.pointee.protection.contains(.write),
      region.pointee.flags.isDisjoint(with: [.shared, .growsDown, .stack, .noReserve, .lockedOnFault])
    else { return }
    if end &- start >= 2 &* PageSize.large && start.isAligned(to: PageSize.large) {
      region.pointee.faultEnd = start
      return
    }
    let statistics = Frames.statistics
    guard statistics.free >= statistics.total >> 2 else { return }
    let table2M = start.alignedDown(to: PageSize.large)
    _ = installZeroes(
      region, start, min(min(end, start &+ count &* PageSize.small), table2M &+ PageSize.large))
  }

  /// Whether the 2 MiB around an address should be one page: they lie in the region, nothing is there yet, and
  /// memory is plentiful or the program asked for it.
  private func mapsLargePage(_ region: RegionPointer, _ address: UInt64, _ statistics: FrameStatistics) -> Bool {
    let start = address.alignedDown(to: PageSize.large)
    guard start >= region.pointee.start, start &+ PageSize.large <= region.pointee.end,
      region.pointee.flags.isDisjoint(with: [.stack, .noHugePages]), region.pointee.protection.contains(.write)
    else { return false }
    if region.pointee.flags.contains(.hugePages) { return true }
    // Without advice: where a program has asked for much and has begun to walk through it.
    return region.pointee.end &- region.pointee.start >= 2 &* PageSize.large
      && statistics.free > statistics.total >> 1 && region.pointee.faultEnd == start
  }

  private func mapLargePage(_ region: RegionPointer, _ page: VirtualAddress) -> FaultStep? {
    guard let slot = table.slotMakingTables(page, level: 2), slot.entry.rawValue == 0,
      let frames = Frames.allocate(order: 9, zeroed: true, use: .program)
    else { return nil }
    let entry = PageTableEntry.leaf(
      frames, writable: true, executable: region.pointee.protection.contains(.execute)
    ).asOwned.asLarge
    if slot.replace(.absent, by: entry) {
      residentPages.add(512, ordering: .relaxed)
      region.pointee.faultEnd = page.alignedDown(to: PageSize.large).rawValue &+ PageSize.large
      region.pointee.faultPages = Self.longestRun.int
    } else {
      Frames.free(frames, order: 9, zeroed: true)
    }
    return .done(.resolved)
  }

  // MARK: Stacks

  /// Extends the region above `address` down to it, if it is one that grows.
  private func growStack(to address: VirtualAddress) -> Bool {
    lock.writeLock()
    defer { lock.writeUnlock() }
    guard let region = regions.first(endingAbove: address.rawValue) else { return false }
    if region.pointee.start <= address.rawValue { return true }
    guard region.pointee.flags.contains(.growsDown) else { return false }
    let start = address.alignedDown().rawValue
    guard region.pointee.end &- start <= limits.stack,
      limits.addressSpace == .max || regions.byteCount &+ (region.pointee.start &- start) <= limits.addressSpace,
      start >= AddressMap.programStart.rawValue
    else { return false }
    // A gap of 1 MiB to what lies below catches stacks that run over.
    if let below = regions.last(startingBelow: region.pointee.start), below.pointee.end &+ (1 << 20) > start {
      return false
    }
    regions.resize(region, start: start, end: region.pointee.end)
    return true
  }

  /// Copies a page.
  func copyFrame(from source: PhysicalAddress, to destination: PhysicalAddress) {
    // SAFETY: both are whole frames that stay (the caller holds a reference to each, or the source is never freed).
    LinearMap.pointer(destination).copyMemory(from: LinearMap.pointer(source), byteCount: PageSize.small.int)
  }
}
