// Physical memory for unit tests: a piece of the host's address space that plays RAM from address 0 up.
#if HOSTED
  import Base
  import Glibc
  import Platform
  import Synchronization

  /// The arena: `Frames` uses its first part by itself, tests are given pieces of the rest (`place`).
  public enum HostedArena {
    /// Bytes that `Frames` manages.
    public static let managedByteCount: UInt64 = 512 << 20
    /// Bytes of the whole arena.
    public static let byteCount: UInt64 = 4 << 30

    // SAFETY: made once, by the first use; whoever changes what is behind it has its locks. The arena is mapped for good.
    /// The state of `Frames` over the arena, made at the first use.
    nonisolated(unsafe) static let state: UnsafeMutablePointer<FrameState>? = {
      let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
      guard let arena = mmap(nil, byteCount.int, PROT_READ | PROT_WRITE, flags, -1, 0), arena != MAP_FAILED else {
        return nil
      }
      LinearMap.install(base: VirtualAddress(arena))
      // Page 0 stays out: it is an empty root of page tables.
      return FrameState.make(start: PhysicalAddress(0x10_0000), end: PhysicalAddress(managedByteCount), cpuCount: 1)
    }()

    private static let nextPlace = Atomic<UInt64>(managedByteCount)

    /// Memory that `Frames` does not manage and that nobody else was given, for good; zero, in whole pages.
    /// - Parameter alignment: a power of two, a page at least.
    public static func place(byteCount count: UInt64, alignment: UInt64 = frameByteCount) -> PhysicalAddress {
      prepare()
      let span = count.alignedUp(to: frameByteCount) + alignment - frameByteCount
      let start = nextPlace.add(span, ordering: .relaxed).oldValue
      precondition(start + span <= byteCount, "the arena is used up")
      return PhysicalAddress(start.alignedUp(to: alignment))
    }

    /// Puts bytes where boot files lie: in memory of their own.
    /// - Returns: where they are.
    public static func placeFile(_ bytes: [UInt8]) -> PhysicalAddress {
      let place = place(byteCount: bytes.count.u64)
      // SAFETY: `place` gave that many bytes of the arena to nobody else.
      LinearMap.pointer(place).copyMemory(from: bytes, byteCount: bytes.count)
      return place
    }

    /// Makes the arena if it is not there yet; for tests that use physical addresses before they allocate.
    public static func prepare() { _ = state }
  }
#endif
