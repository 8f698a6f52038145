// The decoder of x86-64 instructions: how long one is, whether control goes on behind it, where it branches to, and whether it
// names memory relative to its own address. Nothing else is needed to walk through code and to move instructions.
//
// It decodes what compilers and assemblers write in 64-bit mode, AVX-512 included. What has no meaning there, or means
// different things to different CPUs (a 16-bit displacement of a branch), is no instruction: nil.
import Base

/// One instruction.
struct Instruction: Equatable {
  /// What happens to control.
  enum Flow: Equatable {
    /// It goes on behind the instruction.
    case next
    /// `syscall`.
    case systemCall
    /// A call, direct or indirect.
    case call
    /// `jmp rel`.
    case jump
    /// `jcc rel`.
    case conditional
    /// `loop`, `jrcxz`, `xbegin`: a branch that cannot be moved far.
    case counted
    /// `jmp` through a register or memory.
    case indirect
    /// `ret`.
    case `return`
    /// Traps, `hlt`, `iret`, `int n`.
    case other
  }

  /// Bytes, 1 to 15.
  var byteCount = 0
  var flow = Flow.next
  /// Where a direct branch goes to, from the end of the instruction.
  var displacement: Int64 = 0
  /// Offset of a 32-bit displacement relative to RIP within the instruction, 0 if it has none.
  var relativeOffset = 0
  /// It begins with LOCK or a repetition prefix, behind which code may branch.
  var hasSkippablePrefix = false
  /// Its address is computed in 32 bits (prefix 0x67).
  var hasShortAddress = false

  /// Whether it has a target of its own.
  var isDirectBranch: Bool {
    switch flow {
    case .jump, .conditional, .counted: true
    case .call: displacement != 0
    default: false
    }
  }

  /// Most bytes an instruction can have.
  static let longest = 15
}

extension Instruction {
  /// Decodes the instruction at the start of `bytes`; nil if there is none, or if it does not end within them.
  init?(_ bytes: UnsafeRawBufferPointer) {
    var reader = InstructionReader(bytes: bytes)
    guard reader.decode() else { return nil }
    self = reader.result
    byteCount = reader.at
  }
}

/// The state of a decoding.
private struct InstructionReader {
  let bytes: UnsafeRawBufferPointer
  var at = 0
  var result = Instruction()
  /// REX.W or its counterpart in VEX.
  private var isWide = false
  private var hasOperandSize = false
  /// Where the opcode is.
  private var opcodeAt = 0

  init(bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  /// The next byte; nil behind the end.
  private mutating func next() -> UInt8? {
    guard at < bytes.count, at < Instruction.longest else { return nil }
    at &+= 1
    return bytes[at &- 1]
  }

  private mutating func skip(_ count: Int) -> Bool {
    at &+= count
    return at <= bytes.count && at <= Instruction.longest
  }

  mutating func decode() -> Bool {
    while true {
      guard let byte = next() else { return false }
      switch byte {
      case 0x66: (hasOperandSize, isWide) = (true, false)
      case 0x67: (result.hasShortAddress, isWide) = (true, false)
      case 0xf0, 0xf2, 0xf3: (result.hasSkippablePrefix, isWide) = (true, false)
      case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65: isWide = false
      case 0x40...0x4f: isWide = byte & 8 != 0
      case 0x0f: return decodeTwoByte()
      case 0xc5: return decodeVector(map: 1, prefixByteCount: 1)
      case 0xc4:
        guard at < bytes.count else { return false }
        return decodeVector(map: bytes[at] & 0x1f, prefixByteCount: 2)
      case 0x62:
        guard at < bytes.count else { return false }
        return decodeVector(map: bytes[at] & 0x07, prefixByteCount: 3)
      case 0x8f:
        guard at < bytes.count else { return false }
        if bytes[at] & 0x1f >= 8 { return decodeVector(map: bytes[at] & 0x1f, prefixByteCount: 2) }
        return operands(UInt8(ascii: "m"), opcode: byte)
      default:
        opcodeAt = at &- 1
        guard operands(InstructionTables.oneByte.utf8Start[byte.int], opcode: byte) else { return false }
        return classify(byte)
      }
    }
  }

  private mutating func decodeTwoByte() -> Bool {
    guard let opcode = next() else { return false }
    switch opcode {
    case 0x38:
      guard next() != nil else { return false }
      return modRM() != nil
    case 0x3a:
      guard next() != nil, modRM() != nil else { return false }
      return skip(1)
    case 0x05:
      result.flow = .systemCall
      return true
    case 0x78 where hasOperandSize || result.hasSkippablePrefix:
      return modRM() != nil && skip(2)  // EXTRQ, INSERTQ
    default:
      let code = InstructionTables.twoByte.utf8Start[opcode.int]
      guard operands(code, opcode: opcode) else { return false }
      if code == UInt8(ascii: "i") || opcode == 0xb9 || opcode == 0xff { result.flow = .other }
      if code == UInt8(ascii: "J") { result.flow = .conditional }
      return true
    }
  }

  /// VEX, EVEX and XOP: the map says what follows the opcode.
  private mutating func decodeVector(map: UInt8, prefixByteCount: Int) -> Bool {
    guard skip(prefixByteCount), let opcode = next() else { return false }
    switch map {
    case 1:
      if opcode == 0x77 && prefixByteCount < 3 { return true }
      guard modRM() != nil else { return false }
      switch opcode {
      case 0x70...0x73, 0xc2, 0xc4, 0xc5, 0xc6: return skip(1)
      default: return true
      }
    case 2, 5, 6, 9: return modRM() != nil
    case 3, 8: return modRM() != nil && skip(1)
    case 10: return modRM() != nil && skip(4)
    default: return false
    }
  }

  /// Reads ModRM and what belongs to it; gives ModRM.
  private mutating func modRM() -> UInt8? {
    guard let byte = next() else { return nil }
    let mode = byte >> 6
    let register = byte & 7
    if mode == 3 { return byte }
    if register == 4 {
      guard let scale = next() else { return nil }
      if mode == 0 && scale & 7 == 5 { return skip(4) ? byte : nil }
    } else if mode == 0 && register == 5 {
      result.relativeOffset = at
      return skip(4) ? byte : nil
    }
    guard mode != 0 else { return byte }
    return skip(mode == 1 ? 1 : 4) ? byte : nil
  }

  /// Bytes of an immediate of the operand's size, at most 4.
  private var immediate: Int { hasOperandSize && !isWide ? 2 : 4 }

  private mutating func operands(_ code: UInt8, opcode: UInt8) -> Bool {
    switch code {
    case UInt8(ascii: "."), UInt8(ascii: "R"): return true
    case UInt8(ascii: "i"): return opcode == 0xcd ? skip(1) : true
    case UInt8(ascii: "m"): return modRM() != nil
    case UInt8(ascii: "r"): return skip(1)
    case UInt8(ascii: "b"): return skip(1)
    case UInt8(ascii: "z"): return skip(immediate)
    case UInt8(ascii: "B"): return modRM() != nil && skip(1)
    case UInt8(ascii: "Z"): return modRM() != nil && skip(immediate)
    case UInt8(ascii: "v"): return skip(isWide ? 8 : immediate)
    case UInt8(ascii: "w"): return skip(2)
    case UInt8(ascii: "e"): return skip(3)
    case UInt8(ascii: "o"): return skip(result.hasShortAddress ? 4 : 8)
    case UInt8(ascii: "j"), UInt8(ascii: "l"):
      guard let byte = next() else { return false }
      result.displacement = Int64(truncatingIfNeeded: Int8(bitPattern: byte))
      return true
    case UInt8(ascii: "J"), UInt8(ascii: "C"):
      guard !hasOperandSize || isWide, skip(4) else { return false }
      result.displacement = Int64(truncatingIfNeeded: bytes.loadUnaligned(fromByteOffset: at &- 4, as: Int32.self))
      return true
    case UInt8(ascii: "G"):
      guard let byte = modRM() else { return false }
      return byte & 0x30 == 0 ? skip(1) : true
    case UInt8(ascii: "H"):
      guard let byte = modRM() else { return false }
      return byte & 0x30 == 0 ? skip(immediate) : true
    default: return false
    }
  }

  /// What an opcode of one byte does to control; its operands have been read.
  private mutating func classify(_ opcode: UInt8) -> Bool {
    switch opcode {
    case 0x70...0x7f: result.flow = .conditional
    case 0xe0...0xe3: result.flow = .counted
    case 0xe8: result.flow = .call
    case 0xe9, 0xeb: result.flow = .jump
    case 0xc2, 0xc3, 0xca, 0xcb: result.flow = .return
    case 0xcc, 0xcd, 0xcf, 0xf1, 0xf4: result.flow = .other
    case 0xc7 where bytes[opcodeAt &+ 1] == 0xf8:
      // XBEGIN names where an abort goes to.
      result.flow = .counted
      result.displacement = Int64(truncatingIfNeeded: bytes.loadUnaligned(fromByteOffset: at &- 4, as: Int32.self))
    case 0xff:
      switch bytes[opcodeAt &+ 1] >> 3 & 7 {
      case 2, 3: result.flow = .call
      case 4, 5: result.flow = .indirect
      default: break
      }
    default: break
    }
    return true
  }
}
