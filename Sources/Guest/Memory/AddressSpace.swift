// An address space: what is mapped where below 64 TiB, for one or more threads.
//
// Lock order, outermost first: `AddressSpace.lock`, `MemoryObject.mappingsLock`, `MemoryObject.lock`, the spin locks of
// Pages. Faults hold `lock` shared and install entries by compare-exchange; whoever changes regions or takes entries
// away holds it alone. A page that has to be read in is read without it, and the fault starts over.
import Base
import Locks
import Pages
import Synchronization

// SAFETY: regions, tables and the break are changed with `lock` held alone; the rest is atomic, constant, or whole words.
/// Mappings of programs, and the page tables that show them to the CPU.
public final class AddressSpace: @unchecked Sendable {
  let tables: AddressSpaceTablesPointer
  let lock = ReaderWriterLock()
  var regions = RegionTree()
  /// Pages present.
  let residentPages = Atomic<Int>(0)
  /// One behind the highest address for mappings without an address of their own.
  let mappingTop: UInt64
  var breakBase: UInt64 = 0
  var breakEnd: UInt64 = 0

  /// What the process may use; changed by whole words, and looked at by the next call.
  public var limits = MemoryLimits()
  /// What new mappings are locked like (mlockall with MCL_FUTURE); guarded by `lock`.
  var lockFuture: RegionFlags = []

  /// The page tables.
  @inline(__always) var table: PageTable { tables.pointee.table }
  /// The root of its page tables.
  public var root: PhysicalAddress { table.root }

  /// An empty address space; kernel addresses are mapped in it like everywhere.
  /// - Parameter seed: random bits for the place of mappings.
  /// - Throws: ENOMEM.
  public init(seed: UInt64) throws(Errno) {
    // Mappings go down from a random page in the highest TiB below what is kept for the first stack, so that nothing comes to lie
    // right below a stack that grows.
    mappingTop = AddressMap.firstStack.start.rawValue &- PageSize.large &- (seed & 0xfff_ffff) &* PageSize.small
    guard let tables = AddressSpaceTablesPointer.make() else { throw .ENOMEM }
    self.tables = tables
  }

  deinit {
    removePages(AddressMap.program)
    while let region = regions.first(endingAbove: 0) { drop(region) }
    tables.release()
  }

  /// Makes this CPU use it: writes the root if another one was in use. Interrupts are off.
  public func activate() { tables.activate() }

  // MARK: Mapping

  /// Maps memory (mmap).
  /// - Returns: where.
  /// - Throws: EINVAL, ENOMEM, EEXIST, EPERM (below the lowest address), EACCES.
  public func map(_ request: MapRequest) throws(Errno) -> VirtualAddress {
    let (start, size, populates) = try mapWithoutPopulating(request)
    guard populates else { return start }
    let range = VirtualRange(start: start, count: size)
    let result = populate(
      range, forWriting: request.protection.contains(.write) && !request.flags.contains(.shared))
    if result != .resolved && request.flags.contains(.hugeOnly) {
      try unmap(range)
      throw .ENOMEM
    }
    return start
  }

  private func mapWithoutPopulating(_ request: MapRequest) throws(Errno) -> (VirtualAddress, UInt64, Bool) {
    guard request.byteCount > 0, request.offset.isAligned(to: 4096) else { throw .EINVAL }
    guard request.byteCount <= AddressMap.program.count else { throw .ENOMEM }
    guard !request.offset.addingReportingOverflow(request.byteCount).overflow else { throw .EOVERFLOW }
    let size = request.byteCount.alignedUp(to: request.flags.contains(.hugeOnly) ? PageSize.large : PageSize.small)
    var object = request.object
    let shared = request.flags.contains(.shared)
    if shared && object == nil { object = MemoryObject(byteCount: size) }
    if shared && request.protection.contains(.write) && !request.mayWrite { throw .EACCES }
    if request.object == nil && !request.flags.contains(.noReserve) && (shared || request.protection.contains(.write))
      && size > Frames.promisedByteCount
    {
      throw .ENOMEM
    }

    lock.writeLock()
    defer { lock.writeUnlock() }
    let start = try place(request, size)
    let replaced = request.flags.contains(.fixed) ? mappedByteCount(in: start, start &+ size) : 0
    let isData = request.protection.contains(.write) && !shared && !request.flags.contains(.growsDown)
    if request.flags.contains(.locked), limits.locked == 0 { throw .EPERM }
    try checkLimits(
      adding: size, replacing: replaced, isData: isData, isLocked: request.flags.contains(.locked))
    guard
      let region = RegionPointer.make(
        Region(
          start: start, end: start &+ size, protection: request.protection,
          flags: Self.flags(of: request).union(lockFuture),
          label: request.label, object: object, offset: request.offset, owner: request.owner))
    else { throw .ENOMEM }
    if request.flags.contains(.fixed) {
      do {
        try removeRegions(start, start &+ size)
      } catch {
        region.discard()
        throw error
      }
    }
    let (isLocked, onFault) = (region.pointee.flags.contains(.locked), region.pointee.flags.contains(.lockedOnFault))
    let populates = request.flags.contains(.populate) || (isLocked && !onFault)
    adopt(region)
    if populates || request.flags.contains(.hugeOnly) {
      return (VirtualAddress(start), size, request.protection != .none)
    }
    if object == nil { mapFirstPages(start, start &+ size) }
    return (VirtualAddress(start), size, false)
  }

  private static func flags(of request: MapRequest) -> RegionFlags {
    var flags: RegionFlags = []
    if request.flags.contains(.shared) { flags.insert(.shared) }
    if request.flags.contains(.growsDown) { flags.insert([.growsDown, .stack]) }
    if request.flags.contains(.stack) { flags.insert(.stack) }
    if request.flags.contains(.shared) && !request.mayWrite { flags.insert(.neverWrite) }
    if request.flags.contains(.locked) { flags.insert(.locked) }
    if request.flags.contains(.hugeOnly) { flags.insert([.hugeOnly, .hugePages]) }
    if request.flags.contains(.noReserve) { flags.insert(.noReserve) }
    if request.object != nil && request.protection.contains(.write) { flags.insert(.wasWritable) }
    return flags
  }

  /// Where a mapping goes. Under the write lock.
  private func place(_ request: MapRequest, _ size: UInt64) throws(Errno) -> UInt64 {
    let address = request.address.rawValue
    if !request.flags.isDisjoint(with: [.fixed, .fixedNoReplace]) {
      guard address.isAligned(to: request.flags.contains(.hugeOnly) ? PageSize.large : PageSize.small) else {
        throw .EINVAL
      }
      guard address >= AddressMap.programStart.rawValue else { throw .EPERM }
      guard address <= AddressMap.programEnd.rawValue &- size else { throw .ENOMEM }
      if !request.flags.contains(.fixed) && !regions.isFree(address, address &+ size) { throw .EEXIST }
      return address
    }
    let hint = address.alignedDown(to: request.flags.contains(.hugeOnly) ? PageSize.large : PageSize.small)
    if hint >= AddressMap.programStart.rawValue, hint <= AddressMap.programEnd.rawValue &- size,
      regions.isFree(hint, hint &+ size)
    {
      return hint
    }
    if request.flags.contains(.hugeOnly) {
      let top = request.flags.contains(.low2GiB) ? 1 << 31 : mappingTop
      guard
        let gap = regions.highestGap(
          size: size, low: AddressMap.programStart.rawValue, high: top, alignment: PageSize.large)
      else { throw .ENOMEM }
      return gap
    }
    guard let gap = freeRange(size, low2GiB: request.flags.contains(.low2GiB)) else { throw .ENOMEM }
    return gap
  }

  /// The highest free range of a size; large ones are placed so that 2 MiB pages fit.
  func freeRange(_ size: UInt64, low2GiB: Bool = false) -> UInt64? {
    let low = AddressMap.programStart.rawValue
    if low2GiB { return regions.highestGap(size: size, low: low, high: 1 << 31) }
    if size >= 2 &* PageSize.large,
      let gap = regions.highestGap(size: size, low: low, high: mappingTop, alignment: PageSize.large)
    {
      return gap
    }
    return regions.highestGap(size: size, low: low, high: mappingTop)
      ?? regions.highestGap(size: size, low: low, high: AddressMap.programEnd.rawValue)
  }

  // MARK: Unmapping and rights

  /// Removes all mappings from a range of whole pages (munmap).
  /// - Throws: EINVAL, ENOMEM.
  public func unmap(_ range: VirtualRange) throws(Errno) {
    try check(range, empty: .EINVAL)
    lock.writeLock()
    defer { lock.writeUnlock() }
    try forEachRegion(in: range) { region throws(Errno) in
      let part = region.pointee.part(of: range)
      guard
        !region.pointee.flags.contains(.hugeOnly)
          || (part.start.isAligned(to: PageSize.large) && part.end.isAligned(to: PageSize.large))
      else { throw .EINVAL }
    }
    try removeRegions(range.start.rawValue, range.end.rawValue)
  }

  /// Changes the rights of a range of whole pages (mprotect), up to the first page that is not mapped or may not have them.
  /// - Parameter fromStart: the start is that of the growing region that `range` begins in (PROT_GROWSDOWN).
  /// - Throws: EINVAL, ENOMEM (something is not mapped), EACCES.
  public func protect(_ range: VirtualRange, _ protection: Protection, fromStart: Bool = false) throws(Errno) {
    if range.isEmpty { return }
    try check(range, empty: .EINVAL)
    lock.writeLock()
    defer { lock.writeUnlock() }
    var address = range.start.rawValue
    let end = range.end.rawValue
    guard let first = regions.find(address) else { throw .ENOMEM }
    if fromStart {
      guard first.pointee.flags.contains(.growsDown) else { throw .EINVAL }
      address = first.pointee.start
    }
    try cut(at: address)
    try cut(at: end)
    defer { if let behind = regions.find(end) { _ = merge(behind) } }
    while address < end {
      guard let region = regions.find(address) else { throw .ENOMEM }
      if protection.contains(.write) && region.pointee.flags.contains(.neverWrite) { throw .EACCES }
      let becomesData = !region.pointee.isData
      region.pointee.protection = protection
      if becomesData && region.pointee.isData && dataByteCount > limits.data {
        region.pointee.protection = protection.subtracting(.write)
        throw .ENOMEM
      }
      if region.pointee.object != nil && protection.contains(.write) { region.pointee.flags.insert(.wasWritable) }
      updateRights(of: region)
      address = region.pointee.end
      _ = merge(region)
    }
  }

  // MARK: Looking

  /// Calls `body` with each mapping in the order of addresses, until it returns false.
  ///
  /// `body` runs without the lock, so the mappings may change meanwhile; each that stays is shown once.
  public func forEachMapping(_ body: (MappingInformation) -> Bool) {
    var address: UInt64 = 0
    while let information = mapping(endingAbove: address) {
      guard body(information) else { return }
      address = information.range.end.rawValue
    }
  }

  /// The mapping that contains `address`, or else the next one above it.
  public func mapping(endingAbove address: UInt64) -> MappingInformation? {
    lock.readLock()
    defer { lock.readUnlock() }
    guard let region = regions.first(endingAbove: address) else { return nil }
    return region.pointee.information
  }

  /// Bytes mapped (VmSize).
  public var mappedByteCount: UInt64 { regions.byteCount }
  /// Bytes present (VmRSS).
  public var residentByteCount: UInt64 { residentPages.load(ordering: .relaxed).u64 &* PageSize.small }
}
