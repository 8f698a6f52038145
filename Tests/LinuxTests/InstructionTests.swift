// The decoder against objdump: every instruction of whole libraries, in step.
import Foundation
import Testing

@testable import Linux

/// Binaries of the machine that runs the tests, as far as they are there.
let sampleBinaries = [
  "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1", "/bin/busybox",
].filter { FileManager.default.fileExists(atPath: $0) }

/// Runs a program and gives what it prints.
func output(of command: [String]) throws -> Data {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: command[0])
  process.arguments = Array(command.dropFirst())
  let pipe = Pipe()
  process.standardOutput = pipe
  process.standardError = FileHandle.nullDevice
  try process.run()
  let data = pipe.fileHandleForReading.readDataToEndOfFile()
  process.waitUntilExit()
  return data
}

/// One instruction as objdump sees it.
struct Disassembled {
  var address: UInt64
  var bytes: [UInt8]
  var text: String
}

/// Calls `body` with every instruction that objdump finds in a file.
func disassemble(_ path: String, _ options: [String] = [], _ body: (Disassembled) -> Void) throws {
  let text = try output(of: ["/usr/bin/objdump", "-d", "-w", "--insn-width=16"] + options + [path])
  for line in text.split(separator: UInt8(ascii: "\n")) {
    // "  401000:\t48 89 e5             \tmov ..."
    let fields = line.split(separator: UInt8(ascii: "\t"), omittingEmptySubsequences: false)
    guard fields.count >= 2, let colon = fields[0].last, colon == UInt8(ascii: ":") else { continue }
    let digits = String(decoding: fields[0].dropLast().drop { $0 == UInt8(ascii: " ") }, as: UTF8.self)
    guard let address = UInt64(digits, radix: 16) else { continue }
    var bytes: [UInt8] = []
    var value: UInt8 = 0
    var half = false
    for character in fields[1] {
      guard let digit = Character(UnicodeScalar(character)).hexDigitValue else {
        half = false
        continue
      }
      value = value << 4 | UInt8(digit)
      if half { bytes.append(value) }
      half.toggle()
    }
    body(
      Disassembled(
        address: address, bytes: bytes, text: fields.count > 2 ? String(decoding: fields[2], as: UTF8.self) : ""))
  }
}

struct InstructionTests {
  private func decode(_ bytes: [UInt8]) -> Instruction? { bytes.withUnsafeBytes { Instruction($0) } }

  @Test(arguments: sampleBinaries) func everyInstructionHasItsLength(_ path: String) throws {
    var count = 0
    var wrong: [String] = []
    var prefix: [UInt8] = []
    try disassemble(path) { expected in
      // objdump prints a prefix that does nothing as a line of its own, and `fwait` with what follows it.
      let name = expected.text.split(separator: " ").first.map(String.init) ?? ""
      if expected.bytes.count == 1, name.hasPrefix("rex") || name == "data16" || name == "cs" || name == "bnd" {
        prefix += expected.bytes
        return
      }
      if expected.text.contains("(bad)") { return }
      var bytes = prefix + expected.bytes
      prefix = []
      if bytes.first == 0x9b, bytes.count > 1 { bytes.removeFirst() }
      count += 1
      let length = bytes.count
      let instruction = decode(bytes + [0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90])
      if instruction?.byteCount != length, wrong.count < 20 {
        wrong.append(
          "\(String(expected.address, radix: 16)): \(bytes) \(expected.text) → \(instruction?.byteCount ?? 0)")
      }
    }
    #expect(wrong == [])
    #expect(count > 20_000)
  }

  @Test func flowAndTargets() {
    #expect(decode([0x0f, 0x05])?.flow == .systemCall)
    #expect(decode([0xeb, 0xfe]) == Instruction(byteCount: 2, flow: .jump, displacement: -2))
    #expect(decode([0xe9, 1, 0, 0, 0]) == Instruction(byteCount: 5, flow: .jump, displacement: 1))
    #expect(decode([0xe8, 0xfb, 0xff, 0xff, 0xff]) == Instruction(byteCount: 5, flow: .call, displacement: -5))
    #expect(decode([0x74, 0x10]) == Instruction(byteCount: 2, flow: .conditional, displacement: 16))
    #expect(decode([0x0f, 0x84, 0, 1, 0, 0]) == Instruction(byteCount: 6, flow: .conditional, displacement: 256))
    #expect(decode([0xe3, 0x05])?.flow == .counted)
    #expect(decode([0xc7, 0xf8, 4, 0, 0, 0]) == Instruction(byteCount: 6, flow: .counted, displacement: 4))
    #expect(decode([0xc7, 0x44, 0x24, 0xf8, 4, 0, 0, 0])?.flow == .next)
    #expect(decode([0xc3])?.flow == .return)
    #expect(decode([0xff, 0xe0])?.flow == .indirect)
    #expect(decode([0xff, 0x15, 0, 0, 0, 0]) == Instruction(byteCount: 6, flow: .call, relativeOffset: 2))
    #expect(decode([0x48, 0x8b, 0x05, 1, 2, 3, 4]) == Instruction(byteCount: 7, relativeOffset: 3))
    #expect(decode([0xf4])?.flow == .other)
    #expect(decode([0x0f, 0x0b])?.flow == .other)
    #expect(decode([0xf0, 0x0f, 0xb1, 0x0f])?.hasSkippablePrefix == true)
    // The fourth byte of `mov $n, %rax` with an operand-size prefix, and a REX that another prefix makes void.
    #expect(decode([0x66, 0xb8, 1, 2])?.byteCount == 4)
    #expect(decode([0x48, 0x66, 0xb8, 1, 2])?.byteCount == 5)
    #expect(decode([0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8])?.byteCount == 10)
  }

  @Test func whatIsNoInstructionHasNoLength() {
    for bytes: [UInt8] in [
      [0x06], [0x0f, 0x04], [0xea, 0, 0, 0, 0], [0x66, 0xe9, 0, 0], [0x48], [0x0f], [0xe9, 0, 0],
    ] {
      #expect(decode(bytes) == nil)
    }
    #expect(decode([UInt8](repeating: 0x66, count: 15) + [0x90]) == nil)
    #expect(decode([]) == nil)
  }
}
