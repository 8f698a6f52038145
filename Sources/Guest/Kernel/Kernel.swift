// Kernel: installs every upcall and boots; the one module that knows everybody.
#if GUEST
  import Base
  import Platform
  import VirtioABI

  /// Called by the assembly on CPU 0, on the boot stack.
  @c func kernel_main(_ information: UnsafeRawPointer) {
    // SAFETY: osv-run laid it down there for ever.
    Platform.start(information.assumingMemoryBound(to: BootInformation.self))
    if Boot.has(flag: BootFlags.selfTest) {
      let memory = LinearMap.pointer(PhysicalAddress(Boot.information.pointee.freeMemoryStart))
      let isPassed = SelfTest.run(memory: memory) { $0.show() }
      Monitor.exit(isPassed ? 0 : 1 &<< 8)
    }
    Monitor.text("kernel: up")
    Monitor.exit(0)
  }
#endif
