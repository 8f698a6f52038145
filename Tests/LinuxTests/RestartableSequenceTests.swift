import Testing

@testable import Linux

@Suite struct RestartableSequenceTests {
  private let section = CriticalSection(start: 0x1000, byteCount: 0x20, abort: 0x2000)

  @Test func theEndIsOutside() {
    #expect(!section.contains(0xfff))
    #expect(section.contains(0x1000))
    #expect(section.contains(0x101f))
    #expect(!section.contains(0x1020))
  }

  @Test func layoutIsThatOfLinux() {
    #expect(MemoryLayout<CriticalSection>.size == 32)
    #expect(MemoryLayout<CriticalSection>.offset(of: \.abort) == 24)
  }

  @Test func whatMakesNoSense() {
    #expect(section.isValid)
    var wrong = section
    wrong.version = 1
    #expect(!wrong.isValid)
    wrong = section
    wrong.abort = 0x1010
    #expect(!wrong.isValid)
    wrong = section
    wrong.abort = 2
    #expect(!wrong.isValid)
    wrong = section
    wrong.byteCount = .max - 0x800
    #expect(!wrong.isValid)
    wrong = section
    wrong.start = 1 << 63
    #expect(!wrong.isValid)
    wrong = section
    wrong.abort = 1 << 62
    #expect(!wrong.isValid)
  }
}
