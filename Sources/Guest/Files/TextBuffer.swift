// TextBuffer: text that the kernel makes for files like those of procfs. It grows; nothing of it is formatted by floating point.
// Its functions are called and not inlined: there are hundreds of calls, and none of them is urgent.
import Base

/// Growing text.
public struct TextBuffer {
  /// The bytes so far.
  public private(set) var bytes: [UInt8] = []

  /// No text.
  public init() {}

  /// Appends a text.
  @inline(never)
  public mutating func append(_ text: StaticString) {
    // SAFETY: a static string's bytes are always there.
    bytes.append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }
  /// Appends bytes.
  @inline(never)
  public mutating func append(_ more: [UInt8]) { bytes.append(contentsOf: more) }
  /// Appends bytes.
  @inline(never)
  public mutating func append(_ more: UnsafeRawBufferPointer) { bytes.append(contentsOf: more) }
  /// Appends a byte.
  @inline(never)
  public mutating func append(byte: UInt8) { bytes.append(byte) }

  /// Appends a number in decimal, with spaces before it up to `width` bytes.
  @inline(never)
  public mutating func append(_ number: UInt64, width: Int = 0) {
    var length = 1
    var rest = number / 10
    while rest > 0 {
      length &+= 1
      rest /= 10
    }
    while length < width {
      bytes.append(0x20)
      length &+= 1
    }
    bytes.append(decimal: number)
  }
  /// Appends a number in decimal, with a sign if it is negative.
  @inline(never)
  public mutating func append(_ number: Int64) {
    if number < 0 { bytes.append(0x2d) }
    bytes.append(decimal: number.magnitude)
  }
  /// Appends a number in hexadecimal, with zeros before it up to `width` digits.
  @inline(never)
  public mutating func append(hexadecimal number: UInt64, width: Int = 1) {
    var digits = max((67 &- number.leadingZeroBitCount) / 4, width)
    while digits > 0 {
      digits &-= 1
      let digit = (number &>> (digits &* 4).u64 & 0xf).u8
      bytes.append(digit < 10 ? 0x30 &+ digit : 0x57 &+ digit)
    }
  }
  /// Appends a number in octal.
  @inline(never)
  public mutating func append(octal number: UInt64) {
    var shift: UInt64 = 63
    while shift > 0 && number &>> shift == 0 { shift &-= 3 }
    while true {
      bytes.append(0x30 &+ (number &>> shift & 7).u8)
      if shift == 0 { return }
      shift &-= 3
    }
  }
  /// Appends hundredths as a decimal fraction.
  @inline(never)
  public mutating func append(hundredths: UInt64) {
    bytes.append(decimal: hundredths / 100)
    bytes.append(0x2e)
    bytes.append(0x30 &+ (hundredths / 10 % 10).u8)
    bytes.append(0x30 &+ (hundredths % 10).u8)
  }
  /// Appends a name with spaces, tabs, newlines and backslashes as octal numbers, as mount tables have it.
  @inline(never)
  public mutating func append(escaping name: [UInt8]) {
    for byte in name {
      if byte == 0x20 || byte == 0x09 || byte == 0x0a || byte == 0x5c {
        bytes.append(0x5c)
        bytes.append(0x30 &+ (byte &>> 6))
        bytes.append(0x30 &+ (byte &>> 3 & 7))
        bytes.append(0x30 &+ (byte & 7))
      } else {
        bytes.append(byte)
      }
    }
  }
}
