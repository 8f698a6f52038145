// The drivers of the devices that the monitor described. None is touched here: each starts at its first use.
#if GUEST
  import Base
  import Devices
  import Files
  import Linux
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

      var terminalFlag: UInt32 {
        switch self {
        case .input: BootFlags.inputIsTerminal
        case .output: BootFlags.outputIsTerminal
        case .error: BootFlags.errorIsTerminal
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
    }

    func read(into transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
      try console.read(into: &transfer, nonBlocking: nonBlocking)
    }

    func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
      try console.write(stream == .error ? .error : .standard, from: &transfer, nonBlocking: nonBlocking)
    }

    var readyMask: ReadyMask {
      guard stream == .input else {
        return console.isOutputClosed(stream == .error ? .error : .standard) ? [.writable, .error] : .writable
      }
      if console.isReadable { return .readable }
      console.listen()
      return console.isReadable ? .readable : []
    }

    var isTerminal: Bool { Boot.has(flag: stream.terminalFlag) }

    var windowSize: WindowSize {
      let size = console.terminalSize
      return WindowSize(columns: size.columns, rows: size.rows)
    }

    var readableByteCount: Int { console.readableByteCount }
  }

  /// A standard stream of a machine without a console: empty, and a sink.
  final class NullStream: ConsoleEndpoint {
    let pollSource = PollSource()
    func read(into transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int { 0 }
    func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
      let count = transfer.remaining
      transfer.limit(to: 0)
      return count
    }
    var readyMask: ReadyMask { [.readable, .writable] }
    var isTerminal: Bool { false }
    var windowSize: WindowSize { WindowSize(columns: 0, rows: 0) }
    var readableByteCount: Int { 0 }
  }
#endif
