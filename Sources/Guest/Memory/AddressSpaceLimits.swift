// What a process may use of memory (setrlimit), and what of it stays present (mlock and its kin).
//
// Nothing is ever paged out here, so locking means: present from now on, and not to be forgotten on advice. Sums over regions
// are made when a limit asks for them; limits are rare.
import Base
import Locks
import Pages

/// Limits of an address space, in bytes; none by default but the stack's.
public struct MemoryLimits {
  /// Bytes mapped (RLIMIT_AS).
  public var addressSpace: UInt64 = .max
  /// Bytes of private writable mappings and of the heap (RLIMIT_DATA).
  public var data: UInt64 = .max
  /// How far a region that grows downwards may grow (RLIMIT_STACK).
  public var stack: UInt64 = 8 << 20
  /// Bytes locked by a program without privilege (RLIMIT_MEMLOCK).
  public var locked: UInt64 = .max
  /// Regions there may be at all (vm.max_map_count).
  public static let regions = 65530

  /// The defaults.
  public init() {}
}

/// How memory is locked.
public struct LockFlags: OptionSet, Sendable {
  /// The bits.
  public let rawValue: UInt8
  /// Flags from bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// What is mapped now (MCL_CURRENT).
  public static var current: LockFlags { LockFlags(rawValue: 1) }
  /// What will be mapped (MCL_FUTURE).
  public static var future: LockFlags { LockFlags(rawValue: 2) }
  /// Pages come by faults (MCL_ONFAULT, MLOCK_ONFAULT).
  public static var onFault: LockFlags { LockFlags(rawValue: 4) }
}

extension AddressSpace {
  // MARK: Limits, under the write lock

  /// Refuses a new mapping that would go beyond a limit.
  /// - Parameters:
  ///   - size: its bytes.
  ///   - replaced: bytes of mappings that it takes the place of.
  ///   - isData: whether it counts for RLIMIT_DATA.
  ///   - isLocked: whether it counts for RLIMIT_MEMLOCK, whatever mlockall said.
  /// - Throws: ENOMEM, EAGAIN (locked memory).
  func checkLimits(
    adding size: UInt64, replacing replaced: UInt64, isData: Bool, isLocked: Bool = false
  ) throws(Errno) {
    if limits.addressSpace != .max, regions.byteCount &- replaced &+ size > limits.addressSpace { throw .ENOMEM }
    if isData, limits.data != .max, dataByteCount &+ size > limits.data { throw .ENOMEM }
    if isLocked || lockFuture.contains(.locked) { try checkLocked(adding: size) }
    guard regions.count < MemoryLimits.regions else { throw .ENOMEM }
  }

  /// Refuses more locked memory than RLIMIT_MEMLOCK.
  func checkLocked(adding size: UInt64) throws(Errno) {
    if limits.locked != .max, lockedSum &+ size > limits.locked { throw .EAGAIN }
  }

  /// Bytes of private writable mappings.
  var dataByteCount: UInt64 { sum { $0.isData } }

  private var lockedSum: UInt64 { sum { $0.flags.contains(.locked) } }

  private func sum(_ counts: (borrowing Region) -> Bool) -> UInt64 {
    var total: UInt64 = 0
    var next = regions.first(endingAbove: 0)
    while let region = next {
      if counts(region.pointee) { total &+= region.pointee.end &- region.pointee.start }
      next = regions.next(after: region)
    }
    return total
  }

  /// Bytes of a range that are mapped.
  func mappedByteCount(in start: UInt64, _ end: UInt64) -> UInt64 {
    var total: UInt64 = 0
    var address = start
    while address < end, let region = regions.first(endingAbove: address), region.pointee.start < end {
      total &+= min(region.pointee.end, end) &- max(region.pointee.start, address)
      address = region.pointee.end
    }
    return total
  }

  // MARK: Locking

  /// Bytes locked (VmLck).
  public var lockedByteCount: UInt64 { withReadLock { lockedSum } }

  /// Makes a range present, to stay (mlock, mlock2).
  /// - Throws: ENOMEM (something is not mapped, may not be accessed at all, or lies behind the end of its file; or more than
  ///   RLIMIT_MEMLOCK), EAGAIN (memory is out), EPERM.
  public func lock(_ range: VirtualRange, onFault: Bool) throws(Errno) {
    if range.isEmpty { return }
    try check(range, empty: .EINVAL)
    lock.writeLock()
    do throws(Errno) {
      if limits.locked != .max {
        if limits.locked == 0 { throw .EPERM }
        var new: UInt64 = 0
        try forEachRegion(in: range) { region in
          if !region.pointee.flags.contains(.locked) { new &+= region.pointee.part(of: range).count }
        }
        if lockedSum &+ new > limits.locked { throw .ENOMEM }
      }
      let wanted: RegionFlags = onFault ? [.locked, .lockedOnFault] : .locked
      try changeFlags(range) { $0.flags.subtracting([.locked, .lockedOnFault]).union(wanted) }
      lock.writeUnlock()
    } catch {
      lock.writeUnlock()
      throw error
    }
    if !onFault { try makeResident(range) }
  }

  /// Ends that (munlock).
  /// - Throws: ENOMEM (something is not mapped).
  public func unlock(_ range: VirtualRange) throws(Errno) {
    if range.isEmpty { return }
    try check(range, empty: .EINVAL)
    lock.writeLock()
    defer { lock.writeUnlock() }
    try changeFlags(range) { $0.flags.subtracting([.locked, .lockedOnFault]) }
  }

  /// Locks everything that is mapped or will be (mlockall).
  /// - Throws: ENOMEM (more than RLIMIT_MEMLOCK), EPERM.
  public func lockAll(_ flags: LockFlags) throws(Errno) {
    let wanted: RegionFlags = flags.contains(.onFault) ? [.locked, .lockedOnFault] : .locked
    lock.writeLock()
    do throws(Errno) {
      if limits.locked != .max {
        if limits.locked == 0 { throw .EPERM }
        if flags.contains(.current), regions.byteCount > limits.locked { throw .ENOMEM }
      }
      lockFuture = flags.contains(.future) ? wanted : []
      if flags.contains(.current) { setAll { $0.subtracting([.locked, .lockedOnFault]).union(wanted) } }
      lock.writeUnlock()
    } catch {
      lock.writeUnlock()
      throw error
    }
    if flags.contains(.current) && !flags.contains(.onFault) {
      forEachMapping { mapping in
        try? makeResident(mapping.range)
        return true
      }
    }
  }

  /// Unlocks everything (munlockall).
  public func unlockAll() {
    lock.writeLock()
    lockFuture = []
    setAll { $0.subtracting([.locked, .lockedOnFault]) }
    lock.writeUnlock()
  }

  private func setAll(_ flags: (RegionFlags) -> RegionFlags) {
    var next = regions.first(endingAbove: 0)
    while let region = next {
      region.pointee.flags = flags(region.pointee.flags)
      next = regions.next(after: merge(region))
    }
  }

  /// Makes each page of a range present as its mapping allows: private writable ones as pages of their own.
  private func makeResident(_ range: VirtualRange) throws(Errno) {
    var address = range.start
    while address < range.end, let mapping = mapping(endingAbove: address.rawValue),
      mapping.range.start < range.end
    {
      let part = VirtualRange(start: max(mapping.range.start, address), end: min(mapping.range.end, range.end))
      address = part.end
      guard mapping.protection != .none else { throw .ENOMEM }
      let result = populate(part, forWriting: mapping.protection.contains(.write) && !mapping.isShared)
      if result == .outOfMemory { throw .EAGAIN }
      if result == .busError { throw .ENOMEM }
    }
  }
}
