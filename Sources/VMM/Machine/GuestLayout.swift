// Laying the guest's start down: what every start has (`StartLayout`), and the kernel image, which comes out of osv-run. All of it
// comes from the first memory slot.

import VirtioABI

/// Addresses of what the monitor has laid down.
struct GuestLayout {
  /// What every start has.
  let start: StartLayout<BootAllocator>
  /// Physical address of the kernel image.
  let kernelPhysical: UInt64
  /// Its bytes in memory.
  let kernelByteCount: UInt64

  /// Lays down all but the boot information, which needs the devices; it comes from `allocator` afterwards.
  init(
    memory: GuestMemory, allocator: BootAllocator, kernel: KernelImage, cpuCount: Int, filesByteCount: UInt64,
    random: (UInt64, UInt64)
  ) throws(Failure) {
    let pages = { (bytes: UInt64) in (bytes + GuestMemory.pageSize - 1) / GuestMemory.pageSize }
    var start = try StartLayout(memory: allocator, cpuCount: cpuCount, random: random)
    kernelByteCount = kernel.byteCount
    let image = try allocator.place(pages: pages(kernel.byteCount))
    kernelPhysical = image.physical
    memory.provide(kernelPhysical, count: pages(kernelByteCount) * GuestMemory.pageSize)
    try kernel.load(to: image.host, virtual: start.kernelVirtual)
    for region in memory.ram { try start.mapLinear(region.physical, byteCount: region.byteCount, .write) }
    if filesByteCount > 0 {
      try start.mapLinear(GuestMemory.filesStart, byteCount: (filesByteCount + 0x1f_ffff) & ~0x1f_ffff, .readOnly)
    }
    for segment in kernel.file.loads {
      var access = StartAccess.readOnly
      if segment.flags & 2 != 0 { access.insert(.write) }
      if segment.flags & 1 != 0 { access.insert(.execute) }
      try start.mapKernel(
        segment.address, byteCount: segment.memoryCount, kernelPhysical: kernelPhysical, access)
    }
    try start.protectStacks()
    self.start = start
  }
}
