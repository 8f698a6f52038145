// The description of the little PC that kernels read: ACPI 6.5, "hardware-reduced" (no PIT, PIC, RTC or power-management registers), with an
// I/O APIC, one PCI Express bus, and COM1. Pure: bytes for a place in guest memory.

/// The tables, laid out one behind the other.
struct ACPITables {
  /// All of them; the root pointer (RSDP) comes first.
  let bytes: [UInt8]

  /// Tables for a machine of `cpuCount` CPUs, to be put at `address`.
  init(at address: UInt64, cpuCount: Int) {
    var writer = ByteWriter()
    writer.fill(to: 64)  // The root pointer goes here, last.
    func place(_ table: [UInt8]) -> UInt64 {
      writer.fill(to: (writer.bytes.count + 15) & ~15)
      defer { writer.append(table) }
      return address + UInt64(writer.bytes.count)
    }
    let description = place(Self.table("DSDT", revision: 2, Self.machine))
    let tables = [
      place(Self.fixed(description: description)), place(Self.interrupts(cpuCount: cpuCount)),
      place(Self.configurationSpace),
    ]
    var pointers = ByteWriter()
    for table in tables { pointers.append(table) }
    let root = place(Self.table("XSDT", revision: 1, pointers.bytes))
    for (index, byte) in Self.rootPointer(to: root).enumerated() { writer.put(byte, at: index) }
    bytes = writer.bytes
  }

  /// The byte that makes the sum of all 0.
  private static func checksum(_ bytes: some Sequence<UInt8>) -> UInt8 { 0 &- bytes.reduce(0, &+) }

  /// 5.2.5.3.
  private static func rootPointer(to root: UInt64) -> [UInt8] {
    var writer = ByteWriter()
    writer.append(text: "RSD PTR ", count: 8)
    writer.append(UInt8(0))
    writer.append(text: "OSV", count: 6, filler: 0x20)
    writer.append(UInt8(2))
    writer.append(UInt32(0))
    writer.append(UInt32(36))
    writer.append(root)
    writer.fill(to: 36)
    writer.put(checksum(writer.bytes[..<20]), at: 8)
    writer.put(checksum(writer.bytes), at: 32)
    return writer.bytes
  }

  /// A table with its header (5.2.6).
  private static func table(_ signature: String, revision: UInt8, _ body: [UInt8]) -> [UInt8] {
    var writer = ByteWriter()
    writer.append(text: signature, count: 4)
    writer.append(UInt32(36 + body.count))
    writer.append(revision)
    writer.append(UInt8(0))
    writer.append(text: "OSV", count: 6, filler: 0x20)
    writer.append(text: "LITTLEPC", count: 8)
    writer.append(UInt32(1))
    writer.append(text: "OSV", count: 4, filler: 0x20)
    writer.append(UInt32(1))
    writer.append(body)
    writer.put(checksum(writer.bytes), at: 9)
    return writer.bytes
  }

  /// FADT (5.2.9).
  private static func fixed(description: UInt64) -> [UInt8] {
    var body = ByteWriter()
    body.fill(to: 276 - 36)
    func put<Value: FixedWidthInteger>(_ value: Value, at offset: Int) { body.put(value, at: offset - 36) }
    /// A byte-wide I/O port as a generic address (5.2.3.2).
    func port(_ port: UInt16, at offset: Int) {
      put(UInt8(1), at: offset)
      put(UInt8(8), at: offset + 1)
      put(UInt8(1), at: offset + 3)
      put(UInt64(port), at: offset + 4)
    }
    // No 8042, no VGA, no CMOS clock.
    put(UInt16(1 << 2 | 1 << 5), at: 109)
    // WBINVD, no power or sleep button in fixed hardware, a reset register, no ACPI hardware.
    put(UInt32(1 << 0 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20), at: 112)
    port(PCLayout.reset, at: 116)
    put(UInt8(1), at: 128)
    put(UInt8(5), at: 131)  // 6.5
    put(description, at: 140)
    port(PCLayout.sleepControl, at: 244)
    port(PCLayout.sleepStatus, at: 256)
    return table("FACP", revision: 6, body.bytes)
  }

  /// MADT (5.2.12).
  private static func interrupts(cpuCount: Int) -> [UInt8] {
    var body = ByteWriter()
    body.append(UInt32(PCLayout.localInterruptController))
    body.append(UInt32(0))
    for cpu in 0..<cpuCount {
      body.append([0, 8, UInt8(cpu), UInt8(cpu)])
      body.append(UInt32(1))
    }
    body.append([1, 12, 0, 0])
    body.append(UInt32(PCLayout.interruptController))
    body.append(UInt32(0))
    return table("APIC", revision: 5, body.bytes)
  }

  /// MCFG (PCI Firmware 3.3, 4.1.2): bus 0 only.
  private static var configurationSpace: [UInt8] {
    var body = ByteWriter()
    body.append(UInt64(0))
    body.append(PCLayout.configuration)
    body.append([0, 0, 0, 0])
    body.append(UInt32(0))
    return table("MCFG", revision: 1, body.bytes)
  }

  /// The DSDT's content.
  private static var machine: [UInt8] {
    let bridge = AML.device(
      "PCI0",
      [
        AML.define("_HID", AML.identifier("PNP0A08")), AML.define("_CID", AML.identifier("PNP0A03")),
        AML.define("_SEG", AML.integer(0)), AML.define("_BBN", AML.integer(0)), AML.define("_UID", AML.integer(0)),
        AML.define(
          "_CRS",
          AML.resources([
            AML.buses(0...0), AML.ports(PCLayout.configurationAddress, count: 8),
            AML.window(UInt32(PCLayout.devices), byteCount: UInt32(PCLayout.devicesByteCount)),
          ])),
      ])
    let serial = AML.device(
      "COM1",
      [
        AML.define("_HID", AML.identifier("PNP0501")), AML.define("_UID", AML.integer(0)),
        AML.define(
          "_CRS", AML.resources([AML.interrupt(UInt32(PCLayout.serialLine)), AML.ports(PCLayout.serial, count: 8)])),
      ])
    let board = AML.device(
      "MBRD",
      [
        AML.define("_HID", AML.identifier("PNP0C02")), AML.define("_UID", AML.integer(0)),
        AML.define(
          "_CRS",
          AML.resources([
            AML.memory(UInt32(PCLayout.configuration), byteCount: UInt32(PCLayout.configurationByteCount))
          ])),
      ])
    return AML.scope("\\_SB", [bridge, serial, board]) + AML.define("\\_S5", AML.integers([5, 0, 0, 0]))
  }
}
