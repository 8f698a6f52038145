// What the guest's loader asks of a program or an interpreter, beyond what makes an ELF file whole: checked here first, where there are
// words for it. The loader (Guest/Linux/ELF) checks all of it again, for it trusts nobody.

extension ELFFile {
  /// Programs lie below this address, the guest kernel's half above.
  static let addressLimit: UInt64 = 0x4000_0000_0000
  /// Nothing is ever mapped below.
  static let lowestAddress: UInt64 = 0x1_0000
  static let headerLimit = 64, loadLimit = 16
  static let largestAlignment: UInt64 = 1 << 30
  static let interpreterLimit: UInt64 = 4096

  /// Checks that the guest's loader will take the file.
  /// - Throws: what is wrong with it, in words.
  public func checkLoadable() throws(Defect) {
    let loads = loads.filter { $0.memoryCount > 0 }
    guard segments.count <= Self.headerLimit, loads.count <= Self.loadLimit else {
      throw .malformed("it has more segments than any program needs")
    }
    for segment in loads {
      guard segment.end <= Self.addressLimit else { throw .malformed("a segment lies beyond the programs' addresses") }
      guard type == 3 || segment.address & ~4095 >= Self.lowestAddress else {
        throw .malformed("a segment lies at the lowest addresses, which stay empty")
      }
      guard (segment.address ^ segment.fileOffset) & 4095 == 0 else {
        throw .malformed("a segment's address and its place in the file do not match (misaligned)")
      }
      guard segment.alignment & (segment.alignment &- 1) == 0 || segment.alignment <= 4096,
        segment.alignment <= Self.largestAlignment
      else { throw .malformed("a segment's alignment is no power of two, or beyond 1 GiB") }
    }
    guard entry < Self.addressLimit else { throw .malformed("its entry lies outside its code") }
    let interpreters = segments.filter { $0.type == 3 }
    guard interpreters.count <= 1 else { throw .malformed("it names more than one interpreter") }
    for segment in interpreters {
      let path = slice(segment.fileOffset, segment.fileCount)
      guard 2...Self.interpreterLimit ~= segment.fileCount, path.last == 0 else {
        throw .malformed("its interpreter's name has no end, or no beginning")
      }
    }
  }

  /// Bytes of memory that the file asks for beside its own contents, in the largest piece.
  public var largestZeroCount: UInt64 { loads.map { $0.memoryCount - $0.fileCount }.max() ?? 0 }
}
