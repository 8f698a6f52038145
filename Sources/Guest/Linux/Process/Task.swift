// A task: what Linux keeps for each thread of a process. It hangs on the scheduler's thread by slot 0.
import Base
import Locks
import Memory
import Pages
import Platform
import Threads

/// A thread that runs a program.
public final class Task {
  /// Its number (tid).
  let identifier: Int32
  /// The process it belongs to.
  var process: Process { processReference._withUnsafeGuaranteedRef { $0 } }
  /// The same, uncounted: it outlives its tasks.
  let processReference: Unmanaged<Process>
  /// The scheduler's thread.
  let thread: Thread

  // MARK: Guarded by `process.lock`

  /// Signals for this thread alone.
  var pending = PendingSignals()
  /// Signals not delivered now. Changed by the thread itself, under the lock.
  var blocked = SignalSet()
  /// Signals that the thread waits for by sigtimedwait: they wake it though they are blocked.
  var waitedSignals = SignalSet()
  /// Its name (PR_SET_NAME, /proc), cut off at 15 bytes.
  var name: [16 of UInt8] = .init(repeating: 0)

  /// It ends, and looks for those who wait for its locks, for the last time.
  var hasLeftLocks = false

  // MARK: Touched by the thread itself only

  /// The mask to go back to after sigsuspend and its kin have let a signal in.
  var savedMask: SignalSet?
  var signalStack = SignalStack()
  /// Set by a call that ended with EINTR: it may be called again after a handler that wants that (SA_RESTART).
  var interruptedCall: InterruptedCall?
  /// Set by a call that is to be called again whatever signal cut it short.
  var mustRestart = false
  /// Cleared, and its waiters woken, when the thread ends (set_tid_address, CLONE_CHILD_CLEARTID).
  var clearChildAddress = VirtualAddress.zero
  /// The list of robust mutexes it holds.
  var robustList = VirtualAddress.zero
  /// What it has registered by rseq(2).
  var restartable = RestartableSequence()
  /// The credentials that its system calls run with, counted; nil: it has not looked yet.
  private var identity: Unmanaged<IdentityRecord>?
  /// Two pages for paths, once it has needed them.
  var pathMemory: UnsafeMutableRawPointer?
  /// The last exception that became a signal: what every signal's context shows as trap, error and fault address.
  var lastException = ExceptionRecord()
  /// What the thread's last page fault came to.
  var lastFault = FaultResult.resolved
  /// Its page faults (`ResourceUsage`), read by others too.
  var minorFaults: UInt64 = 0
  var majorFaults: UInt64 = 0
  /// How late its timers may be (PR_SET_TIMERSLACK), ns. They are as exact as they can be whatever it says.
  var timerSlack = Task.defaultTimerSlack
  static let defaultTimerSlack: UInt64 = 50_000

  init(identifier: Int32, process: Process, thread: Thread) {
    self.identifier = identifier
    processReference = .passUnretained(process)
    self.thread = thread
  }

  // SAFETY of all: what it has counted of its process' identity is its own, and given up here.
  deinit {
    identity?.release()
    if let pathMemory { KernelHeap.free(pathMemory) }
  }

  /// The present credentials of its process. For its own thread, which keeps them until it looks again.
  @inline(__always) var credentials: Unmanaged<IdentityRecord> {
    processReference._withUnsafeGuaranteedRef { $0.identity.refresh(&identity) }
  }

  /// A system call that was cut short.
  struct InterruptedCall {
    /// Its number.
    var number: UInt64
    /// Whether it is called again behind a handler with SA_RESTART, and whether it is if no handler ran.
    var mayRestart: Bool
    var restartsUnhandled: Bool
    /// Whether it must be called again whatever happened.
    var mustRestart = false
  }

  /// Wakes the thread out of interruptible waits and makes it look for signals before it goes on in its program.
  func interrupt() { thread.interrupt() }

  /// Signals that are pending for this thread and not blocked. `process.lock` is held.
  var deliverable: SignalSet { pending.set.union(process.pending.set).subtracting(blocked) }

  /// The task of the running thread. Only in system calls, faults and their like: a thread without a task has none.
  @inline(__always) static var current: Task { currentReference._withUnsafeGuaranteedRef { $0 } }
  /// The same, uncounted.
  @inline(__always) static var currentReference: Unmanaged<Task> {
    // SAFETY: slot 0 of a thread that runs a program holds its task, retained until the thread has ended.
    Unmanaged<Task>.fromOpaque(Thread.currentSlot(.task).unsafelyUnwrapped)
  }
}

/// Numbers for processes and threads.
enum TaskNumbers {
  private static let next = Atomic<Int32>(1)

  /// The last one given out.
  static var last: Int32 { next.load(ordering: .relaxed) &- 1 }

  /// A number that was not given out before. (The range of 32 bits is not exhausted: a thread takes 20 us to make.)
  static func allocate() -> Int32 { next.wrappingAdd(1, ordering: .relaxed).oldValue }
}
