// The rest of what stands in for hardware on the host, and the parts that are the same in both worlds.
import Base
import Testing
import VirtioABI

@testable import Platform

@Suite(.serialized) struct StandInTests {
  private func text(_ line: TextLine) -> String {
    String(decoding: (0..<line.byteCount).map { line[$0] }, as: UTF8.self)
  }

  @Test func linesHoldTextAndNumbers() {
    var line = TextLine()
    line.append("a ")
    line.append(decimal: 0)
    line.append(" ")
    line.append(decimal: UInt64.max)
    line.append(" ")
    line.append(hexadecimal: 0xbeef)
    line.append(" ")
    line.append(hexadecimal: 0, digits: 4)
    #expect(text(line) == "a 0 18446744073709551615 0xbeef 0x0000")
  }

  @Test func linesDropWhatDoesNotFit() {
    var line = TextLine()
    for _ in 0..<1000 { line.append("xyz") }
    #expect(line.byteCount == TextLine.capacity)
  }

  @Test func fixedPointProducts() {
    #expect((10 as UInt64).scaled(by: 1 << 32) == 10)
    #expect((3 as UInt64).scaled(by: 1 << 31) == 1)
    #expect((UInt64(1) << 40).scaled(by: 1 << 40) == 1 << 48)
  }

  @Test func bootInformationIsRead() throws {
    // A head, two strings, and a file.
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: 4096)
    var head = BootInformation()
    let strings = MemoryLayout<BootInformation>.size.alignedUp(to: 8)
    head.argumentsOffset = strings.u32
    head.argumentCount = 2
    head.filesOffset = (strings + 64).u32
    head.fileCount = 1
    head.flags = BootFlags.selfTest
    memory.storeBytes(of: head, as: BootInformation.self)
    for (index, byte) in "one\0two\0".utf8.enumerated() {
      memory.storeBytes(of: byte, toByteOffset: strings + index, as: UInt8.self)
    }
    var file = BootFile()
    file.byteCount = 77
    memory.storeBytes(of: file, toByteOffset: strings + 64, as: BootFile.self)
    Boot.install(UnsafePointer(memory.assumingMemoryBound(to: BootInformation.self)))
    let first = try #require(Boot.string(at: Boot.information.pointee.argumentsOffset))
    #expect(String(cString: first) == "one")
    #expect(String(cString: Boot.string(after: first)) == "two")
    #expect(Boot.string(at: 0) == nil)
    #expect(Boot.files.count == 1 && Boot.files[0].byteCount == 77)
    #expect(Boot.mounts.isEmpty && Boot.devices.isEmpty)
    #expect(Boot.has(flag: BootFlags.selfTest) && !Boot.has(flag: BootFlags.debugMemory))
  }

  @Test func extendedStateStartsClean() {
    let area = UnsafeMutableRawPointer.allocate(byteCount: ExtendedState.byteCount, alignment: 64)
    defer { area.deallocate() }
    ExtendedState.initialise(area)
    #expect(area.load(as: UInt16.self) == 0x037f)
    #expect(area.load(fromByteOffset: 24, as: UInt32.self) == 0x1f80)
  }

  @Test func copiesOnTheHostAreCopies() {
    var source: UInt64 = 0x1122_3344_5566_7788
    var target: UInt64 = 0
    withUnsafeMutableBytes(of: &source) { source in
      let address = VirtualAddress(UnsafeRawPointer(source.baseAddress!))
      #expect(UserCopy.copyFromProgram(address, to: &target, count: 8) == 0)
      #expect(UserCopy.load32(address) == 0x5566_7788)
      #expect(UserCopy.compareExchange32(address, expected: 0, desired: 1) == 0x5566_7788)
      #expect(UserCopy.compareExchange32(address, expected: 0x5566_7788, desired: 1) == 0x5566_7788)
      #expect(UserCopy.stringLength(address, limit: 8) == 1)
      #expect(UserCopy.zeroProgram(address, count: 8) == 0)
    }
    #expect(target == 0x1122_3344_5566_7788)
    #expect(source == 0)
  }

  @Test func clocksRun() {
    let first = Clock.now()
    #expect(Clock.now() >= first)
    #expect(Clock.realtime() > 1_700_000_000_000_000_000)
  }

  @Test func timersAndFlushesAreSeen() {
    LocalTimer.arm(at: 12345)
    #expect(LocalTimer.armedDeadline == 12345)
    LocalTimer.disarm()
    #expect(LocalTimer.armedDeadline == nil)
    let flushes = TLB.flushCount
    TLB.flush(VirtualAddress(0x1000))
    TLB.flushAllEverywhere()
    #expect(TLB.flushCount == flushes + 2)
  }
}
