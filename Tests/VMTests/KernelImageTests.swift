// What must hold of the kernel's machine code: no instruction that touches vector, MMX or x87 state outside the routines that save,
// restore or test it, and an image that stays small.
import Foundation
import Testing

/// The files the guest's build leaves behind.
private func artefact(_ name: String) async throws -> String {
  let found = try await run(["/usr/bin/find", packageRoot + "/.build", "-path", "*GuestImagePlugin*", "-name", name])
  let newest = found.text.split(separator: "\n").map(String.init).max {
    modified($0) < modified($1)
  }
  return try #require(newest, "no \(name): the guest was not built")
}

private func modified(_ path: String) -> Date {
  (try? FileManager.default.attributesOfItem(atPath: path))?[.modificationDate] as? Date ?? .distantPast
}

private func tool(_ name: String) async throws -> String {
  let found = try await run([
    "/bin/sh", "-c", "command -v \(name) || ls /opt/swift/usr/bin/\(name) /usr/bin/\(name) 2>/dev/null | head -1",
  ])
  return try #require(found.text.split(separator: "\n").first.map(String.init), "\(name) is not installed")
}

/// Instructions that read or write state a program owns and the kernel does not save.
private func touchesProgramState(_ instruction: Substring) -> Bool {
  let parts = instruction.split(whereSeparator: { $0 == " " || $0 == "\t" })
  guard let mnemonic = parts.first else { return false }
  if ["%xmm", "%ymm", "%zmm", "%mm", "%st", "%k0", "%k1", "%k2", "%k3", "%k4", "%k5", "%k6", "%k7"].contains(where: {
    instruction.contains($0)
  }) {
    return true
  }
  let others: Set<Substring> = [
    "emms", "ldmxcsr", "stmxcsr", "vzeroupper", "vzeroall", "fwait", "wait", "xsave", "xsaveopt", "xsavec", "xrstor",
    "fxsave", "fxrstor",
    "xsave64", "xsaveopt64", "xsavec64", "xrstor64", "fxsave64", "fxrstor64",
  ]
  if others.contains(mnemonic) { return true }
  // Every x87 mnemonic begins with f; no integer one does.
  return mnemonic.hasPrefix("f") && mnemonic != "fs"
}

@Suite struct KernelImageTests {
  @Test func noVectorOrX87InstructionOutsideItsHomes() async throws {
    let image = try await artefact("kernel.debug.elf")
    let listing = try await run([tool("llvm-objdump"), "-d", "--no-show-raw-insn", image])
    var symbol: Substring = ""
    var instructions = 0
    var wrong: [String] = []
    for line in listing.text.split(separator: "\n") {
      if line.hasSuffix(">:"), let open = line.firstIndex(of: "<") {
        symbol = line[line.index(after: open)...].dropLast(2)
        continue
      }
      guard let colon = line.firstIndex(of: ":"), line.first == " " else { continue }
      instructions += 1
      let instruction = line[line.index(after: colon)...]
      if !symbol.hasPrefix("vector_") && touchesProgramState(instruction) {
        wrong.append("\(symbol): \(instruction)")
      }
    }
    #expect(instructions > 1000, "the disassembly is not what it should be")
    #expect(wrong.isEmpty, "\(wrong.prefix(20).joined(separator: "\n"))")
  }

  @Test func theCheckItselfSeesThem() {
    for bad in [
      "movaps\t%xmm0, (%rsp)", "fld\t(%rax)", "fnstcw\t-2(%rsp)", "vzeroupper", "xsaveopt64\t(%rdi)",
      "kmovq\t%k1, %rax",
    ] {
      #expect(touchesProgramState(Substring(bad)), "\(bad)")
    }
    for good in ["movq\t%rax, %fs:0x28", "xorl\t%eax, %eax", "xchgq\t%rax, (%rdi)", "callq\t0x1234 <frames>"] {
      #expect(!touchesProgramState(Substring(good)), "\(good)")
    }
  }

  @Test func imageIsAtMostTwoMegabytes() async throws {
    let image = try await artefact("kernel.elf")
    let size = try FileManager.default.attributesOfItem(atPath: image)[.size] as? Int
    #expect(try #require(size) <= 2_000_000)
  }
}
