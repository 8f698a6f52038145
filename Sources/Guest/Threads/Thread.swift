// Thread: the handle by which everybody names a thread, and what can be done with one.
//
// A handle is one pointer to a control block. Control blocks are recycled and never freed: a handle may be compared,
// woken or interrupted at any time; but after a thread was joined (or, if detached, has ended) its handle may name
// another one. Whoever keeps handles of others takes care of that.
//
// SAFETY of all: a handle points to a control block, which is never freed. From outside, only words that are atomic are
// changed once the thread has started; its counts and slots are whole words that it alone writes (a slot's also its creator,
// before), so others may see an old one.

import Base
import Locks
import Platform

/// A thread of the kernel; some of them run programs.
public struct Thread: Equatable, @unchecked Sendable {
  let control: UnsafeMutablePointer<ThreadControl>

  @inline(__always) init(_ control: UnsafeMutablePointer<ThreadControl>) { self.control = control }

  /// What a thread runs: gets the argument; the thread ends when it returns.
  public typealias Entry = @convention(c) (UnsafeMutableRawPointer?) -> Void

  /// The name under which locks know this thread.
  @inline(__always) public var parker: Parker {
    #if HOSTED
      control.pointee.hostedParker
    #else
      Parker(rawValue: UInt(bitPattern: control))
    #endif
  }

  /// Its number: 1 and up, never given out twice.
  public var number: UInt64 { control.pointee.number }

  /// Its name, for people.
  public var name: StaticString { control.pointee.name }

  // MARK: Slots

  /// An opaque pointer that a layer above keeps in each thread. The owner sees to its life. Set it from the thread itself
  /// or before the thread has started.
  @inline(__always) public subscript(slot: ThreadSlot) -> UnsafeMutableRawPointer? {
    get { control.pointee.slots[slot.rawValue] }
    nonmutating set { control.pointee.slots[slot.rawValue] = newValue }
  }

  /// The running thread's pointer.
  @inline(__always) public static func currentSlot(_ slot: ThreadSlot) -> UnsafeMutableRawPointer? { current[slot] }

  // MARK: Interrupting

  /// Ends the thread's interruptible wait with `.interrupted`, now or when it begins the next one, until `clearInterrupt`.
  /// A thread in its program comes to the kernel soon (`Upcalls.returnToProgram`). From any context.
  public func interrupt() { Scheduler.interrupt(control) }

  /// Takes an interrupt back. Called by the thread itself, before it looks for the reason.
  public func clearInterrupt() { Scheduler.clearInterrupt(control) }

  /// Whether an interrupt stands.
  public var isInterrupted: Bool { Scheduler.isInterrupted(control) }

  // MARK: Notices

  #if !HOSTED
    /// Whether the running thread's program hears of each CPU it gets, and of each it lost against its will: then it comes
    /// through `Upcalls.returnToProgram`.
    public static func wantNotice(_ wants: Bool) {
      let control = current.control
      control.pointee.toldCPU = wants ? ThreadControl.nobodyTold &- 1 : ThreadControl.nobodyTold
      if wants { control.pointee.park.notice() }
    }

    /// Has the threads that run on other CPUs, and want notices, hear as if they had lost those CPUs, and returns when they have come
    /// to the kernel: what they had begun to do with what they saw before the call they begin anew. `cpus`: on which.
    public static func noticeOthers(on cpus: UInt64 = .max) { Scheduler.noticeOthers(on: cpus) }

    /// Takes the notice back and says the CPU; by the thread itself. Nil: there was none. It comes again if the CPU is another one
    /// when the thread is back in its program.
    public func takeNotice() -> Int? {
      guard control.pointee.park.takeNotice(), control.pointee.toldCPU != ThreadControl.nobodyTold else { return nil }
      let wasEnabled = Interrupts.disable()
      let cpu = CPU.current
      control.pointee.toldCPU = cpu.u32
      Interrupts.restore(wasEnabled)
      return cpu
    }
  #endif

  /// Whether there is anything to see to before the thread goes on in its program: an interrupt or a notice.
  @inline(__always) public var hasFlags: Bool { control.pointee.park.hasFlags() }

  // MARK: Waiting

  /// Sleeps until the deadline or, if wanted, an interrupt; says `.timedOut` or `.interrupted`.
  public static func sleep(until deadline: Deadline, interruptible: Bool = false) -> WaitResult {
    while true {
      let result = Parking.park(until: deadline, interruptible: interruptible)
      if result != .woken { return result }
    }
  }

  /// Lets other threads of this CPU run, if there are any.
  public static func yield() { Scheduler.yield() }

  /// Waits for the thread's end. Once, by one thread, unless it is detached.
  public func join() { Scheduler.join(control) }

  /// Nobody will join: the thread's control block is recycled when it ends.
  public func detach() { Scheduler.detach(control) }

  // MARK: Scheduling

  /// The CPUs it may run on, bit i for CPU i; takes effect when it next gets or gives up a CPU (for the running thread: at
  /// once). Not empty.
  public var affinity: UInt64 {
    get { control.pointee.affinity.load(ordering: .relaxed) }
    nonmutating set { Scheduler.setAffinity(control, newValue) }
  }

  /// How it shares CPUs with others; a new thread has its creator's. Takes effect at once. (Who changes it also calls
  /// `PriorityInheritance.refresh`, if the thread may wait for a lock with an owner.)
  public var policy: SchedulingPolicy {
    get { SchedulingPolicy(word: control.pointee.policy.load(ordering: .relaxed)) }
    nonmutating set { Scheduler.setPolicy(control, newValue) }
  }

  /// How long an ordinary thread runs at least before an equal one takes over, ns.
  public static var slice: UInt64 { RunQueue.slice }

  /// Nanoseconds of CPU time it has used, including what it uses now.
  public var runTime: UInt64 { Scheduler.runTime(control) }

  /// Whether it waits for something now.
  public var isAsleep: Bool { control.pointee.park.isAsleep() }

  /// How often it gave up the CPU to wait.
  public var voluntarySwitches: UInt64 { control.pointee.voluntarySwitches }

  /// How often the CPU was taken from it.
  public var involuntarySwitches: UInt64 { control.pointee.involuntarySwitches }

  /// The CPU it runs on, or ran on last.
  public var cpu: Int { control.pointee.cpu.load(ordering: .relaxed).int }

  // MARK: Programs

  /// The end of its kernel stack.
  public var kernelStackTop: VirtualAddress { control.pointee.stackTop }

  /// The FS base of its program. Of the running thread or of one that has not started.
  public var threadPointer: UInt64 {
    get { Scheduler.threadPointer(control) }
    nonmutating set { Scheduler.setThreadPointer(control, newValue) }
  }

  /// Its area for vector state (`ExtendedState.byteCount` bytes, 64-byte aligned), nil if it runs no program. For the
  /// running thread call `saveExtendedState` first, and `reloadExtendedState` after changing it.
  public var extendedState: UnsafeMutableRawPointer? { control.pointee.extendedState }

  /// Gives the thread what a program needs: an area with initial vector state. The running thread, or one that has not
  /// started; twice is as good as once.
  /// - Throws: ENOMEM.
  public func becomeProgram() throws(Errno) { try Scheduler.becomeProgram(control) }

  /// Writes the running thread's vector registers to its area.
  public static func saveExtendedState() { Scheduler.saveExtendedState() }

  /// Gives a thread that has not started the running thread's vector registers.
  public static func copyExtendedState(to thread: Thread) { Scheduler.copyExtendedState(to: thread.control) }

  #if GUEST
    /// Gives the thread of that parker its permit and sleeps, interruptibly, until the caller's own comes: one step where the other
    /// sleeps and can have this CPU.
    @inline(__always) public static func pass(to parker: Parker, until deadline: Deadline) -> WaitResult {
      Scheduler.pass(to: ThreadControl.at(parker.rawValue), until: deadline.nanoseconds)
    }

    /// Runs the body for a program that called a function of the kernel: it does not rely on its vector registers meanwhile, so
    /// they need not be saved and loaded where two such threads change places.
    @inline(__always) public static func asFunctionCall<R>(_ body: () -> R) -> R {
      let thread = Scheduler.current
      thread.pointee.isVectorStateDead = true
      defer { thread.pointee.isVectorStateDead = false }
      return body()
    }
  #endif

  /// Loads the running thread's vector registers from its area.
  public static func reloadExtendedState() { Scheduler.reloadExtendedState() }
}

/// Who has which of a thread's pointers.
public enum ThreadSlot: Int {
  /// The task of module Linux.
  case task = 0
  /// The address space of module Memory; a change is announced to `Scheduler.switchAddressSpace`.
  case addressSpace = 1
  /// Free for images and tests.
  case user = 2
}

extension Thread {
  /// The running thread.
  @inline(__always) public static var current: Thread { Thread(Scheduler.current) }

  /// A thread that will run `entry(argument)` in the kernel once `start` is called.
  /// - Parameters:
  ///   - name: for people.
  ///   - affinity: CPUs it may run on, bit i for CPU i.
  /// - Throws: ENOMEM, EAGAIN.
  public static func create(
    name: StaticString, affinity: UInt64 = .max, entry: @escaping Entry, argument: UnsafeMutableRawPointer? = nil
  ) throws(Errno) -> Thread {
    Thread(try Scheduler.create(name: name, affinity: affinity, entry: entry, argument: argument))
  }

  #if GUEST
    /// Hands stacks of ended threads that this CPU keeps for the next ones to the mapped kernel stacks (`KernelStack.trim`).
    public static func trimStacks() { Scheduler.trimStacks() }

    /// A thread that, once started, enters a program with the registers of `ContextSwitch.programFrame(stackTop:
    /// kernelStackTop)`, which the caller fills in before `start`. Has initial vector state and a thread pointer of 0.
    /// - Throws: ENOMEM, EAGAIN.
    public static func createProgram(name: StaticString, affinity: UInt64 = .max) throws(Errno) -> Thread {
      Thread(try Scheduler.createProgram(name: name, affinity: affinity))
    }
  #endif

  /// Lets the thread run. Once.
  public func start() { Scheduler.start(control) }

  #if GUEST
    /// Gives up a thread that has not started and will not: its stack and its block are for the next ones.
    public func discard() { Scheduler.discard(control) }
  #endif

  /// Creates a thread and starts it.
  /// - Throws: ENOMEM, EAGAIN.
  @discardableResult public static func spawn(
    name: StaticString, affinity: UInt64 = .max, entry: @escaping Entry, argument: UnsafeMutableRawPointer? = nil
  ) throws(Errno) -> Thread {
    let thread = try create(name: name, affinity: affinity, entry: entry, argument: argument)
    thread.start()
    return thread
  }

  /// Ends the running thread. Its kernel stack is left as it is: nothing on it is destroyed.
  public static func exit() -> Never { Scheduler.exit() }
}

extension Deadline {
  /// The deadline that many nanoseconds from now.
  public static func after(_ nanoseconds: UInt64) -> Deadline { after(nanoseconds, from: Clock.now()) }
}
