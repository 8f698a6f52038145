// Conversions between integer types, by truncation.
//
// Swift's exact conversions (`Int(x)`) trap on loss and cost the compiler milliseconds each; kernel code nearly always
// knows the value fits, or wants the low bits. Each property here keeps the low bits of its operand (sign-extending
// when it widens a signed one) and compiles to at most one move. Where a value comes from a program or a device and
// may not fit, check the range first or use `init(exactly:)`.

extension FixedWidthInteger {
  /// The low 8 bits, unsigned.
  @inline(__always) public var u8: UInt8 { UInt8(truncatingIfNeeded: self) }
  /// The low 16 bits, unsigned.
  @inline(__always) public var u16: UInt16 { UInt16(truncatingIfNeeded: self) }
  /// The low 32 bits, unsigned.
  @inline(__always) public var u32: UInt32 { UInt32(truncatingIfNeeded: self) }
  /// The low 64 bits, unsigned (a negative value becomes its two's complement).
  @inline(__always) public var u64: UInt64 { UInt64(truncatingIfNeeded: self) }
  /// The low 8 bits, signed.
  @inline(__always) public var i8: Int8 { Int8(truncatingIfNeeded: self) }
  /// The low 16 bits, signed.
  @inline(__always) public var i16: Int16 { Int16(truncatingIfNeeded: self) }
  /// The low 32 bits, signed.
  @inline(__always) public var i32: Int32 { Int32(truncatingIfNeeded: self) }
  /// The low 64 bits, signed.
  @inline(__always) public var i64: Int64 { Int64(truncatingIfNeeded: self) }
  /// The value as `Int`, truncated to 64 bits.
  @inline(__always) public var int: Int { Int(truncatingIfNeeded: self) }
  /// The value as `UInt`, truncated to 64 bits.
  @inline(__always) public var uint: UInt { UInt(truncatingIfNeeded: self) }
}

extension FixedWidthInteger {
  /// The value rounded down to a multiple of `alignment`, a power of two.
  @inline(__always) public func alignedDown(to alignment: Self) -> Self { self & ~(alignment &- 1) }
  /// The value rounded up to a multiple of `alignment`, a power of two. Wraps around past the type's maximum: check
  /// values that a program gives before.
  @inline(__always) public func alignedUp(to alignment: Self) -> Self {
    (self &+ (alignment &- 1)) & ~(alignment &- 1)
  }
  /// Whether the value is a multiple of `alignment`, a power of two.
  @inline(__always) public func isAligned(to alignment: Self) -> Bool { self & (alignment &- 1) == 0 }
  /// Whether exactly one bit is set.
  @inline(__always) public var isPowerOfTwo: Bool { self != 0 && self & (self &- 1) == 0 }
}

extension UnsignedInteger where Self: FixedWidthInteger {
  /// The exponent of the largest power of two that is not above the value; the value must not be 0.
  @inline(__always) public var log2Floor: Int { Self.bitWidth &- 1 &- leadingZeroBitCount }
  /// The exponent of the smallest power of two that is not below the value; the value must not be 0.
  @inline(__always) public var log2Ceiling: Int { self == 1 ? 0 : Self.bitWidth &- (self &- 1).leadingZeroBitCount }
}
