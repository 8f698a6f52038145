// The functions of Go programs: the table of .gopclntab (runtime/symtab.go of Go 1.18 and later), which Go's own stack
// unwinding needs, so that it is there even in stripped programs. They follow each other without gaps; the filling
// between two belongs to the first.
import Base

/// Where the functions of a Go program start.
struct GoFunctionTable {
  /// The address that entries count from.
  private let textStart: UInt64
  /// Where the entries are in the file: pairs of 32-bit words, the first the function's start.
  private let entries: UInt64
  /// Functions; one entry more says where the last one ends.
  private let count: UInt64

  /// Reads the head of the table; nil if the file has none, or one of another version.
  init?<Source: ByteSource>(_ source: Source) {
    guard let section = source.section(named: ".gopclntab"),
      let magic = source.load(UInt32.self, at: section.fileOffset), magic == 0xffff_fff1 || magic == 0xffff_fff0,
      let sizes = source.load(UInt32.self, at: section.fileOffset &+ 4), sizes == 0x0801_0000,
      let count = source.load(UInt64.self, at: section.fileOffset &+ 8),
      let textStart = source.load(UInt64.self, at: section.fileOffset &+ 24),
      let offset = source.load(UInt64.self, at: section.fileOffset &+ 64), textStart != 0,
      offset < section.byteCount, count < (section.byteCount &- offset) / 8
    else { return nil }
    self.textStart = textStart
    self.count = count
    entries = section.fileOffset &+ offset
  }

  private func start<Source: ByteSource>(_ number: UInt64, _ source: Source) -> UInt64? {
    source.load(UInt32.self, at: entries &+ number &* 8).map { textStart &+ $0.u64 }
  }

  /// The function that contains `address`.
  func bound<Source: ByteSource>(around address: UInt64, limit: UInt64, _ source: Source) -> CodeBound? {
    var low: UInt64 = 0
    var high = count &+ 1
    while low < high {
      let middle = (low &+ high) / 2
      guard let start = start(middle, source) else { return nil }
      if start <= address { low = middle &+ 1 } else { high = middle }
    }
    guard low > 0, low <= count, let first = start(low &- 1, source), let end = start(low, source), end > address else {
      return nil
    }
    return CodeBound(start: first, end: min(end, limit), next: min(end, limit))
  }
}
