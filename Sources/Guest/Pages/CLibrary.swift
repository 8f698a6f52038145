// The names under which Swift's runtime (and C) asks for memory.
#if GUEST
  import Base

  /// posix_memalign of the guest: 0, or ENOMEM.
  @c(posix_memalign)
  public func posixMemalign(
    _ result: UnsafeMutablePointer<UnsafeMutableRawPointer?>, _ alignment: Int, _ byteCount: Int
  ) -> Int32 {
    guard let memory = KernelHeap.allocate(byteCount: byteCount, alignment: alignment) else {
      return Errno.ENOMEM.rawValue
    }
    result.pointee = memory
    return 0
  }

  /// free of the guest; Boot/heap.S gives it that name, which the compiler keeps from Swift.
  @c(kernel_free)
  public func heapFree(_ memory: UnsafeMutableRawPointer?) {
    if let memory { KernelHeap.free(memory) }
  }

  /// malloc of the guest, likewise.
  @c(kernel_malloc)
  public func heapAllocate(_ byteCount: Int) -> UnsafeMutableRawPointer? {
    KernelHeap.allocate(byteCount: byteCount)
  }

  /// calloc of the guest.
  @c(calloc)
  public func heapAllocateZeroed(_ count: Int, _ size: Int) -> UnsafeMutableRawPointer? {
    let (byteCount, overflow) = count.multipliedReportingOverflow(by: size)
    return overflow ? nil : KernelHeap.allocateZeroed(byteCount: byteCount)
  }

  /// aligned_alloc of the guest.
  @c(aligned_alloc)
  public func heapAllocateAligned(_ alignment: Int, _ byteCount: Int) -> UnsafeMutableRawPointer? {
    KernelHeap.allocate(byteCount: byteCount, alignment: alignment)
  }
#endif
