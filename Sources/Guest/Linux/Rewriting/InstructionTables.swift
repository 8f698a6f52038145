// Opcode tables of x86-64: what follows an opcode. One character an opcode, 16 a row:
//
//   . nothing     m ModRM          b imm8           z imm16/32       B ModRM + imm8   Z ModRM + imm16/32
//   v imm16/32/64 (mov to register)                 w imm16          e imm16 + imm8   o 64-bit address
//   j rel8        l rel8, counting (loop, jrcxz)    J rel32          C call rel32     G ModRM, imm8 for /0 and /1
//   H ModRM, imm16/32 for /0 and /1                 r ModRM, register form whatever it says
//   R return      i interrupt or halt: control does not simply go on                  x not an instruction here
//
// Prefixes and escapes are dealt with before the tables are asked (`InstructionDecoder`).

enum InstructionTables {
  static let oneByte: StaticString = """
    mmmmbzxxmmmmbzxx\
    mmmmbzxxmmmmbzxx\
    mmmmbzxxmmmmbzxx\
    mmmmbzxxmmmmbzxx\
    xxxxxxxxxxxxxxxx\
    ................\
    xxxmxxxxzZbB....\
    jjjjjjjjjjjjjjjj\
    BZxBmmmmmmmmmmmm\
    ..........x.....\
    oooo....bz......\
    bbbbbbbbvvvvvvvv\
    BBwRxxBZe.wRiixi\
    mmmmxxx.mmmmmmmm\
    llllbbbbCJxj....\
    xixxi.GH......mm
    """
  static let twoByte: StaticString = """
    mmmmx..i..xixm.B\
    mmmmmmmmmmmmmmmm\
    rrrrxxxxmmmmmmmm\
    ....iix.xxxxxxxx\
    mmmmmmmmmmmmmmmm\
    mmmmmmmmmmmmmmmm\
    mmmmmmmmmmmmmmmm\
    BBBBmmm.mmxxmmmm\
    JJJJJJJJJJJJJJJJ\
    mmmmmmmmmmmmmmmm\
    ...mBmxx...mBmmm\
    mmmmmmmmmmBmmmmm\
    mmBmBBBm........\
    mmmmmmmmmmmmmmmm\
    mmmmmmmmmmmmmmmm\
    mmmmmmmmmmmmmmmm
    """
}
