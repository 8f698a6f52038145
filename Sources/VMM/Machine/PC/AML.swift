// As much of ACPI's machine language (ACPI 6.5, 20.2) as one description of a machine takes: pure functions that give bytes.

/// ACPI machine language.
enum AML {
  /// A package length for `count` bytes that follow it (20.2.4): it counts itself.
  static func packageLength(_ count: Int) -> [UInt8] {
    if count + 1 < 0x40 { return [UInt8(count + 1)] }
    for extra in 1...3 {
      let total = count + 1 + extra
      guard total < 1 << (4 + 8 * extra) else { continue }
      var bytes = [UInt8(extra << 6 | total & 0xf)]
      for index in 0..<extra { bytes.append(UInt8(truncatingIfNeeded: total >> (4 + 8 * index))) }
      return bytes
    }
    preconditionFailure("a package of 2^28 bytes")
  }

  private static func package(_ opcode: [UInt8], _ body: [UInt8]) -> [UInt8] {
    opcode + packageLength(body.count) + body
  }

  /// A name of one segment, "_SB_" or "PCI0"; a leading backslash makes it absolute.
  static func name(_ text: String) -> [UInt8] {
    let utf8 = Array(text.utf8)
    let isAbsolute = utf8.first == 0x5c
    let segment = isAbsolute ? Array(utf8.dropFirst()) : utf8
    precondition((1...4).contains(segment.count))
    return (isAbsolute ? [0x5c] : []) + segment + [UInt8](repeating: 0x5f, count: 4 - segment.count)
  }

  static func scope(_ name: String, _ body: [[UInt8]]) -> [UInt8] {
    package([0x10], self.name(name) + Array(body.joined()))
  }

  static func device(_ name: String, _ body: [[UInt8]]) -> [UInt8] {
    package([0x5b, 0x82], self.name(name) + Array(body.joined()))
  }

  /// Name(NAME, OBJECT).
  static func define(_ name: String, _ object: [UInt8]) -> [UInt8] { [0x08] + self.name(name) + object }

  static func integer(_ value: UInt32) -> [UInt8] {
    switch value {
    case 0: [0x00]
    case 1: [0x01]
    case ...0xff: [0x0a, UInt8(value)]
    case ...0xffff: [0x0b, UInt8(value & 0xff), UInt8(value >> 8)]
    default: [0x0c] + (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) }
    }
  }

  /// A compressed identifier such as "PNP0A08" (19.3.4): three letters and four hexadecimal digits.
  static func identifier(_ text: String) -> [UInt8] {
    let bytes = Array(text.utf8)
    let number = UInt32(text.suffix(4), radix: 16) ?? 0
    let letters = bytes.prefix(3).reduce(UInt32(0)) { $0 << 5 | UInt32($1 &- 0x40) }
    return integer((letters << 16 | number).byteSwapped)
  }

  /// A package of integers.
  static func integers(_ values: [UInt32]) -> [UInt8] {
    package([0x12], [UInt8(values.count)] + values.flatMap { integer($0) })
  }

  /// A buffer with resource descriptors (6.4) and their end tag.
  static func resources(_ descriptors: [[UInt8]]) -> [UInt8] {
    let body = Array(descriptors.joined()) + [0x79, 0]
    return package([0x11], integer(UInt32(body.count)) + body)
  }

  // MARK: Resource descriptors

  /// I/O ports at a fixed place (6.4.2.5).
  static func ports(_ start: UInt16, count: UInt8) -> [UInt8] {
    let (low, high) = (UInt8(start & 0xff), UInt8(start >> 8))
    return [0x47, 1, low, high, low, high, 1, count]
  }

  /// Memory at a fixed place (6.4.3.4), writable.
  static func memory(_ start: UInt32, byteCount: UInt32) -> [UInt8] {
    var writer = ByteWriter()
    writer.append([0x86, 9, 0, 1])
    writer.append(start)
    writer.append(byteCount)
    return writer.bytes
  }

  /// An interrupt line (6.4.3.6), edge-triggered, active high, of the device's own.
  static func interrupt(_ line: UInt32) -> [UInt8] {
    var writer = ByteWriter()
    writer.append([0x89, 6, 0, 0b11, 1])
    writer.append(line)
    return writer.bytes
  }

  /// The bus numbers that a bridge hands down (6.4.3.5.3).
  static func buses(_ range: ClosedRange<UInt16>) -> [UInt8] {
    var writer = ByteWriter()
    // Length, type: bus numbers; both ends fixed; granularity, first, last, offset, how many.
    writer.append([0x88, 13, 0, 2, 0x0c, 0])
    for value in [0, range.lowerBound, range.upperBound, 0, range.upperBound - range.lowerBound + 1] {
      writer.append(value)
    }
    return writer.bytes
  }

  /// Memory that a bridge hands down (6.4.3.5.2), not cached, writable.
  static func window(_ start: UInt32, byteCount: UInt32) -> [UInt8] {
    var writer = ByteWriter()
    writer.append([0x87, 23, 0, 0, 0x0c, 1])
    for value in [0, start, start + byteCount - 1, 0, byteCount] { writer.append(value) }
    return writer.bytes
  }
}
