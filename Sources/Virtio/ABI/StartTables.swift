// The guest's first page tables. Every entry has the user bit (kvm_pvm runs the kernel at CPL 3), accessed and
// dirty are set beforehand so that the processor need not write them back, and nothing is writable and executable.
//
// Who lays them down is osv-run, or under another monitor the kernel's own bootstrap.

/// Memory of the guest in which its start is laid down: given out upwards, never taken back.
public protocol StartMemory {
  /// Why there is no more.
  associatedtype Shortage: Error
  /// `pages` zero pages of 4 KiB at a multiple of `alignment` bytes (a power of two, a page or more): the physical address of the first.
  mutating func allocate(pages: UInt64, alignment: UInt64) throws(Shortage) -> UInt64
  /// The page at `physical`, which this memory gave out, as 64-bit words.
  func words(_ physical: UInt64) -> UnsafeMutablePointer<UInt64>
}

/// What may be done with a page; all may be read.
@frozen public struct StartAccess: OptionSet, Sendable {
  /// The bits, as page-table entries have them where that makes sense.
  public let rawValue: UInt64
  /// A set of bits.
  @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
  /// It may be read only.
  @inlinable public static var readOnly: StartAccess { StartAccess(rawValue: 0) }
  /// It may be written.
  @inlinable public static var write: StartAccess { StartAccess(rawValue: 1 << 1) }
  /// It is a device's: no access is kept in a cache.
  @inlinable public static var uncached: StartAccess { StartAccess(rawValue: 1 << 4 | 1 << 3) }
  /// Its bytes may be executed.
  @inlinable public static var execute: StartAccess { StartAccess(rawValue: 1 << 63) }
}

/// Builds a four-level table.
@frozen public struct StartTables<Memory: StartMemory> {
  /// Physical address of the top table.
  public let root: UInt64
  /// Where tables come from.
  public var memory: Memory

  /// Starts with an empty top table.
  @inlinable public init(_ memory: Memory) throws(Memory.Shortage) {
    self.memory = memory
    root = try self.memory.allocate(pages: 1, alignment: 4096)
  }

  @inlinable static var present: UInt64 { 1 << 0 }
  @inlinable static var user: UInt64 { 1 << 2 }
  @inlinable static var accessed: UInt64 { 1 << 5 }
  @inlinable static var dirty: UInt64 { 1 << 6 }
  @inlinable static var large: UInt64 { 1 << 7 }
  @inlinable static var noExecute: UInt64 { 1 << 63 }
  @inlinable static var addressMask: UInt64 { 0x000f_ffff_ffff_f000 }

  /// Entry `index` of the table at `table`.
  // SAFETY: the index is below 512, and a table is a page that `memory` has given out.
  @inlinable func entry(_ table: UInt64, _ index: UInt64) -> UnsafeMutablePointer<UInt64> {
    memory.words(table) + Int(truncatingIfNeeded: index & 511)
  }

  /// The table that entry `index` of the table at `physical` points to, made if it is not there.
  @inlinable mutating func next(_ physical: UInt64, _ index: UInt64) throws(Memory.Shortage) -> UInt64 {
    let entry = entry(physical, index)
    if entry.pointee & Self.present == 0 {
      let table = try memory.allocate(pages: 1, alignment: 4096)
      entry.pointee = table | Self.present | StartAccess.write.rawValue | Self.user | Self.accessed
    }
    return entry.pointee & Self.addressMask
  }

  @inlinable static func leaf(_ physical: UInt64, _ access: StartAccess) -> UInt64 {
    var entry = physical | present | user | accessed
    if access.contains(.write) { entry |= StartAccess.write.rawValue | dirty }
    if !access.contains(.execute) { entry |= noExecute }
    if access.contains(.uncached) { entry |= StartAccess.uncached.rawValue }
    return entry
  }

  /// Maps [virtual, virtual+byteCount) to `physical` in 4 KiB pages; all three are multiples of that. A page that
  /// was already there is replaced.
  @inlinable public mutating func map(_ virtual: UInt64, to physical: UInt64, byteCount: UInt64, _ access: StartAccess)
    throws(Memory.Shortage)
  {
    var offset: UInt64 = 0
    while offset < byteCount {
      let address = virtual &+ offset
      let table = try next(next(next(root, address >> 39), address >> 30), address >> 21)
      let count = min((byteCount &- offset) >> 12, 512 &- (address >> 12 & 511))
      let words = entry(table, address >> 12)
      for index in 0..<count {
        words[Int(truncatingIfNeeded: index)] = Self.leaf(physical &+ offset &+ index << 12, access)
      }
      offset &+= count << 12
    }
  }

  /// Maps with 2 MiB pages; all three numbers are multiples of that.
  @inlinable public mutating func mapLarge(
    _ virtual: UInt64, to physical: UInt64, byteCount: UInt64, _ access: StartAccess
  ) throws(Memory.Shortage) {
    var offset: UInt64 = 0
    while offset < byteCount {
      let address = virtual &+ offset
      let directory = try next(next(root, address >> 39), address >> 30)
      let count = min((byteCount &- offset) >> 21, 512 &- (address >> 21 & 511))
      let words = entry(directory, address >> 21)
      for index in 0..<count {
        words[Int(truncatingIfNeeded: index)] = Self.leaf(physical &+ offset &+ index << 21, access) | Self.large
      }
      offset &+= count << 21
    }
  }

  /// Takes the 4 KiB page at `virtual` away, where there are 4 KiB pages.
  @inlinable public func unmap(_ virtual: UInt64) {
    var table = root
    var shift: UInt64 = 39
    while shift > 12 {
      let entry = entry(table, virtual >> shift).pointee
      guard entry & Self.present != 0, entry & Self.large == 0 else { return }
      table = entry & Self.addressMask
      shift &-= 9
    }
    entry(table, virtual >> 12).pointee = 0
  }

  /// Replaces the 2 MiB pages that touch [virtual, virtual+byteCount) by 4 KiB pages with the same access.
  @inlinable public mutating func split(_ virtual: UInt64, byteCount: UInt64) throws(Memory.Shortage) {
    var address = virtual & ~0x1f_ffff
    while address < virtual &+ byteCount {
      let directory = try next(next(root, address >> 39), address >> 30)
      let entry = entry(directory, address >> 21)
      let old = entry.pointee
      if old & Self.present != 0, old & Self.large != 0 {
        entry.pointee = 0
        let words = memory.words(try next(directory, address >> 21))
        for index in 0..<512 { words[index] = (old & ~Self.large) &+ UInt64(truncatingIfNeeded: index) << 12 }
      }
      address &+= 2 << 20
    }
  }
}
