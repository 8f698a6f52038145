// The ELF parser: from the bytes of a file to what the loader must map.
//
// Rules: it is pure (no allocation, no memory mapping, no file system), reads through a `ByteSource`, and trusts
// nothing: every offset, size and address is checked for overflow and against its limits before it is used, so the
// loader may compute with the results freely. It accepts what Linux accepts of x86-64 executables.
//
// SAFETY of all: headers are trivial structures without padding, for which any bytes will do; a source fills all of the
// buffer that it is given, or says no, and then what is in it is not looked at.

/// Where the parser reads from: a file, or bytes in memory.
protocol ByteSource {
  /// Size in bytes.
  var byteCount: UInt64 { get }
  /// Copies the bytes from `offset` on into all of `buffer`; false if they cannot all be read.
  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Bool
}

/// Why a file cannot be run.
enum ELFError: Error, Equatable {
  /// The first four bytes are not ELF's.
  case notELF
  /// A 32-bit or big-endian file, another machine, or neither an executable nor a shared object.
  case wrongMachine
  /// The file ends before what its headers name, or could not be read.
  case truncated
  /// Headers that contradict themselves or exceed a limit.
  case malformed
}

/// One PT_LOAD segment, checked: `fileByteCount <= memoryByteCount`, the file range lies in the file, the address range
/// below `ELFImage.addressLimit`, and address and file offset agree modulo the page size.
struct ELFSegment: Equatable {
  /// Offset of its first byte in the file.
  var fileOffset: UInt64 = 0
  /// Bytes that come from the file.
  var fileByteCount: UInt64 = 0
  /// Address of its first byte, before the load bias.
  var address: UInt64 = 0
  /// Bytes it has in memory, 1 or more; those beyond `fileByteCount` are zero.
  var memoryByteCount: UInt64 = 0
  /// May be read.
  var isReadable = false
  /// May be written.
  var isWritable = false
  /// May be executed.
  var isExecutable = false
  /// An empty segment.
  init() {}
}

/// What the headers of an executable say.
struct ELFImage {
  /// Addresses of segments end at or below this (64 TiB, where the kernel's part begins).
  static let addressLimit: UInt64 = 0x4000_0000_0000
  /// More PT_LOAD segments than this are refused.
  static let segmentLimit = 16
  /// More program headers than this are refused.
  static let headerLimit = 64
  /// A longer path of an interpreter is refused (bytes, its NUL included).
  static let interpreterLimit = 4096

  static let pageMask: UInt64 = 4095

  /// ET_DYN: may be loaded at any page (or any multiple of `alignment`).
  private(set) var isPositionIndependent = false
  /// Address of the first instruction, before the load bias.
  private(set) var entry: UInt64 = 0
  /// Segments in use in `segments`, 1 or more.
  private(set) var segmentCount = 0
  /// PT_LOAD segments in ascending, non-overlapping order; `segmentCount` of them count.
  private(set) var segments: [16 of ELFSegment] = .init(repeating: ELFSegment())
  /// First page any segment touches.
  private(set) var lowestAddress: UInt64 = 0
  /// End of the last page any segment touches.
  private(set) var highestAddress: UInt64 = 0
  /// Largest alignment any segment asks for, a power of two, 4096 or more.
  private(set) var alignment: UInt64 = 4096
  /// Where the program headers appear in memory (AT_PHDR), before the load bias; 0 if no segment holds them.
  private(set) var headersAddress: UInt64 = 0
  /// Program headers (AT_PHNUM).
  private(set) var headerCount = 0
  /// Offset of the interpreter's path in the file, if it names one.
  private(set) var interpreterOffset: UInt64 = 0
  /// Bytes of the interpreter's path, its NUL included; 0 if there is none.
  private(set) var interpreterByteCount = 0
  /// PT_GNU_STACK asks for an executable stack.
  private(set) var wantsExecutableStack = false

  /// Reads and checks the headers of `source`.
  init<Source: ByteSource>(_ source: Source) throws(ELFError) {
    let header = try Self.header(of: source)
    isPositionIndependent = header.type == ELFHeader.typeShared
    entry = header.entry
    headerCount = Int(truncatingIfNeeded: header.headerCount)

    var raw = ELFProgramHeader()
    for index in 0..<headerCount {
      let size = UInt64(truncatingIfNeeded: MemoryLayout<ELFProgramHeader>.size)
      let (offset, overflow) = header.headersOffset.addingReportingOverflow(UInt64(truncatingIfNeeded: index) &* size)
      guard !overflow else { throw .malformed }
      guard withUnsafeMutableBytes(of: &raw, { source.read(at: offset, into: $0) }) else { throw .truncated }
      switch raw.type {
      case ELFProgramHeader.load: try addSegment(raw, fileByteCount: source.byteCount)
      case ELFProgramHeader.interpreter: try setInterpreter(raw, fileByteCount: source.byteCount)
      case ELFProgramHeader.gnuStack: wantsExecutableStack = raw.flags & ELFProgramHeader.executable != 0
      default: break
      }
    }
    guard segmentCount > 0 else { throw .malformed }
    findHeaders(header)
  }

  /// Reads and checks the file header.
  private static func header<Source: ByteSource>(of source: Source) throws(ELFError) -> ELFHeader {
    var magic: UInt32 = 0
    guard withUnsafeMutableBytes(of: &magic, { source.read(at: 0, into: $0) }), magic == ELFHeader.magicValue else {
      throw .notELF
    }
    var header = ELFHeader()
    guard withUnsafeMutableBytes(of: &header, { source.read(at: 0, into: $0) }) else { throw .truncated }
    guard header.fileClass == ELFHeader.class64, header.byteOrder == ELFHeader.littleEndian,
      header.machine == ELFHeader.machineX86_64,
      header.type == ELFHeader.typeExecutable || header.type == ELFHeader.typeShared
    else { throw .wrongMachine }
    guard header.headerByteCount == UInt16(truncatingIfNeeded: MemoryLayout<ELFProgramHeader>.size),
      header.headerCount > 0, header.headerCount <= headerLimit, header.entry < addressLimit
    else { throw .malformed }
    return header
  }

  private mutating func addSegment(_ raw: ELFProgramHeader, fileByteCount: UInt64) throws(ELFError) {
    guard raw.memoryByteCount > 0 else { return }
    let (fileEnd, fileOverflow) = raw.fileOffset.addingReportingOverflow(raw.fileByteCount)
    let (end, overflow) = raw.address.addingReportingOverflow(raw.memoryByteCount)
    guard !fileOverflow, !overflow, raw.fileByteCount <= raw.memoryByteCount, end <= Self.addressLimit,
      (raw.address ^ raw.fileOffset) & Self.pageMask == 0, segmentCount < Self.segmentLimit
    else { throw .malformed }
    guard fileEnd <= fileByteCount else { throw .truncated }
    if segmentCount > 0 {
      let previous = segments[segmentCount &- 1]
      guard raw.address >= previous.address &+ previous.memoryByteCount else { throw .malformed }
    } else {
      lowestAddress = raw.address & ~Self.pageMask
    }
    if raw.alignment > alignment {
      guard raw.alignment & (raw.alignment &- 1) == 0, raw.alignment <= 1 << 30 else { throw .malformed }
      alignment = raw.alignment
    }
    var segment = ELFSegment()
    segment.fileOffset = raw.fileOffset
    segment.fileByteCount = raw.fileByteCount
    segment.address = raw.address
    segment.memoryByteCount = raw.memoryByteCount
    segment.isReadable = raw.flags & ELFProgramHeader.readable != 0
    segment.isWritable = raw.flags & ELFProgramHeader.writable != 0
    segment.isExecutable = raw.flags & ELFProgramHeader.executable != 0
    segments[segmentCount] = segment
    segmentCount &+= 1
    highestAddress = (end &+ Self.pageMask) & ~Self.pageMask
  }

  private mutating func setInterpreter(_ raw: ELFProgramHeader, fileByteCount: UInt64) throws(ELFError) {
    guard interpreterByteCount == 0, raw.fileByteCount >= 2, raw.fileByteCount <= Self.interpreterLimit else {
      throw .malformed
    }
    let (end, overflow) = raw.fileOffset.addingReportingOverflow(raw.fileByteCount)
    guard !overflow else { throw .malformed }
    guard end <= fileByteCount else { throw .truncated }
    interpreterOffset = raw.fileOffset
    interpreterByteCount = Int(truncatingIfNeeded: raw.fileByteCount)
  }

  /// The segment whose file part covers the program headers says where they appear in memory.
  private mutating func findHeaders(_ header: ELFHeader) {
    let size = UInt64(truncatingIfNeeded: headerCount &* MemoryLayout<ELFProgramHeader>.size)
    for index in 0..<segmentCount {
      let segment = segments[index]
      guard header.headersOffset >= segment.fileOffset else { continue }
      let into = header.headersOffset &- segment.fileOffset
      if into <= segment.fileByteCount, size <= segment.fileByteCount &- into {
        headersAddress = segment.address &+ into
        return
      }
    }
  }
}
