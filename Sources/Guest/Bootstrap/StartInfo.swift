// What a monitor tells a kernel that it starts by PVH (Xen's docs/misc/pvh.pandoc; the structure is `hvm_start_info`): where RAM is, the
// command line, modules, ACPI's tables.
//
// The monitor is trusted as the hardware is; but what it says is read within RAM only, so that a wrong address is a sentence, not a fault.
import Base

/// The start information.
struct StartInfo {
  /// What the first word is.
  static var magic: UInt32 { 0x336e_c578 }
  /// Bytes that a command line may have.
  static var commandLineLimit: Int { 4095 }

  /// A piece of physical memory.
  struct Piece {
    var start: UInt64 = 0
    var byteCount: UInt64 = 0
    var end: UInt64 { start &+ byteCount }
  }

  /// The structure itself.
  let place: Piece
  /// The command line, NUL not counted; empty if there is none.
  let commandLine: Piece
  /// The first module (QEMU's -initrd), empty if there is none.
  let module: Piece
  /// ACPI's root pointer, 0 if the monitor does not tell.
  let rootPointer: UInt64
  /// The piece of RAM in which the image lies.
  let memory: Piece
  private let table: Piece

  /// Reads it.
  /// - Parameter image: where the kernel lies.
  init(_ machine: some BareMachine, at physical: UInt64, image: Piece) throws(BootstrapFailure) {
    guard machine.load(physical, as: UInt32.self) == Self.magic else {
      throw BootstrapFailure("the monitor gives no start information of PVH")
    }
    func word(_ offset: UInt64) -> UInt32 { machine.load(physical &+ offset, as: UInt32.self) ?? 0 }
    func long(_ offset: UInt64) -> UInt64 { machine.load(physical &+ offset, as: UInt64.self) ?? 0 }
    place = Piece(start: physical, byteCount: 56)
    let line = long(24)
    var length: UInt64 = 0
    if line != 0 {
      guard let text = machine.text(line, limit: Self.commandLineLimit &+ 1) else {
        throw BootstrapFailure("the command line does not lie in memory below 4 GiB")
      }
      guard text.count <= Self.commandLineLimit else {
        throw BootstrapFailure("the command line is longer than 4,095 bytes")
      }
      length = text.count.u64
    }
    commandLine = Piece(start: line, byteCount: length)
    var module = Piece()
    if word(12) > 0, let start = machine.load(long(16), as: UInt64.self),
      let byteCount = machine.load(long(16) &+ 8, as: UInt64.self)
    {
      module = Piece(start: start, byteCount: byteCount)
      guard byteCount == 0 || machine.memory(start, count: byteCount) != nil else {
        throw BootstrapFailure("the module (-initrd) does not lie in memory below 4 GiB")
      }
    }
    self.module = module
    rootPointer = long(32)
    guard word(4) >= 1, word(48) > 0 else { throw BootstrapFailure("the monitor does not say where memory is") }
    // No machine has so many pieces.
    let count = min(word(48), 1024).u64
    table = Piece(start: long(40), byteCount: count &* 24)
    var found: Piece?
    for index in 0..<count {
      let entry = table.start &+ index &* 24
      guard let start = machine.load(entry, as: UInt64.self), let count = machine.load(entry &+ 8, as: UInt64.self),
        let kind = machine.load(entry &+ 16, as: UInt32.self), kind == 1
      else { continue }
      if start <= image.start, image.end &- start <= count { found = Piece(start: start, byteCount: count) }
    }
    guard let found else { throw BootstrapFailure("the image does not lie in what the monitor says is memory") }
    memory = found
  }

  /// The part of RAM that is free for the kernel: behind the image, whole pieces of 2 MiB at its end, around what the monitor has laid there;
  /// below the hole for devices of the kernel's address map, behind which the kernel would count RAM from 4 GiB on.
  func free(behind image: Piece) throws(BootstrapFailure) -> Piece {
    var start = image.end.alignedUp(to: 4096)
    var end = min(memory.end, AddressMap.lowMemoryEnd.rawValue).alignedDown(to: 2 << 20)
    let middle = start &+ (end &- min(start, end)) / 2
    let pieces: [4 of Piece] = [place, commandLine, module, table]
    for index in 0..<4 {
      // One byte more: the NUL of a text.
      let (first, behind) = (pieces[index].start, pieces[index].end &+ 1)
      if pieces[index].byteCount == 0 || behind <= start || first >= end { continue }
      if first < middle {
        start = max(start, behind.alignedUp(to: 4096))
      } else {
        end = min(end, first.alignedDown(to: 2 << 20))
      }
    }
    guard start < end, end &- start >= 4 << 20 else { throw BootstrapFailure("there is too little memory: give more") }
    return Piece(start: start, byteCount: end &- start)
  }
}
