// What an ELF file's dynamic section says about other files: the libraries it needs and where it wants them looked for.
//
// Reads through `ELFFile`, which checks every offset; counts and lengths have limits of their own, so that a hostile file
// costs no more than an honest one.

import CSystemCalls
import Machine

/// The names in a dynamic section (System V gABI, chapter 5; GNU extensions).
public struct DynamicSection: Equatable, Sendable {
  /// How a file names another one.
  public enum Need: Equatable, Sendable {
    /// DT_NEEDED and DT_FILTER: it cannot run without.
    case required
    /// DT_AUXILIARY: taken if it is there.
    case optional
  }

  /// A library that is named.
  public struct Name: Equatable, Sendable {
    /// As it stands in the file, never empty.
    public var name: [UInt8]
    /// Whether it must be there.
    public var need: Need
  }

  /// More names than this in one file are refused.
  public static let nameLimit = 1024
  /// More entries than this are refused.
  static let entryLimit = 16384
  /// Longer strings than this are refused.
  static let stringLimit = 16384

  /// The libraries it names, in its order.
  public private(set) var names: [Name] = []
  /// DT_SONAME: the name that others know it by.
  public private(set) var ownName: [UInt8]?
  /// DT_RPATH, nil if there is none or DT_RUNPATH overrides it.
  public private(set) var rpath: [UInt8]?
  /// DT_RUNPATH.
  public private(set) var runpath: [UInt8]?
  /// DF_1_NODEFLIB: default directories are not for it.
  public private(set) var refusesDefaults = false
  /// The string table, for questions about versions; borrows the file's bytes.
  private(set) var strings = StringTable()

  // SAFETY: it reads bytes that nobody writes.
  /// A string table within a file.
  struct StringTable: Equatable, @unchecked Sendable {
    // SAFETY: a slice that `ELFFile` has checked, of a mapping that lives as long as the process (or the test's buffer).
    var bytes = UnsafeRawBufferPointer(start: nil, count: 0)

    static func == (left: Self, right: Self) -> Bool { left.bytes.elementsEqual(right.bytes) }

    /// The string at an offset; nil if it does not end in the table or is too long.
    func string(_ offset: UInt64) -> [UInt8]? {
      guard offset < UInt64(bytes.count) else { return nil }
      let rest = bytes[Int(offset)...].prefix(DynamicSection.stringLimit + 1)
      guard let end = rest.firstIndex(of: 0) else { return nil }
      return Array(rest[..<end])
    }

    /// Whether `text` with its NUL occurs in it.
    func contains(_ text: StaticString) -> Bool {
      guard let base = bytes.baseAddress else { return false }
      return osv_find(base, bytes.count, text.utf8Start, text.utf8CodeUnitCount + 1) != nil
    }
  }

  private enum Tag {
    static let end: UInt64 = 0
    static let needed: UInt64 = 1
    static let stringTable: UInt64 = 5
    static let stringTableSize: UInt64 = 10
    static let soname: UInt64 = 14
    static let rpath: UInt64 = 15
    static let runpath: UInt64 = 29
    static let flags1: UInt64 = 0x6fff_fffb
    static let auxiliary: UInt64 = 0x7fff_fffd
    static let filter: UInt64 = 0x7fff_ffff
    static let noDefaultLibraries: UInt64 = 0x800
  }

  /// Reads the section; a file without one names nothing.
  public init(_ file: ELFFile) throws(ELFFile.Defect) {
    guard let segment = file.segments.first(where: { $0.type == 2 }) else { return }
    let bytes = file.slice(segment.fileOffset, segment.fileCount)
    var found: [(tag: UInt64, value: UInt64)] = []
    var table: (address: UInt64, count: UInt64) = (0, 0)
    for index in 0..<bytes.count / 16 {
      let tag = bytes.loadUnaligned(fromByteOffset: index * 16, as: UInt64.self)
      let value = bytes.loadUnaligned(fromByteOffset: index * 16 + 8, as: UInt64.self)
      if tag == Tag.end { break }
      guard index < Self.entryLimit else { throw .malformed("its dynamic section is too long") }
      switch tag {
      case Tag.stringTable: table.address = value
      case Tag.stringTableSize: table.count = value
      case Tag.flags1: refusesDefaults = value & Tag.noDefaultLibraries != 0
      case Tag.needed, Tag.soname, Tag.rpath, Tag.runpath, Tag.auxiliary, Tag.filter: found.append((tag, value))
      default: break
      }
    }
    guard !found.isEmpty else { return }
    guard let offset = file.fileOffset(of: table.address, count: table.count), table.count > 0 else {
      throw .malformed("the names of its libraries lie outside the file")
    }
    strings = StringTable(bytes: file.slice(offset, table.count))
    for (tag, value) in found {
      guard let text = strings.string(value) else { throw .malformed("a library's name lies outside its names") }
      switch tag {
      case Tag.soname: ownName = text
      case Tag.rpath: rpath = text
      case Tag.runpath: runpath = text
      default:
        guard !text.isEmpty else { throw .malformed("a library's name is empty") }
        guard names.count < Self.nameLimit else { throw .malformed("it names too many libraries") }
        names.append(Name(name: text, need: tag == Tag.auxiliary ? .optional : .required))
      }
    }
    if runpath != nil { rpath = nil }
  }
}
