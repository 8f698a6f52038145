// The console device as a foreign driver meets it, and what hostile ones get.
import Glibc
import Synchronization
import Testing
import VirtioABI
import VirtioConsole
import VirtioPCI
import VirtioTestGuest

/// A console on pipes and a driver that does everything by hand.
final class ForeignConsole {
  let guest = TestGuest()
  let device: VirtioConsole
  let driver: TestDriver
  private(set) var ends: [Int32]
  private var nextBuffer = 0

  init(
    size: (UInt16, UInt16)? = nil, features: UInt64 = 0, output: Int32? = nil, terminal: (any ConsoleTerminal)? = nil
  ) {
    signal(SIGPIPE, SIG_IGN)
    var ends: [Int32] = []
    for _ in 0..<3 {
      var pair: [Int32] = [0, 0]
      precondition(pipe(&pair) == 0)
      ends += pair
    }
    self.ends = ends
    var configuration = VirtioConsole.Configuration()
    configuration.input = ends[0]
    configuration.output = output ?? ends[3]
    configuration.error = ends[5]
    configuration.size = size
    configuration.terminal = terminal
    device = try! VirtioConsole(configuration)
    let function = PCIFunction(device: device, memory: guest.map) { _ in }
    driver = TestDriver(
      function, guest, queueCount: 6,
      features: VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioConsoleABI.multiport | features)
  }
  deinit {
    device.stop()
    for end in ends.enumerated() where end.offset != 0 { close(end.element) }
  }

  func closeEnd(_ index: Int) {
    close(ends[index])
    ends[index] = -1
  }

  /// Posts buffers for control messages.
  func postControl(_ count: Int = 12, byteCount: Int = 64) {
    for _ in 0..<count {
      driver.queues[2].post(byteCount, index: nextBuffer % 16)
      nextBuffer += 1
    }
    driver.kick(2)
  }

  func send(_ port: UInt32, _ event: UInt16, _ value: UInt16 = 1) {
    let message = VirtioConsoleControl(port: port, event: event, value: value)
    driver.queues[3].send(withUnsafeBytes(of: message) { Array($0) })
    driver.kick(3)
  }

  /// The control messages since the last call.
  func messages() -> [[UInt8]] {
    var list: [[UInt8]] = []
    while let used = driver.queues[2].takeUsed() {
      let descriptor = guest.load(
        VirtqueueDescriptor.self, at: driver.queues[2].descriptors + UInt64(16 * used.head))
      list.append(guest.bytes(descriptor.address, used.written))
    }
    return list
  }

  func output(_ end: Int, _ limit: Int = 1000) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: limit)
    let count = read(ends[end], &bytes, limit)
    return Array(bytes.prefix(max(0, count)))
  }
}

private func message(_ port: UInt8, _ event: UInt16, _ value: UInt8, _ data: [UInt8] = []) -> [UInt8] {
  [port, 0, 0, 0, UInt8(event), 0, value, 0] + data
}

private func eventually(_ condition: () -> Bool) -> Bool {
  for _ in 0..<5000 {
    if condition() { return true }
    usleep(1000)
  }
  return false
}

@Suite struct ConsoleTests {
  @Test func portsAreIntroduced() {
    let it = ForeignConsole(size: (80, 24), features: VirtioConsoleABI.size)
    #expect(it.driver.status == 15)
    #expect(it.driver.function.readBAR(at: 0x100, count: 8) == 0x0002_0018_0050)
    it.postControl()
    #expect(it.messages() == [])
    it.send(0, VirtioConsoleControl.deviceReady)
    #expect(
      it.messages() == [message(0, VirtioConsoleControl.portAdd, 1), message(1, VirtioConsoleControl.portAdd, 1)])
    it.send(0, VirtioConsoleControl.portReady)
    #expect(
      it.messages() == [
        message(0, VirtioConsoleControl.consolePort, 1),
        message(0, VirtioConsoleControl.portName, 1, Array("stdio".utf8)),
        message(0, VirtioConsoleControl.resize, 1, [80, 0, 24, 0]), message(0, VirtioConsoleControl.portOpen, 1),
      ])
    it.send(1, VirtioConsoleControl.portReady)
    #expect(
      it.messages() == [
        message(1, VirtioConsoleControl.portName, 1, Array("stderr".utf8)),
        message(1, VirtioConsoleControl.portOpen, 1),
      ])
    it.device.resize(columns: 132, rows: 50)
    #expect(it.messages() == [message(0, VirtioConsoleControl.resize, 1, [132, 0, 50, 0])])
    #expect(it.driver.function.readBAR(at: 0x100, count: 4) == 0x0032_0084)
  }

  @Test func messagesWaitForBuffers() {
    let it = ForeignConsole()
    it.send(0, VirtioConsoleControl.deviceReady)
    it.postControl(1)
    #expect(it.messages().count == 1)
    it.postControl(1)
    #expect(it.messages() == [message(1, VirtioConsoleControl.portAdd, 1)])
    it.postControl(1)
    #expect(it.messages() == [])
    it.send(1, VirtioConsoleControl.portReady)
    #expect(it.messages().count == 1)
  }

  @Test func bothPortsTransmit() {
    let it = ForeignConsole()
    it.driver.queues[1].send(Array("out".utf8), index: 0)
    it.driver.queues[1].send(Array("put".utf8), index: 1)
    it.driver.kick(1)
    it.driver.queues[5].send(Array("error".utf8))
    it.driver.kick(5)
    #expect(it.output(2) == Array("output".utf8))
    #expect(it.output(4) == Array("error".utf8))
    #expect(it.driver.queues[1].takeUsed()! == (0, 0))
    #expect(it.driver.queues[1].takeUsed()! == (1, 0))
  }

  @Test func inputFillsWhatIsPostedAndEndsWithAMessage() {
    let it = ForeignConsole()
    it.postControl()
    it.send(0, VirtioConsoleControl.portReady)
    _ = it.messages()
    _ = write(it.ends[1], "abcdefgh", 8)
    let first = it.driver.queues[0].post(3, index: 0)
    it.driver.kick(0)
    #expect(eventually { it.driver.queues[0].usedIndex == 1 })
    #expect(it.driver.queues[0].takeUsed()! == (0, 3))
    #expect(it.guest.bytes(first, 3) == Array("abc".utf8))
    let second = it.driver.queues[0].post(100, index: 1)
    it.driver.kick(0)
    #expect(eventually { it.driver.queues[0].usedIndex == 2 })
    #expect(it.driver.queues[0].takeUsed()! == (1, 5))
    #expect(it.guest.bytes(second, 5) == Array("defgh".utf8))
    it.driver.queues[0].post(100, index: 0)
    it.driver.kick(0)
    it.closeEnd(1)
    #expect(eventually { it.driver.queues[2].usedIndex != it.driver.queues[2].nextUsed })
    #expect(it.messages() == [message(0, VirtioConsoleControl.portOpen, 0)])
    // The buffer stays with the device.
    #expect(it.driver.queues[0].usedIndex == 2)
  }

  @Test func aResetInTheMiddleLosesNoInput() {
    let it = ForeignConsole()
    it.driver.queues[0].post(10, index: 0)
    it.driver.kick(0)
    usleep(5000)
    it.driver.function.writeBAR(at: 20, count: 1, 0)
    _ = write(it.ends[1], "later", 5)
    usleep(5000)
    let again = TestDriver(
      it.driver.function, it.guest, queueCount: 6,
      features: VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioConsoleABI.multiport)
    let place = again.queues[0].post(10, index: 0)
    again.kick(0)
    #expect(eventually { again.queues[0].usedIndex == 1 })
    #expect(it.guest.bytes(place, 5) == Array("later".utf8))
  }

  @Test func aLostReaderRemovesThePort() {
    let it = ForeignConsole()
    it.postControl()
    it.send(0, VirtioConsoleControl.portReady)
    _ = it.messages()
    it.closeEnd(2)
    it.driver.queues[1].send([1])
    it.driver.kick(1)
    #expect(it.driver.queues[1].takeUsed()! == (0, 0))
    #expect(it.messages() == [message(0, VirtioConsoleControl.portRemove, 1)])
    #expect(it.device.outputFailure(port: 0) == EPIPE)
    it.driver.queues[1].send([1])
    it.driver.kick(1)
    #expect(it.driver.queues[1].takeUsed()! == (0, 0))
    #expect(it.messages() == [])
  }

  /// What a guest sends in one request beyond what a pipe takes.
  private static let much = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }

  /// Puts `much` into one request of the port's transmit queue, and notifies.
  private func sendMuch(_ it: ForeignConsole, _ queue: Int, index: Int = 0) {
    it.driver.queues[queue].send(Self.much, index: index)
    it.driver.kick(queue)
  }

  @Test(.timeLimit(.minutes(15))) func aFullPipeHoldsUpNobody() {
    let it = ForeignConsole()
    sendMuch(it, 1)
    // The notification has returned, and the request is not done.
    #expect(it.driver.queues[1].takeUsed() == nil)
    it.driver.queues[1].send(Array("end".utf8), index: 1)
    it.driver.kick(1)
    it.driver.queues[5].send(Array("error".utf8))
    it.driver.kick(5)
    #expect(it.output(4) == Array("error".utf8))
    #expect(it.driver.queues[1].takeUsed() == nil)
    var received: [UInt8] = []
    while received.count < Self.much.count + 3 { received += it.output(2, 65_536) }
    #expect(received == Self.much + Array("end".utf8))
    #expect(eventually { it.driver.queues[1].usedIndex == 2 })
    #expect(it.driver.queues[1].takeUsed()! == (0, 0))
    #expect(it.driver.queues[1].takeUsed()! == (1, 0))
    // And all is as before.
    it.driver.queues[1].send(Array("again".utf8), index: 0)
    it.driver.kick(1)
    #expect(it.driver.queues[1].takeUsed()! == (0, 0))
    #expect(it.output(2) == Array("again".utf8))
  }

  @Test(.timeLimit(.minutes(15))) func aReaderThatLeavesAFullPipeRemovesThePort() {
    let it = ForeignConsole()
    it.postControl()
    it.send(0, VirtioConsoleControl.portReady)
    _ = it.messages()
    sendMuch(it, 1)
    #expect(it.driver.queues[1].takeUsed() == nil)
    it.closeEnd(2)
    #expect(eventually { it.driver.queues[1].usedIndex == 1 })
    #expect(it.messages() == [message(0, VirtioConsoleControl.portRemove, 1)])
    #expect(it.device.outputFailure(port: 0) == EPIPE)
  }

  @Test(.timeLimit(.minutes(15))) func aResetForgetsWhatWaitsForRoom() {
    let it = ForeignConsole()
    sendMuch(it, 1)
    it.driver.function.writeBAR(at: 20, count: 1, 0)
    let again = TestDriver(
      it.driver.function, it.guest, queueCount: 6,
      features: VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioConsoleABI.multiport)
    again.queues[5].send(Array("error".utf8))
    again.kick(5)
    #expect(it.output(4) == Array("error".utf8))
    // The pipe is drained of what had gone, then the new driver's output comes, and nothing between.
    let gone = it.output(2, 1 << 20)
    #expect(gone == Array(Self.much.prefix(gone.count)) && gone.count < Self.much.count)
    again.queues[1].send(Array("new".utf8))
    again.kick(1)
    #expect(eventually { again.queues[1].usedIndex == 1 })
    #expect(it.output(2) == Array("new".utf8))
  }

  @Test(.timeLimit(.minutes(15))) func aSocketThatIsFullIsWaitedForToo() {
    var pair: [Int32] = [0, 0]
    #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair) == 0)
    let it = ForeignConsole(output: pair[0])
    defer { for end in pair { close(end) } }
    for index in 0..<4 { sendMuch(it, 1, index: index) }
    var received: [UInt8] = []
    var bytes = [UInt8](repeating: 0, count: 65_536)
    while received.count < 4 * Self.much.count {
      let count = read(pair[1], &bytes, bytes.count)
      received += bytes.prefix(max(0, count))
    }
    let isWhole = (0..<4).map { received[($0 * Self.much.count)...].prefix(Self.much.count).elementsEqual(Self.much) }
    #expect(isWhole == [true, true, true, true])
    #expect(eventually { it.driver.queues[1].usedIndex == 4 })
  }

  @Test func aFullDiskIsToldForEachRequest() {
    let full = open("/dev/full", O_WRONLY)
    defer { close(full) }
    let it = ForeignConsole(output: full)
    it.postControl()
    it.send(0, VirtioConsoleControl.portReady)
    _ = it.messages()
    for _ in 0..<2 {
      it.driver.queues[1].send([1])
      it.driver.kick(1)
      #expect(it.driver.queues[1].takeUsed()! == (0, 0))
      let told = it.messages()
      #expect(told.map { $0.prefix(8) } == [[0, 0, 0, 0, 0x53, 0x4f, UInt8(ENOSPC), 0]])
    }
    #expect(it.device.outputFailure(port: 0) == 0)
    // A driver that does not take the messages is not told a hundred times.
    let deaf = ForeignConsole(output: full)
    deaf.send(0, VirtioConsoleControl.portReady)
    for _ in 0..<100 {
      deaf.driver.queues[1].send([1])
      deaf.driver.kick(1)
    }
    deaf.postControl()
    #expect(deaf.messages().filter { $0[4] == 0x53 }.count == 1)
    #expect(deaf.driver.status == 15)
  }

  @Test func controlMessagesWithoutSenseBreakTheDevice() {
    for (port, event) in [(UInt32(2), VirtioConsoleControl.portReady), (.max, VirtioConsoleControl.portOpen)] {
      let it = ForeignConsole()
      it.send(port, event)
      #expect(it.driver.status & VirtioStatus.needsReset != 0)
    }
    let short = ForeignConsole()
    short.driver.queues[3].send([0, 0, 0, 0, 0, 0, 1])
    short.driver.kick(3)
    #expect(short.driver.status & VirtioStatus.needsReset != 0)
    let unknown = ForeignConsole()
    unknown.send(0, 999)
    #expect(unknown.driver.status == 15)
  }

  @Test func aTerminalIsAskedAndAnswers() {
    final class FakeTerminal: ConsoleTerminal {
      func perform(_ action: UInt16, _ state: inout VirtioConsoleTerminal) -> CInt {
        state.columns = action
        state.rows = UInt16(state.modes.characters[18])
        return action == VirtioConsoleTerminal.ask ? 0 : CInt(ERESTART)
      }
      func mayRead() -> ConsoleReadPermission { .granted }
    }
    func request(_ it: ForeignConsole, _ action: UInt16) -> [UInt8] {
      var state = VirtioConsoleTerminal()
      state.modes.characters[18] = 77
      state.tag = 0x0403_0201
      let head = VirtioConsoleControl(port: 0, event: VirtioConsoleControl.terminalRequest, value: action)
      it.driver.queues[3].send(
        withUnsafeBytes(of: head) { Array($0) } + withUnsafeBytes(of: state) { Array($0) })
      it.driver.kick(3)
      return it.messages().last ?? []
    }
    let it = ForeignConsole(terminal: FakeTerminal())
    it.postControl()
    for (action, code) in [(VirtioConsoleTerminal.ask, 0), (VirtioConsoleTerminal.set, ERESTART)] {
      let answer = request(it, action)
      #expect(answer.count == VirtioConsoleControl.byteCount + VirtioConsoleTerminal.byteCount)
      #expect(answer.prefix(8) == [0, 0, 0, 0, 0x55, 0x4f, UInt8(code), 0])
      #expect(answer.suffix(12) == [UInt8(action), 0, 77, 0, 0, 0, 0, 0, 1, 2, 3, 4].suffix(12))
    }
    let without = ForeignConsole()
    without.postControl()
    #expect(request(without, 0).prefix(8) == [0, 0, 0, 0, 0x55, 0x4f, UInt8(ENOTTY), 0])
    // A request without its terminal is none.
    let short = ForeignConsole(terminal: FakeTerminal())
    short.send(0, VirtioConsoleControl.terminalRequest)
    #expect(short.driver.status & VirtioStatus.needsReset != 0)
  }

  @Test func answersThatNobodyTakesAreBounded() {
    let it = ForeignConsole()
    var sent = 0
    while it.driver.status == 15 && sent < 1000 {
      it.send(0, VirtioConsoleControl.deviceReady)
      sent += 1
    }
    #expect(sent < 100)
    #expect(it.driver.status & VirtioStatus.needsReset != 0)
  }

  @Test func buffersThatAreTooSmallBreakTheDevice() {
    let it = ForeignConsole()
    it.postControl(1, byteCount: 7)
    it.send(0, VirtioConsoleControl.deviceReady)
    #expect(it.driver.status & VirtioStatus.needsReset != 0)
    let input = ForeignConsole()
    input.driver.queues[0].send([1])
    input.driver.kick(0)
    _ = write(input.ends[1], "x", 1)
    #expect(eventually { input.driver.status & VirtioStatus.needsReset != 0 })
  }
}
