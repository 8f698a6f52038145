// The console's driver against a console of another monitor.
import Base
import Devices
import Glibc
import Memory
import Platform
import Synchronization
import Testing
import VirtioABI

@Suite struct ForeignConsoleTests {
  /// The driver and its device; every buffer was one that such a device takes, and no port was spoken of that is not there.
  private final class Pair {
    let device: ForeignConsole
    let bench: Bench
    let console: ConsoleDriver

    init(flags: UInt32 = 0, gathering window: UInt64 = 0, queueCount: Int = 10) throws {
      device = ForeignConsole(queueCount: queueCount)
      bench = Bench(device)
      console = try ConsoleDriver(bench.driver, flags: flags | BootFlags.foreignMonitor, gathering: window)
    }
    deinit {
      let end = device.state.withLock { $0 }
      #expect(end.errors == 0 && end.warnings == 0 && end.strays == 0)
    }

    var output: String { device.state.withLock { String(decoding: $0.output, as: UTF8.self) } }
    func put(_ port: ConsoleDriver.Port, _ text: String) -> Result<Int, Errno> { console.put(port, Array(text.utf8)) }
  }

  @Test(arguments: [4, 10, 17]) func onlyPortZeroIsSpokenOf(queueCount: Int) throws {
    let it = try Pair(queueCount: queueCount)
    #expect(it.put(.standard, "hello\n") == .success(6))
    let heard = it.device.state.withLock { $0.heard }
    #expect(
      heard == [
        [Int(VirtioConsoleControl.deviceReady), 0, 1], [Int(VirtioConsoleControl.portReady), 0, 1],
        [Int(VirtioConsoleControl.portOpen), 0, 1],
      ])
    // What was there at the start is told of too: both control queues, and the output.
    #expect(it.bench.registers.notifications.load(ordering: .relaxed) == 3)
    #expect(it.output == "hello\n")
  }

  @Test(arguments: [0, UInt64.max]) func bothStreamsComeInTheOrderOfTheirWrites(window: UInt64) throws {
    let it = try Pair(gathering: window)
    var expected = ""
    for number in 0..<200 {
      let text = "\(number) "
      #expect(it.put(number % 3 == 0 ? .error : .standard, text) == .success(text.utf8.count))
      expected += text
    }
    try it.console.finishWriting(.error)
    #expect(it.console.flush() == nil)
    #expect(it.output == expected)
    #expect(!it.console.isOutputClosed(.error) && !it.console.isOutputClosed(.standard))
  }

  @Test func inputComesToWhoReads() throws {
    let it = try Pair()
    let results = Synchronization.Mutex<[Result<[UInt8], Errno>]>([])
    let reader = TestThread {
      for _ in 0..<3 {
        let result = it.console.take(10)
        results.withLock { $0.append(result) }
      }
    }
    for round in 0..<3 {
      usleep(10_000)
      it.device.feed(Array("line \(round)\n".utf8))
      #expect(eventually { results.withLock { $0.count } == round + 1 })
    }
    reader.join()
    #expect(results.withLock { $0 } == (0..<3).map { .success(Array("line \($0)\n".utf8)) })
    #expect(it.console.take(10, nonBlocking: true) == .failure(.EAGAIN))
    // More than a buffer at a time, and before anybody asks.
    let bytes = pattern(200_000)
    it.device.feed(bytes)
    var received: [UInt8] = []
    while received.count < bytes.count {
      guard case .success(let part) = it.console.take(30_000) else { break }
      received += part
    }
    #expect(received == bytes)
    #expect(it.console.put(.standard, [1]) == .success(1))
  }

  /// A poll posts a buffer like any other, once, and what comes is for the next read.
  @Test func aPollKeepsWhatComes() throws {
    let it = try Pair()
    let changes = Atomic<Int>(0)
    it.console.onInputChange = { changes.add(1, ordering: .relaxed) }
    for _ in 0..<10 {
      it.console.listen()
      #expect(!it.console.isReadable() && it.console.readableByteCount() == 0)
    }
    it.device.feed(Array("first line\nsecond".utf8))
    #expect(eventually { it.console.isReadable() })
    #expect(changes.load(ordering: .relaxed) > 0)
    #expect(it.console.readableByteCount() == 17)
    it.console.listen()
    #expect(it.console.take(6) == .success(Array("first ".utf8)))
    #expect(it.console.isReadable() && it.console.readableByteCount() == 11)
    #expect(it.console.take(100, nonBlocking: true) == .success(Array("line\nsecond".utf8)))
    #expect(!it.console.isReadable())
    it.console.listen()
    it.device.feed(pattern(10_000))
    #expect(eventually { it.console.readableByteCount() == 4096 })
    var received: [UInt8] = []
    while received.count < 10_000, case .success(let part) = it.console.take(100_000) { received += part }
    #expect(received == pattern(10_000))
  }

  @Test func anOtherSideThatClosesMayComeBack() throws {
    let it = try Pair()
    it.device.feed([1, 2])
    #expect(it.console.take(10) == .success([1, 2]))
    it.device.connect(false)
    #expect(it.console.take(10) == .success([]))
    #expect(it.console.isReadable() && it.console.take(10, nonBlocking: true) == .success([]))
    // Nobody hears it, and nobody is told.
    #expect(it.put(.standard, "lost") == .success(4))
    #expect(it.console.flush() == nil && it.output.isEmpty)
    #expect(it.device.state.withLock { $0.discarded } == 4)
    it.device.connect(true)
    it.device.feed([3])
    #expect(it.console.take(10) == .success([3]))
    #expect(it.console.take(10, nonBlocking: true) == .failure(.EAGAIN))
    #expect(!it.console.isReadable())
    #expect(it.put(.error, "heard") == .success(5))
    #expect(it.output == "heard")
    // Closed and open again before anybody looks is nothing at all.
    it.device.connect(false)
    it.device.connect(true)
    #expect(it.console.take(10, nonBlocking: true) == .failure(.EAGAIN))
  }

  @Test func thereIsNoTerminal() throws {
    let it = try Pair(flags: BootFlags.inputIsTerminal | BootFlags.terminalInput)
    var state = VirtioConsoleTerminal()
    for action in [VirtioConsoleTerminal.ask, VirtioConsoleTerminal.discard | VirtioConsoleTerminal.force] {
      #expect(throws: Errno.ENOTTY) { try it.console.terminal(action, &state) }
    }
    #expect(it.console.terminalSize == (0, 0))
    #expect(it.console.take(10, from: .error) == .success([]))
    it.console.listen(.error)
    #expect(it.put(.error, "x") == .success(1))
    it.device.connect(false)
    #expect(it.console.take(10) == .success([]) && it.console.take(10) == .success([]))
    // No request, and no PORT_OPEN to have a terminal read on.
    #expect(it.device.state.withLock { $0.heard.count } == 3)
  }

  @Test func inputThatIsEmptyIsNotAskedFor() throws {
    let it = try Pair(flags: BootFlags.inputIsEmpty)
    #expect(it.console.take(10) == .success([]) && it.console.isReadable())
    #expect(it.bench.exits == 0)
  }

  @Test func aPortThatIsPulledOutIsEPIPE() throws {
    let it = try Pair()
    #expect(it.put(.standard, "x") == .success(1))
    it.device.send(VirtioConsoleControl.portRemove, 1)
    // What is under way when it comes is done.
    _ = it.put(.error, "y")
    #expect(it.put(.error, "z") == .failure(.EPIPE) && it.put(.standard, "z") == .failure(.EPIPE))
  }

  @Test func wordsThatMakeNoSenseAreIgnored() throws {
    let it = try Pair()
    #expect(it.put(.standard, "x") == .success(1))
    it.device.sendRaw([1, 2, 3])
    for port: UInt32 in [1, 2, 31, 32, .max] {
      for event in [UInt16(1), 2, 5, 6, 7, 0x4f54, 0x4f55, 999] {
        it.device.send(event, 0, port: port)
        #expect(it.put(.standard, "y") == .success(1))
      }
    }
    it.device.feed([7])
    #expect(it.console.take(1) == .success([7]))
  }

  @Test func devicesThatLackSomethingAreRefused() throws {
    for device in [ForeignConsole(features: 0), ForeignConsole(queueCount: 3)] {
      let bench = Bench(device)
      #expect(throws: Errno.ENODEV) { try ConsoleDriver(bench.driver, flags: BootFlags.foreignMonitor) }
      #expect(bench.exits == 0)
    }
    // Without the flag both ports must be there.
    let bench = Bench(ForeignConsole(queueCount: 4))
    #expect(throws: Errno.ENODEV) { try ConsoleDriver(bench.driver, flags: 0) }
  }
}
