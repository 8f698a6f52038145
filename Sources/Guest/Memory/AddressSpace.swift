// An address space: what is mapped where below 64 TiB, for one or more threads.
import Base
import Pages

/// Mappings of programs, and the page tables that show them to the CPU.
public final class AddressSpace {
  /// The root of its page tables.
  public let root: PhysicalAddress

  /// An empty address space; kernel addresses are mapped in it like everywhere.
  /// - Parameter seed: random bits for the place of mappings.
  /// - Throws: ENOMEM.
  public init(seed: UInt64) throws(Errno) { fatalError() }

  /// Makes this CPU use it: writes the root if another one was in use. Interrupts or preemption are off.
  public func activate() { fatalError() }

  // MARK: Mappings

  /// Maps memory (mmap).
  /// - Returns: where.
  /// - Throws: EINVAL, ENOMEM, EEXIST, EPERM (below the lowest address).
  public func map(_ request: MapRequest) throws(Errno) -> VirtualAddress { fatalError() }

  /// Removes all mappings from a range of whole pages (munmap).
  /// - Throws: EINVAL, ENOMEM.
  public func unmap(_ range: VirtualRange) throws(Errno) { fatalError() }

  /// Changes the rights of a range of whole pages (mprotect).
  /// - Throws: EINVAL, ENOMEM (something is not mapped), EACCES.
  public func protect(_ range: VirtualRange, _ protection: Protection) throws(Errno) { fatalError() }

  /// Grows, shrinks or moves a mapping (mremap).
  /// - Parameters:
  ///   - old: the range now; an empty one is refused.
  ///   - byteCount: bytes wanted.
  ///   - mayMove: MREMAP_MAYMOVE.
  ///   - fixed: the new address if MREMAP_FIXED was given.
  ///   - keepOld: MREMAP_DONTUNMAP.
  /// - Returns: where it is now.
  /// - Throws: EINVAL, EFAULT (not mapped), ENOMEM.
  public func remap(
    _ old: VirtualRange, byteCount: UInt64, mayMove: Bool, fixed: VirtualAddress? = nil, keepOld: Bool = false
  ) throws(Errno) -> VirtualAddress { fatalError() }

  /// Sets where the program break starts; called once by the program's loader.
  public func setBreakBase(_ address: VirtualAddress) { fatalError() }

  /// Moves the program break (brk).
  /// - Returns: where it is now: unchanged if the move was not possible.
  public func setBreak(_ address: VirtualAddress) -> VirtualAddress { fatalError() }

  /// Takes advice about a range (madvise).
  /// - Throws: EINVAL, ENOMEM (something is not mapped).
  public func advise(_ range: VirtualRange, _ advice: MemoryAdvice) throws(Errno) { fatalError() }

  /// Writes changes to shared objects back (msync with MS_SYNC).
  /// - Throws: ENOMEM (something is not mapped), EIO.
  public func synchronise(_ range: VirtualRange) throws(Errno) { fatalError() }

  /// Whether each page of a range is present (mincore).
  /// - Throws: ENOMEM (something is not mapped), whatever `each` throws.
  public func residency(_ range: VirtualRange, _ each: (Bool) throws(Errno) -> Void) throws(Errno) { fatalError() }

  // MARK: Faults

  /// Resolves a page fault. Runs on the faulting thread with interrupts on; may sleep.
  public func fault(at address: VirtualAddress, access: FaultAccess) -> FaultResult { fatalError() }

  // MARK: Looking

  /// Calls `body` with each mapping in the order of addresses, until it returns false.
  public func forEachMapping(_ body: (MappingInformation) -> Bool) { fatalError() }

  /// Bytes mapped (VmSize).
  public var mappedByteCount: UInt64 { fatalError() }
  /// Bytes present (VmRSS).
  public var residentByteCount: UInt64 { fatalError() }
}
