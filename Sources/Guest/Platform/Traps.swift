// What happens in Swift when a trap arrives: the assembly has saved everything to a frame on the thread's kernel stack and
// calls here with interrupts disabled; when this returns, still with interrupts disabled, it goes back to the frame.
#if GUEST
  import Base
  import Instructions
  import VirtioABI

  /// Interrupts and exceptions.
  @c func trap_handle(_ frame: UnsafeMutablePointer<trap_frame>) {
    let vector = frame.pointee.vector
    if vector >= 32 { Traps.interrupt(vector.u32, frame) } else { Traps.exception(vector, frame) }
    Traps.leave(frame)
  }

  /// System calls, of both kinds.
  @c func trap_system_call(_ frame: UnsafeMutablePointer<trap_frame>) {
    Interrupts.enable()
    if let systemCallTrap = Upcalls.systemCallTrap { systemCallTrap(frame) }
    if let systemCall = Upcalls.systemCall {
      systemCall(frame)
    } else {
      panic("a system call, and nobody to serve it", frame, address: 0)
    }
    _ = Interrupts.disable()
    Traps.leave(frame)
  }

  /// A system call by a jump before there is anybody to serve it.
  @c func trap_unserved_call(_ frame: UnsafeMutablePointer<trap_frame>) {
    panic("a system call, and nobody to serve it", frame, address: 0)
  }

  /// The last look on the way back from a jump that has found something to do. Interrupts are enabled, and disabled after it.
  @c func trap_leave_enabled(_ frame: UnsafeMutablePointer<trap_frame>) {
    _ = Interrupts.disable()
    Traps.leave(frame)
  }

  /// The last look before a frame is returned to.
  @c func trap_leave(_ frame: UnsafeMutablePointer<trap_frame>) { Traps.leave(frame) }

  /// A non-maskable interrupt: osv-run wants to know where the kernel is.
  @c func trap_nmi_handle(_ frame: UnsafeMutablePointer<trap_frame>) {
    if interruptEntries[InterruptTable.nonMaskable.int].handler != nil {
      InterruptTable.dispatch(InterruptTable.nonMaskable)
    } else {
      panic("non-maskable interrupt", frame, address: 0)
    }
  }

  /// No way on: `reason` 0 = double fault, 1 = the kernel stack is full, or an entry faulted.
  @c func trap_fatal(_ frame: UnsafeMutablePointer<trap_frame>, _ reason: UInt64) {
    let address = platformIsPVM ? per_cpu_fault_address() : instruction_read_cr2()
    if reason == 0 { panic("double fault", frame, address: address) }
    panic("the kernel stack is full (or an entry to the kernel faulted)", frame, address: address)
  }

  enum Traps {
    static func interrupt(_ vector: UInt32, _ frame: UnsafeMutablePointer<TrapFrame>) {
      // An interrupt between enabling and halting must not let the halt sleep on.
      let start = UInt(bitPattern: address_of_idle_start()).u64
      let end = UInt(bitPattern: address_of_idle_end()).u64
      if frame.pointee.rip &- start < end &- start { frame.pointee.rip = end }
      per_cpu_preemption_disable()
      let outer = per_cpu_in_interrupt()
      per_cpu_set_in_interrupt(1)
      EndOfInterrupt.tell(vector)
      InterruptTable.dispatch(vector)
      per_cpu_set_in_interrupt(outer)
      per_cpu_preemption_enable()
      if interruptEntries[vector.int].handler == nil { softwareInterrupt(vector, frame) }
    }

    /// A vector that nobody serves: if the program executed `int n`, which its privilege lets it, it gets what it would get
    /// on Linux (and what the monitor makes of it on kvm_pvm), a general protection fault at the instruction.
    private static func softwareInterrupt(_ vector: UInt32, _ frame: UnsafeMutablePointer<TrapFrame>) {
      guard frame.pointee.isFromProgram, let exception = Upcalls.exception else { return }
      var code: UInt16 = 0
      guard usercopy_copy(&code, UnsafeRawPointer(bitPattern: frame.pointee.rip.uint &- 2), 2) == 0,
        code == 0xcd | vector.u16 &<< 8
      else { return }
      frame.pointee.rip &-= 2
      frame.pointee.vector = 13
      frame.pointee.error = vector.u64 &* 8 &+ 2
      Interrupts.enable()
      exception(frame, 0)
      _ = Interrupts.disable()
    }

    static func exception(_ vector: UInt64, _ frame: UnsafeMutablePointer<TrapFrame>) {
      // The fault address must be read before another fault can come.
      var address: UInt64 = 0
      if vector == 14 { address = platformIsPVM ? per_cpu_fault_address() : instruction_read_cr2() }
      let isFromProgram = frame.pointee.isFromProgram
      // Single steps of a program end where the kernel begins (its own flags are safe in the frame or in R11).
      if vector == 1 && isFromProgram && isJumpEntry(frame.pointee.rip) { return stepIntoEntry(frame) }
      if vector == 1 && (!isFromProgram || isSystemCallEntry(frame.pointee.rip)) {
        frame.pointee.rflags &= ~TrapFrame.trapFlag
        return
      }
      if isFromProgram {
        Interrupts.enable()
        if vector != 14 || !resolve(frame, address) {
          guard let exception = Upcalls.exception else { panic("exception in the program", frame, address: address) }
          exception(frame, address)
        }
        _ = Interrupts.disable()
        return
      }
      let maySleep = frame.pointee.interruptsWereEnabled && Preemption.count == 0 && !CPU.isInInterrupt
      if vector == 14 && maySleep {
        Interrupts.enable()
        let isResolved = resolve(frame, address)
        _ = Interrupts.disable()
        if isResolved { return }
      }
      // Before the fixups: a copy from or to the program that runs over the kernel's own buffer is no fault of the program.
      if vector == 14, let explain = Upcalls.explainFault, let explanation = explain(address) {
        panic(explanation, frame, address: address)
      }
      if let target = Fixups.target(of: frame.pointee.rip) {
        frame.pointee.rip = target
        return
      }
      panic(name(of: vector), frame, address: address)
    }

    private static func isSystemCallEntry(_ address: UInt64) -> Bool {
      let start = UInt(bitPattern: address_of_system_call_entry_start()).u64
      return address &- start < UInt(bitPattern: address_of_system_call_entry_end()).u64 &- start
    }

    /// Whether a jump has arrived at its entry and is still on the program's stack.
    private static func isJumpEntry(_ address: UInt64) -> Bool {
      let isAt = { (entry: UnsafeRawPointer) in address &- UInt(bitPattern: entry).u64 < 4 }
      return isAt(address_of_jump_entry()) || isAt(address_of_gate_entry()) || isAt(address_of_leaf_entry())
    }

    /// A program that steps through itself jumps to the kernel: it comes in as by the instruction, whose way out keeps its flag.
    private static func stepIntoEntry(_ frame: UnsafeMutablePointer<TrapFrame>) {
      frame.pointee.r11 = frame.pointee.rflags
      frame.pointee.rflags &=
        ~(TrapFrame.trapFlag | TrapFrame.interruptFlag | FLAG_DIRECTION.u64 | FLAG_ALIGNMENT_CHECK.u64)
      frame.pointee.rip = UInt(bitPattern: address_of_osv_system_call_entry()).u64
    }

    /// An interrupt that found the program's stack but the kernel's code: the program is to be seen where it was before the
    /// jump, or where it goes on. (The jump is repeated: all that it has changed are RCX and R11.)
    private static func leaveEntry(_ frame: UnsafeMutablePointer<TrapFrame>) {
      if frame.pointee.rip == UInt(bitPattern: address_of_jump_return_last()).u64 {
        frame.pointee.rip = frame.pointee.rcx
      } else if isJumpEntry(frame.pointee.rip) {
        frame.pointee.rip = frame.pointee.rcx &- JumpEntry.sequenceByteCount
      }
    }

    private static func resolve(_ frame: UnsafeMutablePointer<TrapFrame>, _ address: UInt64) -> Bool {
      guard let pageFault = Upcalls.pageFault else { return false }
      return pageFault(frame, address)
    }

    /// Before going back: give the CPU away if that was asked for, and to a program only with its signals delivered.
    static func leave(_ frame: UnsafeMutablePointer<TrapFrame>) {
      if frame.pointee.isFromProgram {
        // Programs run with interrupts enabled: this is the first step of an entry by the instruction.
        guard frame.pointee.interruptsWereEnabled else { return }
        if isSystemCallEntry(frame.pointee.rip) { leaveEntry(frame) }
        repeat {
          if per_cpu_reschedule() != 0 && per_cpu_preemption_count() == 0 { Upcalls.callPreempt() }
          if let returnToProgram = Upcalls.returnToProgram { returnToProgram(frame) }
        } while per_cpu_reschedule() != 0 && per_cpu_preemption_count() == 0
      } else if per_cpu_reschedule() != 0 && per_cpu_preemption_count() == 0 && frame.pointee.interruptsWereEnabled {
        Upcalls.callPreempt()
      }
      // What the way back from a jump has looked at may have changed.
      let start = UInt(bitPattern: address_of_jump_return()).u64
      let end = UInt(bitPattern: address_of_jump_return_last()).u64
      if frame.pointee.rip &- start < end &- start { frame.pointee.rip = start }
    }

    private static func name(of vector: UInt64) -> StaticString {
      switch vector {
      case 0: "division error in the kernel"
      case 1: "debug exception in the kernel"
      case 3: "breakpoint in the kernel"
      case 6: "the kernel's own check failed (invalid opcode)"
      case 13: "general protection fault in the kernel"
      case 14: "page fault in the kernel"
      case 17: "misaligned access in the kernel"
      default: "exception in the kernel"
      }
    }
  }

  /// The table of instructions that may fault on program memory, and where to go on.
  enum Fixups {
    static func target(of address: UInt64) -> UInt64? {
      // SAFETY: the linker lays the table down between these labels: pairs of distances from the words themselves.
      var entry = address_of_fixups_start().assumingMemoryBound(to: Int32.self)
      let end = address_of_fixups_end().assumingMemoryBound(to: Int32.self)
      while entry < end {
        let instruction = VirtualAddress(UnsafeRawPointer(entry)).rawValue &+ entry[0].u64
        if instruction == address {
          return VirtualAddress(UnsafeRawPointer(entry + 1)).rawValue &+ entry[1].u64
        }
        entry += 2
      }
      return nil
    }
  }
#endif
