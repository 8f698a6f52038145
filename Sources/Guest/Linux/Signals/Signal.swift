// Signal numbers, sets of signals, and what a signal does by default.

/// A signal's number, 1 to 64.
struct Signal: Equatable {
  /// The number, as in <signal.h>.
  let number: UInt8

  /// The signal `number`; nil unless it is 1 to 64.
  init?(_ number: Int) {
    guard number >= 1, number <= 64 else { return nil }
    self.number = UInt8(truncatingIfNeeded: number)
  }
  private init(known number: UInt8) { self.number = number }

  static let hangup = Signal(known: 1)
  static let interrupt = Signal(known: 2)
  static let quit = Signal(known: 3)
  static let illegalInstruction = Signal(known: 4)
  static let trap = Signal(known: 5)
  static let abort = Signal(known: 6)
  static let bus = Signal(known: 7)
  static let floatingPoint = Signal(known: 8)
  static let kill = Signal(known: 9)
  static let segmentation = Signal(known: 11)
  static let pipe = Signal(known: 13)
  static let alarm = Signal(known: 14)
  static let terminate = Signal(known: 15)
  static let child = Signal(known: 17)
  static let resume = Signal(known: 18)
  static let stop = Signal(known: 19)
  static let terminalStop = Signal(known: 20)
  static let backgroundInput = Signal(known: 21)
  static let backgroundOutput = Signal(known: 22)
  static let cpuTimeExceeded = Signal(known: 24)
  static let fileSizeExceeded = Signal(known: 25)
  static let windowChanged = Signal(known: 28)

  /// Real-time signals queue, the others are remembered once.
  var isRealTime: Bool { number >= 32 }

  /// What happens when no handler is set.
  enum DefaultAction { case terminate, ignore, stop, resume }

  /// What this signal does when no handler is set. (Core dumps are not written: those signals only terminate.)
  var defaultAction: DefaultAction {
    switch number {
    case 17, 23, 28: .ignore
    case 18: .resume
    case 19, 20, 21, 22: .stop
    default: .terminate
    }
  }
}

/// A set of signals, as in `sigset_t` (bit n-1 is signal n).
struct SignalSet: Equatable {
  /// The 64 bits.
  var bits: UInt64

  /// The set with these bits.
  init(bits: UInt64 = 0) { self.bits = bits }

  /// SIGKILL and SIGSTOP, which nobody can block, catch or ignore.
  static let unblockable = SignalSet(bits: 1 << 8 | 1 << 18)
  /// Signals that stop a process by default. One that is sent takes back a pending SIGCONT, and the other way round.
  static let stopping = SignalSet(bits: 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21)
  /// SIGCONT.
  static let resuming = SignalSet(bits: 1 << 17)
  /// Signals that come from the instruction being run: delivered first.
  static let synchronous = SignalSet(bits: 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30)

  static func bit(_ signal: Signal) -> UInt64 { 1 &<< UInt64(truncatingIfNeeded: signal.number &- 1) }

  /// Whether no signal is in it.
  var isEmpty: Bool { bits == 0 }
  /// Whether `signal` is in it.
  func contains(_ signal: Signal) -> Bool { bits & Self.bit(signal) != 0 }
  /// Adds `signal`.
  mutating func insert(_ signal: Signal) { bits |= Self.bit(signal) }
  /// Takes `signal` out.
  mutating func remove(_ signal: Signal) { bits &= ~Self.bit(signal) }
  /// All of this set that are not in `other`.
  func subtracting(_ other: SignalSet) -> SignalSet { SignalSet(bits: bits & ~other.bits) }
  /// All that are in this set or in `other`.
  func union(_ other: SignalSet) -> SignalSet { SignalSet(bits: bits | other.bits) }
  /// All that are in both.
  func intersection(_ other: SignalSet) -> SignalSet { SignalSet(bits: bits & other.bits) }

  /// The one to deliver first: synchronous ones before others, then the lowest number.
  var first: Signal? {
    let urgent = bits & Self.synchronous.bits
    let from = urgent != 0 ? urgent : bits
    return from == 0 ? nil : Signal(from.trailingZeroBitCount &+ 1)
  }
}
