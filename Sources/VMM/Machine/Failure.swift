// Every way in which osv-run itself can fail: a stable code for machines, one sentence for people.

import KVM

/// A failure of osv-run (not of the program it runs): ends with status 125.
public struct Failure: Error, Equatable {
  /// The stable codes; a number, once given, keeps its meaning.
  public enum Code: Int, Sendable, CaseIterable {
    /// A bad option or argument.
    case usage = 1
    /// A file could not be opened or read.
    case file = 2
    /// The image is not an ELF file.
    case notELF = 3
    /// The image is for another machine or another kind of system.
    case wrongMachine = 4
    /// The image is truncated or contradicts itself.
    case badELF = 5
    /// The image needs an interpreter (dynamic linker) that is not there.
    case interpreter = 6
    /// A directory to attach is not there.
    case directory = 7
    /// There is no /dev/kvm.
    case noKVM = 8
    /// /dev/kvm may not be opened.
    case permission = 9
    /// KVM lacks something we need.
    case oldKVM = 10
    /// A call to KVM failed.
    case kvm = 11
    /// The memory asked for is too little or too much.
    case memory = 12
    /// The KVM here cannot run an instruction of the guest.
    case instruction = 13
    /// The guest kernel panicked.
    case panic = 14
    /// The guest stopped without saying why (triple fault, entry failure).
    case stopped = 15
    /// A kernel image that this osv-run cannot start.
    case kernelImage = 16
    /// A step of giving up privileges failed.
    case jail = 17
    /// An image kind that is not supported.
    case unsupported = 18
    /// A shared library that the program needs is not there.
    case library = 19
    /// The control socket cannot be made or reached, or a command sent to it was refused.
    case control = 20
    /// A network interface cannot be had.
    case network = 21
  }

  /// The stable code.
  public let code: Code
  /// One sentence: what was wrong and what to do.
  public let sentence: String

  /// A failure with its code and sentence.
  public init(_ code: Code, _ sentence: String) {
    self.code = code
    self.sentence = sentence
  }

  /// Bytes for a message: at most 80, control characters replaced.
  public static func show(_ bytes: [UInt8]) -> String {
    let printable = bytes.prefix(80).map { $0 < 0x20 || $0 == 0x7f ? UInt8(ascii: "?") : $0 }
    return "'" + String(decoding: printable, as: UTF8.self) + (bytes.count > 80 ? "...'" : "'")
  }

  /// "E07" and the like.
  public var label: String { "E\(code.rawValue < 10 ? "0" : "")\(code.rawValue)" }

  /// The failure that a KVM error means for the user.
  init(_ error: KVMError) {
    switch (error.operation, error.code) {
    case (.open, 2), (.open, 6), (.open, 19):
      self.init(
        .noKVM, "there is no /dev/kvm: load a KVM module (kvm_intel, kvm_amd), or run on a machine that has one")
    case (.open, 1), (.open, 13):
      self.init(
        .permission, "/dev/kvm may not be opened by this user: add the user to the group that owns it (usually kvm)")
    case (.version, _):
      self.init(.oldKVM, "this KVM speaks another interface version than 12: use a newer Linux kernel")
    case (.enableCapability, 22):
      self.init(.oldKVM, "this KVM is too old (no split interrupt controller): use Linux 4.7 or newer")
    case (.setMemory, 12), (.createVM, 12), (.createVCPU, 12):
      self.init(.memory, "the host has too little memory for this machine: ask for less with --memory")
    default:
      self.init(.kvm, "KVM refused a request (\(error.description))")
    }
  }
}

extension Failure {
  /// A vCPU came back for a reason from which there is no way on; what its machine can go on from, it has served before it asks.
  init(stoppedBy exit: Exit) {
    switch exit {
    case .internalError(let suberror, _):
      self.init(.stopped, "KVM gave up on the guest (internal error \(suberror))")
    case .halted: self.init(.stopped, "the guest halted where nothing can wake it")
    case .shutdown: self.init(.stopped, "the guest stopped with a triple fault; this is a defect of its kernel")
    case .entryFailure(let reason):
      self.init(.stopped, "the processor refused the guest's state (reason \(reason))")
    case .memoryFault: self.init(.stopped, "the host could not provide a page of the guest's memory")
    case .other(let reason): self.init(.stopped, "KVM reported an unknown exit (\(reason))")
    case .portWrite, .portRead, .mmioWrite, .mmioRead, .interrupted:
      self.init(.stopped, "a vCPU came back, and nobody served it")
    }
  }
}
