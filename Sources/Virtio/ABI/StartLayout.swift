// Where things lie when the guest's kernel starts, and laying them down: page tables, GDT, TSSs, IDT, clock page and per-CPU areas.
//
// The order: `init`, then the kernel's image is placed, then `mapLinear` for all RAM, `mapKernel` for each segment of the image, and
// `protectStacks`. The same for osv-run and for the kernel's own bootstrap.

/// Addresses of what is laid down before the kernel starts.
@frozen public struct StartLayout<Memory: StartMemory> {
  /// Linear-map address of physical 0.
  public let linearMapBase: UInt64
  /// Virtual address of the kernel image.
  public let kernelVirtual: UInt64
  /// The tables, and what is left of the memory.
  public var tables: StartTables<Memory>
  /// Physical address of the GDT's page.
  public let gdt: UInt64
  /// Physical address of CPU 0's TSS.
  public let tss: UInt64
  /// Physical address of the IDT's page.
  public let idt: UInt64
  /// Physical address of the clock page.
  public let clock: UInt64
  /// Physical address of CPU 0's area.
  public let perCPU: UInt64
  /// How many CPUs there are.
  public let cpuCount: Int

  /// Bytes between two TSSs.
  @inlinable public static var tssStride: UInt64 { 128 }
  /// The last byte of the GDT that `cpuCount` CPUs need.
  @inlinable public static func gdtLimit(cpuCount: Int) -> UInt16 {
    UInt16(truncatingIfNeeded: (8 + 2 * cpuCount) * 8 - 1)
  }
  /// The selector of a CPU's TSS.
  @inlinable public static func taskSelector(_ cpu: Int) -> UInt16 { UInt16(truncatingIfNeeded: 0x40 + 16 * cpu) }
  /// CR3 for the kernel's first instruction.
  @inlinable public var pageTableRoot: UInt64 { tables.root }
  /// The linear-map address of a physical one.
  @inlinable public func linear(_ physical: UInt64) -> UInt64 { linearMapBase &+ physical }
  /// Physical address of a CPU's area.
  @inlinable public func area(_ cpu: Int) -> UInt64 {
    perCPU &+ UInt64(truncatingIfNeeded: cpu) &* BootInformation.perCPUStride
  }
  /// Linear-map address of a CPU's TSS.
  @inlinable public func taskState(_ cpu: Int) -> UInt64 {
    linear(tss &+ UInt64(truncatingIfNeeded: cpu) &* Self.tssStride)
  }

  /// Takes memory for all of it, and writes the GDT. `random` chooses the bases within the windows of the address map: a GiB for the
  /// linear map, a page for the image.
  public init(memory: Memory, cpuCount: Int, random: (UInt64, UInt64)) throws(Memory.Shortage) {
    self.cpuCount = cpuCount
    linearMapBase = 0x4000_0000_0000 &+ (random.0 % (12 << 10)) << 30
    kernelVirtual = 0x5000_0000_0000 &+ (random.1 % ((4 << 40 - 1 << 30) >> 12)) << 12
    tables = try StartTables(memory)
    let cpus = UInt64(truncatingIfNeeded: cpuCount)
    gdt = try tables.memory.allocate(pages: 1, alignment: 4096)
    tss = try tables.memory.allocate(pages: (cpus &* Self.tssStride &+ 4095) >> 12, alignment: 4096)
    idt = try tables.memory.allocate(pages: 1, alignment: 4096)
    clock = try tables.memory.allocate(pages: 1, alignment: 4096)
    perCPU = try tables.memory.allocate(
      pages: (cpus &* BootInformation.perCPUStride) >> 12, alignment: BootInformation.perCPUAlignment)

    // SAFETY: a page that was just given out; 8 + 2 descriptors a CPU, for 64 at most, are in it, and no CPU runs yet.
    let descriptors = tables.memory.words(gdt)
    descriptors[2] = 0x00af_9b00_0000_ffff  // 0x10: code, 64-bit, DPL 0
    descriptors[3] = 0x00cf_9300_0000_ffff  // 0x18: data, DPL 0
    descriptors[5] = 0x00cf_f300_0000_ffff  // 0x28: data, DPL 3
    descriptors[6] = 0x00af_fb00_0000_ffff  // 0x30: code, 64-bit, DPL 3
    for cpu in 0..<cpuCount {
      let base = taskState(cpu)
      descriptors[8 + 2 * cpu] = 0x67 | (base & 0xff_ffff) << 16 | 0x8b << 40 | (base >> 24 & 0xff) << 56
      descriptors[9 + 2 * cpu] = base >> 32
    }
  }

  /// Maps physical memory, whole pieces of 2 MiB, into the linear map.
  public mutating func mapLinear(_ physical: UInt64, byteCount: UInt64, _ access: StartAccess) throws(Memory.Shortage) {
    try tables.mapLarge(linear(physical), to: physical, byteCount: byteCount, access)
  }

  /// Maps a segment of the kernel image, which lies at `kernelPhysical`: at its place, and what cannot be written not writable in the
  /// linear map either.
  public mutating func mapKernel(
    _ offset: UInt64, byteCount: UInt64, kernelPhysical: UInt64, _ access: StartAccess
  ) throws(Memory.Shortage) {
    let count = (byteCount &+ 4095) & ~4095
    let physical = kernelPhysical &+ offset
    try tables.map(kernelVirtual &+ offset, to: physical, byteCount: count, access)
    guard !access.contains(.write) else { return }
    try tables.split(linear(physical), byteCount: count)
    try tables.map(linear(physical), to: physical, byteCount: count, .readOnly)
  }

  /// Takes the pages below the stacks of the per-CPU areas away.
  public mutating func protectStacks() throws(Memory.Shortage) {
    for cpu in 0..<cpuCount {
      try tables.split(linear(area(cpu)), byteCount: BootInformation.perCPUStride)
      for index in 0..<BootInformation.perCPUGuards.count {
        tables.unmap(linear(area(cpu) &+ BootInformation.perCPUGuards[index]))
      }
    }
  }
}
