// `osv-run --self-test threads`: the self-test of threads. It is a run of its own
// because the platform's self-test keeps the other CPUs.
#if GUEST
  import Base
  import Locks
  import Memory
  import Platform
  import Threads
  import VirtioABI

  /// The self-test of threads.
  enum ThreadCheck {
    /// Whether the first argument says so.
    static var isAskedFor: Bool { SelfTestName.isAsked("threads") }

    /// Brings threads up, runs the test, and ends the machine. Memory is there.
    static func run() -> Never {
      Scheduler.begin(name: "self-test", entry: { _ in ThreadCheck.main() })
    }

    private static func main() {
      do throws(Errno) {
        try Scheduler.startOtherCPUs()
      } catch { panic("no memory for threads") }
      // The others announce themselves when they are up.
      while Scheduler.activeCPUCount < CPU.count { _ = Thread.sleep(until: .after(100_000)) }
      var isPassed = ThreadSelfTest.run { $0.show() }
      isPassed = ReclaimCheck.run { $0.show() } && isPassed
      isPassed = MemorySelfTest.auditKernel { $0.show() } && isPassed
      Monitor.exit(isPassed ? 0 : 1 &<< 8)
    }
  }

  /// Which self-test was asked for, by the word behind the option.
  enum SelfTestName {
    /// Whether it is this one.
    static func isAsked(_ word: StaticString) -> Bool {
      guard let argument = Boot.string(at: Boot.information.pointee.argumentsOffset) else { return false }
      for index in 0..<word.utf8CodeUnitCount where argument[index] != word.utf8Start[index] { return false }
      return argument[word.utf8CodeUnitCount] == 0
    }
  }
#endif
