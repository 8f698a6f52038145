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
      if bits & 1 != 0 { ProgramSignals.send(.interrupt) }
      if bits & 2 != 0 { ProgramSignals.send(.terminate) }
      if bits & 4 != 0 { ProgramSignals.send(.hangup) }
      if bits & 8 != 0 { ProgramSignals.send(.quit) }
      if bits & 16 != 0 { ProgramSignals.send(.windowChanged) }
      BootBalloon.startIfNeeded(isAskedFor: bits & 32 != 0)
    }
  }
#endif
