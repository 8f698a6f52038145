// ModelChecker: runs a small concurrent program under every interleaving of its atomic steps.
//
// The program is the real code of a lock or a scheduler structure, generic over its atomic word, instantiated with
// `ModelWord`. Each of its threads is a fiber that stops before every atomic step; the checker chooses who goes on,
// replays the program for every other choice, and reports the first schedule that breaks a check, touches a word that
// is gone, or ends with somebody asleep for ever.
//
// Memory is sequentially consistent here; that the weaker orders of the real word suffice is argued where they are used.
// Steps on different words, and loads of the same one, commute: sleep sets (Godefroid) skip schedules that differ only in
// the order of such steps. That loses no outcome. A bound on preemptions, for programs too large, does.
import CFibers
import Locks

/// What an exploration found.
public struct Exploration {
  /// Schedules that ran to their end.
  public var schedules = 0
  /// Schedules given up because they repeat another.
  public var pruned = 0
  /// Whether every schedule was tried (within the bound on preemptions).
  public var isComplete = false
  /// What went wrong first: the message and who took each step.
  public var violation: String?
}

/// A program to be explored: fresh for every schedule.
public struct ModelProgram {
  let threads: [() -> Void]
  let interrupts: [(of: Int, body: () -> Void)]
  let finally: () -> Void

  /// - Parameters:
  ///   - threads: what runs concurrently; deterministic but for the schedule.
  ///   - interrupts: handlers that run once each, on top of the thread of that index: from a handler's first step to its last its
  ///     thread stands still, wherever it was, and the handler counts as that thread. Handlers do not sleep.
  ///   - finally: checks at the end, when all threads have.
  public init(
    threads: [() -> Void], interrupts: [(of: Int, body: () -> Void)] = [], finally: @escaping () -> Void = {}
  ) {
    self.threads = threads
    self.interrupts = interrupts
    self.finally = finally
  }
}

/// Explores programs; one at a time on a host thread.
public final class ModelChecker {
  /// The one at work on this host thread. Tests that use it are serialised by `explore`.
  nonisolated(unsafe) static var active: ModelChecker?

  struct Step {
    var word: Int
    var isWrite: Bool
    func commutes(with other: Step) -> Bool { word != other.word || !(isWrite || other.isWrite) }
  }

  final class ModelThread {
    let body: () -> Void
    var fiber: OpaquePointer?
    var pending: Step?
    /// Waits for its permit without a deadline.
    var isParked = false
    var hasPermit = false
    var isInterrupted = false
    var hasEnded = false
    /// Which thread it runs as: for a handler, the one it interrupts.
    let identity: Int
    let isHandler: Bool
    var hasBegun = false
    init(_ body: @escaping () -> Void, identity: Int, isHandler: Bool) {
      self.body = body
      self.identity = identity
      self.isHandler = isHandler
    }
  }

  struct Choice {
    var chosen: Int
    /// Threads whose next step need not be tried here (bit sets).
    var asleep: UInt
    var tried: UInt
    /// Preemptions before this choice.
    var preemptions: Int
  }

  private var choices: [Choice] = []
  var threads: [ModelThread] = []
  private var hasHandlers = false
  var running: ModelThread?
  private(set) var violation: String?
  private var trace: [Int] = []
  private var cells: [ModelWord.Cell] = []
  private let preemptionBound: Int?
  private let stepLimit = 5_000

  private init(preemptionBound: Int?) { self.preemptionBound = preemptionBound }

  /// Tries every schedule of the program that `make` makes.
  /// - Parameters:
  ///   - preemptionBound: how often a thread that could go on may be made to wait; nil for no bound (and sleep sets).
  ///   - limit: schedules after which to give up.
  public static func explore(
    preemptionBound: Int? = nil, limit: Int = 3_000_000, _ make: () -> ModelProgram
  ) -> Exploration {
    lock.lock()
    defer { lock.unlock() }
    let checker = ModelChecker(preemptionBound: preemptionBound)
    active = checker
    defer { active = nil }
    var result = Exploration()
    while result.schedules + result.pruned < limit {
      if checker.runOnce(make()) { result.schedules += 1 } else { result.pruned += 1 }
      if let violation = checker.violation {
        result.violation = violation
        return result
      }
      if !checker.advance() {
        result.isComplete = true
        return result
      }
    }
    return result
  }

  private static let lock = Mutex()

  /// A condition of the program that must hold.
  public static func check(_ condition: Bool, _ message: @autoclosure () -> String) {
    if !condition, let active, active.violation == nil { active.fail(message()) }
  }

  func fail(_ message: String) {
    if violation == nil { violation = "\(message); schedule \(trace.map(String.init).joined())" }
  }

  /// A new word's value, with a reference for the word; numbers below 1,000 are the threads' permits.
  func newCell(_ value: UInt) -> Unmanaged<ModelWord.Cell> {
    let cell = ModelWord.Cell(value, number: 1_000 + cells.count)
    cells.append(cell)
    return Unmanaged.passRetained(cell)
  }

  // MARK: One schedule

  private func runOnce(_ program: ModelProgram) -> Bool {
    threads = program.threads.enumerated().map { ModelThread($1, identity: $0, isHandler: false) }
    hasHandlers = !program.interrupts.isEmpty
    threads += program.interrupts.map { ModelThread($0.body, identity: $0.of, isHandler: true) }
    trace = []
    defer {
      for thread in threads { if let fiber = thread.fiber { fiber_destroy(fiber) } }
      threads = []
      cells.removeAll(keepingCapacity: true)
    }
    for thread in threads {
      thread.fiber = fiber_create(
        { argument in
          let thread = Unmanaged<ModelThread>.fromOpaque(argument!).takeUnretainedValue()
          thread.body()
          thread.hasEnded = true
        }, Unmanaged.passUnretained(thread).toOpaque())
      resume(thread)  // Up to its first step.
    }
    var depth = 0
    var previous: Int?
    while violation == nil {
      var enabled: UInt = 0
      for (index, thread) in threads.enumerated() where canGoOn(thread) { enabled |= 1 << UInt(index) }
      if enabled == 0 { break }
      if depth == choices.count {
        guard let choice = newChoice(depth, enabled, previous) else { return false }
        choices.append(choice)
      }
      let chosen = choices[depth].chosen
      trace.append(chosen)
      previous = chosen
      depth += 1
      sleepSet(after: depth - 1)
      threads[chosen].hasBegun = true
      resume(threads[chosen])
      if depth > stepLimit { fail("does not end") }
    }
    if violation == nil && threads.contains(where: { !$0.hasEnded }) { fail("somebody sleeps for ever") }
    if violation == nil { program.finally() }
    return true
  }

  private func canGoOn(_ thread: ModelThread) -> Bool {
    if thread.hasEnded || thread.isParked && !thread.hasPermit { return false }
    if !hasHandlers { return true }
    return !threads.contains {
      $0 !== thread && $0.identity == thread.identity && $0.isHandler && $0.hasBegun && !$0.hasEnded
    }
  }

  private var inherited: UInt = 0

  /// Threads that may stay asleep in the state that the choice leads to.
  private func sleepSet(after index: Int) {
    let choice = choices[index]
    inherited = 0
    guard preemptionBound == nil, let step = threads[choice.chosen].pending else { return }
    for (other, thread) in threads.enumerated() where (choice.asleep | choice.tried) >> UInt(other) & 1 != 0 {
      if other != choice.chosen, thread.identity != threads[choice.chosen].identity, let pending = thread.pending,
        pending.commutes(with: step)
      {
        inherited |= 1 << UInt(other)
      }
    }
  }

  private func newChoice(_ depth: Int, _ enabled: UInt, _ previous: Int?) -> Choice? {
    let asleep = depth == 0 ? 0 : inherited
    let preemptions = depth == 0 ? 0 : choices[depth - 1].preemptions + cost(depth - 1)
    let candidates = enabled & ~asleep
    if candidates == 0 { return nil }
    var choice = Choice(chosen: 0, asleep: asleep, tried: 0, preemptions: preemptions)
    enabledAt.removeLast(max(0, enabledAt.count - depth))
    enabledAt.append(enabled)
    previousAt.removeLast(max(0, previousAt.count - depth))
    previousAt.append(previous)
    if let previous, candidates >> UInt(previous) & 1 != 0 {
      choice.chosen = previous
    } else {
      choice.chosen = candidates.trailingZeroBitCount
    }
    return choice
  }

  private var enabledAt: [UInt] = []
  private var previousAt: [Int?] = []

  /// Whether the choice takes the CPU from a thread that could go on.
  private func cost(_ depth: Int) -> Int {
    guard let previous = previousAt[depth], enabledAt[depth] >> UInt(previous) & 1 != 0 else { return 0 }
    return choices[depth].chosen == previous ? 0 : 1
  }

  /// Moves on to the next schedule; false if there is none.
  private func advance() -> Bool {
    while var choice = choices.popLast() {
      let depth = choices.count
      choice.tried |= 1 << UInt(choice.chosen)
      var candidates = enabledAt[depth] & ~(choice.asleep | choice.tried)
      if let bound = preemptionBound, choice.preemptions >= bound, let previous = previousAt[depth],
        enabledAt[depth] >> UInt(previous) & 1 != 0
      {
        candidates &= 1 << UInt(previous)
      }
      if candidates != 0 {
        choice.chosen = candidates.trailingZeroBitCount
        choices.append(choice)
        return true
      }
    }
    return false
  }

  private func resume(_ thread: ModelThread) {
    running = thread
    fiber_resume(thread.fiber)
    running = nil
  }

  /// The running thread is about to take a step; returns when it is chosen.
  func step(_ word: Int, isWrite: Bool, parks: Bool = false) {
    guard let running else { return }  // Set-up and final checks are outside of all threads.
    running.pending = Step(word: word, isWrite: isWrite)
    running.isParked = parks
    fiber_yield()
    running.isParked = false
  }
}
