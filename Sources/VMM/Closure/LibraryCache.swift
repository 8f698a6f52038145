// The cache of libraries that ldconfig makes (/etc/ld.so.cache), read as the GNU dynamic linker reads it, and written for a
// guest that has only a few of them.
//
// Format: "glibc-ld.so.cache1.1", counts, entries sorted downwards by `compare`, strings; an extension names the glibc-hwcaps
// subdirectories (glibc's dl-cache.h). An old-style table may lie in front. Nothing in it is trusted: offsets are checked, and
// what does not fit is not there.

/// A view of a cache; borrows its bytes.
struct LibraryCache {
  private static let magic: StaticString = "glibc-ld.so.cache1.1"
  private static let oldMagic: StaticString = "ld.so-1.7.0"
  private static let headerByteCount = 48
  private static let entryByteCount = 24
  /// An ELF library of glibc for x86-64.
  private static let entryFlags: UInt32 = 0x303
  /// In an entry's capabilities: the low half is an index into the extension's names of subdirectories.
  private static let extensionBit: UInt64 = 1 << 62
  private static let extensionMagic: UInt32 = 0xeaa4_2174
  private static let subdirectoriesTag: UInt32 = 1

  // SAFETY: every access goes through `word` and `string`, which check.
  private let bytes: UnsafeRawBufferPointer
  private let count: Int
  /// Offsets of the names of hardware-capability subdirectories.
  private var subdirectories = 0..<0

  /// A view of a whole cache file; nil if it is none.
  init?(_ file: UnsafeRawBufferPointer) {
    func begins(_ bytes: UnsafeRawBufferPointer, with text: StaticString) -> Bool {
      bytes.count >= text.utf8CodeUnitCount
        && bytes.prefix(text.utf8CodeUnitCount).elementsEqual(
          UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
    var start = 0
    if begins(file, with: Self.oldMagic), file.count >= 16 {
      let entries = Int(file.loadUnaligned(fromByteOffset: 12, as: UInt32.self))
      start = (16 + entries * 12 + 7) & ~7
    }
    guard start <= file.count else { return nil }
    bytes = UnsafeRawBufferPointer(rebasing: file[start...])
    guard begins(bytes, with: Self.magic), bytes.count >= Self.headerByteCount else { return nil }
    count = Int(bytes.loadUnaligned(fromByteOffset: 20, as: UInt32.self))
    guard count <= (bytes.count - Self.headerByteCount) / Self.entryByteCount else { return nil }
    findSubdirectories()
  }

  private mutating func findSubdirectories() {
    guard let place = word(32), place != 0, word(Int(place)) == Self.extensionMagic,
      let sections = word(Int(place) + 4)
    else { return }
    for index in 0..<min(Int(sections), 64) {
      let at = Int(place) + 8 + index * 16
      guard let tag = word(at), let offset = word(at + 8), let size = word(at + 12) else { return }
      if tag == Self.subdirectoriesTag, Int(offset) + Int(size) <= bytes.count {
        subdirectories = Int(offset)..<Int(offset) + Int(size)
      }
    }
  }

  private func word(_ offset: Int) -> UInt32? {
    guard offset >= 0, offset <= bytes.count - 4 else { return nil }
    return bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
  }

  /// The string at an offset, without its NUL; empty if it is not wholly there.
  private func string(_ offset: UInt32) -> UnsafeRawBufferPointer {
    guard Int(offset) < bytes.count else { return UnsafeRawBufferPointer(start: nil, count: 0) }
    let rest = bytes[Int(offset)...].prefix(4096)
    guard let end = rest.firstIndex(of: 0) else { return UnsafeRawBufferPointer(start: nil, count: 0) }
    return UnsafeRawBufferPointer(rebasing: rest[..<end])
  }

  private func entry(_ index: Int) -> (flags: UInt32, key: UInt32, value: UInt32, capabilities: UInt64) {
    let at = Self.headerByteCount + index * Self.entryByteCount
    return (
      bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self),
      bytes.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self),
      bytes.loadUnaligned(fromByteOffset: at + 8, as: UInt32.self),
      bytes.loadUnaligned(fromByteOffset: at + 16, as: UInt64.self)
    )
  }

  /// The path that the linker takes for a name: among entries for subdirectories of `levels` (best first) the best one,
  /// else the first that asks nothing of the processor.
  func path(for name: [UInt8], levels: () -> [[UInt8]]) -> [UInt8]? {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      // Entries go down: those before the name compare as larger.
      if Self.compare(string(entry(middle).key), name) > 0 { low = middle + 1 } else { high = middle }
    }
    var plain: [UInt8]?
    var best: (rank: Int, path: [UInt8])?
    while low < count {
      let found = entry(low)
      guard Self.compare(string(found.key), name) == 0 else { break }
      low += 1
      guard found.flags == Self.entryFlags else { continue }
      let path = string(found.value)
      guard !path.isEmpty else { continue }
      if found.capabilities == 0 {
        if plain == nil { plain = Array(path) }
      } else if found.capabilities >> 32 == Self.extensionBit >> 32 {
        let index = Int(UInt32(truncatingIfNeeded: found.capabilities))
        guard index < subdirectories.count / 4, let offset = word(subdirectories.lowerBound + index * 4) else {
          continue
        }
        let subdirectory = string(offset)
        guard let rank = levels().firstIndex(where: { $0.elementsEqual(subdirectory) }) else { continue }
        if rank < best?.rank ?? Int.max { best = (rank, Array(path)) }
      }
    }
    return best?.path ?? plain
  }

  /// The order of entries (glibc's _dl_cache_libcmp): digits compare as numbers and stand above everything else.
  static func compare(_ left: some Collection<UInt8>, _ right: some Collection<UInt8>) -> Int {
    func isDigit(_ byte: UInt8) -> Bool { byte >= 0x30 && byte <= 0x39 }
    var l = Substring(left)
    var r = Substring(right)
    while let a = l.first {
      let b = r.first ?? 0
      if isDigit(a) {
        guard isDigit(b) else { return 1 }
        let (x, y) = (l.takeNumber(), r.takeNumber())
        if x != y { return x < y ? -1 : 1 }
      } else if isDigit(b) {
        return -1
      } else if a != b {
        return Int(Int8(bitPattern: a)) - Int(Int8(bitPattern: b))
      } else {
        l.advance()
        r.advance()
      }
    }
    return r.first == nil ? 0 : -Int(r.first!)
  }

  /// What is left of a name being compared.
  private struct Substring<Bytes: Collection<UInt8>> {
    let bytes: Bytes
    var index: Bytes.Index
    init(_ bytes: Bytes) {
      self.bytes = bytes
      index = bytes.startIndex
    }
    var first: UInt8? { index == bytes.endIndex ? nil : bytes[index] }
    mutating func advance() { index = bytes.index(after: index) }
    mutating func takeNumber() -> Int32 {
      var value: Int32 = 0
      while let byte = first, byte >= 0x30, byte <= 0x39 {
        value = value &* 10 &+ Int32(byte - 0x30)
        advance()
      }
      return value
    }
  }

  /// A cache with these entries, as a file.
  static func file(_ libraries: [(name: [UInt8], path: [UInt8])]) -> [UInt8] {
    let sorted = libraries.sorted { compare($0.name, $1.name) > 0 }
    let stringsStart = headerByteCount + sorted.count * entryByteCount
    var strings: [UInt8] = []
    func add(_ string: [UInt8]) -> UInt32 {
      defer { strings += string + [0] }
      return UInt32(stringsStart + strings.count)
    }
    func bytes<Value>(_ value: Value) -> [UInt8] { withUnsafeBytes(of: value) { Array($0) } }
    var entries: [UInt8] = []
    for (name, path) in sorted {
      entries += bytes(entryFlags) + bytes(add(name)) + bytes(add(path)) + bytes(UInt32(0)) + bytes(UInt64(0))
    }
    let head = UnsafeBufferPointer(start: magic.utf8Start, count: magic.utf8CodeUnitCount)
    // Flags 2: little-endian.
    return head + bytes(UInt32(sorted.count)) + bytes(UInt32(strings.count)) + [2, 0, 0, 0]
      + [UInt8](repeating: 0, count: 16) + entries + strings
  }
}
