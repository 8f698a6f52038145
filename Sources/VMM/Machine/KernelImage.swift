// The kernel as an ELF image: checked, then copied into guest memory and relocated to a random base.
//
// A kernel is position-independent, linked at 0, has one segment a protection, carries an OSV note, and has
// relative relocations only: as R_X86_64_RELATIVE, or packed (DT_RELR), which takes a sixtieth of the room.

import VirtioABI

/// A checked kernel image.
public struct KernelImage {
  /// What the OSV note says.
  public enum Kind: UInt32, Sendable {
    /// The kernel alone: the program is another file.
    case kernel = 0
    /// A kernel with a program linked to it.
    case linkedProgram = 1
  }

  /// The file.
  public let file: ELFFile
  /// Kernel alone, or with its program.
  public let kind: Kind
  /// Offset from the image's base at which CPUs other than the first start.
  public let secondaryEntry: UInt64
  /// Offset of the entry of `syscall`.
  public let systemCallEntry: UInt64
  /// Bytes in memory, whole pages.
  public let byteCount: UInt64
  private let relocations: (offset: UInt64, byteCount: UInt64)
  private let packedRelocations: (offset: UInt64, byteCount: UInt64)

  /// The content of an image's OSV note, nil without one.
  public static func note(of file: ELFFile) -> (version: UInt32, kind: UInt32, secondary: UInt64, call: UInt64)? {
    for note in file.notes where note.name == Array("OSV".utf8) && note.type == 1 && note.content.count >= 24 {
      return note.content.withUnsafeBytes {
        (
          $0.loadUnaligned(as: UInt32.self), $0.loadUnaligned(fromByteOffset: 4, as: UInt32.self),
          $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self), $0.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
        )
      }
    }
    return nil
  }

  /// Checks everything that `load` relies on.
  public init(_ file: ELFFile) throws(Failure) {
    func refuse(_ reason: String) -> Failure {
      Failure(.kernelImage, "the kernel image cannot be started: \(reason); build it again together with osv-run")
    }
    self.file = file
    guard let note = Self.note(of: file) else { throw refuse("it has no OSV note") }
    guard note.version == BootInformation.currentVersion else {
      throw refuse(
        "it speaks version \(note.version) of the boot information, this osv-run \(BootInformation.currentVersion)")
    }
    guard let kind = Kind(rawValue: note.kind) else { throw refuse("its note has an unknown kind") }
    self.kind = kind
    secondaryEntry = note.secondary
    systemCallEntry = note.call
    let loads = file.loads
    guard file.type == 3, let first = loads.first, let last = loads.last, first.address == 0 else {
      throw refuse("it is not position-independent")
    }
    guard last.end <= 1 << 30 else { throw refuse("it is larger than 1 GiB") }
    for segment in loads where segment.address & 0xfff != 0 || segment.flags & 3 == 3 {
      throw refuse("a segment is both writable and executable, or does not start on a page")
    }
    byteCount = (last.end + 0xfff) & ~0xfff
    for offset in [file.entry, secondaryEntry, systemCallEntry] {
      guard loads.contains(where: { $0.flags & 1 != 0 && $0.address <= offset && offset < $0.end }) else {
        throw refuse("an entry lies outside its code")
      }
    }
    // DT_RELA = 7, DT_RELASZ = 8, DT_RELRSZ = 35, DT_RELR = 36; virtual addresses are offsets from the base. They may lie in any
    // segment's file bytes.
    var (address, size): (UInt64, UInt64) = (0, 0)
    var (packedAddress, packedSize): (UInt64, UInt64) = (0, 0)
    if let dynamic = file.segments.first(where: { $0.type == 2 }) {
      let bytes = file.slice(dynamic.fileOffset, dynamic.fileCount)
      for at in stride(from: 0, to: bytes.count - 15, by: 16) {
        let tag = bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self)
        let value = bytes.loadUnaligned(fromByteOffset: at + 8, as: UInt64.self)
        if tag == 0 { break }
        if tag == 7 { address = value }
        if tag == 8 { size = value }
        if tag == 35 { packedSize = value }
        if tag == 36 { packedAddress = value }
      }
    }
    func table(at address: UInt64, _ size: UInt64, entry: UInt64) throws(Failure) -> (UInt64, UInt64) {
      if size == 0 { return (0, 0) }
      guard size % entry == 0,
        let holder = loads.first(where: {
          $0.address <= address && address - $0.address <= $0.fileCount
            && size <= $0.fileCount - (address - $0.address)
        })
      else { throw refuse("its relocations lie outside the file") }
      return (holder.fileOffset + (address - holder.address), size)
    }
    relocations = try table(at: address, size, entry: 24)
    packedRelocations = try table(at: packedAddress, packedSize, entry: 8)
  }

  /// Copies the segments to `destination` (zeroed, `byteCount` bytes) and relocates them to `virtual`.
  public func load(to destination: UnsafeMutableRawPointer, virtual: UInt64) throws(Failure) {
    // SAFETY: `init` checked that segments lie inside the file and inside `byteCount`; targets are checked below.
    for segment in file.loads where segment.fileCount > 0 {
      let source = file.slice(segment.fileOffset, segment.fileCount)
      (destination + Int(segment.address)).copyMemory(from: source.baseAddress!, byteCount: source.count)
    }
    let wrong = Failure(.kernelImage, "the kernel image has a relocation that cannot be applied: build it again")
    let table = file.slice(relocations.offset, relocations.byteCount)
    for at in stride(from: 0, to: table.count, by: 24) {
      let target = table.loadUnaligned(fromByteOffset: at, as: UInt64.self)
      let kind = table.loadUnaligned(fromByteOffset: at + 8, as: UInt64.self)
      let addend = table.loadUnaligned(fromByteOffset: at + 16, as: UInt64.self)
      guard kind == 8, target <= byteCount - 8 else { throw wrong }
      (destination + Int(target)).storeBytes(of: virtual &+ addend, as: UInt64.self)
    }
    let packed = file.slice(packedRelocations.offset, packedRelocations.byteCount)
    // An even word is the place of a word to be moved; an odd one has a bit for each of the 63 words behind those of the word before.
    var next: UInt64 = 0
    for at in stride(from: 0, to: packed.count, by: 8) {
      let entry = packed.loadUnaligned(fromByteOffset: at, as: UInt64.self)
      var (place, bits) = entry & 1 == 0 ? (entry, 1) : (next, entry >> 1)
      next = entry & 1 == 0 ? entry &+ 8 : next &+ 63 * 8
      while bits != 0 {
        if bits & 1 != 0 {
          guard place <= byteCount - 8 else { throw wrong }
          let word = destination + Int(place)
          word.storeBytes(of: word.loadUnaligned(as: UInt64.self) &+ virtual, as: UInt64.self)
        }
        bits >>= 1
        place &+= 8
      }
    }
  }
}
