// An ELF file as untrusted bytes: every offset and count is checked before it is followed.
//
// Used for the kernel image (to load it), for the user's file (to say what it is) and for symbols. Only 64-bit
// little-endian x86-64 files are let in.

/// A checked view of an ELF file; borrows the bytes it was made from.
public struct ELFFile {
  /// What is wrong with a file.
  public enum Defect: Error, Equatable, Sendable {
    /// It does not begin as ELF files do.
    case notELF
    /// It is ELF, but not for 64-bit x86 (the ELF machine number is given, 0 for a 32-bit or big-endian file).
    case wrongMachine(UInt16)
    /// It is neither an executable nor a shared object (the type is given).
    case wrongType(UInt16)
    /// A table or segment lies outside the file, or contradicts another: in words.
    case malformed(String)
  }

  /// A program header.
  public struct Segment: Equatable, Sendable {
    /// PT_LOAD = 1, PT_DYNAMIC = 2, PT_INTERP = 3, PT_NOTE = 4…
    public var type: UInt32
    /// Bit 0 execute, bit 1 write, bit 2 read.
    public var flags: UInt32
    /// Where its bytes are in the file.
    public var fileOffset: UInt64
    /// Its first virtual address.
    public var address: UInt64
    /// Its first physical address, for kernels.
    public var physical: UInt64 = 0
    /// Bytes in the file.
    public var fileCount: UInt64
    /// Bytes in memory, `fileCount` or more for PT_LOAD.
    public var memoryCount: UInt64
    /// What its address shall be a multiple of, 0 or 1 for anything.
    public var alignment: UInt64 = 0
    /// Its end in memory.
    public var end: UInt64 { address + memoryCount }
  }

  /// A note.
  public struct Note: Equatable, Sendable {
    /// Its owner, without the trailing NUL.
    public var name: [UInt8]
    /// The owner's number for it.
    public var type: UInt32
    /// Its content.
    public var content: [UInt8]
  }

  // SAFETY: all reads go through `load` and `slice`, which check against the buffer's count.
  let bytes: UnsafeRawBufferPointer
  /// ET_EXEC = 2 or ET_DYN = 3.
  public let type: UInt16
  /// The entry's virtual address.
  public let entry: UInt64
  /// The program headers.
  public let segments: [Segment]

  /// Checks headers and segments. The bytes must outlive the value.
  /// - Parameter isPhysical: the segments go to their physical addresses, as those of a kernel do: nothing is said of the virtual ones.
  public init(_ bytes: UnsafeRawBufferPointer, isPhysical: Bool = false) throws(Defect) {
    self.bytes = bytes
    guard bytes.count >= 4, bytes[0] == 0x7f, bytes[1] == 0x45, bytes[2] == 0x4c, bytes[3] == 0x46 else {
      throw .notELF
    }
    guard bytes.count >= 64 else { throw .malformed("the header is cut off") }
    guard bytes[4] == 2, bytes[5] == 1 else { throw .wrongMachine(0) }
    let machine = bytes.loadUnaligned(fromByteOffset: 18, as: UInt16.self)
    guard machine == 62 else { throw .wrongMachine(machine) }
    type = bytes.loadUnaligned(fromByteOffset: 16, as: UInt16.self)
    guard type == 2 || type == 3 else { throw .wrongType(type) }
    entry = bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self)
    let tableOffset = bytes.loadUnaligned(fromByteOffset: 32, as: UInt64.self)
    let entrySize = bytes.loadUnaligned(fromByteOffset: 54, as: UInt16.self)
    let count = bytes.loadUnaligned(fromByteOffset: 56, as: UInt16.self)
    guard entrySize == 56, count > 0, count <= 256 else { throw .malformed("the program header table is unusable") }
    guard tableOffset <= UInt64(bytes.count), UInt64(count) * 56 <= UInt64(bytes.count) - tableOffset else {
      throw .malformed("the program header table lies outside the file")
    }
    var segments: [Segment] = []
    var lastEnd: UInt64 = 0
    for index in 0..<Int(count) {
      let at = Int(tableOffset) + index * 56
      let segment = Segment(
        type: bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self),
        flags: bytes.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self),
        fileOffset: bytes.loadUnaligned(fromByteOffset: at + 8, as: UInt64.self),
        address: bytes.loadUnaligned(fromByteOffset: at + 16, as: UInt64.self),
        physical: bytes.loadUnaligned(fromByteOffset: at + 24, as: UInt64.self),
        fileCount: bytes.loadUnaligned(fromByteOffset: at + 32, as: UInt64.self),
        memoryCount: bytes.loadUnaligned(fromByteOffset: at + 40, as: UInt64.self),
        alignment: bytes.loadUnaligned(fromByteOffset: at + 48, as: UInt64.self))
      if segment.type == 1 {
        guard segment.fileCount <= segment.memoryCount else {
          throw .malformed("a segment is larger in the file than in memory")
        }
        guard segment.memoryCount < 1 << 47, isPhysical || segment.address < 1 << 47 - segment.memoryCount else {
          throw .malformed("a segment lies outside the address space")
        }
        guard isPhysical || segment.address >= lastEnd else { throw .malformed("segments overlap or are out of order") }
        lastEnd = isPhysical ? 0 : segment.end
      }
      if (1...4).contains(segment.type) {
        guard segment.fileOffset <= UInt64(bytes.count),
          segment.fileCount <= UInt64(bytes.count) - segment.fileOffset
        else { throw .malformed("a segment lies outside the file (is it truncated?)") }
      }
      segments.append(segment)
    }
    self.segments = segments
  }

  /// Where a kernel is entered by PVH, nil for files without such a note (Xen's docs/misc/pvh.pandoc).
  public var pvhEntry: UInt32? {
    guard let note = notes.first(where: { $0.name == Array("Xen".utf8) && $0.type == 18 }), note.content.count >= 4
    else { return nil }
    return note.content.withUnsafeBytes { UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self)) }
  }

  /// The segments to load.
  public var loads: [Segment] { segments.filter { $0.type == 1 } }

  /// The interpreter's path, nil for a static program.
  public var interpreter: [UInt8]? {
    guard let segment = segments.first(where: { $0.type == 3 }) else { return nil }
    return Array(slice(segment.fileOffset, segment.fileCount).prefix { $0 != 0 })
  }

  /// All notes of all note segments; reading stops at the first that is not whole.
  public var notes: [Note] {
    var notes: [Note] = []
    for segment in segments where segment.type == 4 {
      let bytes = slice(segment.fileOffset, segment.fileCount)
      var at = 0
      while at + 12 <= bytes.count, notes.count < 64 {
        let nameCount = Int(bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self))
        let contentCount = Int(bytes.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self))
        let type = bytes.loadUnaligned(fromByteOffset: at + 8, as: UInt32.self)
        let nameStart = at + 12
        let contentStart = nameStart + (nameCount + 3) & ~3
        let end = contentStart + contentCount
        guard end <= bytes.count else { break }
        let name = bytes[nameStart..<nameStart + nameCount].prefix { $0 != 0 }
        notes.append(Note(name: Array(name), type: type, content: Array(bytes[contentStart..<end])))
        at = (end + 3) & ~3
      }
    }
    return notes
  }

  /// Where the bytes that are loaded at [address, address+count) lie in the file; nil unless one segment's file part has them all.
  public func fileOffset(of address: UInt64, count: UInt64) -> UInt64? {
    for segment in segments where segment.type == 1 && segment.address <= address {
      let into = address - segment.address
      if into <= segment.fileCount, count <= segment.fileCount - into { return segment.fileOffset + into }
    }
    return nil
  }

  /// The bytes [offset, offset+count) of the file, empty unless all of them are there.
  public func slice(_ offset: UInt64, _ count: UInt64) -> UnsafeRawBufferPointer {
    guard offset <= UInt64(bytes.count), count <= UInt64(bytes.count) - offset else {
      return UnsafeRawBufferPointer(start: nil, count: 0)
    }
    return UnsafeRawBufferPointer(rebasing: bytes[Int(offset)..<Int(offset + count)])
  }
}
