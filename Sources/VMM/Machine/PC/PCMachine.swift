// A machine for another kernel, as much of a PC as stock Linux needs: to test our devices with drivers that are not ours. Hardware KVM only.
//
// It has an I/O APIC, one PCI bus with our devices on it, COM1 as the console, and ACPI tables that say so. The kernel finds everything
// by itself; nothing of our own kernel's start is here, and nothing of this is in it.
import CKVM
import KVM
import VirtioBalloon
import VirtioEntropy
import VirtioFileSystem
import VirtioPCI
import VirtioQueue

#if canImport(Glibc)
  import Glibc
#endif

// SAFETY: complete before a second thread starts; what is behind it has locks of its own.
/// A virtual PC with its memory, CPUs and devices.
public final class PCMachine: @unchecked Sendable {
  private let configuration: MachineConfiguration
  private let vm: VirtualMachine
  private let memory: GuestMemory
  private let platform: PCPlatform
  private let console: PCConsole
  private var vcpus: [VCPU] = []
  private var passts: [Passt] { configuration.networks.compactMap(\.passt) }

  /// Makes the machine; nothing of the guest has run when it returns.
  /// - Parameters:
  ///   - configuration: memory, CPUs, shares, network interfaces and the jail; nothing else of it is looked at.
  ///   - kernel: what it boots.
  public init(_ configuration: MachineConfiguration, _ kernel: ForeignKernel) throws(Failure) {
    self.configuration = configuration
    memory = try GuestMemory(byteCount: configuration.memoryByteCount)
    let activity: EventDescriptor
    do throws(KVMError) {
      vm = try System().createVirtualMachine()
      try vm.enableSplitInterruptController(routes: IOInterruptController.lineCount)
      activity = try EventDescriptor()
      for (slot, region) in memory.ram.enumerated() {
        try vm.setMemory(
          slot: UInt32(slot), physical: region.physical, host: region.host, byteCount: region.byteCount)
      }
      for index in 0..<configuration.cpuCount { vcpus.append(try vm.createVCPU(index: index)) }
    } catch { throw Failure(error) }
    if case .softwarePVM = Platform(vcpus[0]) {
      throw Failure(
        .unsupported, "this machine's KVM (kvm_pvm) runs no other kernels: they need Intel or AMD virtualisation")
    }

    let vm = vm
    let deliver: @Sendable (MSIMessage) -> Void = { vm.deliver($0) }
    let interrupts = IOInterruptController(interrupt: deliver)
    let serial = SerialPort(
      raise: { interrupts.raise(PCLayout.serialLine) },
      send: { $0.withUnsafeBytes { StandardStreams.write($0, to: 1) } }, onActivity: { activity.signal() })
    let host = PCIHost(try Self.functions(configuration, memory: memory, interrupt: deliver))
    platform = PCPlatform(serial: serial, host: host, interrupts: interrupts)
    let status = configuration.status
    let passts = configuration.networks.compactMap(\.passt)
    console = PCConsole(serial: serial, activity: activity) { Self.end(serial, status, passts, 0) }

    let tables = ACPITables(at: PCLayout.tables, cpuCount: configuration.cpuCount)
    guard tables.bytes.count <= PCLayout.tablesLimit,
      let place = memory.pointer(at: PCLayout.tables, count: UInt64(tables.bytes.count))
    else { throw Failure(.memory, "the guest has too little memory for a kernel: give more with --memory") }
    // SAFETY: the place has as many bytes.
    tables.bytes.withUnsafeBytes { place.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    let entry = try kernel.load(into: memory, rootPointer: PCLayout.tables)
    let cpuid = CPUIDTable(cpuCount: configuration.cpuCount)
    do throws(KVMError) {
      for vcpu in vcpus { try vcpu.set(cpuid: cpuid.entries(cpu: vcpu.index) + CPUIDTable.hypervisorEntries) }
      // The others wait for the first to start them, as CPUs of a PC do.
      try vcpus[0].enter(entry)
    } catch { throw Failure(error) }
  }

  /// The devices, each in its place on the bus.
  private static func functions(
    _ configuration: MachineConfiguration, memory: GuestMemory, interrupt: @escaping @Sendable (MSIMessage) -> Void
  ) throws(Failure) -> [PCIFunction] {
    let map = GuestMemoryMap()
    for region in memory.ram {
      map.add(start: GuestAddress(region.physical), byteCount: region.byteCount, host: region.host)
    }
    var devices: [any VirtioDevice] = [VirtioEntropy(), VirtioBalloon(memory: map)]
    let queues = min(configuration.cpuCount, 8)
    let budget = MachineDevices.budget(for: configuration, queues: queues)
    for share in configuration.shares {
      // The name to mount it by is its path, without the first slash.
      let tag = String(decoding: share.guest.drop { $0 == UInt8(ascii: "/") }, as: UTF8.self)
      devices.append(
        VirtioFileSystemDevice(
          server: try MachineDevices.server(share, budget), tag: tag.isEmpty ? "root" : tag, requestQueues: queues))
    }
    let networks = NetworkDevices(configuration)
    for number in configuration.networks.indices { devices.append(try networks.make(number)) }
    guard devices.count <= PCIHost.functionLimit else {
      throw Failure(.unsupported, "the machine has more devices than its bus has places: attach fewer volumes")
    }
    var functions: [PCIFunction] = []
    for (index, device) in devices.enumerated() {
      let function = PCIFunction(device: device, memory: map, interrupt: interrupt)
      function.place(at: PCLayout.devices + UInt64(index) * PCIFunction.barByteCount)
      functions.append(function)
    }
    return functions
  }

  /// Runs the machine on this thread (CPU 0) until it is switched off, and the process with it.
  public func run() -> Never {
    let isTerminal = PCConsole.makeRaw()
    PCAutopsy.install(for: vcpus[0])
    do throws(Failure) {
      try configuration.waitForNetworks()
      if configuration.isJailed { try configuration.enterJail() }
    } catch { fail(error, nil) }
    let console = console
    let isJailed = configuration.isJailed
    let requests = configuration.requests
    Thread.start("console") {
      if isJailed { Thread.restrict(.console, requests: requests) }
      console.run(isTerminal: isTerminal)
    }
    for vcpu in vcpus.dropFirst() { Thread.start("cpu \(vcpu.index)") { [self] in run(vcpu) } }
    run(vcpus[0])
  }

  private func run(_ vcpu: VCPU) -> Never {
    while true {
      do throws(KVMError) { serve(try vcpu.run(), of: vcpu) } catch { fail(Failure(error), vcpu) }
    }
  }

  private func serve(_ exit: Exit, of vcpu: VCPU) {
    switch exit {
    case .portWrite(let port, let value, let count):
      switch platform.writePort(port, count: count, value) {
      case .powerOff?: Self.end(platform.serial, configuration.status, passts, 0)
      case .reset?: Self.end(platform.serial, configuration.status, passts, Self.resetStatus)
      case nil: break
      }
    case .portRead(let port, let count): vcpu.complete(read: UInt64(platform.readPort(port, count: count)))
    case .mmioWrite(let address, let value, let count): platform.writeMemory(address, count: count, value)
    case .mmioRead(let address, let count): vcpu.complete(read: platform.readMemory(address, count: count))
    case .interrupted:
      guard PCAutopsy.isAsked, vcpu.index == 0 else { break }
      fail(Failure(.stopped, "the machine was told to quit; it was here"), vcpu)
    default: fail(Failure(stoppedBy: exit), vcpu)
    }
  }

  /// The status when the kernel asked for a reset, as it does after a panic: there is nothing to start again.
  static let resetStatus: CInt = 1

  /// The end of a machine that was switched off.
  private static func end(
    _ serial: SerialPort, _ report: StatusReport, _ passts: [Passt], _ status: CInt
  ) -> Never {
    serial.flush()
    HostTerminal.shared?.restore()
    report.report(status: status, signal: 0)
    for passt in passts { passt.finish() }
    _exit(status)
  }

  private func fail(_ failure: Failure, _ vcpu: VCPU?) -> Never {
    platform.serial.flush()
    HostTerminal.shared?.restore()
    configuration.status.report(failure)
    if let vcpu { StandardStreams.report(Machine.registers(of: vcpu)) }
    configuration.finishNetworks()
    _exit(125)
  }
}

/// SIGQUIT ends the machine and says where CPU 0 was.
private enum PCAutopsy {
  // Set once, before the handler is installed, and only read by it.
  // SAFETY: set once, before the handler is installed, and only read by it.
  nonisolated(unsafe) private static var boot: VCPU?
  // SAFETY: one word for good, which the handler and CPU 0's thread change atomically.
  nonisolated(unsafe) private static let asked: UnsafeMutablePointer<UInt64> = {
    let word = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    word.initialize(to: 0)
    return word
  }()

  static var isAsked: Bool { ckvm_load_acquire(asked) != 0 }

  /// To be called by CPU 0's thread: the signal goes to it, for the others have it blocked.
  static func install(for vcpu: VCPU) {
    boot = vcpu
    _ = isAsked
    if Signals.isIgnored(SIGQUIT) { return }
    var action = sigaction()
    action.__sigaction_handler.sa_handler = { _ in
      ckvm_store_release(PCAutopsy.asked, 1)
      PCAutopsy.boot?.requestExit()
    }
    sigaction(SIGQUIT, &action, nil)
  }
}

extension CPUIDTable {
  /// What tells a kernel that it is a guest of KVM and may use KVM's clock (Documentation/virt/kvm/x86/cpuid.rst): clock, delays without
  /// ports, the clock's newer registers, and that it is the same on all CPUs.
  static var hypervisorEntries: [kvm_cpuid_entry2] {
    [
      CPUIDAnswer(leaf: 0x4000_0000, eax: 0x4000_0001, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d).entry,
      CPUIDAnswer(leaf: 0x4000_0001, eax: 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24, ebx: 0, ecx: 0, edx: 0).entry,
    ]
  }
}

extension VCPU {
  /// Sets the registers with which a foreign kernel is entered.
  func enter(_ entry: KernelEntry) throws(KVMError) {
    let isLong = entry.mode == .linux64
    var system = try systemRegisters
    system.cs = .flat(selector: 0x10, isCode: true, isLong: isLong)
    let data = kvm_segment.flat(selector: 0x18)
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data)
    system.tr = .taskState(selector: 0, base: 0)
    system.gdt.base = PCLayout.gdt
    system.gdt.limit = 31
    system.idt.base = 0
    system.idt.limit = 0
    if isLong {
      system.cr3 = PCLayout.pageTables
      system.cr4 = 0x20  // PAE
      system.cr0 = 0x8000_0031  // PG NE ET PE
      system.efer = 0x500  // LMA LME
    } else {
      system.cr4 = 0
      system.cr0 = 0x11  // ET PE
      system.efer = 0
    }
    try set(systemRegisters: system)
    var general = kvm_regs()
    general.rip = entry.address
    general.rflags = 2
    general.rsi = isLong ? PCLayout.bootParameters : 0
    general.rbx = isLong ? 0 : PCLayout.startInformation
    try set(registers: general)
  }
}
