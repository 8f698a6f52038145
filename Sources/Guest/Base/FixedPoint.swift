// FixedPoint: numbers with a fraction, without the floating-point unit that the kernel does not touch.

/// A signed number with 32 bits before the point and 32 behind it. Additions wrap around; products and quotients are exact
/// to the last bit (towards minus infinity, towards zero) and must fit.
@frozen public struct FixedPoint: Equatable, Comparable, Sendable {
  /// The number, times 2^32.
  public var rawValue: Int64
  /// The number with that raw value.
  @inline(__always) public init(rawValue: Int64) { self.rawValue = rawValue }
  /// A whole number, within 32 bits.
  @inline(__always) public init(_ whole: Int32) { rawValue = whole.i64 &<< 32 }
  /// A fraction, rounded towards zero; the quotient must fit 31 bits, the denominator must not be 0.
  @inline(__always) public init(_ numerator: Int64, over denominator: Int64) {
    let high = numerator &>> 32
    let low = UInt64(bitPattern: numerator &<< 32)
    rawValue = denominator.dividingFullWidth((high, low)).quotient
  }
  /// 0.
  public static var zero: FixedPoint { FixedPoint(rawValue: 0) }
  /// 1.
  public static var one: FixedPoint { FixedPoint(1) }

  /// The whole part, towards minus infinity.
  @inline(__always) public var floor: Int64 { rawValue &>> 32 }
  /// Whether the left one is less.
  @inline(__always) public static func < (left: FixedPoint, right: FixedPoint) -> Bool {
    left.rawValue < right.rawValue
  }
  /// The sum.
  @inline(__always) public static func + (left: FixedPoint, right: FixedPoint) -> FixedPoint {
    FixedPoint(rawValue: left.rawValue &+ right.rawValue)
  }
  /// The difference.
  @inline(__always) public static func - (left: FixedPoint, right: FixedPoint) -> FixedPoint {
    FixedPoint(rawValue: left.rawValue &- right.rawValue)
  }
  /// The product.
  @inline(__always) public static func * (left: FixedPoint, right: FixedPoint) -> FixedPoint {
    let product = left.rawValue.multipliedFullWidth(by: right.rawValue)
    return FixedPoint(rawValue: product.high &<< 32 | (product.low &>> 32).i64)
  }
  /// The quotient; the divisor must not be 0.
  @inline(__always) public static func / (left: FixedPoint, right: FixedPoint) -> FixedPoint {
    FixedPoint(left.rawValue, over: right.rawValue)
  }
}
