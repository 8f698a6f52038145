// The guest's physical address space as devices see it: a few regions of host memory.
//
// Rules: the map only grows, at any time and from any thread; lookups take no lock. Every access of a device goes through
// it. The guest changes its memory whenever it likes: read a value once, check it, then use the copy.
import Synchronization

/// A guest-physical address: a number that nobody has checked.
@frozen public struct GuestAddress: Hashable, Comparable, Sendable {
  /// The number.
  public var rawValue: UInt64
  /// The address with that number.
  @inline(__always) public init(_ rawValue: UInt64) { self.rawValue = rawValue }
  /// Whether the left address is the lower one.
  @inline(__always) public static func < (left: GuestAddress, right: GuestAddress) -> Bool {
    left.rawValue < right.rawValue
  }
}

// Unchecked: tables are immutable once stored, and freed only with the map.
// SAFETY: tables are written before their address is stored, releasing, and freed with the map.
/// Guest-physical memory: RAM, and files mapped read-only.
public final class GuestMemoryMap: @unchecked Sendable {
  /// A run of guest-physical addresses and the host memory behind it.
  public struct Region: Sendable {
    /// First address.
    public var start: GuestAddress
    /// Bytes; 0 only in the entry that ends a table.
    public var byteCount: UInt64
    // SAFETY: a plain number as far as this type goes; whoever adds a region vouches for the memory (see `add`).
    /// The host's address of the first byte.
    nonisolated(unsafe) public var host: UnsafeMutableRawPointer
    /// Whether devices may write to it.
    public var isWritable: Bool
  }

  /// The regions, ended by one of 0 bytes. Tables that were replaced stay until the map goes: somebody may be reading them.
  private let current: Atomic<UnsafeMutablePointer<Region>>
  private let tables: Mutex<[UInt]>

  /// A map without memory.
  public init() {
    let empty = Self.table(of: [])
    current = Atomic(empty)
    tables = Mutex([UInt(bitPattern: empty)])
  }

  deinit {
    tables.withLock { list in
      for table in list { UnsafeMutablePointer<Region>(bitPattern: table)?.deallocate() }
    }
  }

  private static func table(of regions: [Region]) -> UnsafeMutablePointer<Region> {
    // SAFETY: one place for each region and one for the end; regions are trivial.
    let table = UnsafeMutablePointer<Region>.allocate(capacity: regions.count + 1)
    for (index, region) in regions.enumerated() { (table + index).initialize(to: region) }
    let end = UnsafeMutableRawPointer(table)
    (table + regions.count).initialize(
      to: Region(start: GuestAddress(0), byteCount: 0, host: end, isWritable: false))
    return table
  }

  /// Adds memory, which must stay mapped and readable (and writable, if it says so) as long as the map is in use. The
  /// region must not be empty, wrap around or overlap another.
  public func add(start: GuestAddress, byteCount: UInt64, host: UnsafeMutableRawPointer, isWritable: Bool = true) {
    precondition(byteCount > 0 && start.rawValue <= UInt64.max - byteCount, "the region is empty or wraps around")
    let hostNumber = UInt(bitPattern: host)
    tables.withLock { list in
      var regions = self.regions
      for region in regions {
        precondition(
          start.rawValue + byteCount <= region.start.rawValue
            || region.start.rawValue + region.byteCount <= start.rawValue, "regions overlap")
      }
      // SAFETY: the number is the address of `host`, which the caller vouches for.
      regions.append(
        Region(
          start: start, byteCount: byteCount, host: UnsafeMutableRawPointer(bitPattern: hostNumber)!,
          isWritable: isWritable))
      regions.sort { $0.start < $1.start }
      // Neighbours in both worlds become one, so that rings and pieces may lie across the seam.
      var merged: [Region] = []
      for region in regions {
        if let last = merged.last, last.start.rawValue + last.byteCount == region.start.rawValue,
          last.host + Int(last.byteCount) == region.host, last.isWritable == region.isWritable
        {
          merged[merged.count - 1].byteCount += region.byteCount
        } else {
          merged.append(region)
        }
      }
      let table = Self.table(of: merged)
      list.append(UInt(bitPattern: table))
      current.store(table, ordering: .releasing)
    }
  }

  /// The regions there are now, in the order of their addresses.
  public var regions: [Region] {
    var result: [Region] = []
    var entry = current.load(ordering: .acquiring)
    while entry.pointee.byteCount != 0 {
      result.append(entry.pointee)
      entry += 1
    }
    return result
  }

  /// The host memory at `address`: as many of `limit` bytes as lie in one region.
  /// - Returns: nil if there is no memory, or none that a device may write though `forWriting`; never an empty piece
  ///   unless `limit` is 0.
  @inline(__always)
  public func piece(at address: GuestAddress, limit: UInt64, forWriting: Bool) -> UnsafeMutableRawBufferPointer? {
    var entry = current.load(ordering: .acquiring)
    while entry.pointee.byteCount != 0 {
      // SAFETY: the offset is below the region's size, and the count at most what is left of it.
      let offset = address.rawValue &- entry.pointee.start.rawValue
      if offset < entry.pointee.byteCount {
        guard entry.pointee.isWritable || !forWriting else { return nil }
        let count = min(limit, entry.pointee.byteCount &- offset)
        return UnsafeMutableRawBufferPointer(
          start: entry.pointee.host + Int(truncatingIfNeeded: offset), count: Int(truncatingIfNeeded: count))
      }
      entry += 1
    }
    return nil
  }

  /// The host memory of `count` bytes at `address`, nil unless all of them are there, in one region.
  public func range(at address: GuestAddress, count: Int, forWriting: Bool) -> UnsafeMutableRawPointer? {
    guard let piece = piece(at: address, limit: UInt64(count), forWriting: forWriting), piece.count == count else {
      return nil
    }
    return piece.baseAddress
  }

  /// Copies guest memory, all of it or nothing, across regions if need be. What is checked afterwards is the copy: the
  /// function is never inlined, so that the compiler cannot go back to the original.
  @inline(never)
  public func copy(from address: GuestAddress, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    var address = address
    var rest = buffer
    while rest.count > 0 {
      guard let piece = piece(at: address, limit: UInt64(rest.count), forWriting: false) else { return false }
      rest.copyMemory(from: UnsafeRawBufferPointer(piece))
      rest = UnsafeMutableRawBufferPointer(rebasing: rest[piece.count...])
      address.rawValue &+= UInt64(piece.count)
    }
    return true
  }
}
