import Testing
import VirtioABI

@testable import Machine

@Suite struct PageTablesTests {
  private let memory: GuestMemory
  private let allocator: BootAllocator
  private var tables: StartTables<BootAllocator>

  init() throws {
    memory = try GuestMemory(byteCount: 16 << 20)
    allocator = BootAllocator(memory, limit: 16 << 20)
    tables = try StartTables(allocator)
  }

  /// Walks as the processor does; the leaf entry and the physical address, nil where nothing is mapped.
  private func walk(_ virtual: UInt64) -> (entry: UInt64, physical: UInt64)? {
    Self.walk(virtual, from: tables.root, allocator)
  }

  private static func walk(
    _ virtual: UInt64, from root: UInt64, _ allocator: BootAllocator
  ) -> (entry: UInt64, physical: UInt64)? {
    var table = root
    for level in [39, 30, 21, 12] as [UInt64] {
      let entry = allocator.words(table)[Int(virtual >> level & 511)]
      guard entry & 1 != 0 else { return nil }
      #expect(entry & 4 != 0, "every level has the user bit")
      let isLeaf = level == 12 || entry & 0x80 != 0
      let target = entry & 0x000f_ffff_ffff_f000
      if isLeaf { return (entry, (target & ~(1 << level - 1)) + virtual & (1 << level - 1)) }
      table = target
    }
    return nil
  }

  @Test mutating func mapsSmallAndLargePages() throws {
    try tables.mapLarge(0x4000_0000_0000, to: 0, byteCount: 16 << 20, .write)
    try tables.map(0x5000_1234_5000, to: 0x3000, byteCount: 0x5000, .execute)
    #expect(walk(0x4000_0000_0000 + 0x123_456)?.physical == 0x123_456)
    #expect(walk(0x4000_0100_0000) == nil)
    let code = try #require(walk(0x5000_1234_7abc))
    #expect(code.physical == 0x5abc)
    #expect(code.entry >> 63 == 0 && code.entry & 2 == 0)
    let data = try #require(walk(0x4000_0000_0000))
    #expect(data.entry >> 63 == 1 && data.entry & 2 != 0)
    #expect(walk(0x5000_1234_4000) == nil && walk(0x5000_1234_a000) == nil)
  }

  @Test mutating func splittingKeepsTheRestAsItWas() throws {
    try tables.mapLarge(0x4000_0000_0000, to: 0, byteCount: 8 << 20, .write)
    // Across the border of two large pages.
    try tables.split(0x4000_0000_0000 + 0x1f_f000, byteCount: 0x2000)
    try tables.map(0x4000_0000_0000 + 0x1f_f000, to: 0x1f_f000, byteCount: 0x2000, [])
    for page in stride(from: UInt64(0), to: 8 << 20, by: 4096) {
      let found = try #require(walk(0x4000_0000_0000 + page))
      #expect(found.physical == page)
      let isReadOnly = page == 0x1f_f000 || page == 0x20_0000
      #expect(found.entry & 2 == (isReadOnly ? 0 : 2) && found.entry >> 63 == 1)
    }
  }

  @Test mutating func theImageIsWritableNowhereThatItIsExecutable() throws {
    try ELFBuilder.kernel().file.withUnsafeBytes { bytes in
      let kernel = try KernelImage(try ELFFile(bytes))
      let memory = try GuestMemory(byteCount: 16 << 20)
      let allocator = BootAllocator(memory, limit: 16 << 20)
      let layout = try GuestLayout(
        memory: memory, allocator: allocator, kernel: kernel, cpuCount: 3, filesByteCount: 5000, random: (.max, .max))
      #expect(layout.start.linearMapBase >= 0x4000_0000_0000 && layout.start.linearMapBase + 1 << 42 < 0x5000_0000_0000)
      #expect(layout.start.kernelVirtual >= 0x5000_0000_0000 && layout.start.kernelVirtual < 0x5400_0000_0000)
      #expect(layout.start.perCPU % 0x4000 == 0)
      for cpu in 0..<3 as Range<UInt64> {
        for page in stride(from: UInt64(0), to: BootInformation.perCPUStride, by: 4096) {
          let physical = layout.start.perCPU + cpu * BootInformation.perCPUStride + page
          let found = Self.walk(layout.start.linear(physical), from: layout.start.pageTableRoot, allocator)
          if page == 0x1000 || page == 0x4000 || page == 0x8000 {
            #expect(found == nil, "a guard page of CPU \(cpu)")
          } else {
            #expect(found?.physical == physical && found.map { $0.entry & 2 } == 2)
          }
        }
      }
      #expect(allocator.end > layout.kernelPhysical + layout.kernelByteCount)
      let small = BootAllocator(memory, limit: 1 << 15)
      #expect(throws: Failure.self) {
        try GuestLayout(
          memory: memory, allocator: small, kernel: kernel, cpuCount: 3, filesByteCount: 0, random: (0, 0))
      }
    }
  }
}

@Suite struct GuestMemoryTests {
  @Test func onlyRAMIsReachable() throws {
    let memory = try GuestMemory(byteCount: 5 << 30)
    #expect(memory.ram.map(\.physical) == [0, 4 << 30])
    #expect(memory.byteCount == 5 << 30 && memory.physicalEnd == 6 << 30)
    #expect(memory.pointer(at: 0, count: 3 << 30) != nil)
    #expect(memory.pointer(at: 0, count: 3 << 30 + 1) == nil)
    #expect(memory.pointer(at: 3 << 30, count: 1) == nil)
    #expect(memory.pointer(at: 4 << 30, count: 2 << 30) != nil)
    #expect(memory.pointer(at: 6 << 30, count: 1) == nil)
    #expect(memory.pointer(at: .max, count: .max) == nil)
    #expect(memory.pointer(at: 4096, count: .max) == nil)
    #expect(memory.text(at: 3 << 30, limit: 10) == nil)
    #expect(memory.text(at: 100, limit: 10) == [])
  }

  @Test func refusedInstructionsRaiseWhatAProcessorRaises() {
    #expect(RefusedInstruction.exception(for: [0xcd, 0x80]) == (13, 0x402))
    #expect(RefusedInstruction.exception(for: [0x0f, 0xb9, 0xc0]) == (6, nil))
    #expect(RefusedInstruction.exception(for: [0x66, 0x0f, 0x38, 0x82, 0x00]) == (13, 0))
    #expect(RefusedInstruction.exception(for: [0x48, 0x0f, 0xc7, 0x28]) == (13, 0))
    #expect(RefusedInstruction.exception(for: []) == (6, nil))
    #expect(RefusedInstruction.exception(for: [UInt8](repeating: 0x66, count: 15)) == (6, nil))
  }
}

private func == (a: (vector: UInt8, errorCode: UInt32?), b: (UInt8, UInt32?)) -> Bool {
  a.vector == b.0 && a.errorCode == b.1
}
