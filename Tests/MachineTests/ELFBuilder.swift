// Makes ELF files for tests, piece by piece, so that each can be wrong in one place.
import VirtioABI

/// A small ELF file under construction.
struct ELFBuilder {
  struct Segment {
    var type: UInt32
    var flags: UInt32 = 5
    var offset: UInt64 = 0
    var address: UInt64 = 0
    var fileCount: UInt64 = 0
    var memoryCount: UInt64 = 0
    var alignment: UInt64 = 4096
  }

  var type: UInt16 = 3
  var machine: UInt16 = 62
  var entry: UInt64 = 0
  var segments: [Segment] = []
  /// What lies at file offset 4096 and behind.
  var body: [UInt8] = []

  static func bytes<Value>(_ value: Value) -> [UInt8] { withUnsafeBytes(of: value) { Array($0) } }

  static func note(_ name: String, type: UInt32, _ content: [UInt8]) -> [UInt8] {
    let owner = Array(name.utf8) + [0]
    func padded(_ bytes: [UInt8]) -> [UInt8] { bytes + [UInt8](repeating: 0, count: (4 - bytes.count % 4) % 4) }
    return bytes(UInt32(owner.count)) + bytes(UInt32(content.count)) + bytes(type) + padded(owner) + padded(content)
  }

  static func kernelNote(version: UInt32, kind: UInt32, secondary: UInt64, call: UInt64) -> [UInt8] {
    note("OSV", type: 1, bytes(version) + bytes(kind) + bytes(secondary) + bytes(call))
  }

  var file: [UInt8] {
    var file: [UInt8] = [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1] + [UInt8](repeating: 0, count: 9)
    file += Self.bytes(type) + Self.bytes(machine) + Self.bytes(UInt32(1)) + Self.bytes(entry)
    file += Self.bytes(UInt64(64)) + Self.bytes(UInt64(0)) + Self.bytes(UInt32(0))
    file += Self.bytes(UInt16(64)) + Self.bytes(UInt16(56)) + Self.bytes(UInt16(segments.count))
    file += Self.bytes(UInt16(64)) + Self.bytes(UInt16(0)) + Self.bytes(UInt16(0))
    for segment in segments {
      file += Self.bytes(segment.type) + Self.bytes(segment.flags) + Self.bytes(segment.offset)
      file += Self.bytes(segment.address) + Self.bytes(segment.address) + Self.bytes(segment.fileCount)
      file += Self.bytes(segment.memoryCount) + Self.bytes(segment.alignment)
    }
    file += [UInt8](repeating: 0, count: max(0, 4096 - file.count))
    return file + body
  }

  /// A kernel with one page of code, one of data, its note and one relocation.
  static func kernel(version: UInt32 = BootInformation.currentVersion, kind: UInt32 = 0) -> ELFBuilder {
    var builder = ELFBuilder()
    var code = [UInt8](repeating: 0x90, count: 4096)
    let note = kernelNote(version: version, kind: kind, secondary: 16, call: 32)
    code.replaceSubrange(256..<256 + note.count, with: note)
    var data = [UInt8](repeating: 0, count: 4096)
    // R_X86_64_RELATIVE at 0x1000 with the addend 0x123, its table at 0x1100, the dynamic section at 0x1200.
    data.replaceSubrange(0x100..<0x118, with: bytes(UInt64(0x1000)) + bytes(UInt64(8)) + bytes(UInt64(0x123)))
    let dynamic =
      bytes(UInt64(7)) + bytes(UInt64(0x1100)) + bytes(UInt64(8)) + bytes(UInt64(24)) + bytes(UInt64(0))
      + bytes(UInt64(0))
    data.replaceSubrange(0x200..<0x200 + dynamic.count, with: dynamic)
    builder.body = code + data
    builder.segments = [
      Segment(type: 1, flags: 5, offset: 4096, address: 0, fileCount: 4096, memoryCount: 4096),
      Segment(type: 1, flags: 6, offset: 8192, address: 4096, fileCount: 4096, memoryCount: 8192),
      Segment(type: 2, flags: 6, offset: 8192 + 0x200, address: 0x1200, fileCount: 48, memoryCount: 48),
      Segment(
        type: 4, flags: 4, offset: 4096 + 256, address: 256, fileCount: UInt64(note.count),
        memoryCount: UInt64(note.count)),
    ]
    return builder
  }
}
