// Kernel: installs every upcall and boots; the one module that knows everybody.
#if GUEST
  import Platform
  import VirtioABI

  /// Called by the assembly on CPU 0, on the boot stack.
  @c func kernel_main(_ information: UnsafeRawPointer) {
    // SAFETY: osv-run laid it down there for ever.
    Platform.start(information.assumingMemoryBound(to: BootInformation.self))
    Monitor.text("kernel: up")
    Monitor.exit(0)
  }
#endif
