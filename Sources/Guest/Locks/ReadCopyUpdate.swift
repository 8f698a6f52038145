// RCU: readers that take no lock and write nothing; writers that wait until no reader can still see the old.
//
// A reader runs in a thread, with preemption off; interrupt handlers are no readers. A CPU is quiescent whenever it switches threads or idles: no reader is under way there.
// A grace period is over when every CPU has been quiescent since it began; what was unlinked before it began is then seen
// by nobody.
//
// State. `generation`: the number of grace periods begun. Each CPU's word: the generation it had read when it was last
// quiescent, or `idle` while it runs no thread.
//
// Invariants, and why they hold:
//  1. A CPU's word never names a generation that began after its last quiescent moment: it is stored at that moment, with a
//     value of `generation` read before.
//  2. Who waits for generation g (begun after unlinking) and sees a word of g or more, or `idle`: the CPU was quiescent
//     after g began. Its later readers follow that moment, load the pointers after it, and so see the unlinking.
//  3. A CPU that leaves idleness does so by an exchange (a full fence) before it reads anything under RCU: either the waiter
//     sees the word, or the CPU's reads see what was unlinked before `generation` was raised, by a read-modify-write.
//  4. The wait ends: a CPU that is not quiescent by itself is asked to switch (`nudge`), and readers do not sleep.

import Base
import Platform

/// The words of RCU and its one question; who switches and who waits is the scheduler's business.
public struct GracePeriodsCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let generation = Word(1)
  private let cpus: UnsafeMutablePointer<Word>

  /// The word of a CPU that runs no thread.
  private static var idle: UInt { .max }

  /// Words from one CPU's to the next one's: a cache line, or every switch would take it from another CPU.
  public static var stride: Int { 8 }

  /// For that many CPUs, all idle; `cpus` is memory for `stride` words each and is never freed by this.
  public init(cpus: UnsafeMutablePointer<Word>, count: Int) {
    self.cpus = cpus
    for index in 0..<count &* Self.stride { (cpus + index).initialize(to: Word(Self.idle)) }
  }

  /// Whether the CPU has seen every grace period that has begun; if not it should switch soon.
  @inline(__always) public borrowing func isCurrent(_ cpu: Int) -> Bool {
    cpus[cpu &* Self.stride].load() >= generation.load()
  }

  /// The CPU switches threads.
  @inline(__always) public borrowing func quiescent(_ cpu: Int) {
    cpus[cpu &* Self.stride].store(generation.load())
  }

  /// The CPU stops running threads.
  @inline(__always) public borrowing func enterIdle(_ cpu: Int) { cpus[cpu &* Self.stride].store(Self.idle) }

  /// The CPU is about to run a thread.
  @inline(__always) public borrowing func leaveIdle(_ cpu: Int) {
    _ = cpus[cpu &* Self.stride].exchange(generation.load())
  }

  /// Begins a grace period, after what it is for was unlinked; its number.
  public borrowing func begin() -> UInt { generation.add(1) &+ 1 }

  /// Whether the CPU has been quiescent since that grace period began.
  @inline(__always) public borrowing func hasPassed(_ number: UInt, on cpu: Int) -> Bool {
    cpus[cpu &* Self.stride].load() >= number
  }
}

/// The kernel's.
public typealias GracePeriods = GracePeriodsCore<LiveWord>

/// Reading under RCU.
public enum RCU {
  /// Runs the body as a reader: what it reaches through pointers loaded inside stays allocated until it returns. It must not
  /// sleep.
  @inline(__always) public static func read<R: ~Copyable>(_ body: () -> R) -> R {
    Preemption.disable()
    #if HOSTED
      let section = HostedReaders.enter()
      defer { HostedReaders.leave(section) }
    #endif
    defer { Preemption.enable() }
    return body()
  }
}
