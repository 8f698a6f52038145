// Where the kernel's Swift begins: the order in which its layers come up on CPU 0, until the scheduler runs the first thread.
//
// Kernel installs every upcall and is the one module that knows everybody. Nothing here may allocate before memory is up.
#if GUEST
  import Base
  import Memory
  import Pages
  import Platform
  import Threads
  import VirtioABI

  /// Called by the assembly on CPU 0, on the boot stack, interrupts disabled.
  @c func kernel_main(_ information: UnsafeRawPointer) {
    // SAFETY: osv-run laid it down there for ever.
    Platform.start(information.assumingMemoryBound(to: BootInformation.self))
    BootTrace.end(of: .platform)
    let start = PhysicalAddress(Boot.information.pointee.freeMemoryStart)
    if Boot.has(flag: BootFlags.selfTest) { runSelfTests(start) }
    startMemory(from: start)
    HeapCheck.run()
    AddressSpace.installSwitch()
    BootTrace.end(of: .memory)
    Scheduler.begin(
      name: "program",
      entry: { _ in
        // This thread will run the program, whose trap frame lies at the end of its stack: nothing that is in use may be there.
        withUnsafeTemporaryAllocation(byteCount: 256, alignment: 16) { (reserved) -> Void in BootSequence.run(reserved)
        }
      })
  }

  /// Brings frames, heap and kernel mappings up; `start` is the first byte that nobody has touched.
  func startMemory(from start: PhysicalAddress) {
    let head = Boot.information.pointee
    Frames.initialise(
      start: start, byteCount: head.memoryByteCount, cpuCount: CPU.count,
      isZero: !Boot.has(flag: BootFlags.memoryIsUsed))
    guard KernelMappings.initialise(root: PhysicalAddress(head.pageTableRoot), seed: head.seed1) else {
      panic("no memory for the kernel's own tables")
    }
    if Boot.has(flag: BootFlags.debugMemory), !KernelHeap.enableDebugging() { panic("no memory for a debugging heap") }
    KernelHeap.reclaim = { Reclaim.run(pages: $0, .anyLocks) }
  }

  /// Checks the machine instead of running a program, and ends it.
  private func runSelfTests(_ start: PhysicalAddress) -> Never {
    if ThreadCheck.isAskedFor {
      startMemory(from: start)
      ThreadCheck.run()
    }
    if StackDefects.isAskedFor {
      startMemory(from: start)
      StackDefects.run()
    }
    if HeapDefects.isAskedFor {
      startMemory(from: start)
      HeapDefects.run()
    }
    // The checks expect zero memory.
    if Boot.has(flag: BootFlags.memoryIsUsed) {
      clearMemory(LinearMap.pointer(start), byteCount: SelfTest.memoryByteCount)
    }
    var isPassed = SelfTest.run(memory: LinearMap.pointer(start)) { $0.show() }
    startMemory(from: start + SelfTest.memoryByteCount)
    Interrupts.enable()
    isPassed = MemorySelfTest.run(seed: Boot.information.pointee.seed2) { $0.show() } && isPassed
    isPassed = MemorySelfTest.auditKernel { $0.show() } && isPassed
    Monitor.exit(isPassed ? 0 : 1 &<< 8)
  }

  /// Stamps for `--trace boot`: each costs an exit to the monitor, so only when asked for.
  enum BootTrace {
    static func end(of phase: BootPhase) {
      if Boot.logs(BootLog.boot) { Monitor.phase(phase.rawValue) }
    }
  }
#endif
