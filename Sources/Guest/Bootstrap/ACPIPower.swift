// How the machine is turned off, from ACPI's tables (ACPI 6.5, 5.2): the fixed table has the port, the package _S5_ of the differentiated
// one the value. No interpreter: the package is looked for as bytes, as small kernels do. Without them the machine can only halt.
import Base

/// The port and the value that turn the machine off.
struct ACPIPower {
  /// The port (16 bits wide); 0: unknown.
  var port: UInt32 = 0
  /// The value.
  var value: UInt32 = 0

  private static var fixedTable: UInt32 { 0x5043_4146 }  // "FACP"
  private static var package: UInt32 { 0x5f35_535f }  // "_S5_"

  /// Looks for it from the root pointer that the monitor gave.
  init(_ machine: some BareMachine, rootPointer: UInt64) {
    guard rootPointer != 0, let fixed = Self.find(machine, rootPointer),
      let control = machine.load(fixed &+ 64, as: UInt32.self), control != 0, control < 0x1_0000,
      let description = machine.load(fixed &+ 40, as: UInt32.self), let kind = Self.sleepKind(machine, description.u64)
    else { return }
    port = control
    value = kind &<< 10 | 1 &<< 13  // SLP_TYP, SLP_EN
  }

  /// The fixed table, by way of the root table of 32-bit or 64-bit addresses.
  private static func find(_ machine: some BareMachine, _ rootPointer: UInt64) -> UInt64? {
    let revision = machine.load(rootPointer &+ 15, as: UInt8.self) ?? 0
    var (root, width) = (machine.load(rootPointer &+ 16, as: UInt32.self)?.u64 ?? 0, 4 as UInt64)
    if revision >= 2, let wide = machine.load(rootPointer &+ 24, as: UInt64.self), wide != 0 {
      (root, width) = (wide, 8)
    }
    guard root != 0, let count = machine.load(root &+ 4, as: UInt32.self)?.u64, count <= 4096 else { return nil }
    var offset: UInt64 = 36
    while offset &+ width <= count {
      let low = machine.load(root &+ offset, as: UInt32.self)?.u64 ?? 0
      let high = width == 8 ? machine.load(root &+ offset &+ 4, as: UInt32.self)?.u64 ?? 0 : 0
      let table = high &<< 32 | low
      if machine.load(table, as: UInt32.self) == fixedTable { return table }
      offset &+= width
    }
    return nil
  }

  /// The first element of the package _S5_ (ACPI 6.5, 7.4.2 and 20.2): NameOp, name, PackageOp, its length, how many, a small number.
  private static func sleepKind(_ machine: some BareMachine, _ table: UInt64) -> UInt32? {
    guard let count = machine.load(table &+ 4, as: UInt32.self)?.u64, count >= 36, count <= 4 << 20,
      let bytes = machine.memory(table, count: count)
    else { return nil }
    var offset = 36
    while offset &+ 12 <= count.int {
      // SAFETY: all offsets are below the table's length.
      if bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self) == package {
        var at = offset &+ 4
        guard bytes.load(fromByteOffset: at, as: UInt8.self) == 0x12 else { return nil }
        at &+= 1
        // The length has as many bytes more as its two highest bits say; the number of elements follows.
        at &+= 2 &+ (bytes.load(fromByteOffset: at, as: UInt8.self) &>> 6).int
        guard at &+ 1 < count.int else { return nil }
        let first = bytes.load(fromByteOffset: at, as: UInt8.self)
        // ZeroOp and OneOp are numbers by themselves, BytePrefix has one behind it.
        if first <= 1 { return first.u32 }
        return first == 0x0a ? bytes.load(fromByteOffset: at &+ 1, as: UInt8.self).u32 & 7 : nil
      }
      offset &+= 1
    }
    return nil
  }
}
