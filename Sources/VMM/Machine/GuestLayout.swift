// Where things lie when the guest starts, and laying them down: page tables, GDT, TSSs, IDT, clock page, per-CPU
// areas, the kernel image and the boot information. All of it comes from the first memory slot.

import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

/// Addresses of what the monitor has laid down.
struct GuestLayout {
  /// Linear-map address of physical 0.
  let linearMapBase: UInt64
  /// The kernel image: virtual address, physical address, bytes.
  let kernelVirtual: UInt64
  let kernelPhysical: UInt64
  let kernelByteCount: UInt64
  /// CR3.
  let pageTableRoot: UInt64
  let gdt: UInt64
  let tss: UInt64
  let idt: UInt64
  let clock: UInt64
  let perCPU: UInt64
  /// Bytes between two TSSs.
  static let tssStride: UInt64 = 128
  /// Bytes of the GDT that 64 CPUs need.
  static func gdtLimit(cpuCount: Int) -> UInt16 { UInt16((8 + 2 * cpuCount) * 8 - 1) }

  /// The linear-map address of a physical one.
  func linear(_ physical: UInt64) -> UInt64 { linearMapBase + physical }

  /// Lays down all but the boot information, which needs the devices; it comes from `allocator` afterwards.
  init(
    memory: GuestMemory, allocator: BootAllocator, kernel: KernelImage, cpuCount: Int, filesByteCount: UInt64,
    random: (UInt64, UInt64)
  ) throws(Failure) {
    let pages = { (bytes: UInt64) in (bytes + GuestMemory.pageSize - 1) / GuestMemory.pageSize }
    // Random bases within the windows of the address map: a GiB for the linear map, a page for the image.
    linearMapBase = 0x4000_0000_0000 + (random.0 % (12 << 10)) << 30
    kernelVirtual = 0x5000_0000_0000 + (random.1 % ((4 << 40 - 1 << 30) >> 12)) << 12

    var tables = try PageTables(allocator)
    pageTableRoot = tables.root
    let gdtPage = try allocator.allocate(pages: 1)
    gdt = gdtPage.physical
    tss = try allocator.allocate(pages: pages(UInt64(cpuCount) * Self.tssStride)).physical
    idt = try allocator.allocate(pages: 1).physical
    clock = try allocator.allocate(pages: 1).physical
    let stride = BootInformation.perCPUStride
    perCPU = try allocator.allocate(pages: pages(UInt64(cpuCount) * stride), alignment: BootInformation.perCPUAlignment)
      .physical

    kernelByteCount = kernel.byteCount
    let image = try allocator.allocate(pages: pages(kernel.byteCount))
    kernelPhysical = image.physical
    memory.provide(kernelPhysical, count: pages(kernelByteCount) * GuestMemory.pageSize)
    try kernel.load(to: image.host, virtual: kernelVirtual)

    // The linear map, then 4 KiB entries over the 2 MiB ranges that the image's read-only parts touch.
    for region in memory.ram {
      try tables.mapLarge(linear(region.physical), to: region.physical, byteCount: region.byteCount, .write)
    }
    if filesByteCount > 0 {
      let size = (filesByteCount + 0x1f_ffff) & ~0x1f_ffff
      try tables.mapLarge(linear(GuestMemory.filesStart), to: GuestMemory.filesStart, byteCount: size, [])
    }
    for segment in kernel.file.loads {
      var access: PageTables.Access = []
      if segment.flags & 2 != 0 { access.insert(.write) }
      if segment.flags & 1 != 0 { access.insert(.execute) }
      let count = pages(segment.memoryCount) * GuestMemory.pageSize
      let physical = kernelPhysical + segment.address
      try tables.map(kernelVirtual + segment.address, to: physical, byteCount: count, access)
      if !access.contains(.write) {
        try tables.split(linear(physical), byteCount: count)
        try tables.map(linear(physical), to: physical, byteCount: count, [])
      }
    }

    for cpu in 0..<UInt64(cpuCount) {
      try tables.split(linear(perCPU + cpu * stride), byteCount: stride)
      for index in 0..<BootInformation.perCPUGuards.count {
        tables.unmap(linear(perCPU + cpu * stride + BootInformation.perCPUGuards[index]))
      }
    }

    // SAFETY: a page of guest memory, aligned; 8 + 2 descriptors a CPU, for 64 at most, are in it, and no CPU runs yet.
    let descriptors = gdtPage.host.assumingMemoryBound(to: UInt64.self)
    descriptors[2] = 0x00af_9b00_0000_ffff  // 0x10: code, 64-bit, DPL 0
    descriptors[3] = 0x00cf_9300_0000_ffff  // 0x18: data, DPL 0
    descriptors[5] = 0x00cf_f300_0000_ffff  // 0x28: data, DPL 3
    descriptors[6] = 0x00af_fb00_0000_ffff  // 0x30: code, 64-bit, DPL 3
    for cpu in 0..<cpuCount {
      let base = linear(tss + UInt64(cpu) * Self.tssStride)
      descriptors[8 + 2 * cpu] =
        0x67 | (base & 0xff_ffff) << 16 | 0x8b << 40 | (base >> 24 & 0xff) << 56
      descriptors[9 + 2 * cpu] = base >> 32
    }
  }
}
