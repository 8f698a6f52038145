// Bringing the platform up: on CPU 0 first thing in the kernel, on the others when they are released.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  extension Platform {
    /// Takes over the CPU from osv-run: linear map, clock, traps, local interrupt controller. The very first call of the
    /// kernel, on CPU 0, with the boot information it was started with. Leaves interrupts disabled.
    public static func start(_ information: UnsafePointer<BootInformation>) {
      platformIsPVM = instruction_privilege_level() == 3
      Boot.install(information)
      let head = information.pointee
      LinearMap.install(base: VirtualAddress(head.linearMapBase))
      guard head.magic == BootInformation.magicValue, head.version == BootInformation.currentVersion else {
        panic("the boot information is not of this kernel's version", head.version.u64)
      }
      guard head.platform == (platformIsPVM ? BootPlatform.softwarePVM : BootPlatform.hardware) else {
        panic("osv-run says another platform than the CPU", head.platform.u64)
      }
      guard head.cpuFeatures & BootCPUFeatures.fsgsbase != 0,
        head.cpuFeatures & BootCPUFeatures.tscDeadline != 0 || head.timerFrequency != 0
      else { panic("the CPU lacks RDFSBASE or the TSC-deadline timer", head.cpuFeatures.u64) }
      if head.interruptControllerPhysical != 0 {
        controllerRegisters = LinearMap.pointer(PhysicalAddress(head.interruptControllerPhysical))
      }
      cpuCount = min(head.cpuCount.int, CPU.limit)
      let frequency = Boot.clockPage.pointee.frequency
      timerShortestCycles = frequency / (1_000_000_000 / LocalTimer.shortestDelay)
      if head.timerFrequency != 0 { timerCountsPerCycle = max((head.timerFrequency &<< 32) / frequency, 1) }
      TrapGates.install()
      for cpu in 0..<cpuCount { CPUArea.prepare(cpu) }
      InterruptTable.register(BootVectors.call, handler: { _ in RemoteFlush.serve() })
      startCPU()
    }

    /// What each CPU does for itself.
    static func startCPU() {
      ExtendedState.start(Boot.information)
      ModelSpecificRegister.write(.spuriousVector, 0x100 | BootVectors.spurious.u64)
      if timerCountsPerCycle == 0 {
        ModelSpecificRegister.write(.timerVector, 0x4_0000 | BootVectors.timer.u64)
      } else {
        ModelSpecificRegister.write(.timerDivide, 0b0011)  // by 16
        ModelSpecificRegister.write(.timerVector, BootVectors.timer.u64)
      }
      runningCPUs.bitwiseOr(1 &<< CPU.current.u64, ordering: .sequentiallyConsistent)
      // It has been waiting in the kernel with translations that nobody asked it to drop until now.
      if !TLB.flushesEverywhere { TLB.flushAll() }
    }
  }

  /// The CPUs that have taken up work.
  private let runningCPUs = Atomic<UInt64>(0)

  enum CPUStart {
    static func isRunning(_ cpu: Int) -> Bool {
      runningCPUs.load(ordering: .acquiring) &>> cpu.u64 & 1 != 0
    }
  }

  extension CPU {
    /// Lets CPU `cpu`, which has been waiting since the start, run `entry(argument)` on the kernel stack that ends at
    /// `stackTop`; with interrupts disabled, its timer and interrupt controller ready. Once for each CPU but 0.
    public static func start(
      _ cpu: Int, stackTop: VirtualAddress, entry: @escaping ContextSwitch.Entry, argument: UnsafeMutableRawPointer?
    ) {
      precondition(cpu > 0 && cpu < CPU.count && !CPUStart.isRunning(cpu))
      // SAFETY: 16 bytes at the end of a stack that nobody runs on yet; secondaryMain takes them off again.
      let words = (stackTop - 16).unsafePointer.assumingMemoryBound(to: UInt64.self)
      words[0] = UInt(bitPattern: unsafeBitCast(entry, to: UnsafeRawPointer.self)).u64
      words[1] = UInt(bitPattern: argument).u64
      let area = CPUArea.pointer(cpu)
      area.storeBytes(of: stackTop.rawValue, toByteOffset: PER_CPU_KERNEL_STACK_TOP.int, as: UInt64.self)
      // SAFETY: the CPU spins on this word of its own area.
      let release = area.advanced(by: PER_CPU_RELEASE.int).assumingMemoryBound(to: Atomic<UInt64>.self)
      release.pointee.store(stackTop.rawValue &- 16, ordering: .releasing)
    }

    /// Whether CPU `cpu` has taken up work.
    public static func isRunning(_ cpu: Int) -> Bool { CPUStart.isRunning(cpu) }
  }

  /// Where a released CPU enters Swift, on its kernel stack.
  @c func secondary_main(_ entry: UInt64, _ argument: UnsafeMutableRawPointer?) {
    Platform.startCPU()
    // SAFETY: CPU.start stored a C function pointer.
    let function = unsafeBitCast(UnsafeRawPointer(bitPattern: entry.uint), to: ContextSwitch.Entry.self)
    function(argument)
    panic("a secondary CPU's entry returned")
  }

  /// Stacks that are there from the start.
  public enum BootStacks {
    /// Calls `body` with every page below one of them that must not be mapped: the first stack of CPU 0 in the image, and those of each
    /// CPU for interrupts, NMI and double faults.
    public static func forEachGuard(_ body: (VirtualAddress) -> Void) {
      body(VirtualAddress(address_of_boot_stack_top()) - CPU.kernelStackByteCount - 4096)
      for cpu in 0..<CPU.count {
        let area = VirtualAddress(CPUArea.pointer(cpu))
        for index in 0..<BootInformation.perCPUGuards.count { body(area + BootInformation.perCPUGuards[index]) }
      }
    }
  }

  /// The per-CPU areas, which osv-run placed (GS base already points to the current CPU's).
  enum CPUArea {
    /// The area of a CPU, through the linear map.
    static func pointer(_ cpu: Int) -> UnsafeMutableRawPointer {
      let address = Boot.information.pointee.perCPUPhysical &+ cpu.u64 &* BootInformation.perCPUStride
      return LinearMap.pointer(PhysicalAddress(address))
    }

    /// Fills in the fields and the stacks for traps.
    static func prepare(_ cpu: Int) {
      let area = pointer(cpu)
      let address = VirtualAddress(area).rawValue
      area.storeBytes(of: address, toByteOffset: PER_CPU_SELF.int, as: UInt64.self)
      area.storeBytes(of: cpu.u32, toByteOffset: PER_CPU_INDEX.int, as: UInt32.self)
      area.storeBytes(
        of: platformIsPVM ? BootPlatform.softwarePVM : BootPlatform.hardware, toByteOffset: PER_CPU_PLATFORM.int,
        as: UInt32.self)
      area.storeBytes(
        of: UInt(bitPattern: address_of_gate_entry()).u64, toByteOffset: PER_CPU_GATE.int, as: UInt64.self)
      area.storeBytes(
        of: UInt(bitPattern: address_of_jump_entry()).u64, toByteOffset: PER_CPU_JUMP.int, as: UInt64.self)
      area.storeBytes(
        of: UInt(bitPattern: address_of_leaf_entry()).u64, toByteOffset: PER_CPU_LEAF.int, as: UInt64.self)
      area.storeBytes(of: address &+ PER_CPU_NOBODY.u64, toByteOffset: PER_CPU_CURRENT_THREAD.int, as: UInt64.self)
      let pointer = PER_CPU_AREA_POINTER.int
      area.storeBytes(of: address, toByteOffset: PER_CPU_NMI_STACK_END.int & -0x4000 &+ pointer, as: UInt64.self)
      area.storeBytes(
        of: address, toByteOffset: PER_CPU_DOUBLE_FAULT_STACK_END.int & -0x4000 &+ pointer, as: UInt64.self)
      if cpu == 0 {
        area.storeBytes(
          of: UInt(bitPattern: address_of_boot_stack_top()).u64, toByteOffset: PER_CPU_KERNEL_STACK_TOP.int,
          as: UInt64.self)
      }
      let segment = LinearMap.pointer(PhysicalAddress(Boot.information.pointee.tssPhysical &+ cpu.u64 &* 128))
      segment.storeBytes(of: address &+ PER_CPU_INTERRUPT_STACK_END.u64, toByteOffset: 0x24, as: UInt64.self)
      segment.storeBytes(of: address &+ PER_CPU_NMI_STACK_END.u64, toByteOffset: 0x2c, as: UInt64.self)
      segment.storeBytes(of: address &+ PER_CPU_DOUBLE_FAULT_STACK_END.u64, toByteOffset: 0x34, as: UInt64.self)
    }
  }
#endif
