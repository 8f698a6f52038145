// Loading other kernels: images built byte by byte, good and hostile.
import Testing

@testable import Machine

/// A bzImage: a header as the boot protocol wants it, and a protected-mode part of `codeCount` bytes 0xcc.
private struct BzImage {
  var version: UInt16 = 0x020f
  var flags: UInt16 = 1
  var sectors: UInt8 = 4
  var address: UInt64 = 0x100_0000
  var size: UInt32 = 0x20_0000
  var commandLineLimit: UInt32 = 2047
  var diskLimit: UInt32 = 0x7fff_ffff
  var codeCount = 0x8000

  var bytes: [UInt8] {
    var writer = ByteWriter()
    writer.fill(to: (Int(sectors == 0 ? 4 : sectors) + 1) * 512)
    writer.put(sectors, at: 0x1f1)
    writer.put(UInt16(0xaa55), at: 0x1fe)
    writer.put(UInt8(0x6a), at: 0x201)
    for (index, byte) in "HdrS".utf8.enumerated() { writer.put(byte, at: 0x202 + index) }
    writer.put(version, at: 0x206)
    writer.put(diskLimit, at: 0x22c)
    writer.put(flags, at: 0x236)
    writer.put(commandLineLimit, at: 0x238)
    writer.put(address, at: 0x258)
    writer.put(size, at: 0x260)
    writer.append([UInt8](repeating: 0xcc, count: codeCount))
    return writer.bytes
  }
}

@Suite struct ForeignKernelTests {
  private func load(
    _ image: [UInt8], disk: [UInt8] = [], commandLine: String = "console=ttyS0", memory: UInt64 = 64 << 20,
    check: (GuestMemory, KernelEntry) throws -> Void = { _, _ in }
  ) throws {
    let memory = try GuestMemory(byteCount: memory)
    try image.withUnsafeBytes { image in
      try disk.withUnsafeBytes { disk in
        let kernel = ForeignKernel(image: image, initialDisk: disk, commandLine: Array(commandLine.utf8))
        let entry = try kernel.load(into: memory, rootPointer: PCLayout.tables)
        try check(memory, entry)
      }
    }
  }

  private func word<Value>(_ memory: GuestMemory, _ address: UInt64, as type: Value.Type) throws -> Value {
    try #require(memory.pointer(at: address, count: UInt64(MemoryLayout<Value>.size))).loadUnaligned(as: type)
  }

  @Test func linuxGetsItsParameters() throws {
    let disk = (0..<5000).map { UInt8(truncatingIfNeeded: $0) }
    try load(BzImage().bytes, disk: disk, commandLine: "quiet root=x") { memory, entry in
      #expect(entry == KernelEntry(mode: .linux64, address: 0x100_0200))
      #expect(try word(memory, 0x100_0000, as: UInt32.self) == 0xcccc_cccc)
      #expect(memory.text(at: PCLayout.commandLine, limit: 100) == Array("quiet root=x".utf8))
      let parameters = PCLayout.bootParameters
      #expect(try word(memory, parameters + 0x202, as: UInt32.self) == 0x5372_6448)
      #expect(try word(memory, parameters + 0x70, as: UInt64.self) == PCLayout.tables)
      #expect(try word(memory, parameters + 0x228, as: UInt32.self) == UInt32(PCLayout.commandLine))
      let place = UInt64(try word(memory, parameters + 0x218, as: UInt32.self))
      #expect(try word(memory, parameters + 0x21c, as: UInt32.self) == 5000)
      #expect(place % 4096 == 0 && place + 5000 <= 64 << 20 && place >= 0x100_0000 + 0x20_0000)
      let copy = UnsafeRawBufferPointer(start: try #require(memory.pointer(at: place, count: 5000)), count: 5000)
      #expect(copy.elementsEqual(disk))
      #expect(try word(memory, parameters + 0x1e8, as: UInt8.self) == 4)
      #expect(try word(memory, parameters + 0x2d0 + 8, as: UInt64.self) == PCLayout.conventionalEnd)
      // A jump to firmware's entry resets: mov dx, 0x602; mov al, 1; out dx, al.
      #expect(try word(memory, 0xffff0, as: UInt32.self) == 0xb006_02ba)
      #expect(try word(memory, 0xffff4, as: UInt16.self) == 0xee01)
      // The page tables map what they stand on, and the last 2 MiB below 4 GiB.
      let tables = PCLayout.pageTables
      #expect(try word(memory, tables, as: UInt64.self) == tables + 0x1000 | 3)
      #expect(try word(memory, tables + 0x6000 - 8, as: UInt64.self) == 0xffe0_0083)
    }
  }

  @Test func theDiskStaysBelowItsLimit() throws {
    var image = BzImage()
    image.diskLimit = 0x2ff_ffff
    try load(image.bytes, disk: [1, 2, 3]) { memory, _ in
      let place = try word(memory, PCLayout.bootParameters + 0x218, as: UInt32.self)
      #expect(place == 0x2ff_f000)
    }
  }

  private func failure(_ image: [UInt8], disk: [UInt8] = [], commandLine: String = "", memory: UInt64 = 64 << 20)
    -> Failure.Code?
  {
    do { try load(image, disk: disk, commandLine: commandLine, memory: memory) } catch {
      return (error as? Failure)?.code
    }
    return nil
  }

  @Test func hostileLinux() {
    func with(_ change: (inout BzImage) -> Void) -> [UInt8] {
      var image = BzImage()
      change(&image)
      return image.bytes
    }
    #expect(failure(with { $0.version = 0x0204 }) == .unsupported)
    #expect(failure(with { $0.flags = 0 }) == .unsupported)
    #expect(failure(Array(with { $0.sectors = 60 }[..<0x400])) == .badELF)
    #expect(failure(with { $0.address = 0 }) == .badELF)
    #expect(failure(with { $0.address = 0x9000 }) == .badELF)
    #expect(failure(with { $0.address = .max & ~0xfff }) == .badELF)
    #expect(failure(with { $0.address = 0x100_0123 }) == .badELF)
    #expect(failure(with { $0.size = .max }) == .memory)
    #expect(failure(with { $0.address = 0xffff_f000 }) == .memory)
    #expect(failure(BzImage().bytes, commandLine: String(repeating: "x", count: 2048)) == .usage)
    #expect(failure(with { $0.commandLineLimit = .max }, commandLine: String(repeating: "x", count: 65_536)) == .usage)
    #expect(failure(BzImage().bytes, disk: [UInt8](repeating: 1, count: 64 << 20)) == .memory)
    #expect(failure(with { $0.diskLimit = 0x100 }, disk: [UInt8](repeating: 1, count: 4096)) == .memory)
    #expect(failure(BzImage().bytes, memory: 4 << 20) == .memory)
    // No sectors means four.
    #expect(failure(with { $0.sectors = 0 }) == nil)
  }

  /// An ELF kernel with one segment and a PVH note.
  private func pvh(
    physical: UInt64 = 0x100_0000, address: UInt64 = 0xffff_ffff_8100_0000, memoryCount: UInt64 = 0x3000,
    entry: UInt32 = 0x100_0100
  ) -> [UInt8] {
    var writer = ByteWriter()
    writer.append([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1] + [UInt8](repeating: 0, count: 9))
    writer.append(UInt16(2))
    writer.append(UInt16(62))
    writer.append(UInt32(1))
    writer.append(UInt64(0x100_0000))
    writer.append(UInt64(64))
    writer.append(UInt64(0))
    writer.append(UInt32(0))
    for value: UInt16 in [64, 56, 2, 0, 0, 0] { writer.append(value) }
    func header(
      _ type: UInt32, _ offset: UInt64, _ virtual: UInt64, _ physical: UInt64, _ file: UInt64, _ memory: UInt64
    ) {
      writer.append(type)
      writer.append(UInt32(5))
      for value in [offset, virtual, physical, file, memory, 4096] { writer.append(value) }
    }
    header(1, 0x1000, address, physical, 0x800, memoryCount)
    header(4, 0x200, 0, 0, 20, 20)
    writer.fill(to: 0x200)
    for value: UInt32 in [4, 4, 18] { writer.append(value) }
    writer.append([0x58, 0x65, 0x6e, 0])
    writer.append(entry)
    writer.fill(to: 0x1000)
    writer.append([UInt8](repeating: 0xab, count: 0x800))
    return writer.bytes
  }

  @Test func pvhGetsItsStartInformation() throws {
    let image = pvh()
    let kind = try image.withUnsafeBytes { try ImageKind($0) }
    #expect(kind == .pvhKernel)
    try load(image, disk: [9, 8, 7], commandLine: "a b") { memory, entry in
      #expect(entry == KernelEntry(mode: .pvh, address: 0x100_0100))
      #expect(try word(memory, 0x100_0000, as: UInt32.self) == 0xabab_abab)
      #expect(try word(memory, 0x100_0800, as: UInt32.self) == 0)
      let start = PCLayout.startInformation
      #expect(try word(memory, start, as: UInt32.self) == 0x336e_c578)
      #expect(try word(memory, start + 12, as: UInt32.self) == 1)
      let module = try word(memory, start + 16, as: UInt64.self)
      let disk = try word(memory, module, as: UInt64.self)
      #expect(try word(memory, module + 8, as: UInt64.self) == 3)
      #expect(try word(memory, disk, as: UInt8.self) == 9)
      #expect(try word(memory, start + 24, as: UInt64.self) == PCLayout.commandLine)
      #expect(try word(memory, start + 32, as: UInt64.self) == PCLayout.tables)
      let map = try word(memory, start + 40, as: UInt64.self)
      #expect(try word(memory, start + 48, as: UInt32.self) == 4)
      #expect(try word(memory, map + 8, as: UInt64.self) == PCLayout.conventionalEnd)
      #expect(try word(memory, map + 16, as: UInt32.self) == 1)
    }
  }

  @Test func hostilePVH() {
    #expect(failure(pvh(physical: 0x9000)) == .unsupported)
    #expect(failure(pvh(physical: .max - 0xfff)) == .unsupported)
    #expect(failure(pvh(physical: 0x8000_0000)) == .memory)
    #expect(failure(pvh(memoryCount: 1 << 40)) == .unsupported)
    #expect(failure(pvh(entry: 0x1000)) == .badELF)
    #expect(failure(pvh(entry: 0x100_3000)) == .badELF)
    #expect(failure(Array(pvh()[..<0x1400])) == .badELF)
    #expect(failure(pvh(), disk: [UInt8](repeating: 1, count: 60 << 20)) == .memory)
  }
}
