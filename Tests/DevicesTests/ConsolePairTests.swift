// The console's driver against the console device, over pipes.
import Base
import Devices
import Glibc
import Locks
import Memory
import Platform
import Synchronization
import Testing
import VirtioABI
import VirtioConsole

/// A console with pipes on all three streams.
final class ConsoleBench {
  let input = TestPipe()
  let output = TestPipe()
  let error = TestPipe()
  let device: VirtioConsole
  let bench: Bench
  let console: ConsoleDriver
  let failures = FailureLog()

  final class FailureLog: @unchecked Sendable {
    var list: [[Int32]] = []
  }

  init(
    flags: UInt32 = 0, size: (UInt16, UInt16)? = nil, output path: String? = nil,
    terminal: (any ConsoleTerminal)? = nil, terminalInput: TestPipe? = nil, gathering window: UInt64 = 0,
    sharesOutput: Bool = false
  ) {
    signal(SIGPIPE, SIG_IGN)
    var configuration = VirtioConsole.Configuration()
    configuration.input = input.reader
    configuration.output = path.map { open($0, O_WRONLY | O_CLOEXEC) } ?? output.writer
    configuration.error = sharesOutput ? output.writer : error.writer
    configuration.size = size
    configuration.terminal = terminal
    configuration.isInputTerminal = terminal != nil && terminalInput == nil
    if let terminalInput { configuration.terminalInput = terminalInput.reader }
    let failures = failures
    configuration.onOutputFailure = { failures.list.append([Int32($0), $1]) }
    device = try! VirtioConsole(configuration)
    bench = Bench(device)
    console = try! ConsoleDriver(bench.driver, flags: flags, gathering: window)
  }
  deinit { device.stop() }
}

func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) } }

@Suite struct ConsolePairTests {
  @Test func outputGoesToItsStreamWithOneExitAWrite() {
    let it = ConsoleBench()
    #expect(it.bench.exits == 0)
    #expect(it.console.put(.standard, Array("hello\n".utf8)) == .success(6))
    #expect(it.bench.registers.notifications.load(ordering: .relaxed) == 1)
    let start = it.bench.exits
    #expect(it.console.put(.error, Array("oops\n".utf8)) == .success(5))
    #expect(it.console.put(.standard, Array("again\n".utf8)) == .success(6))
    #expect(it.bench.exits == start + 2)
    #expect(it.bench.interrupts.value.load(ordering: .relaxed) == 0)
    #expect(it.output.take(100) == Array("hello\nagain\n".utf8))
    #expect(it.error.take(100) == Array("oops\n".utf8))
    #expect(it.console.put(.standard, []) == .success(0))
  }

  @Test func muchOutputComesWholeThroughASlowReader() {
    let it = ConsoleBench()
    let bytes = pattern(700_001)
    var received: [UInt8] = []
    let reader = TestThread {
      while received.count < bytes.count {
        received += it.output.take(30_000)
        if received.count < 100_000 { usleep(2000) }
      }
    }
    #expect(it.console.put(.standard, bytes) == .success(bytes.count))
    reader.join()
    #expect(received == bytes)
  }

  @Test func aNonBlockingPipeIsWaitedFor() {
    let it = ConsoleBench()
    _ = fcntl(it.output.writer, F_SETFL, fcntl(it.output.writer, F_GETFL) | O_NONBLOCK)
    let bytes = pattern(300_000)
    var received: [UInt8] = []
    let reader = TestThread {
      usleep(20_000)
      while received.count < bytes.count { received += it.output.take(65_536) }
    }
    #expect(it.console.put(.standard, bytes) == .success(bytes.count))
    reader.join()
    #expect(received == bytes)
  }

  @Test(arguments: [0, UInt64.max]) func manyWritersMixOnlyWholeChunks(window: UInt64) {
    let it = ConsoleBench(gathering: window)
    var received: [UInt8] = []
    let reader = TestThread { while received.count < 6 * 50 * 1000 { received += it.output.take(65_536) } }
    let writers = (0..<6).map { number in
      TestThread {
        for _ in 0..<50 { _ = it.console.put(.standard, [UInt8](repeating: UInt8(number), count: 1000)) }
      }
    }
    for writer in writers { writer.join() }
    #expect(it.console.flush() == nil)
    reader.join()
    #expect(received.count == 300_000)
    for start in stride(from: 0, to: received.count, by: 1000) {
      #expect(Set(received[start..<start + 1000]).count == 1)
    }
  }

  @Test func aReaderThatWentAwayIsEPIPE() {
    let it = ConsoleBench()
    #expect(it.console.put(.standard, [1]) == .success(1))
    it.output.closeReader()
    #expect(it.console.put(.standard, [2]) == .failure(.EPIPE))
    #expect(it.console.put(.standard, [3]) == .failure(.EPIPE))
    #expect(it.failures.list == [[0, EPIPE]])
    #expect(it.console.isOutputClosed(.standard) && !it.console.isOutputClosed(.error))
    #expect(it.console.put(.error, [4]) == .success(1))
    // Input goes on.
    it.input.put([9])
    #expect(it.console.take(1) == .success([9]))
  }

  @Test func aFullDiskIsAnErrorOfTheWrite() {
    let it = ConsoleBench(output: "/dev/full")
    #expect(it.console.put(.standard, [1]) == .failure(.ENOSPC))
    #expect(it.console.put(.error, [2]) == .success(1))
    #expect(it.console.put(.standard, [3]) == .failure(.ENOSPC))
    #expect(!it.console.isOutputClosed(.standard))
    #expect(it.failures.list.isEmpty)
  }

  @Test(.timeLimit(.minutes(15))) func aReaderThatSleepsHoldsUpItsWriterOnly() {
    let it = ConsoleBench()
    let bytes = pattern(300_000)
    let isDone = Atomic<Bool>(false)
    let writer = TestThread {
      #expect(it.console.put(.standard, bytes) == .success(bytes.count))
      isDone.store(true, ordering: .releasing)
    }
    #expect(eventually { it.output.waiting >= 65_536 })
    it.input.put([9])
    #expect(it.console.take(1) == .success([9]))
    #expect(it.console.put(.error, [2]) == .success(1))
    let wasDone = isDone.load(ordering: .acquiring)
    #expect(!wasDone)
    var received: [UInt8] = []
    while received.count < bytes.count { received += it.output.take(65_536) }
    writer.join()
    #expect(received == bytes)
  }

  @Test func inputIsTakenOnlyAsFarAsItIsWanted() {
    let it = ConsoleBench()
    it.input.put(Array("first line\nsecond".utf8))
    #expect(it.console.put(.standard, [1]) == .success(1))
    usleep(20_000)
    #expect(it.input.waiting == 17)
    #expect(it.console.take(6) == .success(Array("first ".utf8)))
    #expect(it.input.waiting == 11)
    #expect(it.console.take(100) == .success(Array("line\nsecond".utf8)))
    usleep(20_000)
    #expect(it.input.waiting == 0)
  }

  @Test func theEndComesAfterTheLastByteAndStays() {
    let it = ConsoleBench()
    let bytes = pattern(200_000)
    let writer = TestThread {
      it.input.put(bytes)
      it.input.closeWriter()
    }
    var received: [UInt8] = []
    while true {
      guard case .success(let part) = it.console.take(30_000) else { break }
      if part.isEmpty { break }
      received += part
    }
    writer.join()
    #expect(received == bytes)
    #expect(it.console.take(10) == .success([]))
    #expect(it.console.isReadable())
  }

  @Test func readersSleepUntilThereIsSomething() {
    let it = ConsoleBench()
    let results = Synchronization.Mutex<[Result<[UInt8], Errno>]>([])
    let reader = TestThread {
      for _ in 0..<3 {
        let result = it.console.take(10)
        results.withLock { $0.append(result) }
      }
    }
    for round in 0..<2 {
      usleep(10_000)
      it.input.put([UInt8(round)])
      #expect(eventually { results.withLock { $0.count } == round + 1 })
    }
    it.input.closeWriter()
    reader.join()
    #expect(results.withLock { $0 } == [.success([0]), .success([1]), .success([])])
  }

  @Test func readersShareTheInput() {
    let it = ConsoleBench()
    let sum = Atomic<Int>(0)
    let readers = (0..<4).map { _ in
      TestThread {
        while case .success(let part) = it.console.take(7), !part.isEmpty {
          sum.add(part.reduce(0) { $0 + Int($1) }, ordering: .relaxed)
        }
      }
    }
    let bytes = pattern(2000)
    it.input.put(bytes)
    it.input.closeWriter()
    for reader in readers { reader.join() }
    #expect(sum.load(ordering: .relaxed) == bytes.reduce(0) { $0 + Int($1) })
  }

  @Test func pollingAsksAndIsTold() {
    let it = ConsoleBench()
    let changes = Atomic<Int>(0)
    it.console.onInputChange = { changes.add(1, ordering: .relaxed) }
    #expect(!it.console.isReadable())
    #expect(it.console.take(5, nonBlocking: true) == .failure(.EAGAIN))
    it.console.listen()
    #expect(!it.console.isReadable())
    it.input.put([1, 2, 3])
    #expect(eventually { it.console.isReadable() })
    #expect(eventually { changes.load(ordering: .relaxed) > 0 })
    // (The non-blocking read above has posted five bytes.)
    #expect(it.console.readableByteCount() == 3)
    #expect(it.console.take(2, nonBlocking: true) == .success([1, 2]))
    #expect(it.console.readableByteCount() == 1)
    #expect(it.console.take(2, nonBlocking: true) == .success([3]))
    #expect(!it.console.isReadable())
    it.console.listen()
    it.input.put([4, 5, 6])
    #expect(eventually { it.console.isReadable() })
    usleep(5000)
    #expect(it.input.waiting == 3)
    it.console.listen()
    #expect(it.console.take(2, nonBlocking: true) == .success([4, 5]))
    #expect(it.input.waiting == 1)
    #expect(!it.console.isReadable())
    // A probe that is still out does not keep a reader from its data, however much it wants.
    #expect(it.console.take(1) == .success([6]))
    it.console.listen()
    it.input.put([7])
    #expect(it.console.take(100_000) == .success([7]))
    #expect(it.console.take(1, nonBlocking: true) == .failure(.EAGAIN))
    it.input.put([8])
    #expect(it.console.take(1) == .success([8]))
    it.console.listen()
    it.input.closeWriter()
    #expect(eventually { it.console.isReadable() })
    #expect(it.console.take(2, nonBlocking: true) == .success([]))
  }

  @Test func aTerminalGoesOnAfterAnEnd() throws {
    var configuration = VirtioConsole.Configuration()
    let leader = open("/dev/ptmx", O_RDWR | O_NOCTTY)
    try #require(leader >= 0)
    defer { close(leader) }
    // TIOCSPTLCK and TIOCGPTN.
    var number: Int32 = 0
    try #require(ioctl(leader, 0x4004_5431, &number) == 0 && ioctl(leader, 0x8004_5430, &number) == 0)
    let follower = open("/dev/pts/\(number)", O_RDWR | O_NOCTTY)
    defer { close(follower) }
    let sink = TestPipe()
    configuration.input = follower
    configuration.output = sink.writer
    configuration.error = sink.writer
    let device = try! VirtioConsole(configuration)
    defer { device.stop() }
    let bench = Bench(device)
    let console = try ConsoleDriver(bench.driver, flags: BootFlags.inputIsTerminal)
    _ = write(leader, "line\n\u{4}", 6)
    #expect(console.take(100) == .success(Array("line\n".utf8)))
    #expect(console.take(100) == .success([]))
    _ = write(leader, "more\n", 5)
    #expect(console.take(100) == .success(Array("more\n".utf8)))
  }

  /// A terminal in memory, which the test moves to the background.
  final class FakeTerminal: ConsoleTerminal {
    let permission = Atomic<Int>(0)
    let local = Atomic<UInt32>(0)
    func perform(_ action: UInt16, _ state: inout VirtioConsoleTerminal) -> CInt {
      let isForced = action & VirtioConsoleTerminal.force != 0
      if action & 0xff != VirtioConsoleTerminal.ask {
        if permission.load(ordering: .relaxed) != 0 && !isForced { return CInt(ERESTART) }
        local.store(state.modes.local, ordering: .relaxed)
      }
      state.modes.local = local.load(ordering: .relaxed)
      (state.columns, state.rows, state.readable) = (132, 50, 3)
      return 0
    }
    func mayRead() -> ConsoleReadPermission {
      switch permission.load(ordering: .relaxed) {
      case 0: .granted
      case 1: .later
      default: .refused
      }
    }
  }

  private typealias Answer = Result<VirtioConsoleTerminal, Errno>

  private func ask(_ console: ConsoleDriver, _ action: UInt16, local: UInt32 = 0) -> Answer {
    var state = VirtioConsoleTerminal()
    state.modes.local = local
    do throws(Errno) {
      try console.terminal(action, &state)
      return .success(state)
    } catch { return .failure(error) }
  }

  /// Standard input is something else: what is typed comes by the other port, each at its own pace.
  @Test func theTerminalMayBeReadBesidesStandardInput() {
    let keys = TestPipe()
    let it = ConsoleBench(flags: BootFlags.terminalInput, terminal: FakeTerminal(), terminalInput: keys)
    let changes = Atomic<Int>(0)
    it.console.onTerminalInputChange = { changes.add(1, ordering: .relaxed) }
    it.input.put([1, 2, 3])
    keys.put([10, 11, 12])
    #expect(it.console.take(2) == .success([1, 2]))
    #expect(it.console.take(2, from: .error) == .success([10, 11]))
    #expect(it.console.take(2, from: .error) == .success([12]))
    #expect(it.console.take(2, nonBlocking: true) == .success([3]))
    it.console.listen(.error)
    #expect(!it.console.isReadable(.error))
    keys.put([13])
    #expect(eventually { it.console.isReadable(.error) && changes.load(ordering: .relaxed) > 0 })
    #expect(it.console.take(2, from: .error) == .success([13]))
    it.input.closeWriter()
    #expect(it.console.take(2) == .success([]))
    keys.put([14])
    #expect(it.console.take(2, from: .error) == .success([14]), "the end of one input is not the other's")
    keys.closeWriter()
    #expect(it.console.take(2, from: .error) == .success([]))
  }

  @Test func withoutATerminalTheOtherPortIsEmpty() {
    let it = ConsoleBench()
    #expect(it.console.isReadable(.error))
    #expect(it.console.take(2, from: .error) == .success([]))
  }

  @Test func aTerminalIsAskedAndSet() throws {
    let terminal = FakeTerminal()
    let it = ConsoleBench(flags: BootFlags.inputIsTerminal, terminal: terminal)
    let first = try ask(it.console, VirtioConsoleTerminal.ask).get()
    #expect((first.columns, first.rows, first.readable) == (132, 50, 3))
    // More than there are places for requests.
    for round: UInt32 in 1..<40 {
      #expect(try ask(it.console, VirtioConsoleTerminal.set, local: round).get().modes.local == round)
    }
    terminal.permission.store(1, ordering: .relaxed)
    #expect(ask(it.console, VirtioConsoleTerminal.set, local: 99).map(\.tag) == .failure(.ERESTART))
    #expect(terminal.local.load(ordering: .relaxed) == 39)
    let forced = VirtioConsoleTerminal.set | VirtioConsoleTerminal.force
    #expect(try ask(it.console, forced, local: 99).get().modes.local == 99)
    #expect(ask(ConsoleBench().console, VirtioConsoleTerminal.ask).map(\.tag) == .failure(.ENOTTY))
  }

  @Test func whatIsTypedCanBeDropped() {
    let it = ConsoleBench(flags: BootFlags.inputIsTerminal, terminal: FakeTerminal())
    it.input.put([1, 2, 3, 4])
    #expect(it.console.take(1) == .success([1]))
    it.console.listen()
    _ = ask(it.console, VirtioConsoleTerminal.discard)
    #expect(it.console.readableByteCount() == 0)
    #expect(it.console.take(2) == .success([2, 3]))
  }

  @Test func aReadOfTheBackgroundWaitsForTheTerminal() {
    let terminal = FakeTerminal()
    terminal.permission.store(1, ordering: .relaxed)
    let it = ConsoleBench(flags: BootFlags.inputIsTerminal, terminal: terminal)
    it.input.put([1])
    #expect(it.console.take(1, nonBlocking: true) == .failure(.EAGAIN))
    usleep(20_000)
    #expect(it.input.waiting == 1)
    terminal.permission.store(0, ordering: .relaxed)
    #expect(it.console.take(1) == .success([1]))
    terminal.permission.store(2, ordering: .relaxed)
    #expect(it.console.take(1) == .success([]))
  }

  /// A read that does not wait knows of what is there when it is called.
  @Test func whatIsThereIsReadAtOnce() {
    let it = ConsoleBench()
    for round: UInt8 in 0..<50 {
      #expect(it.console.take(4, nonBlocking: true) == .failure(.EAGAIN))
      it.input.put([round])
      #expect(eventually { it.console.isReadable() })
      #expect(it.console.take(1, nonBlocking: true) == .success([round]))
      it.input.put([round, 1])
      #expect(it.console.take(1, nonBlocking: true) == .success([round]))
      #expect(it.console.take(1, nonBlocking: true) == .success([1]))
    }
  }

  @Test func aReadCanHaveADeadline() {
    let it = ConsoleBench()
    let start = Clock.now()
    var bytes: [UInt8] = [0]
    bytes.withUnsafeMutableBytes { buffer in
      var transfer = Transfer(kernel: buffer)
      #expect(throws: Errno.EAGAIN) {
        _ = try it.console.read(into: &transfer, until: .after(20_000_000, from: Clock.now()))
      }
    }
    #expect(Clock.now() - start >= 20_000_000)
    it.input.put([5])
    #expect(it.console.take(1) == .success([5]))
  }

  @Test func emptyInputCostsNothing() {
    let it = ConsoleBench(flags: BootFlags.inputIsEmpty)
    #expect(it.console.take(10) == .success([]))
    #expect(it.console.isReadable())
    #expect(it.bench.exits == 0)
  }

  @Test func theTerminalsSizeArrives() {
    let it = ConsoleBench(size: (80, 25))
    #expect(it.console.terminalSize == (0, 0))
    #expect(it.console.put(.standard, [1]) == .success(1))
    #expect(it.console.terminalSize == (80, 25))
    for round in 1..<40 {
      it.device.resize(columns: 100, rows: UInt16(round))
      #expect(it.console.terminalSize == (100, UInt16(round)))
    }
  }
}
