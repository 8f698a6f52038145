// The files that come as the module (QEMU's -initrd): an archive in cpio's "newc" form (cpio(5)), as for Linux's initial RAM disk, or one
// program. Every length is checked: the archive is whoever's.
import Base
import VirtioABI

/// A cpio archive in memory.
struct Archive {
  /// One file, directory or symbolic link.
  struct Entry {
    /// As in the archive, perhaps with "/" or "./" before it, without NUL.
    var name: Word
    /// Type and permission bits.
    var mode: UInt32
    var modificationTime: UInt64
    var content: UnsafeRawBufferPointer
    /// Inode and device, which are those of all names of one file.
    var identity: (inode: UInt64, device: UInt64)
    var linkCount: UInt64

    /// Whether the bytes come with another name of the file: only the last of them has them.
    var isElsewhere: Bool { linkCount > 1 && content.isEmpty }
  }

  private static var headerByteCount: Int { 110 }
  private let bytes: UnsafeRawBufferPointer
  private var next = 0

  /// Whether bytes begin like an archive.
  static func isOne(_ bytes: UnsafeRawBufferPointer) -> Bool {
    bytes.count >= headerByteCount
      && Word(start: bytes.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self), count: 6)
        .matches("070701")
  }

  /// The bytes must stay.
  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  /// The next entry; nil behind the last one.
  mutating func entry() throws(BootstrapFailure) -> Entry? {
    let wrong = BootstrapFailure("the archive (-initrd) is damaged")
    guard next &+ Self.headerByteCount <= bytes.count else { throw wrong }
    let header = word(next, Self.headerByteCount)
    guard header.slice(0, 6).matches("070701") else { throw wrong }
    // Fields of 8 hexadecimal digits: 0 the inode, 1 the mode, 4 the number of names, 5 the time, 6 the size, 7 and 8 the device, 11 the name's
    // size with its NUL.
    func field(_ index: Int) throws(BootstrapFailure) -> Int {
      var value: UInt64 = 0
      for at in 0..<8 {
        let digit = header[6 &+ 8 &* index &+ at]
        switch digit {
        case 0x30...0x39: value = value &<< 4 | (digit &- 0x30).u64
        case 0x41...0x46: value = value &<< 4 | (digit &- 0x37).u64
        case 0x61...0x66: value = value &<< 4 | (digit &- 0x57).u64
        default: throw wrong
        }
      }
      return value.int
    }
    let (size, nameSize) = (try field(6), try field(11))
    let nameStart = next &+ Self.headerByteCount
    let start = (nameStart &+ nameSize).alignedUp(to: 4)
    guard nameSize > 0, start &+ size <= bytes.count, bytes[nameStart &+ nameSize &- 1] == 0 else { throw wrong }
    let name = word(nameStart, nameSize &- 1)
    if name.matches("TRAILER!!!") { return nil }
    next = (start &+ size).alignedUp(to: 4)
    return Entry(
      name: name, mode: try field(1).u32, modificationTime: try field(5).u64,
      content: UnsafeRawBufferPointer(rebasing: bytes[start..<(start &+ size)]),
      identity: (try field(0).u64, try field(7).u64 &<< 32 | field(8).u64), linkCount: try field(4).u64)
  }

  /// The content of a file by another of its names, which comes behind this archive's next entry; nothing if there is none.
  func content(of link: Entry) throws(BootstrapFailure) -> UnsafeRawBufferPointer {
    var rest = self
    while let entry = try rest.entry() {
      if entry.identity == link.identity && !entry.content.isEmpty { return entry.content }
    }
    return link.content
  }

  private func word(_ start: Int, _ count: Int) -> Word {
    // SAFETY: the caller has compared with the bytes' count.
    Word(
      start: (bytes.baseAddress.unsafelyUnwrapped + start).assumingMemoryBound(to: UInt8.self), count: count)
  }
}
