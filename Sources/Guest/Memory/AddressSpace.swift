// An address space: what is mapped where below 64 TiB, for one or more threads.
//
// Lock order, outermost first: `AddressSpace.lock`, `MemoryObject.mappingsLock`, `MemoryObject.lock`, the spin locks of
// Pages. Faults hold `lock` shared and install entries by compare-exchange; whoever changes regions or takes entries
// away holds it alone. A page that has to be read in is read without it, and the fault starts over.
import Base
import Locks
import Pages
import Synchronization

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

  /// How far a region that grows downwards may grow, in bytes (RLIMIT_STACK).
  public var stackLimit: UInt64 = 8 << 20

  /// The page tables.
  @inline(__always) var table: PageTable { tables.pointee.table }
  /// The root of its page tables.
  public var root: PhysicalAddress { table.root }

  /// An empty address space; kernel addresses are mapped in it like everywhere.
  /// - Parameter seed: random bits for the place of mappings.
  /// - Throws: ENOMEM.
  public init(seed: UInt64) throws(Errno) {
    // Mappings go down from a random page in the highest TiB.
    mappingTop = AddressMap.programEnd.rawValue &- PageSize.large &- (seed & 0xfff_ffff) &* PageSize.small
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
    let (start, populates) = try mapWithoutPopulating(request)
    if populates {
      populate(
        VirtualRange(start: start, count: request.byteCount.alignedUp(to: PageSize.small)),
        forWriting: request.protection.contains(.write) && !request.flags.contains(.shared))
    }
    return start
  }

  private func mapWithoutPopulating(_ request: MapRequest) throws(Errno) -> (VirtualAddress, Bool) {
    guard request.byteCount > 0, request.byteCount <= AddressMap.program.count, request.offset.isAligned(to: 4096),
      request.offset.addingReportingOverflow(request.byteCount).overflow == false
    else { throw request.byteCount > AddressMap.program.count ? .ENOMEM : .EINVAL }
    let size = request.byteCount.alignedUp(to: PageSize.small)
    var object = request.object
    let shared = request.flags.contains(.shared)
    if shared && object == nil { object = MemoryObject(byteCount: size) }
    if shared && request.protection.contains(.write) && !request.mayWrite { throw .EACCES }
    if object == nil && !request.flags.contains(.noReserve) && request.protection.contains(.write)
      && size > Frames.promisedByteCount
    {
      throw .ENOMEM
    }

    lock.writeLock()
    defer { lock.writeUnlock() }
    let start = try place(request, size)
    guard
      let region = RegionPointer.make(
        Region(
          start: start, end: start &+ size, protection: request.protection, flags: Self.flags(of: request),
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
    adopt(region)
    return (VirtualAddress(start), request.flags.contains(.populate) && request.protection != .none)
  }

  private static func flags(of request: MapRequest) -> RegionFlags {
    var flags: RegionFlags = []
    if request.flags.contains(.shared) { flags.insert(.shared) }
    if request.flags.contains(.growsDown) { flags.insert([.growsDown, .stack]) }
    if request.flags.contains(.stack) { flags.insert(.stack) }
    if request.flags.contains(.shared) && !request.mayWrite { flags.insert(.neverWrite) }
    if request.object != nil && request.protection.contains(.write) { flags.insert(.wasWritable) }
    return flags
  }

  /// Where a mapping goes. Under the write lock.
  private func place(_ request: MapRequest, _ size: UInt64) throws(Errno) -> UInt64 {
    let address = request.address.rawValue
    if !request.flags.isDisjoint(with: [.fixed, .fixedNoReplace]) {
      guard address.isAligned(to: PageSize.small) else { throw .EINVAL }
      guard address >= AddressMap.programStart.rawValue else { throw .EPERM }
      guard address <= AddressMap.programEnd.rawValue &- size else { throw .ENOMEM }
      if !request.flags.contains(.fixed) && !regions.isFree(address, address &+ size) { throw .EEXIST }
      return address
    }
    let hint = address.alignedDown(to: PageSize.small)
    if hint >= AddressMap.programStart.rawValue, hint <= AddressMap.programEnd.rawValue &- size,
      regions.isFree(hint, hint &+ size)
    {
      return hint
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
    try removeRegions(range.start.rawValue, range.end.rawValue)
  }

  /// Changes the rights of a range of whole pages (mprotect).
  /// - Throws: EINVAL, ENOMEM (something is not mapped), EACCES.
  public func protect(_ range: VirtualRange, _ protection: Protection) throws(Errno) {
    if range.isEmpty { return }
    try check(range, empty: .EINVAL)
    lock.writeLock()
    defer { lock.writeUnlock() }
    try requireMapped(range)
    try forEachRegion(in: range) { region throws(Errno) in
      if protection.contains(.write) && region.pointee.flags.contains(.neverWrite) { throw .EACCES }
    }
    try cut(at: range.start.rawValue)
    try cut(at: range.end.rawValue)
    var address = range.start.rawValue
    while address < range.end.rawValue, let region = regions.find(address) {
      region.pointee.protection = protection
      if region.pointee.object != nil && protection.contains(.write) { region.pointee.flags.insert(.wasWritable) }
      updateRights(of: region)
      address = region.pointee.end
      _ = merge(region)
    }
    if let behind = regions.find(range.end.rawValue) { _ = merge(behind) }
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
    return MappingInformation(
      range: VirtualRange(start: VirtualAddress(region.pointee.start), end: VirtualAddress(region.pointee.end)),
      protection: region.pointee.protection, isShared: region.pointee.flags.contains(.shared),
      offset: region.pointee.offset, owner: region.pointee.owner, label: region.pointee.label)
  }

  /// Bytes mapped (VmSize).
  public var mappedByteCount: UInt64 { regions.byteCount }
  /// Bytes present (VmRSS).
  public var residentByteCount: UInt64 { residentPages.load(ordering: .relaxed).u64 &* PageSize.small }
}
