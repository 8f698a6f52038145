// CPUID, as programs run it.
import Instructions

/// What CPUID answers.
public struct ProcessorAnswer: Equatable, Sendable {
  /// The four registers.
  public var (eax, ebx, ecx, edx): (UInt32, UInt32, UInt32, UInt32)

  /// Nothing.
  public init(eax: UInt32 = 0, ebx: UInt32 = 0, ecx: UInt32 = 0, edx: UInt32 = 0) {
    (self.eax, self.ebx, self.ecx, self.edx) = (eax, ebx, ecx, edx)
  }

  /// The running CPU's answer. Where a hypervisor answers it takes some microseconds.
  public init(leaf: UInt32, subleaf: UInt32 = 0) {
    (eax, ebx, ecx, edx) = (leaf, 0, subleaf, 0)
    instruction_cpuid(&eax, &ebx, &ecx, &edx)
  }
}
