// ModelWord: the atomic word, the parking and the preemption of a program under the model checker.
import Locks

/// A word whose every access is a step of the explored program. Words may be reused by nobody: touching one after its
/// structure is gone is a violation.
public struct ModelWord: ~Copyable, LockWord {
  final class Cell {
    var value: UInt
    var isGone = false
    let number: Int
    init(_ value: UInt, number: Int) {
      self.value = value
      self.number = number
    }
  }
  // Owned by this word, which may outlive the schedule, and kept alive by the checker until the schedule ends, so that a late
  // access through a dangling pointer is seen.
  private let cell: Unmanaged<Cell>

  /// A word with that value.
  public init(_ value: UInt) { cell = ModelChecker.active!.newCell(value) }

  deinit {
    cell.takeUnretainedValue().isGone = true
    cell.release()
  }

  private borrowing func access(isWrite: Bool) -> Cell {
    let cell = self.cell.takeUnretainedValue()
    ModelChecker.active!.step(cell.number, isWrite: isWrite)
    if cell.isGone { ModelChecker.active!.fail("a word is touched after its end") }
    return cell
  }

  /// See `LockWord`.
  public borrowing func load() -> UInt { access(isWrite: false).value }
  /// See `LockWord`.
  public borrowing func store(_ value: UInt) { access(isWrite: true).value = value }
  /// See `LockWord`.
  public borrowing func exchange(_ value: UInt) -> UInt {
    let cell = access(isWrite: true)
    defer { cell.value = value }
    return cell.value
  }
  /// See `LockWord`.
  public borrowing func compareExchange(_ expected: UInt, _ desired: UInt) -> Bool {
    let cell = access(isWrite: true)
    guard cell.value == expected else { return false }
    cell.value = desired
    return true
  }
  /// See `LockWord`.
  public borrowing func add(_ value: UInt) -> UInt {
    let cell = access(isWrite: true)
    defer { cell.value &+= value }
    return cell.value
  }
  /// See `LockWord`; no step.
  public borrowing func peek() -> UInt {
    let cell = self.cell.takeUnretainedValue()
    if cell.isGone { ModelChecker.active!.fail("a word is read after its end") }
    return cell.value
  }
  /// See `LockWord`; no step.
  public borrowing func poke(_ value: UInt) {
    let cell = self.cell.takeUnretainedValue()
    if cell.isGone { ModelChecker.active!.fail("a word is written after its end") }
    cell.value = value
  }

  /// See `LockWord`; no step.
  public var identity: UInt { UInt(cell.takeUnretainedValue().number) }

  /// The slots of the explored program; made afresh for every schedule.
  nonisolated(unsafe) public static var readerSlots = ReaderSlots<ModelWord>.none
  /// On which CPU each thread is, from the first; 0 if nothing is said.
  nonisolated(unsafe) public static var cpus: [Int] = []
  /// On which CPU it counts what is done outside of all threads.
  nonisolated(unsafe) public static var cpuOutside = 0
  /// The running thread's CPU; no step.
  public static var currentCPU: Int {
    get {
      guard let index = runningIndex else { return cpuOutside }
      return index < cpus.count ? cpus[index] : 0
    }
    set { if let index = runningIndex { cpus[index] = newValue } else { cpuOutside = newValue } }
  }
  private static var runningIndex: Int? {
    ModelChecker.active!.running?.identity
  }

  /// The number of the running thread, from 1; in a handler, that of the thread it interrupts.
  public static var currentParker: UInt { UInt(runningIndex! + 1) }

  /// Sleeps until the permit comes; with a deadline, any length of time may pass.
  public static func park(until deadline: Deadline, interruptible: Bool) -> WaitResult {
    let checker = ModelChecker.active!
    let number = Int(currentParker)
    let thread = checker.threads[number - 1]
    checker.step(number, isWrite: true, parks: deadline == .never)
    if thread.hasPermit {
      thread.hasPermit = false
      return .woken
    }
    return .timedOut
  }

  /// Gives the permit.
  public static func unpark(_ parker: UInt) {
    let checker = ModelChecker.active!
    checker.step(Int(parker), isWrite: true)
    checker.threads[Int(parker) - 1].hasPermit = true
  }

  /// Nothing: every interleaving is tried anyway.
  public static func disablePreemption() {}
  /// Nothing.
  public static func enablePreemption() {}
  /// Nothing: memory is sequentially consistent here.
  public static func fence() {}
}
