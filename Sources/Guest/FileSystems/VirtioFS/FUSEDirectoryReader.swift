// Entries of a READDIRPLUS or READDIR reply, checked one by one as they are read.
import Base
import VirtioABI

/// One entry.
struct FUSEDirectoryRecord {
  /// The node, its attributes and how long they hold; node 0: the server told the name only.
  let entry: FUSEEntryOut
  /// Number, type and where to go on.
  let head: FUSEDirectoryEntry
  /// 1 to 255 bytes without slash and NUL; within the reply.
  let name: UnsafeRawBufferPointer

  /// Whether it is "." or "..".
  var isDots: Bool { name[0] == 0x2e && (name.count == 1 || (name.count == 2 && name[1] == 0x2e)) }
}

/// Reads a reply front to back. The bytes are the kernel's own by now: the device is done with them.
struct FUSEDirectoryReader {
  private var rest: UnsafeRawBufferPointer
  private let hasNodes: Bool

  /// A reader over a reply's body: READDIRPLUS's, which has nodes, or READDIR's.
  init(_ bytes: UnsafeRawBufferPointer, hasNodes: Bool = true) {
    rest = bytes
    self.hasNodes = hasNodes
  }

  /// The next entry; nil at the end.
  /// - Throws: EIO for an entry that is none.
  mutating func next() throws(Errno) -> FUSEDirectoryRecord? {
    guard rest.count > 0 else { return nil }
    let entryCount = hasNodes ? MemoryLayout<FUSEEntryOut>.size : 0
    let fixed = entryCount &+ MemoryLayout<FUSEDirectoryEntry>.size
    guard rest.count >= fixed else { throw .EIO }
    let entry = hasNodes ? rest.loadUnaligned(as: FUSEEntryOut.self) : FUSEEntryOut()
    let head = rest.loadUnaligned(fromByteOffset: entryCount, as: FUSEDirectoryEntry.self)
    let length = head.nameLength.int
    guard length > 0, length <= FUSE.nameMax, fixed &+ length <= rest.count else { throw .EIO }
    let name = UnsafeRawBufferPointer(rebasing: rest[fixed..<fixed &+ length])
    guard FUSEDirectoryReader.isName(name) else { throw .EIO }
    // The last entry's padding may be missing.
    let next = min(FUSE.align(fixed &+ length), rest.count)
    rest = UnsafeRawBufferPointer(rebasing: rest[next...])
    return FUSEDirectoryRecord(entry: entry, head: head, name: name)
  }

  private static func isName(_ name: UnsafeRawBufferPointer) -> Bool {
    for byte in name where byte == 0 || byte == 0x2f { return false }
    return true
  }
}
