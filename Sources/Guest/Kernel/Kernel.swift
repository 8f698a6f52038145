// Kernel: installs every upcall and boots; the one module that knows everybody.
#if GUEST
  import Base
  import Memory
  import Pages
  import Platform
  import VirtioABI

  /// Called by the assembly on CPU 0, on the boot stack.
  @c func kernel_main(_ information: UnsafeRawPointer) {
    // SAFETY: osv-run laid it down there for ever.
    Platform.start(information.assumingMemoryBound(to: BootInformation.self))
    if Boot.has(flag: BootFlags.selfTest) {
      let start = PhysicalAddress(Boot.information.pointee.freeMemoryStart)
      if ThreadCheck.isAskedFor {
        startMemory(from: start)
        ThreadCheck.run()
      }
      var isPassed = SelfTest.run(memory: LinearMap.pointer(start)) { $0.show() }
      startMemory(from: start + SelfTest.memoryByteCount)
      Interrupts.enable()
      isPassed = MemorySelfTest.run(seed: Boot.information.pointee.seed2) { $0.show() } && isPassed
      Monitor.exit(isPassed ? 0 : 1 &<< 8)
    }
    Monitor.text("kernel: up")
    Monitor.exit(0)
  }

  /// Brings frames, heap and kernel mappings up; `start` is the first byte that nobody has touched.
  func startMemory(from start: PhysicalAddress) {
    let head = Boot.information.pointee
    Frames.initialise(start: start, byteCount: head.memoryByteCount, cpuCount: CPU.count)
    guard KernelMappings.initialise(root: PhysicalAddress(head.pageTableRoot), seed: head.seed1) else {
      panic("no memory for the kernel's own tables")
    }
  }
#endif
