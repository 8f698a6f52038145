// What the address space adds to page-table entries: rights from a region, and two marks of its own.
import Pages

extension PageTableEntry {
  private static let presentBit: UInt64 = 1 << 0
  private static let writableBit: UInt64 = 1 << 1
  private static let dirtyBit: UInt64 = 1 << 6
  private static let ownedBit: UInt64 = 1 << 9
  private static let noExecuteBit: UInt64 = 1 << 63

  /// Whether the page is the mapping's own (anonymous, or a private copy), not its object's. Bit 9, free for software.
  @inline(__always) var isOwned: Bool { rawValue & Self.ownedBit != 0 }
  /// The same entry, marked as the mapping's own.
  @inline(__always) var asOwned: PageTableEntry { PageTableEntry(rawValue | Self.ownedBit) }
  /// The same entry with the right to write.
  @inline(__always) var asWritable: PageTableEntry { PageTableEntry(rawValue | Self.writableBit | Self.dirtyBit) }

  /// The same page under `protection`. The right to write is kept or taken away, never given: that is decided case by case.
  /// Without any right the page stays in the entry, which is not present then ("parked").
  @inline(__always)
  func withRights(_ protection: Protection) -> PageTableEntry {
    guard rawValue != 0 else { return self }
    var bits = rawValue
    if protection == .none {
      return PageTableEntry(bits & ~(Self.presentBit | Self.writableBit))
    }
    bits |= Self.presentBit
    if !protection.contains(.write) { bits &= ~Self.writableBit }
    if protection.contains(.execute) { bits &= ~Self.noExecuteBit } else { bits |= Self.noExecuteBit }
    return PageTableEntry(bits)
  }

  /// Whether a CPU that still has `old` could do something that this entry forbids.
  @inline(__always)
  func isWeaker(than old: PageTableEntry) -> Bool {
    guard old.isPresent else { return false }
    if !isPresent || frame != old.frame { return true }
    return (old.isWritable && !isWritable) || (old.isExecutable && !isExecutable)
  }
}
