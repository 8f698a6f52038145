// The little PC's own devices, driven as a kernel's drivers drive them.
import Synchronization
import Testing
import VirtioPCI

@testable import Machine

/// A serial port with everything it says written down.
private final class Line: Sendable {
  let raised = Atomic<Int>(0)
  let active = Atomic<Int>(0)
  let sent = Mutex<[UInt8]>([])
  let port: SerialPort

  init() {
    // The closures know the line by this box, for the port comes first.
    let box = Box()
    port = SerialPort(
      raise: { box.line?.raised.add(1, ordering: .relaxed) },
      send: { bytes in box.line?.sent.withLock { $0 += bytes } },
      onActivity: { box.line?.active.add(1, ordering: .relaxed) })
    box.line = self
  }

  private final class Box: @unchecked Sendable { unowned(unsafe) var line: Line? }

  var raises: Int { raised.load(ordering: .relaxed) }
  var text: String { String(decoding: sent.withLock { $0 }, as: UTF8.self) }
}

@Suite struct SerialPortTests {
  @Test func whatLinuxLooksFor() {
    let line = Line()
    // The loop-back test of the 8250 driver: RTS and OUT2 come back as CTS and DCD.
    line.port.write(4, 0x1a)
    #expect(line.port.read(6) & 0xf0 == 0x90)
    line.port.write(4, 0)
    // A 16550A says so by two bits once its FIFO is on.
    line.port.write(2, 1)
    #expect(line.port.read(2) >> 6 == 3)
    line.port.write(2, 0)
    #expect(line.port.read(2) >> 6 == 0)
    line.port.write(7, 0x5a)
    #expect(line.port.read(7) == 0x5a)
    line.port.write(3, 0x80)
    line.port.write(0, 0x34)
    line.port.write(1, 0x12)
    #expect(line.port.read(0) == 0x34 && line.port.read(1) == 0x12)
    line.port.write(3, 3)
    #expect(line.port.read(5) == 0x60 && line.port.read(1) == 0)
  }

  @Test func outputComesByTheLineOrWhenFlushed() {
    let line = Line()
    for byte in "hello\nwor".utf8 { line.port.write(0, byte) }
    #expect(line.text == "hello\n")
    #expect(line.active.load(ordering: .relaxed) == 2)
    line.port.flush()
    #expect(line.text == "hello\nwor")
    for _ in 0..<300 { line.port.write(0, UInt8(ascii: "x")) }
    #expect(line.text.utf8.count == 9 + 256)
  }

  @Test func transmitterInterruptsComeOneByOne() {
    let line = Line()
    line.port.write(4, 0x08)
    line.port.write(1, 2)
    #expect(line.raises == 1)
    for count in 0..<5 {
      #expect(line.port.read(2) == 2, "byte \(count)")
      #expect(line.port.read(2) == 1, "read once, it is gone")
      line.port.write(0, UInt8(ascii: "a"))
      #expect(line.raises == count + 2)
    }
    // Not read: the next byte is an edge all the same.
    line.port.write(0, UInt8(ascii: "b"))
    #expect(line.raises == 7)
    line.port.write(1, 0)
    line.port.write(0, UInt8(ascii: "c"))
    #expect(line.raises == 7)
  }

  @Test func inputWaitsForRoom() {
    let line = Line()
    line.port.write(4, 0x08)
    line.port.write(1, 1)
    line.port.receive(Array(0..<20))
    #expect(line.raises == 1 && line.port.room == 0)
    for byte in 0..<16 {
      #expect(line.port.read(2) == 4 && line.port.read(5) & 1 == 1)
      #expect(line.port.read(0) == UInt8(byte))
    }
    #expect(line.port.read(5) & 1 == 0 && line.port.read(2) == 1)
    #expect(line.port.room == 16 && line.active.load(ordering: .relaxed) == 1)
    line.port.receive([7])
    #expect(line.raises == 2)
    // Without OUT2 the line is cut.
    line.port.write(4, 0)
    line.port.receive([8])
    #expect(line.raises == 2)
  }
}

@Suite struct IOInterruptControllerTests {
  private final class Log: Sendable { let messages = Mutex<[MSIMessage]>([]) }

  @Test func entriesBecomeMessages() {
    let log = Log()
    let controller = IOInterruptController { message in log.messages.withLock { $0.append(message) } }
    controller.write(0, 1)
    #expect(controller.read(0x10) == 23 << 16 | 0x11)
    controller.raise(4)
    #expect(log.messages.withLock { $0.isEmpty }, "masked at first")
    controller.write(0, 0x10 + 8)
    controller.write(0x10, 0x31)
    controller.write(0, 0x10 + 9)
    controller.write(0x10, 0x0300_0000)
    #expect(controller.read(0x10) == 0x0300_0000)
    controller.raise(4)
    controller.raise(24)
    controller.raise(-1)
    #expect(log.messages.withLock { $0 } == [MSIMessage(address: 0xfee0_3000, data: 0x31)])
    // Logical destination, lowest priority.
    #expect(
      IOInterruptController.message(0x0f00_0000_0000_0941) == MSIMessage(address: 0xfee0_f00c, data: 0x141))
  }

  @Test func registersBeyondTheEnd() {
    let controller = IOInterruptController { _ in }
    for select in 0..<256 {
      controller.write(0, UInt32(select))
      controller.write(0x10, .max)
      _ = controller.read(0x10)
    }
    // Status bits cannot be written.
    controller.write(0, 0x10)
    #expect(controller.read(0x10) == 0x1_afff)
    #expect(controller.read(8) == 0)
  }
}

/// A function that remembers accesses.
private final class Function: PCIBusFunction {
  let log = Mutex<[String]>([])
  let bar = Mutex<UInt64?>(PCLayout.devices)
  var barAddress: UInt64? { bar.withLock { $0 } }
  func readConfiguration(at offset: Int, count: Int) -> UInt32 {
    log.withLock { $0.append("c\(offset).\(count)") }
    return 0x1234
  }
  func writeConfiguration(at offset: Int, count: Int, _ value: UInt32) {
    log.withLock { $0.append("C\(offset).\(count)=\(value)") }
  }
  func readBAR(at offset: UInt64, count: Int) -> UInt64 {
    log.withLock { $0.append("m\(offset).\(count)") }
    return 0x5678
  }
  func writeBAR(at offset: UInt64, count: Int, _ value: UInt64) {
    log.withLock { $0.append("M\(offset).\(count)=\(value)") }
  }
}

@Suite struct PCIHostTests {
  @Test func byPortsAndByMemory() {
    let function = Function()
    let host = PCIHost([function])
    #expect(host.readPort(0xcfc, count: 4) == .max, "nothing is selected")
    host.writePort(0xcf8, count: 4, 0x8000_0000)
    #expect(host.readPort(0xcfc, count: 4) == 0x0008_1b36)
    host.writePort(0xcf8, count: 4, 0x8000_0008)
    #expect(host.readPort(0xcfe, count: 2) == 0x0600, "a host bridge")
    host.writePort(0xcf8, count: 4, 0x8000_0810)
    #expect(host.readPort(0xcf8, count: 4) == 0x8000_0810)
    _ = host.readPort(0xcfe, count: 2)
    host.writePort(0xcfd, count: 1, 9)
    _ = host.readMemory(PCLayout.configuration + (1 << 15) + 0x40, count: 4)
    host.writeMemory(PCLayout.configuration + (1 << 15) + 4, count: 2, 6)
    #expect(function.log.withLock { $0 } == ["c18.2", "C17.1=9", "c64.4", "C4.2=6"])
    // No device, no function, no bus.
    for address: UInt32 in [0x8000_1000, 0x8000_0900, 0x8001_0800] {
      host.writePort(0xcf8, count: 4, address)
      #expect(host.readPort(0xcfc, count: 4) == .max)
      host.writePort(0xcfc, count: 4, 0)
    }
    // Across the end of the four ports, and 8 bytes of configuration space.
    host.writePort(0xcf8, count: 4, 0x8000_0800)
    #expect(host.readPort(0xcfe, count: 4) == .max)
    #expect(host.readMemory(PCLayout.configuration, count: 8) == .max)
  }

  @Test func theBARMovesWithTheGuest() {
    let function = Function()
    let host = PCIHost([function])
    #expect(host.readMemory(PCLayout.devices + 0x14, count: 1) == 0x5678)
    function.bar.withLock { $0 = PCLayout.devices + 0x10_0000 }
    #expect(host.readMemory(PCLayout.devices + 0x14, count: 1) == nil)
    host.writeMemory(PCLayout.devices + 0x10_0000 + 0x1000, count: 2, 3)
    function.bar.withLock { $0 = nil }
    #expect(host.readMemory(PCLayout.devices + 0x10_0000, count: 4) == nil)
    #expect(function.log.withLock { $0 } == ["m20.1", "M4096.2=3"])
  }

  @Test func theEndIsAskedForInSeveralWays() {
    let line = Line()
    let platform = PCPlatform(
      serial: line.port, host: PCIHost([]), interrupts: IOInterruptController { _ in })
    #expect(platform.writePort(0x600, count: 1, 0x34) == .powerOff)
    #expect(platform.writePort(0x600, count: 1, 0x14) == nil, "no SLP_EN")
    #expect(platform.writePort(0x602, count: 1, 1) == .reset)
    #expect(platform.writePort(0xcf9, count: 1, 6) == .reset)
    #expect(platform.writePort(0xcf9, count: 1, 2) == nil)
    #expect(platform.writePort(0x64, count: 1, 0xfe) == .reset)
    #expect(platform.readPort(0x70, count: 1) == .max)
    #expect(platform.readPort(0x3fd, count: 1) == 0x60)
    #expect(platform.readMemory(PCLayout.interruptController, count: 4) == 0)
    #expect(platform.readMemory(0xfed0_0000, count: 4) == .max)
  }
}

@Suite struct ConsoleKeysTests {
  @Test func controlA() {
    var keys = ConsoleKeys()
    #expect(keys.filter(Array("ls\r".utf8)) == Array("ls\r".utf8))
    #expect(keys.filter([1]) == [])
    #expect(keys.filter([1]) == [1])
    #expect(keys.filter([1, UInt8(ascii: "b")]) == [1, UInt8(ascii: "b")])
    #expect(keys.filter([UInt8(ascii: "x")]) == [UInt8(ascii: "x")])
    #expect(keys.filter([1]) == [])
    #expect(keys.filter([UInt8(ascii: "x")]) == nil)
  }
}
