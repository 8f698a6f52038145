// The first stack of a program, read back as the C start-up code would.
import Testing

@testable import Linux

@Suite struct InitialStackTests {
  @Test func holdsWhatTheStartUpCodeExpects() throws {
    let argumentBytes = Array("prog\0-x\0".utf8), environmentBytes = Array("A=1\0".utf8), path = Array("/bin/prog".utf8)
    try argumentBytes.withUnsafeBytes { argumentBytes in
      try environmentBytes.withUnsafeBytes { environmentBytes in
        try path.withUnsafeBytes { path in
          let arguments = try #require(StringBlock(argumentBytes, count: 2))
          let environment = try #require(StringBlock(environmentBytes, count: 1))
          let count = InitialStack.byteCount(arguments: arguments, environment: environment, path: path)
          let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
          defer { buffer.deallocate() }
          buffer.initializeMemory(as: UInt8.self, repeating: 0)
          // The buffer's own end serves as the top, so the pointers can be followed.
          let top = UInt64(UInt(bitPattern: buffer.baseAddress! + count))
          var program = InitialStack.Program()
          program.entry = 0x1234
          program.random = (7, 8)
          let stack = InitialStack.build(
            in: buffer, top: top, arguments: arguments, environment: environment, path: path, program: program)
          #expect(stack % 16 == 0)
          #expect(stack >= top - UInt64(count) && stack < top)
          let words = UnsafePointer<UInt64>(bitPattern: UInt(stack))!
          func text(_ address: UInt64) -> String { String(cString: UnsafePointer<CChar>(bitPattern: UInt(address))!) }
          #expect(words[0] == 2)
          #expect(text(words[1]) == "prog")
          #expect(text(words[2]) == "-x")
          #expect(words[3] == 0)
          #expect(text(words[4]) == "A=1")
          #expect(words[5] == 0)
          var auxiliary: [UInt64: UInt64] = [:]
          var at = 6
          while words[at] != 0 {
            auxiliary[words[at]] = words[at + 1]
            at += 2
          }
          #expect(auxiliary[AuxiliaryTag.entry] == 0x1234)
          #expect(auxiliary[AuxiliaryTag.pageSize] == 4096)
          #expect(text(try #require(auxiliary[AuxiliaryTag.executablePath])) == "/bin/prog")
          #expect(text(try #require(auxiliary[AuxiliaryTag.platform])) == "x86_64")
          let random = UnsafePointer<UInt64>(bitPattern: UInt(try #require(auxiliary[AuxiliaryTag.random])))!
          #expect(random[0] == 7 && random[1] == 8)
        }
      }
    }
  }

  @Test func refusesBlocksWithoutTheirLastNUL() {
    Array("ab".utf8).withUnsafeBytes { #expect(StringBlock($0, count: 1) == nil) }
    Array("ab\0".utf8).withUnsafeBytes { #expect(StringBlock($0, count: 2) == nil) }
    Array("ab\0".utf8).withUnsafeBytes { #expect(StringBlock($0, count: 1)?.bytes.count == 3) }
  }
}
