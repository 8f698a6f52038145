// What the monitor tells a running machine: signals for the program (Ctrl-C, SIGTERM), a new window size, that the balloon is needed.
//
// The interrupt handler only queues work: sending a signal takes locks.
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

    private static func serve() {
      let bits = events.pointee.exchange(0, ordering: .acquiringAndReleasing)
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
