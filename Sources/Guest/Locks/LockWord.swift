// The atomic word that the lock algorithms are written over, and the parking that comes with it.
//
// The algorithms are generic over `LockWord`, so that the very code that runs in the kernel also runs in the tests under
// a scheduler that tries every interleaving of its atomic steps. There are three kinds of step:
//   * loads are acquiring: what the storing thread wrote before is visible after;
//   * stores are releasing: what was written before is visible to whoever loads the value;
//   * read-modify-writes are sequentially consistent (on x86 a locked instruction, which costs the same for every order).
// An algorithm that needs "my write before your read, or yours before mine" (Dekker) uses a read-modify-write for its
// write; no algorithm here relies on a store being visible before a later load.
// `peek` and `poke` are plain accesses to words that the algorithm proves to be touched by one thread at a time.

import Base
import Platform

/// One word of a lock, and the parking that its users sleep with.
public protocol LockWord: ~Copyable {
  /// A word with that value.
  init(_ value: UInt)
  /// The value; acquiring.
  borrowing func load() -> UInt
  /// Sets the value; releasing.
  borrowing func store(_ value: UInt)
  /// Sets the value and returns the one before; sequentially consistent.
  borrowing func exchange(_ value: UInt) -> UInt
  /// Sets the value if it is the expected one, and says whether it was; sequentially consistent.
  borrowing func compareExchange(_ expected: UInt, _ desired: UInt) -> Bool
  /// Adds, wrapping around, and returns the value before; sequentially consistent.
  borrowing func add(_ value: UInt) -> UInt
  /// The value, where no other thread can be writing it.
  borrowing func peek() -> UInt
  /// Sets the value, where no other thread can be reading or writing it.
  borrowing func poke(_ value: UInt)
  /// A number that this word alone has as long as it exists; not 0.
  var identity: UInt { get }

  /// See `Parking.current`.
  static var currentParker: UInt { get }
  /// See `Parking.park`.
  static func park(until deadline: Deadline, interruptible: Bool) -> WaitResult
  /// See `Parking.unpark`.
  static func unpark(_ parker: UInt)
  /// A full fence: writes before it are visible before reads after it happen.
  static func fence()
  /// Keeps the calling thread on its CPU; nests.
  static func disablePreemption()
  /// Undoes one `disablePreemption`.
  static func enablePreemption()
  /// The number of the CPU; a hint, for it may be another one the next moment.
  static var currentCPU: Int { get }
  /// Where readers of reader-writer locks may stand.
  static var readerSlots: ReaderSlots<Self> { get }
}

/// The word of the running kernel: a hardware atomic.
@frozen public struct LiveWord: ~Copyable, LockWord {
  @usableFromInline let atomic: Atomic<UInt>

  /// See `LockWord`.
  @inline(__always) public init(_ value: UInt) { atomic = Atomic(value) }
  /// See `LockWord`.
  @inline(__always) public borrowing func load() -> UInt { atomic.load(ordering: .acquiring) }
  /// See `LockWord`.
  @inline(__always) public borrowing func store(_ value: UInt) { atomic.store(value, ordering: .releasing) }
  /// See `LockWord`.
  @inline(__always) public borrowing func exchange(_ value: UInt) -> UInt {
    atomic.exchange(value, ordering: .sequentiallyConsistent)
  }
  /// See `LockWord`.
  @inline(__always) public borrowing func compareExchange(_ expected: UInt, _ desired: UInt) -> Bool {
    atomic.compareExchange(expected: expected, desired: desired, ordering: .sequentiallyConsistent).exchanged
  }
  /// See `LockWord`.
  @inline(__always) public borrowing func add(_ value: UInt) -> UInt {
    atomic.wrappingAdd(value, ordering: .sequentiallyConsistent).oldValue
  }
  /// See `LockWord`.
  @inline(__always) public borrowing func peek() -> UInt { atomic.load(ordering: .relaxed) }
  /// See `LockWord`.
  @inline(__always) public borrowing func poke(_ value: UInt) { atomic.store(value, ordering: .relaxed) }

  /// See `LockWord`.
  @inline(__always) public var identity: UInt {
    // SAFETY: an atomic lies where it is as long as it exists; its address is used as a number only.
    withUnsafePointer(to: atomic) { UInt(bitPattern: $0) }
  }

  /// See `LockWord`.
  @inline(__always) public static var currentParker: UInt { Parking.current.rawValue }
  /// See `LockWord`.
  @inline(__always) public static func park(until deadline: Deadline, interruptible: Bool) -> WaitResult {
    Parking.park(until: deadline, interruptible: interruptible)
  }
  /// See `LockWord`.
  @inline(__always) public static func unpark(_ parker: UInt) { Parking.unpark(Parker(rawValue: parker)) }
  /// See `LockWord`.
  @inline(__always) public static func fence() { atomicMemoryFence(ordering: .sequentiallyConsistent) }
  /// See `LockWord`.
  @inline(__always) public static func disablePreemption() { Preemption.disable() }
  /// See `LockWord`.
  @inline(__always) public static func enablePreemption() { Preemption.enable() }
  /// See `LockWord`.
  @inline(__always) public static var readerSlots: ReaderSlots<LiveWord> { LiveReaderSlots.current }
  /// See `LockWord`.
  @inline(__always) public static var currentCPU: Int {
    #if HOSTED
      HostedParking.currentCPU
    #else
      CPU.current
    #endif
  }
}
