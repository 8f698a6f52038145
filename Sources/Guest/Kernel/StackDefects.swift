// `osv-run --self-test boot-stack` and its kin: a stack of the kernel is overrun on purpose. The page below it is not mapped, so the
// machine must end with a report that says so, before anything else is written.
#if GUEST
  import Base
  import Platform
  import Threads
  import VirtioABI

  /// Stacks to be overrun.
  enum StackDefects {
    /// Whether one is asked for.
    static var isAskedFor: Bool { SelfTestName.isAsked("boot-stack") || SelfTestName.isAsked("thread-stack") }

    /// Overruns the stack. Memory is there. If the machine is still there afterwards, nobody has noticed.
    static func run() -> Never {
      if SelfTestName.isAsked("thread-stack") {
        Scheduler.begin(
          name: "self-test",
          entry: { _ in
            StackDefects.overrun()
          })
      }
      overrun()
    }

    private static func overrun() -> Never {
      _ = recurse(0)
      Monitor.text("the overrun was not noticed")
      Monitor.exit(1 &<< 8)
    }

    /// Twice a stack's size. Each call writes to its caller's memory, so that none can take the place of another's.
    @inline(never) private static func recurse(_ depth: Int, _ callers: UnsafeMutableRawPointer? = nil) -> Int {
      withUnsafeTemporaryAllocation(byteCount: 512, alignment: 16) { memory in
        callers?.storeBytes(of: depth, as: Int.self)
        guard depth < 64 else { return depth }
        return recurse(depth &+ 1, memory.baseAddress) &+ memory.load(as: Int.self)
      }
    }
  }
#endif
