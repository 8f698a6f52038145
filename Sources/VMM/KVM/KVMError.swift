// What can go wrong in a call to KVM, as a value: the operation and the kernel's error number.

#if canImport(Glibc)
  import Glibc
#endif

/// A failed call to KVM.
public struct KVMError: Error, Equatable, CustomStringConvertible {
  /// What was asked of KVM.
  public enum Operation: String, Sendable {
    case open = "opening /dev/kvm"
    case version = "KVM_GET_API_VERSION"
    case createVM = "KVM_CREATE_VM"
    case enableCapability = "KVM_ENABLE_CAP"
    case createVCPU = "KVM_CREATE_VCPU"
    case mapRun = "mapping the vCPU's run page"
    case setMemory = "KVM_SET_USER_MEMORY_REGION"
    case setRouting = "KVM_SET_GSI_ROUTING"
    case signalMSI = "KVM_SIGNAL_MSI"
    case irqfd = "KVM_IRQFD"
    case ioeventfd = "KVM_IOEVENTFD"
    case coalescedMMIO = "KVM_REGISTER_COALESCED_MMIO"
    case run = "KVM_RUN"
    case registers = "KVM_GET_REGS or KVM_SET_REGS"
    case systemRegisters = "KVM_GET_SREGS or KVM_SET_SREGS"
    case msrs = "KVM_SET_MSRS"
    case cpuid = "KVM_SET_CPUID2"
    case extendedControl = "KVM_SET_XCRS"
    case events = "KVM_GET_VCPU_EVENTS or KVM_SET_VCPU_EVENTS"
    case eventDescriptor = "eventfd"
  }

  /// What was asked.
  public let operation: Operation
  /// The kernel's error number (errno), or 0 when the call succeeded with an answer we cannot use.
  public let code: CInt

  /// An error of `operation` with error number `code`.
  public init(_ operation: Operation, code: CInt) {
    self.operation = operation
    self.code = code
  }

  /// The operation and the error number's usual text.
  public var description: String {
    code == 0 ? "\(operation.rawValue): unusable answer" : "\(operation.rawValue): \(String(cString: strerror(code)))"
  }

  /// The error of a call that has just failed.
  static func last(_ operation: Operation) -> KVMError { KVMError(operation, code: errno) }
}
