// Notices to threads that run on other CPUs: they begin anew what they do between two looks at their CPU (restartable sequences).
//
// Why nobody is missed who is in a sequence that it began before the call: if its thread does not run, it was noticed when it lost its
// CPU. If it runs, `runs` of its CPU names it, but the caller may not see that yet. So after all the CPUs were interrupted, which makes
// everything they had written seen, those whose `runs` has another value than at the first look are done once more. A thread
// that has come to a CPU after the interrupt sees all that was written before the call.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Platform

  extension Scheduler {
    /// See `Thread.noticeOthers`.
    static func noticeOthers(on cpus: UInt64) {
      Preemption.disable()
      defer { Preemption.enable() }
      var others = shared.pointee.activeCPUs.load(ordering: .relaxed) & cpus & ~(1 &<< CPU.current.u64)
      var seen: InlineArray<64, UInt> = InlineArray(repeating: 0)
      atomicMemoryFence(ordering: .sequentiallyConsistent)
      for _ in 0..<2 where others != 0 {
        var rest = others
        while rest != 0 {
          let cpu = rest.trailingZeroBitCount
          rest &= rest &- 1
          seen[cpu] = scheduler(of: cpu).pointee.runs.load(ordering: .acquiring)
          guard seen[cpu] != 0 else { continue }
          let thread = ThreadControl.at(seen[cpu])
          // A thread that wants none and gets one looks in vain, once.
          if thread != scheduler(of: cpu).pointee.idle { thread.pointee.park.notice() }
        }
        InterProcessor.synchroniseOthers(others)
        rest = others
        while rest != 0 {
          let cpu = rest.trailingZeroBitCount
          rest &= rest &- 1
          if scheduler(of: cpu).pointee.runs.load(ordering: .acquiring) == seen[cpu] { others &= ~(1 &<< cpu.u64) }
        }
      }
    }
  }
#endif
