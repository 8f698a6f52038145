// A CPU's life: run, serve the exit, run again.
// SAFETY of all: words of the clock page, which `pointer` has found in the guest's memory, mapped for the life of the
// process; they are 8-byte aligned, and both sides change them atomically. `exits` has a record for each CPU, and each CPU's
// thread writes its own.

import CKVM
import Jail
import KVM
import Synchronization
import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

extension Machine {
  /// Runs the machine on this thread (CPU 0) until the program ends, and the process with it.
  public func run() -> Never {
    if isSelfTest { StandardStreams.report(selfDescription, to: 1) }
    if configuration.statisticsDescriptor != nil { pagesAtEntry = memory.residentPages }
    if configuration.statisticsDescriptor != nil || configuration.controlDescriptor != nil {
      memoryAccount = HostFile.open(Array("/proc/self/statm".utf8))
    }
    if let offset = MemoryLayout<ClockPage>.offset(of: \.events),
      let page = memory.pointer(at: layout.start.clock, count: GuestMemory.pageSize)
    {
      Signals.forward(to: vm, boot, events: (page + offset).assumingMemoryBound(to: UInt64.self))
    }
    if !configuration.networks.isEmpty {
      do throws(Failure) { try configuration.waitForNetworks() } catch { fail(error, vcpu: nil) }
      timeline.mark("network ready")
    }
    if configuration.isJailed {
      do throws(Failure) { try configuration.enterJail() } catch { fail(error, vcpu: nil) }
      timeline.mark("jail entered")
    }
    if let listener = configuration.controlDescriptor { serveControl(listener) }
    if configuration.cpuCount > 1 || memory.byteCount > firstSlot { startCompletion() }
    run(boot)
  }

  private var isSelfTest: Bool { configuration.flags & BootFlags.selfTest != 0 }

  /// What this machine's KVM is, for --self-test.
  private var selfDescription: String {
    let kind =
      switch platform {
      case .hardware: "hardware virtualisation"
      case .softwarePVM: "kvm_pvm (software virtualisation)"
      }
    func yes(_ capability: Int32) -> String { vm.check(capability: capability) > 0 ? "yes" : "no" }
    return """
      osv-run: this machine's KVM: \(kind)
      osv-run: time-stamp counter \(timeline.frequency / 1_000_000) MHz, extended state 0x\(
        String(cpuid.extendedStateMask, radix: 16)) (\(cpuid.extendedStateByteCount) bytes), FSGSBASE \(cpuid.hasFSGSBase)
      osv-run: halt polling \(yes(KVM_CAP_HALT_POLL)), read-only memory \(yes(KVM_CAP_READONLY_MEM)), vCPUs up to \(
        vm.check(capability: KVM_CAP_MAX_VCPUS))

      """
  }

  /// Runs one CPU for ever.
  func run(_ vcpu: VCPU) -> Never {
    while true {
      do throws(KVMError) {
        serve(try vcpu.run(), of: vcpu)
      } catch {
        fail(Failure(error), vcpu: vcpu)
      }
    }
  }

  private func serve(_ exit: Exit, of vcpu: VCPU) {
    exits[vcpu.index].count(exit)
    switch exit {
    case .portWrite(let port, let value, _): servePort(port, value, of: vcpu)
    case .portRead: vcpu.complete(read: .max)
    case .mmioWrite(let address, let value, let byteCount):
      if devices.board.write(address, value, byteCount: byteCount) { exits[vcpu.index].noteKick() }
    case .mmioRead(let address, let byteCount): vcpu.complete(read: devices.board.read(address, byteCount: byteCount))
    case .interrupted:
      if vcpu.index == 0 {
        // Taken back before the look: a signal after it asks again.
        vcpu.clearExitRequest()
        let isContinued = Signals.takeContinuation()
        if isContinued { HostTerminal.shared?.resume() }
        if Signals.takeResize() || isContinued {
          let size = StandardStreams.terminalSize
          devices.console.resize(columns: size.0, rows: size.1)
        }
      }
      if Signals.isAutopsyAsked {
        fail(Failure(.stopped, "the machine was told to quit twice; it was here"), vcpu: vcpu)
      }
    case .internalError(1, let instruction): refuse(instruction, of: vcpu)
    case .memoryFault where files.repair(seen: &exits[vcpu.index].repairsSeen): break
    default: fail(Failure(stoppedBy: exit), vcpu: vcpu)
    }
  }

  private func servePort(_ port: UInt16, _ value: UInt32, of vcpu: VCPU) {
    switch port {
    case BootPort.exit:
      let signal = CInt(value & 0x7f)
      end(status: signal == 0 ? CInt(value >> 8 & 0xff) : 128 + signal, signal: signal)
    case BootPort.text:
      let text = memory.text(at: UInt64(value) << 4, limit: 1 << 16) ?? []
      // A self-test's report is what was asked for; anything else that the kernel says is beside the program's output.
      text.withUnsafeBytes { StandardStreams.write($0, to: isSelfTest ? 1 : 2) }
    case BootPort.panic: reportPanic(at: UInt64(value) << 4, vcpu: vcpu)
    case BootPort.stop: HostTerminal.stop(by: CInt(truncatingIfNeeded: value & 0x7f))
    case BootPort.startFailed: fail(startFailure(value), vcpu: nil)
    case BootPort.phase: note(phase: value, of: vcpu)
    default: break
    }
  }

  /// A phase of the guest's start is over. The guest may say so from every CPU at once and for ever: each phase counts once.
  private func note(phase value: UInt32, of vcpu: VCPU) {
    guard let phase = BootPhase(rawValue: value) else { return }
    ending.withLock { _ in
      guard stampedPhases & 1 << phase.rawValue == 0 else { return }
      stampedPhases |= 1 << phase.rawValue
      timeline.mark("kernel: \(phase.name)", exits: exits[vcpu.index].total)
      if phase == .program && configuration.statisticsDescriptor != nil { pagesAtProgram = memory.residentPages }
    }
  }

  /// An instruction that this KVM cannot run: the program gets the exception a processor would have raised; if it
  /// is the kernel's own, the machine ends.
  private func refuse(_ instruction: [UInt8], of vcpu: VCPU) {
    do throws(KVMError) {
      let rip = try vcpu.registers.rip
      if rip &- layout.start.kernelVirtual < layout.kernelByteCount {
        let bytes = instruction.map { Hexadecimal.text(UInt64($0), digits: 2) }.joined(separator: " ")
        fail(
          Failure(.instruction, "the KVM of this machine cannot run an instruction of the guest's kernel (\(bytes))"),
          vcpu: vcpu)
      }
      let exception = RefusedInstruction.exception(for: instruction)
      try vcpu.inject(exception: exception.vector, errorCode: exception.errorCode)
    } catch {
      fail(Failure(error), vcpu: vcpu)
    }
  }

  /// Adds, beside the running guest, what it did not need at once: memory slots, then CPUs.
  private func startCompletion() {
    Thread.start("completion") { [self] in
      if configuration.completionDelay > 0 { usleep(configuration.completionDelay) }
      do throws(KVMError) {
        var slot = Self.laterSlots
        var present = firstSlot
        for (number, region) in memory.ram.enumerated() {
          let skipped = number == 0 ? firstSlot : 0
          let count = region.byteCount - skipped
          if count == 0 { continue }
          try vm.setMemory(
            slot: slot, physical: region.physical + skipped, host: region.host + Int(skipped), byteCount: count)
          slot += 1
          present += count
          publish(memoryByteCount: present)
        }
        for index in 1..<max(1, configuration.cpuCount) {
          let vcpu = try vm.createVCPU(index: index)
          try prepare(vcpu, entry: kernel.secondaryEntry)
          Thread.start("cpu \(index)") { [self] in run(vcpu) }
        }
      } catch {
        fail(Failure(error), vcpu: nil)
      }
    }
  }

  private func publish(memoryByteCount: UInt64) {
    guard let offset = MemoryLayout<ClockPage>.offset(of: \.memoryByteCount),
      let page = memory.pointer(at: layout.start.clock, count: GuestMemory.pageSize)
    else { return }
    ckvm_store_release((page + offset).assumingMemoryBound(to: UInt64.self), memoryByteCount)
  }

  // MARK: Ending

  /// Ends the process with the program's status.
  func end(status: CInt, signal: CInt) -> Never {
    ending.withLock { _ in
      HostTerminal.shared?.restore()
      configuration.status.report(status: status, signal: signal)
      account(status: status)
      configuration.finishNetworks()
      _exit(status)
    }
  }

  /// Ends the process because of `failure`, with the state of `vcpu`.
  func fail(_ failure: Failure, vcpu: VCPU?) -> Never {
    ending.withLock { _ in
      HostTerminal.shared?.restore()
      configuration.status.report(failure)
      if let vcpu { StandardStreams.report(describe(vcpu)) }
      account(status: 125)
      configuration.finishNetworks()
      _exit(125)
    }
  }

  /// Timeline and statistics, if they were asked for.
  private func account(status: CInt) {
    guard configuration.tracesBoot || configuration.statisticsDescriptor != nil else { return }
    timeline.mark("program ended", exits: exits[0].total)
    if configuration.tracesBoot { StandardStreams.report(timeline.report) }
    if let descriptor = configuration.statisticsDescriptor {
      var text = statisticsReport(status: status)
      text.withUTF8 { StandardStreams.write(UnsafeRawBufferPointer($0), to: descriptor) }
    }
  }

  private func reportPanic(at physical: UInt64, vcpu: VCPU) -> Never {
    let text = symbolised(memory.text(at: physical, limit: 1 << 16) ?? [])
    text.withUnsafeBytes { StandardStreams.write($0, to: 2) }
    fail(Failure(.panic, "the guest's kernel panicked; the lines above say where"), vcpu: nil)
  }
}
