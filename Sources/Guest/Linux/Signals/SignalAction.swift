// What a process does on a signal (struct sigaction of the kernel ABI), and siginfo_t.

/// One signal's action, laid out as rt_sigaction(2) reads and writes it.
struct SignalAction {
  /// SIG_DFL.
  static let defaultHandler: UInt64 = 0
  /// SIG_IGN.
  static let ignoreHandler: UInt64 = 1

  /// `sa_flags`.
  enum Flags {
    static let noChildWait: UInt64 = 0x2
    static let information: UInt64 = 0x4
    static let restorer: UInt64 = 0x0400_0000
    static let onStack: UInt64 = 0x0800_0000
    static let restart: UInt64 = 0x1000_0000
    static let noDefer: UInt64 = 0x4000_0000
    static let resetHand: UInt64 = 0x8000_0000
  }

  /// Address of the handler, or one of the two constants.
  var handler: UInt64 = 0
  /// `Flags`.
  var flags: UInt64 = 0
  /// Address that the handler returns to.
  var restorer: UInt64 = 0
  /// Blocked while the handler runs.
  var mask = SignalSet()

  /// The default action.
  init() {}
}

/// Why a signal came (siginfo_t, 128 bytes of which 32 carry something).
struct SignalInformation {
  /// `si_code` values.
  enum Code {
    static let user: Int32 = 0
    static let kernel: Int32 = 0x80
    static let queue: Int32 = -1
    static let threadKill: Int32 = -6
    static let segmentNotMapped: Int32 = 1
    static let segmentProtection: Int32 = 2
    static let busAddress: Int32 = 2
    static let busAlignment: Int32 = 1
    static let integerDivide: Int32 = 1
    static let floatDivide: Int32 = 3
    static let floatOverflow: Int32 = 4
    static let floatUnderflow: Int32 = 5
    static let floatInexact: Int32 = 6
    static let floatInvalid: Int32 = 7
    static let illegalOperand: Int32 = 2
    static let childExited: Int32 = 1
    static let childKilled: Int32 = 2
    static let breakpoint: Int32 = 1
    static let trace: Int32 = 2
  }

  /// `si_signo`.
  var number: Int32 = 0
  /// `si_errno`.
  var error: Int32 = 0
  /// `si_code`.
  var code: Int32 = 0
  var padding: Int32 = 0
  /// The faulting address; or the sender's process (low half) and user (high half).
  var first: UInt64 = 0
  /// The sender's value (`si_value`), or 0.
  var second: UInt64 = 0

  /// Size of siginfo_t in program memory; what this structure does not hold is zero.
  static let byteCount = 128

  /// A signal sent by the process `sender` of user `user`.
  init(_ signal: Signal, code: Int32, sender: Int32 = 0, user: UInt32 = 0) {
    number = Int32(truncatingIfNeeded: signal.number)
    self.code = code
    first = UInt64(truncatingIfNeeded: UInt32(bitPattern: sender)) | UInt64(truncatingIfNeeded: user) &<< 32
  }

  /// A signal caused by the instruction at or the access to `address`.
  init(_ signal: Signal, code: Int32, address: UInt64) {
    number = Int32(truncatingIfNeeded: signal.number)
    self.code = code
    first = address
  }
}

/// An alternate signal stack (stack_t).
struct SignalStack {
  /// `ss_flags`: in use now.
  static let onStack: Int32 = 1
  /// `ss_flags`: none is set.
  static let disabled: Int32 = 2
  /// `ss_flags`: none is set while a handler runs (SS_AUTODISARM).
  static let autoDisarm = Int32.min
  /// Smallest that is accepted (MINSIGSTKSZ).
  static let minimumByteCount: UInt64 = 2048

  /// Lowest address.
  var base: UInt64 = 0
  /// `ss_flags`.
  var flags: Int32 = SignalStack.disabled
  var padding: Int32 = 0
  /// Bytes.
  var byteCount: UInt64 = 0

  /// None.
  init() {}

  /// Whether `stackPointer` lies in it, so that it is in use. One that disarms itself never is.
  func contains(_ stackPointer: UInt64) -> Bool {
    flags & (Self.disabled | Self.autoDisarm) == 0 && stackPointer > base && stackPointer &- base <= byteCount
  }
}
