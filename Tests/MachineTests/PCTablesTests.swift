// What the little PC tells its kernel: ACPI tables, memory map. Read back byte by byte, as a kernel does.
import Foundation
import Testing

@testable import Machine

private struct Tables {
  let base: UInt64
  let bytes: [UInt8]

  init(cpuCount: Int, base: UInt64 = PCLayout.tables) {
    self.base = base
    bytes = ACPITables(at: base, cpuCount: cpuCount).bytes
  }

  func load<Value>(_ offset: Int, as type: Value.Type = Value.self) -> Value {
    bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
  }

  /// The bytes of the table at an address, its length and checksum checked.
  func table(at address: UInt64, _ signature: String) throws -> [UInt8] {
    let offset = Int(address - base)
    #expect(String(decoding: bytes[offset..<offset + 4], as: UTF8.self) == signature)
    let count = Int(load(offset + 4, as: UInt32.self))
    try #require(offset + count <= bytes.count)
    let table = Array(bytes[offset..<offset + count])
    #expect(table.reduce(0, &+) == 0, "the checksum of \(signature)")
    return table
  }

  /// All tables by the root's order, then what the FADT points to.
  func all() throws -> (fixed: [UInt8], interrupts: [UInt8], configuration: [UInt8], machine: [UInt8]) {
    #expect(String(decoding: bytes[..<8], as: UTF8.self) == "RSD PTR ")
    #expect(bytes[..<20].reduce(0, &+) == 0 && bytes[..<36].reduce(0, &+) == 0)
    let root = try table(at: load(24, as: UInt64.self), "XSDT")
    try #require(root.count == 36 + 3 * 8)
    let pointers = root.withUnsafeBytes { root in
      (0..<3).map { root.loadUnaligned(fromByteOffset: 36 + 8 * $0, as: UInt64.self) }
    }
    let fixed = try table(at: pointers[0], "FACP")
    let description = fixed.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 140, as: UInt64.self) }
    return (
      fixed, try table(at: pointers[1], "APIC"), try table(at: pointers[2], "MCFG"),
      try table(at: description, "DSDT")
    )
  }
}

@Suite struct PCTablesTests {
  @Test func theRootLeadsToEveryTable() throws {
    let (fixed, interrupts, configuration, machine) = try Tables(cpuCount: 3).all()
    #expect(fixed.count == 276 && fixed[8] == 6)
    fixed.withUnsafeBytes { fixed in
      // Hardware-reduced, with a reset register; the sleep registers are ports.
      #expect(fixed.loadUnaligned(fromByteOffset: 112, as: UInt32.self) & (1 << 20 | 1 << 10) == 1 << 20 | 1 << 10)
      #expect(fixed[116] == 1 && fixed.loadUnaligned(fromByteOffset: 120, as: UInt64.self) == 0x602)
      #expect(fixed[244] == 1 && fixed.loadUnaligned(fromByteOffset: 248, as: UInt64.self) == 0x600)
    }
    // Three local controllers of eight bytes, one I/O controller of twelve.
    #expect(interrupts.count == 44 + 3 * 8 + 12)
    for cpu in 0..<3 {
      #expect(Array(interrupts[(44 + 8 * cpu)..<(52 + 8 * cpu)]) == [0, 8, UInt8(cpu), UInt8(cpu), 1, 0, 0, 0])
    }
    #expect(configuration.count == 60)
    #expect(machine.count > 100)
  }

  @Test func sixtyFourCPUsFit() throws {
    #expect(Tables(cpuCount: 64).bytes.count <= PCLayout.tablesLimit)
    _ = try Tables(cpuCount: 64).all()
  }

  /// The reference disassembler reads the machine language without complaint.
  @Test func theDisassemblerReadsIt() throws {
    try #require(FileManager.default.isExecutableFile(atPath: "/usr/bin/iasl"), "iasl is missing: make prerequisites")
    let folder = FileManager.default.temporaryDirectory.appending(path: "osv-dsdt-\(getpid())")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try Data(try Tables(cpuCount: 1).all().machine).write(to: folder.appending(path: "dsdt.aml"))
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/iasl")
    process.arguments = ["-d", "dsdt.aml"]
    process.currentDirectoryURL = folder
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let said = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    let text = try String(contentsOf: folder.appending(path: "dsdt.dsl"), encoding: .utf8)
    #expect(process.terminationStatus == 0, "\(said)")
    #expect(!said.contains("Error") && !said.contains("Warning"), "\(said)")
    for word in ["PNP0A08", "PNP0501", "PNP0C02", "Device (COM1)", "Name (\\_S5", "0x03F8", "0xD0000000"] {
      #expect(text.uppercased().contains(word.uppercased()), "\(word) in \(text)")
    }
  }

  /// Bodies on both sides of each length at which another byte is needed, and how many bytes those lengths then take.
  @Test func packageLengths() {
    let known: [(count: Int, bytes: Int)] = [
      (0, 1), (62, 1), (63, 2), (4093, 2), (4094, 3), (1_048_572, 3), (1_048_573, 4),
    ]
    for (count, bytes) in known {
      let length = AML.packageLength(count)
      #expect(length.count == bytes && Int(length[0] >> 6) == bytes - 1, "\(count)")
      // The low four bits first (six where they are all), then whole bytes.
      var value = Int(length[0] & (bytes == 1 ? 0x3f : 0xf))
      for (index, byte) in length.dropFirst().enumerated() { value |= Int(byte) << (4 + 8 * index) }
      #expect(value == count + bytes)
    }
  }

  @Test func identifiers() {
    // "PNP0A03" is 0x030AD041 in every machine's tables.
    #expect(AML.identifier("PNP0A03") == [0x0c, 0x41, 0xd0, 0x0a, 0x03])
  }

  @Test func theMapIsOrderedAndCoversAllRAM() throws {
    let memory = try GuestMemory(byteCount: 5 << 30)
    let map = PCMemoryRange.map(ram: memory.ram)
    for (one, next) in zip(map, map.dropFirst()) { #expect(one.start + one.byteCount <= next.start) }
    let usable = map.filter { $0.kind == .memory }.reduce(0) { $0 + $1.byteCount }
    #expect(usable == 5 << 30 - (PCLayout.highMemory - PCLayout.conventionalEnd))
    #expect(map.contains { $0.start == PCLayout.configuration && $0.kind == .reserved })
  }
}
