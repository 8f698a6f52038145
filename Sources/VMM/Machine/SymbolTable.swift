// Names for addresses in the kernel image, read from the image's own symbol table when something has gone wrong.

#if canImport(Glibc)
  import Glibc
#endif

/// The functions of an image, by address.
struct SymbolTable {
  /// A function.
  struct Symbol: Equatable {
    let address: UInt64
    let byteCount: UInt64
    /// Where its name starts in the string table.
    let name: Int
  }

  private var symbols: [Symbol] = []
  // SAFETY: a part of the image's bytes, which the table borrows.
  private var names = UnsafeRawBufferPointer(start: nil, count: 0)

  /// Reads the section of type SHT_SYMTAB and its strings; empty where they are missing or damaged.
  init(_ file: ELFFile) {
    let header = file.slice(0, 64)
    guard header.count == 64 else { return }
    let tableOffset = header.loadUnaligned(fromByteOffset: 40, as: UInt64.self)
    let count = UInt64(header.loadUnaligned(fromByteOffset: 60, as: UInt16.self))
    guard header.loadUnaligned(fromByteOffset: 58, as: UInt16.self) == 64 else { return }
    let table = file.slice(tableOffset, count * 64)
    func section(_ index: Int) -> (type: UInt32, bytes: UnsafeRawBufferPointer, link: Int)? {
      guard index >= 0, (index + 1) * 64 <= table.count else { return nil }
      let at = index * 64
      let bytes = file.slice(
        table.loadUnaligned(fromByteOffset: at + 24, as: UInt64.self),
        table.loadUnaligned(fromByteOffset: at + 32, as: UInt64.self))
      return (
        table.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self), bytes,
        Int(table.loadUnaligned(fromByteOffset: at + 40, as: UInt32.self))
      )
    }
    for index in 0..<Int(count) {
      guard let found = section(index), found.type == 2, let strings = section(found.link) else { continue }
      names = strings.bytes
      for at in stride(from: 0, to: found.bytes.count - 23, by: 24) {
        // STT_FUNC, or an assembly label in a code section (STT_NOTYPE) that is defined.
        let kind = found.bytes[at + 4] & 0xf
        let home = found.bytes.loadUnaligned(fromByteOffset: at + 6, as: UInt16.self)
        guard kind == 2 || kind == 0, home != 0, home < 0xff00 else { continue }
        symbols.append(
          Symbol(
            address: found.bytes.loadUnaligned(fromByteOffset: at + 8, as: UInt64.self),
            byteCount: found.bytes.loadUnaligned(fromByteOffset: at + 16, as: UInt64.self),
            name: Int(found.bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self))))
      }
      symbols.sort { ($0.address, $0.byteCount) < ($1.address, $1.byteCount) }
      return
    }
  }

  /// The function around `offset` (from the image's base), as "name + 0x12"; nil if there is none.
  func describe(_ offset: UInt64) -> String? {
    var low = 0
    var high = symbols.count
    while low < high {
      let middle = (low + high) / 2
      if symbols[middle].address <= offset { low = middle + 1 } else { high = middle }
    }
    guard low > 0 else { return nil }
    let symbol = symbols[low - 1]
    let distance = offset - symbol.address
    guard distance < max(symbol.byteCount, 4096), symbol.name < names.count else { return nil }
    let raw = names[symbol.name...].prefix(4096).prefix { $0 != 0 }
    let name = Self.demangle(Array(raw))
    return distance == 0 ? name : name + " + 0x" + String(distance, radix: 16)
  }

  /// A Swift symbol in readable form; any other as it is.
  static func demangle(_ name: [UInt8]) -> String {
    let plain = String(decoding: name, as: UTF8.self)
    guard name.starts(with: "$s".utf8) || name.starts(with: "$e".utf8) else { return plain }
    return name.withUnsafeBytes { bytes in
      bytes.withMemoryRebound(to: CChar.self) { mangled in
        guard let text = demangleWithRuntime(mangled.baseAddress, UInt(mangled.count), nil, nil, 0) else {
          return plain
        }
        defer { free(text) }
        return String(cString: text)
      }
    }
  }
}

/// The Swift runtime's demangler; the result is malloc'ed, nil for what is no Swift symbol.
@_silgen_name("swift_demangle") private func demangleWithRuntime(
  _ name: UnsafePointer<CChar>?, _ count: UInt, _ buffer: UnsafeMutablePointer<CChar>?,
  _ bufferCount: UnsafeMutablePointer<UInt>?, _ flags: UInt32
) -> UnsafeMutablePointer<CChar>?
