// Tables in little-endian bytes, built piece by piece.

/// A growing table.
struct ByteWriter {
  private(set) var bytes: [UInt8] = []

  mutating func append<Value: FixedWidthInteger>(_ value: Value) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }

  mutating func append(_ more: [UInt8]) { bytes.append(contentsOf: more) }

  /// Text of exactly `count` bytes, cut or filled with `filler`.
  mutating func append(text: String, count: Int, filler: UInt8 = 0) {
    let utf8 = Array(text.utf8.prefix(count))
    bytes += utf8 + [UInt8](repeating: filler, count: count - utf8.count)
  }

  mutating func fill(to count: Int) {
    if bytes.count < count { bytes += [UInt8](repeating: 0, count: count - bytes.count) }
  }

  /// Puts a value over bytes that are there already.
  mutating func put<Value: FixedWidthInteger>(_ value: Value, at offset: Int) {
    withUnsafeBytes(of: value.littleEndian) { source in
      for (index, byte) in source.enumerated() { bytes[offset + index] = byte }
    }
  }
}
