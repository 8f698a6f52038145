// Frames: physical memory for everybody, in blocks of 2^order 4 KiB frames.
//
// Usable from every context, interrupt handlers included. Failure is a value: requests for programs fail while a
// reserve is left, so that the kernel's own small needs still succeed.
import Base

/// Who asks for memory.
public enum FrameUse {
  /// The kernel's own structures: may use up the reserve.
  case kernel
  /// Memory of programs and contents of files: refused once only the reserve is left.
  case program
}

/// A snapshot of physical memory, in frames.
public struct FrameStatistics {
  /// Frames of all RAM that can be handed out.
  public var total: Int
  /// Frames free now, those in magazines included.
  public var free: Int
}

/// The allocator of physical memory.
public enum Frames {
  /// Brings the allocator up on the first piece of RAM.
  ///
  /// - Parameters:
  ///   - start: first free byte; rounded up to a frame. Memory from here on is unused and zero.
  ///   - end: one behind the last byte of the piece (3 GiB at most, later pieces come by `addMemory`).
  ///   - cpuCount: CPUs that will use the allocator.
  public static func initialise(start: PhysicalAddress, end: PhysicalAddress, cpuCount: Int) { fatalError() }

  /// Takes over RAM that has appeared: unused and zero, in the linear map already.
  public static func addMemory(_ range: PhysicalRange) { fatalError() }

  /// Takes over what lies between two readings of `ClockPage.memoryByteCount`: RAM from 3 GiB on appears at 4 GiB.
  public static func memoryGrew(from old: UInt64, to new: UInt64) { fatalError() }

  /// A block of 2^order frames, physically contiguous and aligned to its size, with one reference.
  /// - Parameters:
  ///   - order: 0 (4 KiB) to 18 (1 GiB).
  ///   - zeroed: whether every byte must be zero; costs nothing for memory never used before.
  ///   - use: who asks.
  /// - Returns: the address of its first frame, nil if memory is out.
  public static func allocate(order: Int = 0, zeroed: Bool = false, use: FrameUse = .kernel) -> PhysicalAddress? {
    fatalError()
  }

  /// Frees a block whose only holder the caller is.
  public static func free(_ frame: PhysicalAddress, order: Int = 0, zeroed: Bool = false) { fatalError() }

  /// Whether a frame is RAM of this allocator; others (files in memory, devices) are not counted.
  public static func isManaged(_ frame: PhysicalAddress) -> Bool { fatalError() }

  /// One more holder of an allocated block (given by its first frame). Nothing happens to frames that are not managed.
  public static func retain(_ frame: PhysicalAddress) { fatalError() }

  /// One holder less; the last one frees the block. Nothing happens to frames that are not managed.
  public static func release(_ frame: PhysicalAddress) { fatalError() }

  /// How much memory there is.
  public static var statistics: FrameStatistics { fatalError() }
}

/// Memory for the kernel's own structures, Swift's objects among them.
public enum KernelHeap {
  /// At least `byteCount` bytes of undefined content (`alignment`: a power of two); nil if memory is out.
  public static func allocate(byteCount: Int, alignment: Int = 16) -> UnsafeMutableRawPointer? { fatalError() }
  /// At least `byteCount` zero bytes; otherwise as `allocate`.
  public static func allocateZeroed(byteCount: Int, alignment: Int = 16) -> UnsafeMutableRawPointer? { fatalError() }
  /// Gives memory of this heap back.
  public static func free(_ memory: UnsafeMutableRawPointer) { fatalError() }
}

/// A thread's stack in the kernel: 16 KiB, always present, with an unmapped page below.
public struct KernelStack {
  /// Bytes of a stack.
  public static let byteCount: UInt64 = 16384
  /// Its lowest usable byte.
  public let base: VirtualAddress
  /// One behind its highest byte; 16 KiB aligned.
  public var top: VirtualAddress { base + KernelStack.byteCount }

  /// A new stack; nil if memory is out.
  public static func allocate() -> KernelStack? { fatalError() }
  /// Gives the stack back; nobody may run on it any more. Usable with preemption off.
  public func free() { fatalError() }
}

/// Windows onto device memory.
public enum DeviceWindows {
  /// Maps a device's registers, uncached and not executable, for good.
  /// - Returns: where the range's first byte appears; nil if memory is out.
  public static func map(_ range: PhysicalRange) -> UnsafeMutableRawPointer? { fatalError() }
}
