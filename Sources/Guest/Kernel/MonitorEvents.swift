// What the monitor tells a running machine: signals for the program (Ctrl-C, SIGTERM), a new window size, that the balloon is needed.
//
// The interrupt handler only queues work: sending a signal takes locks. What comes before there is a program stays in the clock page until
// it has been loaded, and is the first that it hears; a second SIGTERM ends the machine meanwhile, as ever.
#if GUEST
  import Base
  import Linux
  import Platform
  import Threads
  import VirtioABI

  enum MonitorEvents {
    /// Offset of `ClockPage.events`.
    private static let eventsOffset = 56

    // SAFETY: initialised before the vector is registered; afterwards only handed to the work queue.
    nonisolated(unsafe) private(set) static var work: UnsafeMutablePointer<WorkItem>! = nil

    /// Begins to listen. Boot only.
    /// - Throws: ENOMEM.
    static func start() throws(Errno) {
      try WorkQueue.begin()
      ProgramSignals.interruptIsTaken = {
        events.pointee.bitwiseAnd(~ClockPage.EventBits.interruptUnheard, ordering: .relaxed)
      }
      work = UnsafeMutablePointer<WorkItem>.allocate(capacity: 1)
      work.initialize(to: WorkItem({ _ in MonitorEvents.serve() }, context: nil))
      InterruptTable.register(BootVectors.monitor, handler: { _ in WorkQueue.submit(MonitorEvents.work) })
      // What came before anybody listened.
      if events.pointee.load(ordering: .relaxed) != 0 { WorkQueue.submit(work) }
    }

    private static var events: UnsafeMutablePointer<Atomic<UInt64>> {
      // SAFETY: a field of the clock page, which is there for ever; the monitor changes it atomically.
      (UnsafeMutableRawPointer(Boot.clockPage) + eventsOffset).assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    private static let isProgramLoaded = Atomic<Bool>(false)

    /// The first program is about to run: it hears of what has happened since the monitor's start.
    static func programIsLoaded() {
      isProgramLoaded.store(true, ordering: .sequentiallyConsistent)
      // An event from now on finds the flag set; of one before, the bit is still there.
      if events.pointee.load(ordering: .sequentiallyConsistent) != 0 { WorkQueue.submit(work) }
    }

    private static func serve() {
      let taken =
        isProgramLoaded.load(ordering: .sequentiallyConsistent)
        ? ~ClockPage.EventBits.interruptUnheard : ClockPage.EventBits.balloon
      let bits = events.pointee.bitwiseAnd(~taken, ordering: .sequentiallyConsistent).oldValue & taken
      func pass(_ bit: UInt64, _ kind: ProgramSignals.Kind) { if bits & bit != 0 { ProgramSignals.send(kind) } }
      pass(ClockPage.EventBits.interrupt, .interrupt)
      pass(ClockPage.EventBits.terminate, .terminate)
      pass(ClockPage.EventBits.hangup, .hangup)
      pass(ClockPage.EventBits.quit, .quit)
      pass(ClockPage.EventBits.windowChanged, .windowChanged)
      pass(ClockPage.EventBits.stop, .stop)
      pass(ClockPage.EventBits.resume, .resume)
      pass(ClockPage.EventBits.backgroundRead, .backgroundInput)
      BootBalloon.startIfNeeded(isAskedFor: bits & ClockPage.EventBits.balloon != 0)
    }
  }
#endif
