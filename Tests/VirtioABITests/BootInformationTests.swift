import Testing
import VirtioABI

@Suite struct BootInformationTests {
  @Test func layoutHasNoHoles() {
    #expect(MemoryLayout<BootInformation>.size % 8 == 0)
    #expect(MemoryLayout<BootInformation>.stride == MemoryLayout<BootInformation>.size)
    #expect(MemoryLayout<BootFile>.size == 32)
    #expect(MemoryLayout<BootMount>.size == 16)
    #expect(MemoryLayout<BootDevice>.size == 10 * 4 + 32 + 64)
    #expect(MemoryLayout<BootDeviceSetup>.size == 16 + 17 * 32)
    #expect(MemoryLayout<BootNetwork>.size == 64 && MemoryLayout<BootNetwork>.stride == 64)
    #expect(MemoryLayout<ClockPage>.size == 64)
  }

  @Test func clockPageIsAsTheVDSOReadsIt() {
    // Sources/Guest/VDSO/vdso.c has the same fields in C.
    #expect(MemoryLayout<ClockPage>.offset(of: \.sequence) == 0)
    #expect(MemoryLayout<ClockPage>.offset(of: \.baseTSC) == 8)
    #expect(MemoryLayout<ClockPage>.offset(of: \.baseNanoseconds) == 16)
    #expect(MemoryLayout<ClockPage>.offset(of: \.realtimeOffset) == 24)
    #expect(MemoryLayout<ClockPage>.offset(of: \.multiplier) == 32)
  }

  @Test func magicSpellsItsName() {
    var magic = BootInformation.magicValue
    let text = withUnsafeBytes(of: &magic) { String(decoding: $0, as: UTF8.self) }
    #expect(text == "OSV-BOOT")
  }
}
