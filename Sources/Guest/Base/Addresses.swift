// Typed addresses: virtual and physical addresses and ranges of them.
//
// A `VirtualAddress` may belong to a program and is then not to be trusted: turning one into a pointer is the business
// of the few modules that own memory. A `PhysicalAddress` is never a pointer; the linear map of Platform makes one of it.
// Arithmetic wraps (addresses are 64-bit numbers); whoever computes with a program's numbers uses the `adding` form,
// which reports overflow.

/// Sizes of pages that the page tables know, in bytes.
public enum PageSize {
  /// 4 KiB.
  public static let small: UInt64 = 0x1000
  /// 2 MiB.
  public static let large: UInt64 = 0x20_0000
  /// 1 GiB; only on hardware, never on kvm_pvm.
  public static let huge: UInt64 = 0x4000_0000
  /// log2 of `small`.
  public static let smallShift: UInt64 = 12
  /// log2 of `large`.
  public static let largeShift: UInt64 = 21
}

/// An address as instructions use it.
@frozen public struct VirtualAddress: Equatable, Comparable, Sendable {
  /// The number.
  public var rawValue: UInt64
  /// The address with that number; any number will do.
  @inline(__always) public init(_ rawValue: UInt64) { self.rawValue = rawValue }
  /// The address that a pointer of the kernel holds.
  @inline(__always) public init(_ pointer: UnsafeRawPointer) { rawValue = UInt(bitPattern: pointer).u64 }
  /// Address 0.
  public static var zero: VirtualAddress { VirtualAddress(0) }

  /// The pointer with this address. The caller vouches that the memory is the kernel's, mapped and of the right kind.
  @inline(__always) public var unsafePointer: UnsafeMutableRawPointer {
    // SAFETY: an address is only a number here; every caller says why the memory behind it may be used.
    UnsafeMutableRawPointer(bitPattern: rawValue.uint).unsafelyUnwrapped
  }
}

/// An address on the memory bus: RAM, a boot file or a device window.
@frozen public struct PhysicalAddress: Equatable, Comparable, Sendable {
  /// The number, below 2^52.
  public var rawValue: UInt64
  /// The address with that number.
  @inline(__always) public init(_ rawValue: UInt64) { self.rawValue = rawValue }
  /// Address 0.
  public static var zero: PhysicalAddress { PhysicalAddress(0) }
}

/// What virtual and physical addresses have in common.
public protocol Address: Comparable {
  /// The number.
  var rawValue: UInt64 { get set }
  /// The address with that number.
  init(_ rawValue: UInt64)
}

extension VirtualAddress: Address {}
extension PhysicalAddress: Address {}

extension Address {
  /// Whether the left address is the lower one.
  @inline(__always) public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
  /// The address `offset` bytes higher.
  @inline(__always) public static func + (left: Self, offset: UInt64) -> Self { Self(left.rawValue &+ offset) }
  /// The address `offset` bytes higher (lower if negative).
  @inline(__always) public static func + (left: Self, offset: Int) -> Self { Self(left.rawValue &+ offset.u64) }
  /// The address `offset` bytes lower.
  @inline(__always) public static func - (left: Self, offset: UInt64) -> Self { Self(left.rawValue &- offset) }
  /// The address `offset` bytes lower.
  @inline(__always) public static func - (left: Self, offset: Int) -> Self { Self(left.rawValue &- offset.u64) }
  /// Bytes from the right address up to the left one, which must not be lower.
  @inline(__always) public static func - (left: Self, right: Self) -> UInt64 { left.rawValue &- right.rawValue }
  /// Moves the address up.
  @inline(__always) public static func += (left: inout Self, offset: UInt64) { left = left + offset }
  /// Moves the address up.
  @inline(__always) public static func += (left: inout Self, offset: Int) { left = left + offset }
  /// Moves the address down.
  @inline(__always) public static func -= (left: inout Self, offset: UInt64) { left = left - offset }

  /// The address `offset` bytes higher, or nil if there is none.
  @inline(__always) public func adding(_ offset: UInt64) -> Self? {
    let (sum, overflow) = rawValue.addingReportingOverflow(offset)
    return overflow ? nil : Self(sum)
  }
  /// Rounded down to a multiple of `alignment` (a power of two; a small page if not given).
  @inline(__always) public func alignedDown(to alignment: UInt64 = PageSize.small) -> Self {
    Self(rawValue.alignedDown(to: alignment))
  }
  /// Rounded up likewise; wraps to 0 in the last page of the address space.
  @inline(__always) public func alignedUp(to alignment: UInt64 = PageSize.small) -> Self {
    Self(rawValue.alignedUp(to: alignment))
  }
  /// Whether the address is a multiple of `alignment`, a power of two.
  @inline(__always) public func isAligned(to alignment: UInt64 = PageSize.small) -> Bool {
    rawValue.isAligned(to: alignment)
  }
  /// The offset within the small page.
  @inline(__always) public var pageOffset: UInt64 { rawValue & (PageSize.small &- 1) }
  /// The number of the small page: the address divided by 4096.
  @inline(__always) public var pageNumber: UInt64 { rawValue &>> PageSize.smallShift }
}

/// A half-open range of addresses, possibly empty; `start` is never above `end`.
@frozen public struct AddressRange<A: Address>: Equatable {
  /// The first address.
  public var start: A
  /// The address behind the last.
  public var end: A

  /// From `start` to just below `end`, which must not be lower than `start`.
  @inline(__always) public init(start: A, end: A) {
    assert(start <= end)
    self.start = start
    self.end = end
  }
  /// `count` bytes from `start`; the sum must not overflow.
  @inline(__always) public init(start: A, count: UInt64) { self.init(start: start, end: start + count) }
  /// `count` bytes from `start`, or nil if that runs past the address space: for a program's numbers.
  @inline(__always) public init?(checking start: A, count: UInt64) {
    guard let end = start.adding(count) else { return nil }
    self.init(start: start, end: end)
  }

  /// Bytes.
  @inline(__always) public var count: UInt64 { end - start }
  /// Whether there is no address in it.
  @inline(__always) public var isEmpty: Bool { start == end }
  /// Whether the address is in it.
  @inline(__always) public func contains(_ address: A) -> Bool { start <= address && address < end }
  /// Whether every address of the other is in it; an empty one inside the bounds is.
  @inline(__always) public func contains(_ other: AddressRange) -> Bool { start <= other.start && other.end <= end }
  /// Whether they have an address in common.
  @inline(__always) public func overlaps(_ other: AddressRange) -> Bool { start < other.end && other.start < end }
  /// What they have in common, or nil if nothing.
  @inline(__always) public func intersection(_ other: AddressRange) -> AddressRange? {
    guard overlaps(other) else { return nil }
    return AddressRange(start: max(start, other.start), end: min(end, other.end))
  }
}

extension AddressRange: Sendable where A: Sendable {}

/// A range of virtual addresses.
public typealias VirtualRange = AddressRange<VirtualAddress>
/// A range of physical addresses.
public typealias PhysicalRange = AddressRange<PhysicalAddress>
