// What the processor can do, as the boot information says it (osv-run asks KVM instead: VMM/KVM/CPUIDTable).
import Base
import VirtioABI

/// The boot CPU's abilities.
struct ProcessorFeatures {
  /// `BootCPUFeatures` bits.
  var bits: UInt32 = 0
  /// Components of extended state that are switched on (XCR0); 0 without XSAVE.
  var stateMask: UInt64 = 0
  /// Bytes of an XSAVE area for them.
  var stateByteCount: UInt32 = 0
  /// CPUID 1 EDX.
  var hardwareCapabilities: UInt32 = 0
  /// The local APIC has the form whose registers are MSRs (x2APIC).
  var hasX2APIC = false
  /// CR4 for the kernel: PAE, OSFXSR, OSXMMEXCPT, and FSGSBASE and OSXSAVE as there are.
  var control4: UInt64 = 0x620

  /// Asks the CPU.
  init(_ machine: some BareMachine) throws(BootstrapFailure) {
    let highest = machine.identify(0, 0).a
    let first = machine.identify(1, 0)
    let extended = machine.identify(0x8000_0001, 0)
    guard highest >= 7, extended.d &>> 20 & 1 != 0, extended.d &>> 11 & 1 != 0, machine.identify(7, 0).b & 1 != 0 else {
      throw BootstrapFailure("the CPU lacks FSGSBASE, NX or SYSCALL, which the kernel needs (QEMU: give -cpu max)")
    }
    hardwareCapabilities = first.d
    bits = BootCPUFeatures.fsgsbase
    control4 |= 1 &<< 16
    hasX2APIC = first.c &>> 21 & 1 != 0
    if first.c &>> 24 & 1 != 0 { bits |= BootCPUFeatures.tscDeadline }
    if first.c &>> 30 & 1 != 0 { bits |= BootCPUFeatures.rdrand }
    guard first.c &>> 26 & 1 != 0, highest >= 0xd else { return }
    control4 |= 1 &<< 18
    bits |= BootCPUFeatures.xsave
    let abilities = machine.identify(0xd, 1).a
    if abilities & 1 != 0 { bits |= BootCPUFeatures.xsaveopt }
    if abilities & 4 != 0 { bits |= BootCPUFeatures.stateInUse }
    // x87, SSE, AVX and the three of AVX-512 (all or none); MPX, PKRU, CET and AMX stay off.
    stateMask = machine.identify(0xd, 0).a.u64 & 0xe7
    if stateMask & 0xe0 != 0xe0 { stateMask &= 0x07 }
    if stateMask & 0x4 == 0 { stateMask &= 0x03 }
    let seventh = machine.identify(7, 0).b
    if stateMask & 0xe0 != 0 && seventh &>> 16 & 1 != 0 && seventh &>> 30 & 1 != 0 { bits |= BootCPUFeatures.avx512 }
    stateByteCount = 576
    for component: UInt32 in 2..<8 where stateMask &>> component.u64 & 1 != 0 {
      let place = machine.identify(0xd, component)
      stateByteCount = max(stateByteCount, place.a &+ place.b)
    }
  }
}
