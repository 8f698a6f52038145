// The drivers of the devices that the monitor described. None is touched here: each starts at its first use.
#if GUEST
  import Base
  import Devices
  import Files
  import Linux
  import Locks
  import Memory
  import Platform
  import VirtioABI

  /// The machine's devices.
  final class BootDevices {
    /// The console, if there is one.
    private(set) var console: ConsoleDriver?
    /// The host's entropy, if it is offered.
    private(set) var entropy: EntropyDriver?

    /// Makes the drivers.
    static func start() -> BootDevices {
      let devices = BootDevices()
      for index in 0..<Boot.devices.count {
        let description = Boot.devices[index]
        switch description.deviceID {
        case VirtioDeviceID.console:
          guard let function = VirtioFunction(description) else { continue }
          let head = Boot.information
          devices.console = try? ConsoleDriver(
            function, flags: head.pointee.flags, columns: head.pointee.terminalColumns, rows: head.pointee.terminalRows)
        case VirtioDeviceID.entropy:
          guard let function = VirtioFunction(description) else { continue }
          devices.entropy = try? EntropyDriver(function)
        case VirtioDeviceID.balloon: BootBalloon.note(description)
        default: continue  // File systems are started when they are mounted.
        }
      }
      return devices
    }
  }

  /// One of the standard streams, as the file system sees it: a port of the console.
  final class ConsoleStream: ConsoleEndpoint {
    /// Bits of `BootFlags` that say whether a stream is a terminal.
    enum Stream {
      case input, output, error
      /// What is typed on the terminal, where standard input is something else.
      case terminalInput

      var terminalFlag: UInt32 {
        switch self {
        case .input: BootFlags.inputIsTerminal
        case .output: BootFlags.outputIsTerminal
        case .error: BootFlags.errorIsTerminal
        case .terminalInput: BootFlags.terminalInput
        }
      }
    }

    private let console: ConsoleDriver
    private let stream: Stream
    let pollSource = PollSource()

    init(_ console: ConsoleDriver, _ stream: Stream) {
      self.console = console
      self.stream = stream
      if stream == .input {
        console.onInputChange = { [unowned(unsafe) self] in self.pollSource.notify(.readable) }
      }
      if stream == .terminalInput {
        console.onTerminalInputChange = { [unowned(unsafe) self] in self.pollSource.notify(.readable) }
      }
    }

    private var inputPort: ConsoleDriver.Port { stream == .terminalInput ? .error : .standard }
    private var outputPort: ConsoleDriver.Port { stream == .error ? .error : .standard }

    func read(into transfer: inout Transfer, nonBlocking: Bool, until deadline: Deadline) throws(Errno) -> Int {
      try console.read(inputPort, into: &transfer, nonBlocking: nonBlocking, until: deadline)
    }

    func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
      try console.write(outputPort, from: &transfer, nonBlocking: nonBlocking)
    }

    func finishWriting() throws(Errno) { try console.finishWriting(outputPort) }

    var readyMask: ReadyMask {
      guard stream == .input || stream == .terminalInput else {
        return console.isOutputClosed(outputPort) ? [.writable, .error] : .writable
      }
      if console.isReadable(inputPort) { return .readable }
      console.listen(inputPort)
      return console.isReadable(inputPort) ? .readable : []
    }

    var isTerminal: Bool { Boot.has(flag: stream.terminalFlag) }

    func terminal(_ request: TerminalRequest, isForced: Bool) throws(Errno) -> TerminalState {
      guard isTerminal else { throw .ENOTTY }
      var state = VirtioConsoleTerminal()
      var action = VirtioConsoleTerminal.ask
      switch request {
      case .ask: break
      case .set(let modes):
        action = VirtioConsoleTerminal.set
        state.modes = VirtioConsoleTerminal.Modes(modes)
      case .discardAndSet(let modes):
        action = VirtioConsoleTerminal.discardAndSet
        state.modes = VirtioConsoleTerminal.Modes(modes)
      case .discard: action = VirtioConsoleTerminal.discard
      }
      try console.terminal(isForced ? action | VirtioConsoleTerminal.force : action, &state)
      var result = TerminalState()
      result.modes = TerminalModes(state.modes)
      result.size = WindowSize(columns: state.columns, rows: state.rows)
      result.readableByteCount = state.readable.int
      return result
    }

    var readableByteCount: Int { console.readableByteCount(inputPort) }
  }

  /// A standard stream of a machine without a console: empty, and a sink.
  final class NullStream: ConsoleEndpoint {
    let pollSource = PollSource()
    func read(into transfer: inout Transfer, nonBlocking: Bool, until deadline: Deadline) throws(Errno) -> Int { 0 }
    func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
      let count = transfer.remaining
      transfer.limit(to: 0)
      return count
    }
    func finishWriting() throws(Errno) {}
    var readyMask: ReadyMask { [.readable, .writable] }
    var isTerminal: Bool { false }
    func terminal(_ request: TerminalRequest, isForced: Bool) throws(Errno) -> TerminalState { throw .ENOTTY }
    var readableByteCount: Int { 0 }
  }

  extension VirtioConsoleTerminal.Modes {
    /// The same modes for the device.
    init(_ modes: TerminalModes) {
      self.init()
      input = modes.input
      output = modes.output
      control = modes.control
      local = modes.local
      discipline = modes.discipline
      characters = modes.characters
    }
  }

  extension TerminalModes {
    /// The same modes for the program.
    init(_ modes: VirtioConsoleTerminal.Modes) {
      self.init()
      input = modes.input
      output = modes.output
      control = modes.control
      local = modes.local
      discipline = modes.discipline
      characters = modes.characters
    }
  }
#endif
