// The atomic word of a Swift program: the kernel's lock algorithms run in the program itself, and enter the kernel, by a function call,
// only to sleep and to wake.
//
// So a lock that nobody contends for costs one atomic instruction, and a lock may lie anywhere, in the image too. A thread that is
// interrupted by a signal while it waits looks again at what it waits for: the algorithms take that for a wake for nothing.
import Base
import Locks
import Platform

#if HOSTED
  /// On the host the program is a host process: its words are the host's.
  typealias ProgramWord = LiveWord

  @inline(__always) func currentTime() -> UInt64 { Clock.read(1) }
#else
  @_extern(c, "osv_park") private func osv_park(_ deadline: UInt64) -> Int
  @_extern(c, "osv_unpark") private func osv_unpark(_ parker: UInt)
  @_extern(c, "osv_pass") private func osv_pass(_ parker: UInt, _ deadline: UInt64) -> Int
  @_extern(c, "osv_yield") private func osv_yield()
  @_extern(c, "osv_now") private func osv_now() -> UInt64

  @inline(__always) func currentTime() -> UInt64 { osv_now() }

  /// See `LockWord`.
  @frozen public struct ProgramWord: ~Copyable, LockWord {
    private let word: LiveWord

    /// See `LockWord`.
    @inline(__always) public init(_ value: UInt) { word = LiveWord(value) }
    /// See `LockWord`.
    @inline(__always) public borrowing func load() -> UInt { word.load() }
    /// See `LockWord`.
    @inline(__always) public borrowing func store(_ value: UInt) { word.store(value) }
    /// See `LockWord`.
    @inline(__always) public borrowing func exchange(_ value: UInt) -> UInt { word.exchange(value) }
    /// See `LockWord`.
    @inline(__always) public borrowing func compareExchange(_ expected: UInt, _ desired: UInt) -> Bool {
      word.compareExchange(expected, desired)
    }
    /// See `LockWord`.
    @inline(__always) public borrowing func add(_ value: UInt) -> UInt { word.add(value) }
    /// See `LockWord`.
    @inline(__always) public borrowing func peek() -> UInt { word.peek() }
    /// See `LockWord`.
    @inline(__always) public borrowing func poke(_ value: UInt) { word.poke(value) }
    /// See `LockWord`.
    @inline(__always) public var identity: UInt { word.identity }

    /// See `LockWord`.
    @inline(__always) public static var currentParker: UInt { UInt(bitPattern: CPU.currentThread) }
    /// See `LockWord`. A signal ends it like a permit that was meant for something else.
    public static func park(until deadline: Deadline, interruptible: Bool) -> WaitResult {
      switch osv_park(deadline.nanoseconds) {
      case 1: .timedOut
      case 2: interruptible ? .interrupted : .woken
      default: .woken
      }
    }
    /// See `LockWord`.
    public static func unpark(_ parker: UInt) { osv_unpark(parker) }
    /// See `LockWord`.
    @inline(__always) public static func fence() { LiveWord.fence() }
    /// Nothing: who is preempted while it deals out wakes goes on dealing later; others do not wait for it.
    @inline(__always) public static func disablePreemption() {}
    /// Nothing.
    @inline(__always) public static func enablePreemption() {}
    /// See `LockWord`.
    @inline(__always) public static var currentCPU: Int { CPU.current }
    /// See `LockWord`.
    @inline(__always) public static var readerSlots: ReaderSlots<ProgramWord> { programSlots }

    /// Gives that thread its permit and waits for the caller's own.
    static func pass(to parker: UInt, until deadline: Deadline) { _ = osv_pass(parker, deadline.nanoseconds) }
    static func yield() { osv_yield() }
  }

  // SAFETY: written before the program's first instruction and never again.
  nonisolated(unsafe) private var slotWords: UnsafeMutablePointer<ProgramWord>? = nil
  nonisolated(unsafe) private var slotCPUs: Int = 0

  private var programSlots: ReaderSlots<ProgramWord> {
    ReaderSlots(usual: slotWords, cpuCount: slotCPUs)
  }

  /// Gives the program's reader-writer locks their slots, if there is more than one CPU to read on.
  func beginReaderSlots() {
    let cpus = CPUs.count
    guard cpus > 1 else { return }
    let count = ReaderSlots<ProgramWord>.usualCount(cpuCount: cpus)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: count &* 8, alignment: 64)
    // SAFETY: fresh memory of that size, never freed.
    let words = memory.bindMemory(to: ProgramWord.self, capacity: count)
    _ = ReaderSlots(uninitialised: words, cpuCount: cpus)
    slotWords = words
    slotCPUs = cpus
  }
#endif

/// Moments up to which to wait, on the clock of `Clock.monotonic`.
public typealias Deadline = Locks.Deadline
/// How a wait ended.
public typealias WaitResult = Locks.WaitResult

extension Locks.Deadline {
  /// That many nanoseconds from now.
  public static func after(nanoseconds: UInt64) -> Deadline { after(nanoseconds, from: currentTime()) }
  /// That many milliseconds from now.
  public static func after(milliseconds: UInt64) -> Deadline { after(nanoseconds: milliseconds &* 1_000_000) }
}

/// The CPUs of the machine.
public enum CPUs {
  /// How many of them the program may use.
  public static var count: Int {
    let get = 204
    var mask: UInt64 = 0
    let result = withUnsafeMutablePointer(to: &mask) { call(get, 0, 8, argument($0)) }
    return result > 0 ? max(mask.nonzeroBitCount, 1) : 1
  }

  /// The one that runs the caller, at this moment.
  public static var current: Int { ProgramWord.currentCPU }
}
