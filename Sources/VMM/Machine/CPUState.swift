// The register values with which a CPU enters the kernel, for both kinds of KVM.

import CKVM
import KVM
import VirtioABI

/// Which KVM this is, and what it needs.
public enum Platform: Sendable {
  /// Intel or AMD virtualisation.
  case hardware
  /// kvm_pvm: the guest runs natively once its interrupt-flag record is registered.
  case softwarePVM

  // The interrupt-flag record's register, its signature, and the bits a host must set with it.
  static let flagRegister: UInt32 = 0x4b56_4d10
  static let signatureRegister: UInt32 = 0x4b56_4d11
  static let signature: UInt64 = 0x4d_5650
  static let flagRegisterBits: UInt64 = 0x400 | 0x10  // supervisor state; fault address in the record

  /// Asks a vCPU.
  init(_ vcpu: VCPU) {
    self = vcpu.msr(Self.signatureRegister) == Self.signature ? .softwarePVM : .hardware
  }

  /// The number in the boot information.
  var bootValue: UInt32 {
    switch self {
    case .hardware: BootPlatform.hardware
    case .softwarePVM: BootPlatform.softwarePVM
    }
  }
}

extension kvm_segment {
  /// All of memory, for data, or for code of 32 or 64 bits.
  static func flat(selector: UInt16, isCode: Bool = false, isLong: Bool = false) -> kvm_segment {
    var segment = kvm_segment()
    segment.limit = 0xffff_ffff
    segment.selector = selector
    segment.type = isCode ? 11 : 3
    (segment.present, segment.s, segment.g) = (1, 1, 1)
    segment.l = isLong ? 1 : 0
    segment.db = isLong ? 0 : 1
    return segment
  }

  /// A task-state segment that is in use.
  static func taskState(selector: UInt16, base: UInt64) -> kvm_segment {
    var segment = kvm_segment()
    segment.base = base
    segment.limit = 0x67
    segment.selector = selector
    (segment.type, segment.present) = (11, 1)
    return segment
  }
}

extension VCPU {
  /// Sets every register that the boot contract names.
  func prepare(
    layout: GuestLayout, platform: Platform, cpuid: CPUIDTable, cpuCount: Int, entry: UInt64, boot: UInt64,
    systemCall: UInt64
  ) throws(KVMError) {
    try set(cpuid: cpuid.entries(cpu: index))

    var system = try systemRegisters
    let data = kvm_segment.flat(selector: 0x18)
    let start = layout.start
    let perCPU = start.area(index)
    system.cs = .flat(selector: 0x10, isCode: true, isLong: true)
    system.ss = data
    system.ds = data
    system.es = data
    system.fs = data
    system.gs = data
    system.gs.base = start.linear(perCPU)
    system.tr = .taskState(
      selector: StartLayout<BootAllocator>.taskSelector(index), base: start.taskState(index))
    system.ldt = kvm_segment()
    system.ldt.unusable = 1
    system.ldt.type = 2
    system.gdt.base = start.linear(start.gdt)
    system.gdt.limit = StartLayout<BootAllocator>.gdtLimit(cpuCount: cpuCount)
    system.idt.base = start.linear(start.idt)
    system.idt.limit = 0xfff
    system.cr0 = 0x8005_0033  // PE MP ET NE WP AM PG
    system.cr3 = start.pageTableRoot
    system.cr4 = 0x620  // PAE OSFXSR OSXMMEXCPT
    // On kvm_pvm the processor has both on; set here, `cpuid` says so (OSXSAVE), and programs use what they find.
    if cpuid.hasFSGSBase { system.cr4 |= 1 << 16 }
    if cpuid.extendedStateMask != 0 { system.cr4 |= 1 << 18 }
    system.efer = 0xd01  // SCE LME LMA NXE
    system.apic_base |= 0xc00  // enabled, x2APIC
    try set(systemRegisters: system)
    if platform == .hardware, cpuid.extendedStateMask != 0 { try set(xcr0: cpuid.extendedStateMask) }

    var general = kvm_regs()
    general.rip = entry
    general.rflags = 2
    general.rdi = boot
    general.rsi = UInt64(index)
    try set(registers: general)

    var msrs: [(index: UInt32, value: UInt64)] = [
      (0xc000_0081, 0x0023_0010_0000_0000),  // STAR
      (0xc000_0082, systemCall),  // LSTAR
      (0xc000_0084, 0x25_7fd5),  // SFMASK
    ]
    // Last: from here on the vCPU runs natively.
    if platform == .softwarePVM { msrs.append((Platform.flagRegister, perCPU | Platform.flagRegisterBits)) }
    try set(msrs: msrs)
    if index > 0 { try setRunnable() }
  }
}
