// An ELF file as the rewriter sees it: which addresses are code, and where functions begin and end.
//
// Bounds come from the table that exception handling searches (.eh_frame_hdr), and where that says nothing from sized function
// symbols. Nothing here is trusted further than that: a bound is a place to start decoding, and decoding has to stay in
// step up to the site. The file is read through a `ByteSource`; a failure to read is the end of what is known.
import Base
import Pages

/// Where a function lies, in the file's own addresses.
struct CodeBound: Equatable {
  /// Its first byte.
  var start: UInt64
  /// One behind its last.
  var end: UInt64
  /// Where the next one starts, or the segment ends.
  var next: UInt64
}

/// What the rewriter knows about a file.
final class CodeFile<Source: ByteSource> {
  let source: Source
  /// The file's segments.
  let segments: UnsafeBufferPointer<ELFSegment>
  /// The search table of .eh_frame_hdr.
  private var index: UnwindIndex?
  /// What stands for it in files without one.
  private var table: UnwindTable?
  /// The functions of a Go program.
  private let goTable: GoFunctionTable?

  /// Reads the headers; nil if the file is no ELF file for this machine, or if memory is out.
  /// - Parameter scratch: memory for pieces of the file.
  init?(_ source: Source, scratch: UnsafeMutableRawBufferPointer) {
    self.source = source
    guard let segments = Self.segments(of: source) else { return nil }
    self.segments = segments
    index = Self.index(of: source)
    goTable = GoFunctionTable(source)
    guard index == nil, let first = segments.first, let last = segments.last else { return }
    let code = first.address..<(last.address &+ last.memoryByteCount)
    table = UnwindTable(source, code: code, scratch: scratch)
  }

  deinit { KernelHeap.free(UnsafeMutableRawPointer(mutating: segments.baseAddress.unsafelyUnwrapped)) }

  @inline(never) private static func segments(of source: Source) -> UnsafeBufferPointer<ELFSegment>? {
    guard let image = try? ELFImage(source),
      let memory = KernelHeap.allocate(byteCount: image.segmentCount &* MemoryLayout<ELFSegment>.stride)
    else { return nil }
    // SAFETY: a block for that many segments, all initialised here, freed with the object.
    let segments = memory.bindMemory(to: ELFSegment.self, capacity: image.segmentCount)
    for number in 0..<image.segmentCount { (segments + number).initialize(to: image.segments[number]) }
    return UnsafeBufferPointer(start: segments, count: image.segmentCount)
  }

  @inline(never) private static func index(of source: Source) -> UnwindIndex? {
    guard let header = source.load(ELFHeader.self, at: 0) else { return nil }
    for number in 0..<min(Int(header.headerCount), ELFImage.headerLimit) {
      let offset = header.headersOffset &+ UInt64(truncatingIfNeeded: number &* MemoryLayout<ELFProgramHeader>.size)
      guard let entry = source.load(ELFProgramHeader.self, at: offset) else { return nil }
      if entry.type == UnwindIndex.headerType {
        return UnwindIndex(source, fileOffset: entry.fileOffset, address: entry.address)
      }
    }
    return nil
  }

  // MARK: Addresses

  /// Where the byte at an address lies in the file; nil if no segment's file part has it.
  func fileOffset(of address: UInt64) -> UInt64? {
    for segment in segments {
      if address &- segment.address < segment.fileByteCount {
        return segment.fileOffset &+ (address &- segment.address)
      }
    }
    return nil
  }

  /// The address of a byte of the file, and the end of its segment; nil if it is not in an executable segment.
  func codeAddress(of fileOffset: UInt64) -> (address: UInt64, end: UInt64)? {
    for segment in segments {
      if segment.isExecutable, fileOffset &- segment.fileOffset < segment.fileByteCount {
        let address = segment.address &+ (fileOffset &- segment.fileOffset)
        return (address, segment.address &+ segment.fileByteCount)
      }
    }
    return nil
  }

  // MARK: Functions

  /// The function that contains `address`, or the last one before it, by the unwind table; nil if there is no such table,
  /// if it begins later, or if that one is the signal trampoline, whose record begins too early on purpose.
  func unwindBound(before address: UInt64, limit: UInt64) -> CodeBound? {
    if let table { return table.bound(before: address, limit: limit) }
    guard let index, let number = index.last(before: address, source), let start = index.start(number, source),
      let record = index.record(number, source), let offset = fileOffset(of: record),
      let range = UnwindRecord.range(at: offset, source), !range.isSignalFrame
    else { return nil }
    let next = index.start(number &+ 1, source) ?? limit
    return CodeBound(start: start, end: min(start &+ range.byteCount, limit), next: max(min(next, limit), address))
  }

  /// The Go function that contains `address`.
  func goBound(around address: UInt64, limit: UInt64) -> CodeBound? {
    goTable?.bound(around: address, limit: limit, source)
  }

  /// The function that contains `address`, or the last one before it, by the symbols with a size.
  /// - Parameter scratch: memory for a piece of a symbol table.
  func symbolBound(before address: UInt64, limit: UInt64, scratch: UnsafeMutableRawBufferPointer) -> CodeBound? {
    guard let header = source.load(ELFHeader.self, at: 0), header.sectionByteCount == 64 else { return nil }
    var found: CodeBound?
    for number in 0..<header.sectionCount {
      let offset = header.sectionsOffset &+ UInt64(truncatingIfNeeded: number) &* 64
      guard let section = source.load(ELFSectionHeader.self, at: offset) else { return nil }
      guard section.type == ELFSectionHeader.symbols || section.type == ELFSectionHeader.dynamicSymbols else {
        continue
      }
      search(section, for: address, limit: limit, scratch: scratch, &found)
    }
    return found
  }

  private func search(
    _ section: ELFSectionHeader, for address: UInt64, limit: UInt64, scratch: UnsafeMutableRawBufferPointer,
    _ found: inout CodeBound?
  ) {
    let size = MemoryLayout<ELFSymbol>.size
    guard section.entryByteCount == UInt64(truncatingIfNeeded: size), section.fileOffset < source.byteCount else {
      return
    }
    var offset = section.fileOffset
    let end = offset &+ min(section.byteCount, source.byteCount &- offset)
    while offset < end {
      let count = min(Int(truncatingIfNeeded: end &- offset), scratch.count) / size &* size
      guard count > 0, source.read(at: offset, into: UnsafeMutableRawBufferPointer(rebasing: scratch[..<count])) else {
        return
      }
      var at = 0
      while at < count {
        let symbol = scratch.loadUnaligned(fromByteOffset: at, as: ELFSymbol.self)
        at &+= size
        guard symbol.information & 15 == ELFSymbol.function, symbol.section != 0, symbol.byteCount > 0,
          symbol.value < limit
        else { continue }
        let symbolEnd = min(symbol.value &+ min(symbol.byteCount, 1 << 32), limit)
        if symbol.value > address {
          if let known = found, symbol.value < known.next { found?.next = symbol.value }
          if found == nil { found = CodeBound(start: 0, end: 0, next: symbol.value) }
        } else if let known = found,
          known.start > symbol.value || (known.start == symbol.value && known.end >= symbolEnd)
        {
          continue
        } else {
          found = CodeBound(start: symbol.value, end: symbolEnd, next: found?.next ?? limit)
        }
      }
      offset &+= UInt64(truncatingIfNeeded: count)
    }
  }
}

/// A section header (Elf64_Shdr), as far as symbol tables need it.
struct ELFSectionHeader {
  static let symbols: UInt32 = 2
  static let dynamicSymbols: UInt32 = 11
  var name: UInt32 = 0
  var type: UInt32 = 0
  var flags: UInt64 = 0
  var address: UInt64 = 0
  var fileOffset: UInt64 = 0
  var byteCount: UInt64 = 0
  var link: UInt32 = 0
  var information: UInt32 = 0
  var alignment: UInt64 = 0
  var entryByteCount: UInt64 = 0
}

/// A symbol (Elf64_Sym).
struct ELFSymbol {
  static let function: UInt8 = 2
  var name: UInt32 = 0
  var information: UInt8 = 0
  var other: UInt8 = 0
  var section: UInt16 = 0
  var value: UInt64 = 0
  var byteCount: UInt64 = 0
}

extension ByteSource {
  /// The section with a name, as long as the file still has its section headers.
  func section(named name: StaticString) -> ELFSectionHeader? {
    guard let header = load(ELFHeader.self, at: 0), header.sectionByteCount == 64,
      header.sectionNames < header.sectionCount,
      let names = load(ELFSectionHeader.self, at: header.sectionsOffset &+ header.sectionNames.u64 &* 64)
    else { return nil }
    for number in 0..<header.sectionCount {
      guard let section = load(ELFSectionHeader.self, at: header.sectionsOffset &+ number.u64 &* 64) else { return nil }
      if section.byteCount > 0, hasString(name, at: names.fileOffset &+ section.name.u64) { return section }
    }
    return nil
  }

  /// Whether a NUL-terminated string is there.
  private func hasString(_ string: StaticString, at offset: UInt64) -> Bool {
    for index in 0..<string.utf8CodeUnitCount where load(UInt8.self, at: offset &+ index.u64) != string.utf8Start[index]
    {
      return false
    }
    return load(UInt8.self, at: offset &+ string.utf8CodeUnitCount.u64) == 0
  }

  /// A value of plain bytes at an offset; nil if it cannot be read.
  func load<T: BitwiseCopyable>(_ type: T.Type, at offset: UInt64) -> T? {
    withUnsafeTemporaryAllocation(byteCount: MemoryLayout<T>.size, alignment: MemoryLayout<T>.alignment) { buffer in
      guard read(at: offset, into: buffer) else { return nil }
      return buffer.load(as: T.self)
    }
  }
}
