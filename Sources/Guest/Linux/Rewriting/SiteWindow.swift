// A window: the five bytes of a `syscall` site that become a jump, chosen so that no branch can go wrong whoever makes it.
//
// `syscall` has two bytes, a jump has five, so other bytes must give way; and who branches to where is never wholly known (parts
// of a function may lie anywhere in the file). Two shapes need no such knowledge:
//
//   before  The jump takes the place of one instruction of five or more bytes that runs right before the call:
//           `mov $39, %eax; syscall`. Behind the jump every instruction stays as it was, `syscall` included: a
//           branch to any of them meets what was always there, at worst the trap.
//   after   The jump takes the place of `syscall` and of one instruction behind it. One instruction can begin inside
//           the jump, the one behind `syscall`; the stub lies where the third byte of the jump is `int3`, so that a
//           branch there traps and is sent on to the stub's copy.
//
// A branch into the middle of an instruction happens in one place only, behind a LOCK or repetition prefix: instructions that
// begin with one are never replaced.

/// Where a site's jump goes and what moves to its stub. Addresses are the file's.
struct SiteWindow: Equatable {
  /// Bytes of `jmp rel32`.
  static let jumpByteCount: UInt64 = 5
  /// Bytes of instructions that fit into a stub.
  static let displacedLimit: UInt64 = 36

  enum Shape: Equatable {
    /// An instruction before the call gives way; it moves, with all that is between it and the call.
    case before
    /// `syscall` gives way, and the instruction behind it moves.
    case after
  }

  var shape: Shape
  /// Where `syscall` is.
  var site: UInt64
  /// The first byte of the jump.
  var start: UInt64
  /// Bytes that move: from `start` up to the site, or from behind the site on.
  var displacedByteCount: UInt64
  /// Some branches of the function go to the site past the jump: those calls stay traps.
  var isPartial = false
  /// The call is all that its function does, and vector registers are dead at it (`SiteAnalysis.isLeafStub`).
  var isLeaf = false

  /// The first of the bytes that move.
  var displacedStart: UInt64 { shape == .before ? start : site &+ 2 }
}

/// Why a site stays a trap, or is none.
enum LeftReason: UInt8 {
  /// The bytes are part of other instructions, or data.
  case notAnInstruction
  /// It is sigreturn, which unwinders recognise by its bytes.
  case signalReturn
  /// No function is known there, and decoding from the last one is no proof.
  case notProven
  /// Nothing around it can give way.
  case noWindow

  /// For `--log rewrite`.
  var text: StaticString {
    switch self {
    case .notAnInstruction: "not an instruction"
    case .signalReturn: "signal return, recognised by its bytes"
    case .notProven: "in no known function"
    case .noWindow: "nothing beside it can give way"
    }
  }
}

/// What becomes of a pair of bytes that looks like `syscall`.
enum SiteOutcome: Equatable {
  case window(SiteWindow)
  case left(LeftReason)
}
