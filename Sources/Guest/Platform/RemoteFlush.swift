// Flushes on other CPUs, for platforms whose own flush is local: an interrupt and a count of requests for each CPU.
//
// A request is a number: the target notes the newest, flushes everything, and publishes the number as done. Requests of
// several senders merge. A sender that waits with interrupts disabled serves its own requests, so two cannot deadlock.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  enum RemoteFlush {
    /// Asks all CPUs that run to flush, and waits for them.
    static func run() {
      let own = CPU.current
      for cpu in 0..<CPU.count where cpu != own && CPUStart.isRunning(cpu) {
        let ticket = state(cpu).pointee.requested.wrappingAdd(1, ordering: .sequentiallyConsistent).newValue
        InterProcessor.send(BootVectors.call, to: cpu)
        while state(cpu).pointee.done.load(ordering: .acquiring) < ticket {
          serve()
          instruction_pause()
        }
      }
    }

    /// Does what others asked of this CPU: the handler of `BootVectors.call`.
    static func serve() {
      let own = CPU.current
      let ticket = state(own).pointee.requested.load(ordering: .sequentiallyConsistent)
      guard state(own).pointee.done.load(ordering: .relaxed) < ticket else { return }
      TLB.flushAll()
      state(own).pointee.done.store(ticket, ordering: .releasing)
    }

    /// The counters of one CPU, in its per-CPU area.
    private static func state(_ cpu: Int) -> UnsafeMutablePointer<RemoteFlushState> {
      // SAFETY: the area is the CPU's for ever, zero at the start, and this offset is reserved for these counters.
      CPUArea.pointer(cpu).advanced(by: PER_CPU_FLUSH.int).assumingMemoryBound(to: RemoteFlushState.self)
    }
  }

  struct RemoteFlushState: ~Copyable {
    let requested: Atomic<UInt64>
    let done: Atomic<UInt64>
  }
#endif
