// Stack switches: the host runs the same code as the kernel, with fibers.
import Base
import Testing

@testable import Platform

@Suite(.serialized) struct ContextSwitchTests {
  // Pointers: both stacks are in the middle of a switch at the same time, which the checks of exclusive access would refuse.
  nonisolated(unsafe) static let home = UnsafeMutablePointer<SavedStack>.allocate(capacity: 1)
  nonisolated(unsafe) static let fiber = UnsafeMutablePointer<SavedStack>.allocate(capacity: 1)
  nonisolated(unsafe) static var steps: [Int] = []

  @Test func aNewStackRunsItsEntryAndComesBack() {
    let stack = UnsafeMutableRawPointer.allocate(byteCount: 256 << 10, alignment: 4096)
    defer { stack.deallocate() }
    Self.steps = []
    Self.fiber.pointee = ContextSwitch.prepare(
      stackTop: VirtualAddress(stack + (256 << 10)),
      entry: { argument in
        for round in 0..<3 {
          ContextSwitchTests.steps.append(Int(bitPattern: argument) + round)
          ContextSwitch.run(from: ContextSwitchTests.fiber, to: ContextSwitchTests.home)
        }
      }, argument: UnsafeMutableRawPointer(bitPattern: 100))
    for round in 0..<3 {
      Self.steps.append(round)
      ContextSwitch.run(from: Self.home, to: Self.fiber)
    }
    #expect(Self.steps == [0, 100, 1, 101, 2, 102])
  }

  @Test func theFrameIsTheAssemblys() {
    #expect(UInt64(MemoryLayout<TrapFrame>.size) == TrapFrame.byteCount)
    #expect(MemoryLayout<TrapFrame>.offset(of: \.rip) == MemoryLayout<TrapFrame>.offset(of: \.rax)! + 8)
  }

  @Test func programsGetNoPrivilegedFlags() {
    let flags = TrapFrame.sanitized(flags: UInt64.max)
    #expect(flags & 0x7000 == 0, "neither IOPL nor NT")
    #expect(flags & 0x1_0000 == 0, "no RF")
    #expect(TrapFrame.sanitized(flags: 0) == 0x202)
    #expect(TrapFrame.sanitized(flags: 0xcd5) == 0xed7)
  }

  @Test func kernelIsWhereTheStackPointerIs() {
    var frame = TrapFrame()
    CPU.kernelStackTop = VirtualAddress(0x5800_0000_8000)
    defer { CPU.kernelStackTop = .zero }
    frame.rsp = 0x5800_0000_7ff8
    #expect(!frame.isFromProgram)
    frame.rsp = 0x5800_0000_4001
    #expect(!frame.isFromProgram)
    frame.rsp = 0x5800_0000_4000
    #expect(frame.isFromProgram)
    frame.rsp = 0x5800_0000_8008
    #expect(frame.isFromProgram)
    frame.rsp = 0x7fff_0000
    #expect(frame.isFromProgram)
  }
}
