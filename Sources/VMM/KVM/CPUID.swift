// What the guest's `cpuid` answers: a few leaves of the host, patched.
//
// KVM_GET_SUPPORTED_CPUID costs more than the rest of a start (each host `cpuid` may be a trap of its own), so we
// read only the leaves that programs and our kernel look at. Features a guest cannot have here are taken out.

import CKVM

/// One answer of `cpuid`.
public struct CPUIDAnswer: Equatable, Sendable {
  /// The leaf asked for in EAX.
  public var leaf: UInt32
  /// The subleaf asked for in ECX.
  public var subleaf: UInt32
  /// Whether the subleaf matters.
  public var isIndexed: Bool
  /// The four registers answered.
  public var eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32

  /// An answer with all its words.
  public init(
    leaf: UInt32, subleaf: UInt32 = 0, isIndexed: Bool = false, eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32
  ) {
    self.leaf = leaf
    self.subleaf = subleaf
    self.isIndexed = isIndexed
    self.eax = eax
    self.ebx = ebx
    self.ecx = ecx
    self.edx = edx
  }

  /// As KVM_SET_CPUID2 wants it.
  public var entry: kvm_cpuid_entry2 {
    var entry = kvm_cpuid_entry2()
    entry.function = leaf
    entry.index = subleaf
    entry.flags = isIndexed ? 1 : 0
    entry.eax = eax
    entry.ebx = ebx
    entry.ecx = ecx
    entry.edx = edx
    return entry
  }
}

/// The table of answers for one machine, and what it implies for the first register values.
public struct CPUIDTable: Equatable, Sendable {
  /// The answers for CPU 0; `answers(cpu:of:)` has the others'.
  public private(set) var answers: [CPUIDAnswer] = []
  /// Extended state components that XCR0 shall enable, 0 without XSAVE.
  public private(set) var extendedStateMask: UInt64 = 0
  /// Bytes of the uncompacted XSAVE area for them, 0 without XSAVE.
  public private(set) var extendedStateByteCount: UInt32 = 0
  /// RDFSBASE and its kin exist.
  public private(set) var hasFSGSBase = false
  /// XSAVEOPT exists.
  public private(set) var hasXSAVEOPT = false
  /// XGETBV tells which extended state is in use.
  public private(set) var hasStateInUse = false
  /// AVX-512 F and BW exist.
  public private(set) var hasAVX512 = false
  /// RDRAND exists.
  public private(set) var hasRDRAND = false
  /// CPUID 1 EDX.
  public private(set) var hardwareCapabilities: UInt32 = 0
  /// 1 GiB pages exist.
  public private(set) var hasGigabytePages = false

  /// Leaf 0, EBX: "Genu".
  private static let genuineIntel: UInt32 = 0x756e_6547

  // Leaf 1, ECX.
  private static let x2apic: UInt32 = 1 << 21
  private static let tscDeadline: UInt32 = 1 << 24
  private static let xsave: UInt32 = 1 << 26
  private static let osxsave: UInt32 = 1 << 27
  private static let hypervisor: UInt32 = 1 << 31
  // MONITOR, DS-CPL, VMX, SMX, EIST, TM2, debug interface, PDCM: the host's own business.
  private static let absent1: UInt32 =
    1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 15

  /// Reads the host through `host` (the processor's own `cpuid` unless a test gives another), for a machine of
  /// `cpuCount` CPUs. Extended state is limited to `supportedState`, what the host's XCR0 has.
  public init(
    cpuCount: Int, supportedState: UInt64? = nil,
    host: (_ leaf: UInt32, _ subleaf: UInt32) -> (eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32) = { leaf, sub in
      let r = ckvm_cpuid(leaf, sub)
      return (r.eax, r.ebx, r.ecx, r.edx)
    }
  ) {
    func add(
      _ leaf: UInt32, _ subleaf: UInt32 = 0, indexed: Bool = false, _ patch: (inout CPUIDAnswer) -> Void = { _ in }
    ) {
      let r = host(leaf, subleaf)
      var answer = CPUIDAnswer(
        leaf: leaf, subleaf: subleaf, isIndexed: indexed, eax: r.eax, ebx: r.ebx, ecx: r.ecx, edx: r.edx)
      patch(&answer)
      answers.append(answer)
    }
    let (highest, vendor, _, _) = host(0, 0)
    let leaf1 = host(1, 0)
    let hostXSAVE = leaf1.ecx & Self.xsave != 0 && leaf1.ecx & Self.osxsave != 0 && highest >= 0xd

    add(0) { $0.eax = min(highest, 0xd) }
    add(1) {
      $0.ebx = $0.ebx & 0x0000_ff00 | UInt32(cpuCount & 0xff) << 16
      $0.ecx = $0.ecx & ~Self.absent1 & ~Self.osxsave | Self.x2apic | Self.tscDeadline | Self.hypervisor
      if !hostXSAVE { $0.ecx &= ~(Self.xsave | 1 << 28) }
      hasRDRAND = $0.ecx & 1 << 30 != 0
      // DS, TM, PBE; HTT only with more CPUs than one.
      $0.edx &= ~(1 << 21 | 1 << 29 | 1 << 31 | 1 << 28)
      if cpuCount > 1 { $0.edx |= 1 << 28 }
      hardwareCapabilities = $0.edx
    }
    // Caches, from which C libraries choose how to copy: two leaves of Intel's; AMD's are among the extended ones.
    if vendor == Self.genuineIntel, highest >= 4 {
      add(2)
      for index: UInt32 in 0..<8 {
        add(4, index, indexed: true)
        if answers.last.map({ $0.eax & 0x1f }) == 0 { break }  // No more caches.
      }
    }
    if highest >= 7 {
      add(7, indexed: true) {
        $0.eax = 0
        hasFSGSBase = $0.ebx & 1 != 0
        hasAVX512 = $0.ebx >> 16 & 1 != 0 && $0.ebx >> 30 & 1 != 0
        // TSC_ADJUST, SGX, HLE, INVPCID, RTM, PQM, MPX, PQE, Processor Trace.
        $0.ebx &= ~(1 << 1 | 1 << 2 | 1 << 4 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 25)
        // PKU, OSPKE, WAITPKG, CET shadow stacks, LA57, bus-lock detection, SGX_LC, PKS.
        $0.ecx &= ~(1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 16 | 1 << 24 | 1 << 30 | 1 << 31)
        // UINTR, hybrid, PCONFIG, LBR, CET-IBT, AMX (3), speculation controls and capability MSRs.
        $0.edx &= ~(1 << 5 | 1 << 15 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25)
        $0.edx &= ~(1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31)
      }
    }
    if hostXSAVE {
      // x87, SSE, AVX and the three of AVX-512 (all or none); MPX, PKRU, CET and AMX stay out.
      var mask = (supportedState ?? ckvm_xgetbv()) & 0xe7
      if mask & 0xe0 != 0xe0 { mask &= 0x07 }
      if mask & 0x4 == 0 { mask &= 0x03 }
      extendedStateMask = mask
      var size: UInt32 = 576
      for component in 2..<8 where mask >> UInt64(component) & 1 != 0 {
        add(0xd, UInt32(component), indexed: true) { size = max(size, $0.ebx &+ $0.eax) }
      }
      extendedStateByteCount = size
      add(0xd, 0, indexed: true) {
        $0.eax = UInt32(mask)
        $0.edx = 0
        $0.ebx = size
        $0.ecx = size
      }
      add(0xd, 1, indexed: true) {
        hasXSAVEOPT = $0.eax & 1 != 0
        hasStateInUse = $0.eax & 4 != 0
        // XSAVEOPT, XSAVEC, XGETBV(1); supervisor states stay out.
        $0.eax &= 0x7
        $0.ebx = 0
        $0.ecx = 0
        $0.edx = 0
      }
    }
    let highestExtended = host(0x8000_0000, 0).eax
    add(0x8000_0000) { $0.eax = min(highestExtended, 0x8000_0008) }
    if highestExtended >= 0x8000_0001 {
      add(0x8000_0001) {
        hasGigabytePages = $0.edx & 1 << 26 != 0
        // SVM, extended APIC space, IBS, SKINIT, watchdog, LWP, topology, performance counters, MONITORX.
        $0.ecx &= ~(1 << 2 | 1 << 3 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 28)
        $0.ecx &= ~(1 << 29)
      }
    }
    // The name (2 to 4), and AMD's caches.
    for leaf: UInt32 in 0x8000_0002...0x8000_0006 where leaf <= highestExtended { add(leaf) }
    if highestExtended >= 0x8000_0007 {
      add(0x8000_0007) {
        $0.eax = 0; $0.ebx = 0; $0.ecx = 0
      }
    }
    if highestExtended >= 0x8000_0008 {
      add(0x8000_0008) {
        $0.ebx = 0; $0.ecx = 0; $0.edx = 0
      }
    }
  }

  /// The answers as CPU `cpu` shall see them: its own APIC id.
  public func entries(cpu: Int) -> [kvm_cpuid_entry2] {
    answers.map { answer in
      var entry = answer.entry
      if answer.leaf == 1 { entry.ebx |= UInt32(cpu & 0xff) << 24 }
      return entry
    }
  }
}
