// A small assembler for seccomp's filters: a list of allowed system calls, some with conditions on an argument,
// becomes classic BPF. Pure; tests run the result in an interpreter.
//
// Anything else is answered with EPERM, another architecture's or the x32 numbers kill the process. The program only
// compares constants, so the kernel can cache its verdict for calls without conditions.

import CSystemCalls

/// A rule: a system call, and what must hold for it.
public struct FilterRule: Equatable, Sendable {
  /// A condition on the low 32 bits of one argument.
  public enum Condition: Equatable, Sendable {
    /// It is one of these.
    case isOne(of: [UInt32], argument: Int)
    /// It has none of these bits.
    case hasNone(of: UInt32, argument: Int)
    /// It has all of these bits.
    case hasAll(of: UInt32, argument: Int)
    /// Never: the kernel seems not to have the call (ENOSYS), so that the C library takes an older one.
    case absent
  }

  /// The system call's number.
  public var number: UInt32
  /// What must hold, nil if the call is always allowed.
  public var condition: Condition?

  /// A rule for call `number`.
  public init(_ number: UInt32, _ condition: Condition? = nil) {
    self.number = number
    self.condition = condition
  }
}

/// A filter as the kernel takes it.
public struct FilterProgram {
  /// The instructions.
  public let instructions: [osv_filter_instruction]

  // What the kernel hands to the filter (struct seccomp_data).
  static let numberOffset: UInt32 = 0
  static let architectureOffset: UInt32 = 4
  static func argumentOffset(_ index: Int) -> UInt32 { 16 + 8 * UInt32(index) }

  static let x86_64: UInt32 = 0xc000_003e
  static let x32Bit: UInt32 = 0x4000_0000
  static let allow: UInt32 = 0x7fff_0000
  static let killProcess: UInt32 = 0x8000_0000
  static let absent: UInt32 = 0x0005_0026  // SECCOMP_RET_ERRNO | ENOSYS
  static let refuse: UInt32 = 0x0005_0001  // SECCOMP_RET_ERRNO | EPERM

  // BPF operation codes.
  static let loadWord: UInt16 = 0x20  // BPF_LD | BPF_W | BPF_ABS
  static let jumpEqual: UInt16 = 0x15  // BPF_JMP | BPF_JEQ | BPF_K
  static let jumpGreaterEqual: UInt16 = 0x35  // BPF_JMP | BPF_JGE | BPF_K
  static let jumpAnyBit: UInt16 = 0x45  // BPF_JMP | BPF_JSET | BPF_K
  static let andConstant: UInt16 = 0x54  // BPF_ALU | BPF_AND | BPF_K
  static let giveBack: UInt16 = 0x06  // BPF_RET | BPF_K

  /// Assembles `rules`; the first that names a call decides it.
  public init(_ rules: [FilterRule]) {
    var code: [osv_filter_instruction] = []
    func emit(_ operation: UInt16, _ constant: UInt32, yes: Int = 0, no: Int = 0) {
      code.append(
        osv_filter_instruction(code: operation, jump_true: UInt8(yes), jump_false: UInt8(no), constant: constant))
    }
    emit(Self.loadWord, Self.architectureOffset)
    emit(Self.jumpEqual, Self.x86_64, yes: 1)
    emit(Self.giveBack, Self.killProcess)
    emit(Self.loadWord, Self.numberOffset)
    emit(Self.jumpGreaterEqual, Self.x32Bit, yes: 0, no: 1)
    emit(Self.giveBack, Self.killProcess)
    for rule in rules {
      switch rule.condition {
      case nil:
        emit(Self.jumpEqual, rule.number, no: 1)
        emit(Self.giveBack, Self.allow)
      case .absent:
        emit(Self.jumpEqual, rule.number, no: 1)
        emit(Self.giveBack, Self.absent)
      case .isOne(let values, let argument):
        // not it: over the load, the comparisons, and two returns
        emit(Self.jumpEqual, rule.number, no: values.count + 3)
        emit(Self.loadWord, Self.argumentOffset(argument))
        for (index, value) in values.enumerated() { emit(Self.jumpEqual, value, yes: values.count - index) }
        emit(Self.giveBack, Self.refuse)
        emit(Self.giveBack, Self.allow)
      case .hasNone(let bits, let argument):
        emit(Self.jumpEqual, rule.number, no: 4)
        emit(Self.loadWord, Self.argumentOffset(argument))
        emit(Self.jumpAnyBit, bits, no: 1)
        emit(Self.giveBack, Self.refuse)
        emit(Self.giveBack, Self.allow)
      case .hasAll(let bits, let argument):
        emit(Self.jumpEqual, rule.number, no: 5)
        emit(Self.loadWord, Self.argumentOffset(argument))
        emit(Self.andConstant, bits)
        emit(Self.jumpEqual, bits, yes: 1)
        emit(Self.giveBack, Self.refuse)
        emit(Self.giveBack, Self.allow)
      }
    }
    emit(Self.giveBack, Self.refuse)
    instructions = code
  }

  /// Puts the filter on the calling thread and those it will start. Negative: an error number.
  public func install() -> CInt {
    instructions.withUnsafeBufferPointer { osv_install_filter($0.baseAddress!, UInt16($0.count)) }
  }
}
