// ThreadControl: what the scheduler keeps for each thread. Recycled, never freed (see `Parker`).

import Base
import Locks
import Pages
import Platform

/// A thread's control block. Who may touch what:
///   * `park`, `wake`, `timer`, `cpu`, `onCPU`, `unsaved`, `affinity`, `policy`, `life`, `review`: anybody, as their algorithms say;
///   * `wait`, `waiters`: under the lock of PriorityInheritance;
///   * `run`: the CPU in whose run queue the thread is, or the one that runs it, with interrupts off;
///   * the rest: the thread itself or, while it does not run, whoever switches or creates it.
struct ThreadControl: ~Copyable {
  let park = ParkWord<LiveWord>()
  var wake: WakeNode<LiveWord>
  var timer: TimerNode<LiveWord>
  var run: RunNode

  /// The CPU it runs on or ran on last.
  let cpu = Atomic<UInt32>(0)
  /// 1 from the switch to it until the switch away from it is complete: its stack is in use.
  let onCPU = Atomic<UInt32>(0)
  /// 1 while its vector registers are in CPU `cpu` and not in its area: only that CPU may run it.
  let unsaved = Atomic<UInt32>(0)
  /// The CPUs it may run on.
  let affinity = Atomic<UInt64>(.max)
  /// `SchedulingPolicy.word` with what was inherited; taken over by the CPU that has the thread when it next queues it, lets it go or
  /// reviews it.
  let policy = Atomic<UInt32>(0)
  /// What of `policy` its run node has.
  var adoptedPolicy: UInt32 = 0
  /// For the list of those that a CPU is to review (SchedulerReview), and whether it is in one.
  var review: WakeNode<LiveWord>
  let isInReview = LiveWord(0)
  /// The wait that keeps it from going on, if that is for a lock with an owner, and those who wait for its own.
  var wait: UnsafeMutablePointer<PriorityWait>?
  var waiters = PairingHeap<PriorityWait>()
  /// 0 joinable, 1 detached, 2 ended.
  let life = LiveWord(0)
  let joiner = WaitQueue()

  /// The CPU its program was last told of, if it wants to hear (`Thread.wantsNotice`); otherwise `nobodyTold`.
  var toldCPU = ThreadControl.nobodyTold
  static var nobodyTold: UInt32 { .max }

  /// It must go to another CPU, or is at its end, once its stack is free.
  var isLeaving = false
  var isEnding = false
  var saved = SavedStack()
  var stackTop = VirtualAddress(0)
  var runTime: UInt64 = 0
  var voluntarySwitches: UInt64 = 0
  var involuntarySwitches: UInt64 = 0
  /// When it last woke a thread since it got the CPU; 0 if it has not.
  var wokeAt: UInt64 = 0
  /// 0 to 3: how often it has slept soon after it had woken somebody, lately.
  var passesOn: UInt8 = 2
  /// When it last yielded for nothing, and since when it has been doing so again and again (`Scheduler.yieldForNothing`).
  var yieldedAt: UInt64 = 0
  var yieldingSince: UInt64 = 0
  /// How long it polls before it sleeps, cycles (`BriefPoll`).
  var pollCycles: UInt32 = 0
  /// Its program's FS base, while it is not in the CPU's register.
  var threadPointer: UInt64 = 0
  /// Its program made a function call: nobody wants back what its vector registers hold. Looked at when it gives up the CPU.
  var isVectorStateDead = false
  /// Where its vector registers are saved; nil if it runs no program.
  var extendedState: UnsafeMutableRawPointer?
  /// Such an area for the next thread that gets this block, kept while the block keeps its stack.
  var spareState: UnsafeMutableRawPointer?
  var slots: InlineArray<4, UnsafeMutableRawPointer?> = InlineArray(repeating: nil)

  var number: UInt64 = 0
  var name: StaticString = ""
  var entry: Thread.Entry?
  var argument: UnsafeMutableRawPointer?
  /// Its stack, if it came from `KernelStack`.
  var stack: KernelStack?
  var nextFree: UnsafeMutablePointer<ThreadControl>?
  #if HOSTED
    /// How locks know the host thread that plays this one.
    var hostedParker = Parker(rawValue: 0)
  #endif

  private init(address: UInt) {
    wake = WakeNode(owner: address)
    review = WakeNode(owner: address)
    timer = TimerNode(owner: address)
    run = RunNode(owner: address)
  }

  /// A new control block, all in its initial state; nil if memory is out.
  static func allocate() -> UnsafeMutablePointer<ThreadControl>? {
    let layout = MemoryLayout<ThreadControl>.self
    #if HOSTED
      let memory: UnsafeMutableRawPointer? = .allocate(byteCount: layout.size, alignment: layout.alignment)
    #else
      let memory = KernelHeap.allocate(byteCount: layout.size, alignment: 64)
    #endif
    guard let memory else { return nil }
    // SAFETY: fresh memory of that size and alignment, never freed.
    let control = memory.bindMemory(to: ThreadControl.self, capacity: 1)
    control.initialize(to: ThreadControl(address: UInt(bitPattern: memory)))
    return control
  }

  /// The control block whose address a node or a parker holds.
  @inline(__always) static func at(_ address: UInt) -> UnsafeMutablePointer<ThreadControl> {
    // SAFETY: owners of nodes and parkers are addresses of control blocks, which live for ever.
    UnsafeMutablePointer(bitPattern: address).unsafelyUnwrapped
  }
}

extension UnsafeMutablePointer<ThreadControl> {
  // SAFETY: nodes inside a block that is neither moved nor freed, so the addresses outlive the closures.
  /// Its node for wake lists.
  @inline(__always) var wakeNode: UnsafeMutablePointer<WakeNode<LiveWord>> {
    withUnsafeMutablePointer(to: &pointee.wake) { $0 }
  }
  /// Its node for lists of threads to be reviewed.
  @inline(__always) var reviewNode: UnsafeMutablePointer<WakeNode<LiveWord>> {
    withUnsafeMutablePointer(to: &pointee.review) { $0 }
  }
  /// Takes over a policy that was set since; in no queue.
  @inline(__always) func adoptPolicy() {
    let wanted = pointee.policy.load(ordering: .relaxed)
    if wanted == pointee.adoptedPolicy { return }
    pointee.adoptedPolicy = wanted
    pointee.run.adopt(SchedulingPolicy(word: wanted), inheriting: SchedulingPolicy.inherited(wanted))
  }
  /// Its account of CPU time.
  @inline(__always) var runTimeAddress: UnsafeMutablePointer<UInt64> {
    withUnsafeMutablePointer(to: &pointee.runTime) { $0 }
  }
  /// Its timer.
  @inline(__always) var timerNode: UnsafeMutablePointer<TimerNode<LiveWord>> {
    withUnsafeMutablePointer(to: &pointee.timer) { $0 }
  }
  /// Its node for run queues.
  @inline(__always) var runNode: UnsafeMutablePointer<RunNode> {
    withUnsafeMutablePointer(to: &pointee.run) { $0 }
  }
}
