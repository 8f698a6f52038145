// The scheduler's stand-in for unit tests on the host: a thread is a pthread, locks park on the host (no `Parking.install`),
// and one pthread keeps the timers, with the real timer queue.
// SAFETY of all: control blocks and the timers are never freed, and a host thread's `CPU.currentThread` is what `adopt` put
// there. A block's plain fields are written before its thread starts, or by that thread; `timers` is touched under
// `timerLock` alone.
#if HOSTED
  import Base
  import Glibc
  import Locks
  import Platform

  /// The scheduler; on the host, the host's.
  public enum Scheduler {
    /// See the kernel's; never called on the host.
    nonisolated(unsafe) public static var switchAddressSpace: (@convention(c) (UnsafeMutableRawPointer) -> Void)? = nil

    private static let nextNumber = Atomic<UInt64>(1)

    static var current: UnsafeMutablePointer<ThreadControl> {
      if let pointer = CPU.currentThread { return pointer.assumingMemoryBound(to: ThreadControl.self) }
      let thread = ThreadControl.allocate()!
      thread.pointee.name = "host"
      thread.pointee.number = nextNumber.wrappingAdd(1, ordering: .relaxed).oldValue
      adopt(thread)
      return thread
    }

    /// The calling host thread plays this one.
    private static func adopt(_ thread: UnsafeMutablePointer<ThreadControl>) {
      thread.pointee.hostedParker = Parking.current
      thread.pointee.onCPU.store(1, ordering: .releasing)
      CPU.currentThread = UnsafeMutableRawPointer(thread)
    }

    static func create(
      name: StaticString, affinity: UInt64, entry: @escaping Thread.Entry, argument: UnsafeMutableRawPointer?
    ) throws(Errno) -> UnsafeMutablePointer<ThreadControl> {
      make(name: name, affinity: affinity, entry: entry, argument: argument)
    }

    private static func make(
      name: StaticString, affinity: UInt64, entry: @escaping Thread.Entry, argument: UnsafeMutableRawPointer?
    ) -> UnsafeMutablePointer<ThreadControl> {
      let thread = ThreadControl.allocate()!
      thread.pointee.name = name
      thread.pointee.number = nextNumber.wrappingAdd(1, ordering: .relaxed).oldValue
      thread.pointee.affinity.store(affinity, ordering: .relaxed)
      thread.pointee.entry = entry
      thread.pointee.argument = argument
      return thread
    }

    static func start(_ thread: UnsafeMutablePointer<ThreadControl>) {
      var handle = pthread_t()
      let result = pthread_create(
        &handle, nil,
        { argument in
          let thread = argument!.assumingMemoryBound(to: ThreadControl.self)
          Scheduler.adopt(thread)
          thread.pointee.entry!(thread.pointee.argument)
          Scheduler.exit()
        }, thread)
      precondition(result == 0)
      pthread_detach(handle)
      while thread.pointee.onCPU.load(ordering: .acquiring) == 0 { sched_yield() }
    }

    static func exit() -> Never {
      let thread = current
      if thread.pointee.life.compareExchange(0, 2) { thread.pointee.joiner.wakeAll() }
      pthread_exit(nil)
    }

    static func join(_ thread: UnsafeMutablePointer<ThreadControl>) {
      _ = thread.pointee.joiner.wait { thread.pointee.life.load() == 0 }
    }

    static func detach(_ thread: UnsafeMutablePointer<ThreadControl>) {
      _ = thread.pointee.life.compareExchange(0, 1)
    }

    static func yield() { sched_yield() }
    static func pause() { sched_yield() }

    static func interrupt(_ thread: UnsafeMutablePointer<ThreadControl>) {
      _ = thread.pointee.park.interrupt()
      HostedParking.interrupt(thread.pointee.hostedParker)
    }

    static func clearInterrupt(_ thread: UnsafeMutablePointer<ThreadControl>) {
      thread.pointee.park.clearInterrupt()
      HostedParking.clearInterrupt(thread.pointee.hostedParker)
    }

    static func isInterrupted(_ thread: UnsafeMutablePointer<ThreadControl>) -> Bool {
      thread.pointee.park.isInterrupted()
    }

    static func setAffinity(_ thread: UnsafeMutablePointer<ThreadControl>, _ mask: UInt64) {
      thread.pointee.affinity.store(mask, ordering: .relaxed)
    }

    static func runTime(_ thread: UnsafeMutablePointer<ThreadControl>) -> UInt64 {
      guard thread == current else { return 0 }
      var time = timespec()
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
      return time.tv_sec.u64 &* 1_000_000_000 &+ time.tv_nsec.u64
    }

    static func threadPointer(_ thread: UnsafeMutablePointer<ThreadControl>) -> UInt64 { thread.pointee.threadPointer }
    static func setThreadPointer(_ thread: UnsafeMutablePointer<ThreadControl>, _ value: UInt64) {
      thread.pointee.threadPointer = value
    }
    static func becomeProgram(_ thread: UnsafeMutablePointer<ThreadControl>) throws(Errno) {
      guard thread.pointee.extendedState == nil else { return }
      let area = UnsafeMutableRawPointer.allocate(byteCount: ExtendedState.byteCount, alignment: 64)
      ExtendedState.initialise(area)
      thread.pointee.extendedState = area
    }
    static func saveExtendedState() {}
    static func reloadExtendedState() {}
    static func copyExtendedState(to thread: UnsafeMutablePointer<ThreadControl>) {}
    static func setPolicy(_ thread: UnsafeMutablePointer<ThreadControl>, _ policy: SchedulingPolicy) {
      thread.pointee.policy.store(
        SchedulingPolicy.word(policy.word, inheriting: thread.inheritedPriority), ordering: .relaxed)
    }
    static func setInheritedPriority(_ thread: UnsafeMutablePointer<ThreadControl>, _ priority: UInt8) {
      let word = thread.pointee.policy.load(ordering: .relaxed)
      thread.pointee.policy.store(SchedulingPolicy.word(word, inheriting: priority), ordering: .relaxed)
    }

    // MARK: Timers

    nonisolated(unsafe) private static let timers = {
      let timers = UnsafeMutablePointer<TimerQueue<LiveWord>>.allocate(capacity: 1)
      timers.initialize(to: TimerQueue(cpu: 0))
      return timers
    }()
    private static let timerLock = Mutex()
    /// Its parker's name, once it runs.
    private static let timerThread = LiveWord(0)

    static func arm(_ node: UnsafeMutablePointer<TimerNode<LiveWord>>, at nanoseconds: UInt64) {
      timerLock.lock()
      timers.pointee.arm(node, at: nanoseconds.uint, post: noOtherCPU)
      if timerThread.load() == 0 { startTimerThread() }
      timerLock.unlock()
      Parking.unpark(Parker(rawValue: timerThread.load()))
    }

    private static func noOtherCPU(_ cpu: Int, _ node: UnsafeMutablePointer<TimerNode<LiveWord>>) {}

    private static func startTimerThread() {
      var handle = pthread_t()
      let result = pthread_create(
        &handle, nil,
        { _ in
          Scheduler.keepTimers()
          return nil
        }, nil)
      precondition(result == 0)
      while timerThread.load() == 0 { sched_yield() }
    }

    private static func keepTimers() {
      timerThread.store(Parking.current.rawValue)
      while true {
        var next = TimerNode<LiveWord>.never
        while true {
          timerLock.lock()
          let due = timers.pointee.takeDue(now: Clock.now().uint)
          next = timers.pointee.firstDeadline
          timerLock.unlock()
          guard let due else { break }
          TimerControl.fire(due.pointee.owner & ~1)
          TimerQueue<LiveWord>.fired(due)
        }
        _ = Parking.park(until: next == TimerNode<LiveWord>.never ? .never : Deadline(nanoseconds: next.u64))
      }
    }
  }
#endif
