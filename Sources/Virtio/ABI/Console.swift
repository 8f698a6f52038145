// The console's formats (virtio 1.2, 5.3).
//
// osv-run's console has two ports: 0 is standard input and output, 1 is standard error. What port 1 receives is typed on the terminal,
// where there is one and standard input is something else; otherwise it receives nothing.
// The end of input is a PORT_OPEN of value 0 for port 0, sent after the last byte; a driver may answer with a PORT_OPEN of
// value 1 to have a terminal read on. A port whose output nobody reads any more is removed (PORT_REMOVE); what is transmitted
// afterwards is dropped. Any other failure of an output is of one request, and told before that is handed back. A receive buffer of no bytes is handed back when there is input (or its end) to read: a driver can
// poll without taking what belongs to whoever reads the host's input next.
// A terminal's modes are the host terminal's: the driver asks for them and sets them by TERMINAL_REQUEST, one at a time, each answered
// by a TERMINAL_ANSWER.

/// Constants of the console.
public enum VirtioConsoleABI {
  /// Feature: columns and rows in the configuration are valid.
  public static let size: UInt64 = 1 << 0
  /// Feature: several ports, and control queues.
  public static let multiport: UInt64 = 1 << 1

  /// Queue of what port 0 receives.
  public static let receive0 = 0
  /// Queue of what port 0 transmits.
  public static let transmit0 = 1
  /// Queue of control messages to the driver.
  public static let controlReceive = 2
  /// Queue of control messages from the driver.
  public static let controlTransmit = 3
  /// Queue of what port 1 receives.
  public static let receive1 = 4
  /// Queue of what port 1 transmits.
  public static let transmit1 = 5
  /// Queues in all.
  public static let queueCount = 6
}

/// The console's configuration.
@frozen public struct VirtioConsoleConfiguration: BitwiseCopyable {
  /// Columns of the terminal.
  public var columns: UInt16 = 0
  /// Rows of the terminal.
  public var rows: UInt16 = 0
  /// Most ports there can be.
  public var maximumPortCount: UInt32 = 2
  /// For early output; not offered.
  public var emergencyWrite: UInt32 = 0
  /// A console of two ports without a terminal.
  public init() {}
}

/// A control message; some are followed by data.
@frozen public struct VirtioConsoleControl: BitwiseCopyable {
  /// The port it is about.
  public var port: UInt32
  /// One of the events below.
  public var event: UInt16
  /// Depends on the event, mostly 1 for yes.
  public var value: UInt16

  /// A message.
  @inline(__always) public init(port: UInt32, event: UInt16, value: UInt16) {
    self.port = port
    self.event = event
    self.value = value
  }

  /// From the driver: it is ready for ports.
  public static let deviceReady: UInt16 = 0
  /// To the driver: there is this port.
  public static let portAdd: UInt16 = 1
  /// To the driver: the port is gone.
  public static let portRemove: UInt16 = 2
  /// From the driver: the port is ready.
  public static let portReady: UInt16 = 3
  /// To the driver: this port is a console.
  public static let consolePort: UInt16 = 4
  /// To the driver: the terminal's size follows (columns, rows; 16 bits each).
  public static let resize: UInt16 = 5
  /// Both ways: the port's other side is open (1) or closed (0).
  public static let portOpen: UInt16 = 6
  /// To the driver: the port's name follows, without NUL.
  public static let portName: UInt16 = 7
  /// To our driver: what was transmitted last could not all be written; the value is Linux's error number (ENOSPC…). The standard
  /// has no such event, and other drivers ignore those that they do not know.
  public static let outputFailed: UInt16 = 0x4f53
  /// From our driver: do something with the terminal, one of `VirtioConsoleTerminal`'s actions; a `VirtioConsoleTerminal` follows.
  public static let terminalRequest: UInt16 = 0x4f54
  /// To our driver: the value is Linux's error number or 0; a `VirtioConsoleTerminal` follows that tells how the terminal is now.
  public static let terminalAnswer: UInt16 = 0x4f55
  /// Bytes of a message without what follows.
  public static let byteCount = 8
}

/// A terminal's modes and size, in a request and in its answer.
@frozen public struct VirtioConsoleTerminal: BitwiseCopyable {
  /// `struct termios` of Linux's system calls (36 bytes).
  @frozen public struct Modes: BitwiseCopyable {
    /// c_iflag.
    public var input: UInt32 = 0
    /// c_oflag.
    public var output: UInt32 = 0
    /// c_cflag.
    public var control: UInt32 = 0
    /// c_lflag.
    public var local: UInt32 = 0
    /// c_line.
    public var discipline: UInt8 = 0
    /// c_cc.
    public var characters: [19 of UInt8] = .init(repeating: 0)
    /// Modes with everything off.
    public init() {}
  }

  /// The modes.
  public var modes = Modes()
  /// Its size, zeros if it has none.
  public var columns: UInt16 = 0
  /// Lines.
  public var rows: UInt16 = 0
  /// In an answer: bytes that could be read now.
  public var readable: UInt32 = 0
  /// Copied from the request to its answer.
  public var tag: UInt32 = 0
  /// Everything zero.
  public init() {}

  /// Action: only say how the terminal is.
  public static let ask: UInt16 = 0
  /// Action: set the modes.
  public static let set: UInt16 = 1
  /// Action: drop what was typed and not read, and set the modes.
  public static let discardAndSet: UInt16 = 2
  /// Action: drop what was typed and not read.
  public static let discard: UInt16 = 3
  /// Added to an action: do it though another process group has the terminal. Without it, that is answered with ERESTART.
  public static let force: UInt16 = 0x100
  /// Bytes of it in a message.
  public static let byteCount = 48
}
