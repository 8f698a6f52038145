// The microarchitecture level of the processor, as the x86-64 psABI defines it and dynamic linkers choose libraries by it.

import CKVM

/// x86-64-v1 to v4.
public enum CPULevel {
  /// What this processor is: 1 to 4. Extended state that the operating system leaves off counts as absent.
  public static func current(
    host: (_ leaf: UInt32, _ subleaf: UInt32) -> (eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32) = { leaf, sub in
      let r = ckvm_cpuid(leaf, sub)
      return (r.eax, r.ebx, r.ecx, r.edx)
    }, state: () -> UInt64 = { ckvm_xgetbv() }
  ) -> Int {
    func has(_ word: UInt32, _ bits: [UInt32]) -> Bool { bits.allSatisfy { word >> $0 & 1 != 0 } }
    guard host(0, 0).eax >= 7, host(0x8000_0000, 0).eax >= 0x8000_0001 else { return 1 }
    let basic = host(1, 0).ecx
    let more = host(7, 0).ebx
    let extended = host(0x8000_0001, 0).ecx
    // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF.
    guard has(basic, [0, 9, 13, 19, 20, 23]), has(extended, [0]) else { return 1 }
    // FMA, MOVBE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT; and XCR0 has SSE and AVX.
    guard has(basic, [12, 22, 27, 28, 29]), has(more, [3, 5, 8]), has(extended, [5]), state() & 6 == 6 else { return 2 }
    // AVX512 F, DQ, CD, BW, VL, and their state.
    guard has(more, [16, 17, 28, 30, 31]), state() & 0xe0 == 0xe0 else { return 3 }
    return 4
  }

  /// Whether the processor calls itself Intel's.
  public static var isIntel: Bool { ckvm_cpuid(0, 0).ecx == 0x6c65_746e }
}
