// Which exception a processor raises for an instruction that KVM's emulator gave up on.

/// Instructions that kvm_pvm hands back as an internal error.
enum RefusedInstruction {
  /// The vector, and the error code where the vector has one.
  static func exception(for instruction: [UInt8]) -> (vector: UInt8, errorCode: UInt32?) {
    let prefixes: Set<UInt8> = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]
    var rest = instruction[...].drop { prefixes.contains($0) }
    if let first = rest.first, 0x40...0x4f ~= first { rest = rest.dropFirst() }
    let code = Array(rest.prefix(3))
    // int n: a program may not call that gate.
    if code.count >= 2, code[0] == 0xcd { return (13, UInt32(code[1]) * 8 + 2) }
    if code.count >= 3, code[0] == 0x0f {
      // invpcid (0f 38 82), xsaves and xrstors (0f c7 /5 and /3) are privileged.
      if code[1] == 0x38, code[2] == 0x82 { return (13, 0) }
      if code[1] == 0xc7, [3, 5].contains(code[2] >> 3 & 7), code[2] < 0xc0 { return (13, 0) }
    }
    return (6, nil)
  }
}
