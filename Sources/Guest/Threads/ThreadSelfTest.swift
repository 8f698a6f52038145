// The threads' part of the kernel's self-test: what the scheduler promises, seen on the running machine.
//
// Runs on a thread, after `Scheduler.begin` and, if there are more CPUs, `Scheduler.startOtherCPUs`. Figures are for people;
// limits are generous, because the host may be busy.
//
// SAFETY of all: the checks run one after the other; in `shared`, what is not a lock or atomic is changed with `mutex`, or
// while no thread of a check is left.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Platform

  /// The self-test of threads.
  public enum ThreadSelfTest {
    /// Runs every check, shows a line for each, and says whether all were passed.
    public static func run(_ report: (TextLine) -> Void) -> Bool {
      var isPassed = true
      var number = 0
      while let name = name(number) {
        var line = TextLine()
        line.append("threads, ")
        line.append(name)
        line.append(": ")
        let outcome = perform(number)
        line.append(outcome.isPassed ? "ok" : "FAILED")
        outcome.appendFigures(to: &line)
        report(line)
        isPassed = isPassed && outcome.isPassed
        number &+= 1
      }
      return isPassed
    }

    private static func name(_ number: Int) -> StaticString? {
      switch number {
      case 0: "200 created and joined"
      case 1: "ping-pong on one CPU"
      case 2: "ping-pong between CPUs"
      case 3: "mutex contention"
      case 4: "sleeping"
      case 5: "preemption of a spinning thread"
      case 6: "two spinning threads"
      case 7: "deadlines and interrupts"
      case 8: "migration"
      case 9: "timers"
      case 10: "work queue"
      case 11: "grace period beside a spinning thread"
      case 12: "yielding on one CPU"
      case 13: "two spinning threads find two CPUs"
      case 14: "readers, deferred frees and a growing table"
      case 15: "reader-writer lock"
      default: nil
      }
    }

    private static func perform(_ number: Int) -> Outcome {
      switch number {
      case 0: createAndJoin()
      case 1: pingPong(1, 1)
      case 2: CPU.count > 1 ? pingPong(1, 2) : Outcome()
      case 3: contention()
      case 4: sleeping()
      case 5: preemption()
      case 6: spinning()
      case 7: deadlines()
      case 8: migration()
      case 9: timers()
      case 10: work()
      case 11: gracePeriod()
      case 12: yielding()
      case 13: spreading()
      case 14: readCopyUpdate()
      default: readersAndWriters()
      }
    }

    /// What a check found: up to three figures.
    struct Outcome {
      var isPassed: Bool = true
      private var figures: InlineArray<3, (name: StaticString, value: UInt64)> = InlineArray(repeating: ("", 0))
      private var count: Int = 0

      init(_ isPassed: Bool = true) { self.isPassed = isPassed }

      func with(_ name: StaticString, _ value: UInt64) -> Outcome {
        var other = self
        other.figures[other.count] = (name, value)
        other.count &+= 1
        return other
      }

      func appendFigures(to line: inout TextLine) {
        for index in 0..<count {
          line.append(index == 0 ? " (" : ", ")
          line.append(figures[index].name)
          line.append(" ")
          line.append(decimal: figures[index].value)
        }
        if count != 0 { line.append(")") }
      }
    }

    /// A thread, or none where memory is out: then the check hangs on nothing and fails by its count.
    static func spawn(
      _ entry: @escaping Thread.Entry, _ argument: UnsafeMutableRawPointer? = nil, affinity: UInt64 = .max
    ) -> Thread? {
      do throws(Errno) {
        return try Thread.spawn(name: "self-test", affinity: affinity, entry: entry, argument: argument)
      } catch { return nil }
    }

    /// What the threads of a check share. One check at a time.
    nonisolated(unsafe) static var shared = Shared()

    struct Shared: ~Copyable {
      let mutex = Mutex()
      let readerWriterLock = ReaderWriterLock()
      let ping = Semaphore()
      let pong = Semaphore()
      let queue = WaitQueue()
      let stop = Atomic<Bool>(false)
      let atomicCount = Atomic<UInt64>(0)
      let firedAt = Atomic<UInt64>(0)
      var guardedCount: UInt64 = 0
      var guardedCopy: UInt64 = 0
    }
  }
#endif
