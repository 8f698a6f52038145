// Flushes on other CPUs, for platforms whose own flush is local: an interrupt and a count of requests for each CPU.
//
// A request is a number: the target notes the newest, flushes everything, and publishes the number as done. Requests of
// several senders merge. All targets are asked before the first is waited for, so that they answer side by side.
//
// The host may have taken the processor from a target, perhaps to run the very CPU that waits: after a while the sender halts, and the
// target, when it has answered, interrupts whoever sleeps for it. No answer is slept through: the sender first says that it sleeps and
// then looks for the answer, the target first answers and then looks for sleepers, both sequentially consistent, so one sees the other.
// A sender that waits with interrupts disabled cannot halt; it serves its own requests, so that two of that kind do not deadlock. With
// interrupts enabled the handler alone serves them: a second one in between could publish an older number over a newer.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  enum RemoteFlush {
    /// Parts of a second to look for an answer before the sender halts: 50 us. A CPU that runs answers in 10, a halted one in 40.
    private static var patience: UInt64 { 20_000 }

    /// Asks all CPUs that run to flush, or those of them with a bit in `cpus`, and waits for them.
    static func run(_ cpus: UInt64 = .max) {
      let own = CPU.current
      for cpu in 0..<CPU.count where cpu != own && cpus &>> cpu.u64 & 1 != 0 && CPUStart.isRunning(cpu) {
        _ = state(cpu).pointee.requested.wrappingAdd(1, ordering: .sequentiallyConsistent)
        InterProcessor.send(BootVectors.call, to: cpu)
      }
      for cpu in 0..<CPU.count where cpu != own && cpus &>> cpu.u64 & 1 != 0 && CPUStart.isRunning(cpu) {
        // It may be a later one's number by now, or that of a CPU that has started since: their answer is as good, and comes too.
        wait(for: state(cpu).pointee.requested.load(ordering: .relaxed), from: cpu, own)
      }
    }

    private static func wait(for ticket: UInt64, from cpu: Int, _ own: Int) {
      let target = state(cpu)
      let start = instruction_rdtsc()
      let isInterruptible = Interrupts.areEnabled
      while target.pointee.done.load(ordering: .acquiring) < ticket {
        instruction_pause()
        if !isInterruptible {
          serve()
          continue
        }
        if instruction_rdtsc() &- start < Boot.clockPage.pointee.frequency / patience { continue }
        _ = Interrupts.disable()
        target.pointee.sleepers.bitwiseOr(1 &<< own.u64, ordering: .sequentiallyConsistent)
        if target.pointee.done.load(ordering: .sequentiallyConsistent) < ticket {
          remoteFlushHalts.wrappingAdd(1, ordering: .relaxed)
          Idle.wait()
        } else {
          Interrupts.enable()
        }
      }
    }

    /// Does what others asked of this CPU: the handler of `BootVectors.call`.
    static func serve() {
      let own = state(CPU.current)
      let ticket = own.pointee.requested.load(ordering: .sequentiallyConsistent)
      guard own.pointee.done.load(ordering: .relaxed) < ticket else { return }
      TLB.flushAll()
      own.pointee.done.store(ticket, ordering: .sequentiallyConsistent)
      guard own.pointee.sleepers.load(ordering: .sequentiallyConsistent) != 0 else { return }
      var sleepers = own.pointee.sleepers.exchange(0, ordering: .acquiring)
      while sleepers != 0 {
        InterProcessor.send(BootVectors.call, to: sleepers.trailingZeroBitCount)
        sleepers &= sleepers &- 1
      }
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
    /// CPUs that halt until this one has answered, a bit each.
    let sleepers: Atomic<UInt64>
  }

  /// How often a sender has halted; the self-test tells it.
  let remoteFlushHalts = Atomic<UInt64>(0)
#endif
