// Another kernel, laid down in the little PC's memory: Linux's bzImage by its 64-bit boot protocol (Documentation/arch/x86/boot.rst), or an
// ELF file by PVH (Xen's docs/misc/pvh.pandoc). The file is a user's and not trusted: every number in it is checked.

/// How the first CPU enters a kernel.
struct KernelEntry: Equatable {
  /// In which mode it begins.
  enum Mode: Equatable {
    /// 64-bit, the first 4 GiB mapped where they are, RSI = boot_params.
    case linux64
    /// 32-bit, flat segments, no paging, EBX = hvm_start_info.
    case pvh
  }
  var mode: Mode
  /// Physical address of its first instruction.
  var address: UInt64
}

/// What a foreign kernel is started with. The files' bytes must stay where they are until it has been loaded.
public struct ForeignKernel {
  // SAFETY: files mapped for the life of the process; every offset is checked against the count.
  /// The kernel's file.
  let image: UnsafeRawBufferPointer
  /// An initial RAM disk, perhaps empty.
  let initialDisk: UnsafeRawBufferPointer
  /// The command line, without a terminator.
  let commandLine: [UInt8]

  /// A kernel with all that belongs to it.
  public init(image: UnsafeRawBufferPointer, initialDisk: UnsafeRawBufferPointer, commandLine: [UInt8]) {
    self.image = image
    self.initialDisk = initialDisk
    self.commandLine = commandLine
  }

  /// Lays kernel, RAM disk, command line, tables and maps into memory.
  /// - Parameter rootPointer: where the ACPI tables lie, which the caller has put there.
  func load(into memory: GuestMemory, rootPointer: UInt64) throws(Failure) -> KernelEntry {
    try layDescriptors(memory)
    // mov dx, reset; mov al, 1; out dx, al; hlt; jmp to the hlt.
    let (low, high) = (UInt8(PCLayout.reset & 0xff), UInt8(PCLayout.reset >> 8))
    try place([0xba, low, high, 0xb0, 1, 0xee, 0xf4, 0xeb, 0xfd], at: PCLayout.resetEntry, in: memory)
    try place(commandLine + [0], at: PCLayout.commandLine, in: memory)
    return ImageKind.isBzImage(image) ? try loadLinux(memory, rootPointer) : try loadPVH(memory, rootPointer)
  }

  // MARK: Memory

  private func room(_ address: UInt64, _ count: UInt64, in memory: GuestMemory) throws(Failure)
    -> UnsafeMutableRawPointer
  {
    guard let place = memory.pointer(at: address, count: count) else {
      throw Failure(.memory, "the kernel and its RAM disk do not fit into the guest's memory: give more with --memory")
    }
    return place
  }

  private func place(_ bytes: [UInt8], at address: UInt64, in memory: GuestMemory) throws(Failure) {
    let room = try room(address, UInt64(bytes.count), in: memory)
    // SAFETY: `room` has as many bytes.
    bytes.withUnsafeBytes { if let base = $0.baseAddress { room.copyMemory(from: base, byteCount: $0.count) } }
  }

  private func place(_ bytes: UnsafeRawBufferPointer, at address: UInt64, in memory: GuestMemory) throws(Failure) {
    guard let base = bytes.baseAddress else { return }
    try room(address, UInt64(bytes.count), in: memory).copyMemory(from: base, byteCount: bytes.count)
  }

  /// The first descriptor table and the page tables of the 64-bit entry.
  private func layDescriptors(_ memory: GuestMemory) throws(Failure) {
    var table = ByteWriter()
    for entry: UInt64 in [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff] { table.append(entry) }
    try place(table.bytes, at: PCLayout.gdt, in: memory)
    let tables = PCLayout.pageTables
    var pages = ByteWriter()
    pages.fill(to: 6 * 4096)
    pages.put(tables + 0x1000 | 3, at: 0)
    for directory in 0..<4 {
      pages.put(tables + 0x2000 + UInt64(directory) * 0x1000 | 3, at: 0x1000 + 8 * directory)
      for entry in 0..<512 {
        pages.put(UInt64(directory * 512 + entry) << 21 | 0x83, at: 0x2000 + directory * 0x1000 + 8 * entry)
      }
    }
    try place(pages.bytes, at: tables, in: memory)
  }

  /// Puts the RAM disk as high as it may lie, not below `floor`; its address, 0 if there is none.
  private func placeDisk(_ memory: GuestMemory, floor: UInt64, ceiling: UInt64) throws(Failure) -> UInt64 {
    guard initialDisk.count > 0 else { return 0 }
    let end = min(memory.ram[0].byteCount, ceiling)
    guard UInt64(initialDisk.count) <= end else {
      throw Failure(.memory, "the RAM disk does not fit into the guest's memory: give more with --memory")
    }
    let start = (end - UInt64(initialDisk.count)) & ~0xfff
    guard start >= floor else {
      throw Failure(.memory, "the kernel and its RAM disk do not fit into the guest's memory: give more with --memory")
    }
    try place(initialDisk, at: start, in: memory)
    return start
  }

  // MARK: Linux

  private func header<Value: FixedWidthInteger>(_ offset: Int, as type: Value.Type) -> Value {
    Value(littleEndian: image.loadUnaligned(fromByteOffset: offset, as: type))
  }

  private func loadLinux(_ memory: GuestMemory, _ rootPointer: UInt64) throws(Failure) -> KernelEntry {
    guard image.count > 0x270 else { throw Failure(.badELF, "the kernel is damaged: its header is cut off") }
    // 2.12 has the flags that say whether there is a 64-bit entry.
    guard header(0x206, as: UInt16.self) >= 0x020c, header(0x236, as: UInt16.self) & 1 != 0 else {
      throw Failure(.unsupported, "this kernel has no 64-bit entry: give one for x86-64, Linux 3.8 or newer")
    }
    let sectors = image[0x1f1] == 0 ? 4 : Int(image[0x1f1])
    let start = (sectors + 1) * 512
    guard start < image.count else {
      throw Failure(.badELF, "the kernel is damaged: its protected-mode part is missing (is it truncated?)")
    }
    let code = UnsafeRawBufferPointer(rebasing: image[start...])
    let size = max(UInt64(header(0x260, as: UInt32.self)), UInt64(code.count))
    let limit = min(Int(header(0x238, as: UInt32.self)) + 1, PCLayout.commandLineLimit)
    guard commandLine.count < limit else {
      throw Failure(.usage, "the command line is too long for this kernel: it takes \(limit - 1) bytes")
    }
    let address = header(0x258, as: UInt64.self)
    guard address >= PCLayout.highMemory, address < 1 << 32, size < 1 << 32, address % 4096 == 0 else {
      throw Failure(.badELF, "the kernel is damaged: it wants to lie where there is no memory")
    }
    _ = try room(address, size, in: memory)
    try place(code, at: address, in: memory)
    let ceiling = UInt64(header(0x22c, as: UInt32.self)) + 1
    let disk = try placeDisk(memory, floor: address + size, ceiling: ceiling)

    var parameters = ByteWriter()
    parameters.fill(to: 4096)
    // The set-up header goes over as it is; how long it is says the jump at 0x200 (2.1).
    let end = min(0x202 + Int(image[0x201]), 0x290, image.count)
    for offset in 0x1f1..<max(end, 0x1f1) { parameters.put(image[offset], at: offset) }
    parameters.put(rootPointer, at: 0x070)
    parameters.put(UInt8(0xff), at: 0x210)  // A loader without a number.
    parameters.put(image[0x211] | 1, at: 0x211)
    parameters.put(UInt32(truncatingIfNeeded: disk), at: 0x218)
    parameters.put(UInt32(truncatingIfNeeded: initialDisk.count), at: 0x21c)
    parameters.put(UInt32(PCLayout.commandLine), at: 0x228)
    let map = PCMemoryRange.map(ram: memory.ram)
    parameters.put(UInt8(map.count), at: 0x1e8)
    for (index, range) in map.enumerated() {
      parameters.put(range.start, at: 0x2d0 + 20 * index)
      parameters.put(range.byteCount, at: 0x2d8 + 20 * index)
      parameters.put(range.kind.rawValue, at: 0x2e0 + 20 * index)
    }
    try place(parameters.bytes, at: PCLayout.bootParameters, in: memory)
    return KernelEntry(mode: .linux64, address: address + 0x200)
  }

  // MARK: PVH

  private func loadPVH(_ memory: GuestMemory, _ rootPointer: UInt64) throws(Failure) -> KernelEntry {
    let file: ELFFile
    do throws(ELFFile.Defect) { file = try ELFFile(image, isPhysical: true) } catch {
      throw Failure(error, path: "the kernel")
    }
    guard let entry = file.pvhEntry else { throw Failure(.unsupported, "the kernel has no PVH entry") }
    let address = UInt64(entry)
    guard commandLine.count < PCLayout.commandLineLimit else {
      throw Failure(.usage, "the command line is too long: it takes \(PCLayout.commandLineLimit - 1) bytes")
    }
    var top = PCLayout.highMemory
    for segment in file.loads {
      // The first megabyte is taken.
      guard segment.physical >= PCLayout.highMemory, segment.physical < 1 << 32, segment.memoryCount < 1 << 32 else {
        throw Failure(.unsupported, "the kernel wants to lie where this machine has no free memory")
      }
      _ = try room(segment.physical, segment.memoryCount, in: memory)
      let start = Int(segment.fileOffset)
      try place(
        UnsafeRawBufferPointer(rebasing: image[start..<start + Int(segment.fileCount)]), at: segment.physical,
        in: memory
      )
      top = max(top, segment.physical + segment.memoryCount)
    }
    guard address >= PCLayout.highMemory, address < top else {
      throw Failure(.badELF, "the kernel is damaged: its PVH entry lies outside it")
    }
    let disk = try placeDisk(memory, floor: top, ceiling: 1 << 32)

    let map = PCMemoryRange.map(ram: memory.ram)
    var information = ByteWriter()
    information.append(UInt32(0x336e_c578))
    information.append(UInt32(1))
    information.append(UInt32(0))
    information.append(UInt32(disk == 0 ? 0 : 1))
    information.append(PCLayout.startInformation + 0x40)
    information.append(PCLayout.commandLine)
    information.append(rootPointer)
    information.append(PCLayout.startInformation + 0x80)
    information.append(UInt32(map.count))
    information.fill(to: 0x40)
    information.append(disk)
    information.append(UInt64(initialDisk.count))
    information.fill(to: 0x80)
    for range in map {
      information.append(range.start)
      information.append(range.byteCount)
      information.append(range.kind.rawValue)
      information.append(UInt32(0))
    }
    try place(information.bytes, at: PCLayout.startInformation, in: memory)
    return KernelEntry(mode: .pvh, address: address)
  }
}
