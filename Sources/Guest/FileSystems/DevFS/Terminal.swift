// Terminal: the console as a character device. Lines are edited by the host's terminal, which is in its usual mode: what a
// program sets is kept and shown, so that it sees what it expects, and has no other effect yet.
import Base
import Files
import Locks
import Memory

/// struct termios of the kernel (36 bytes).
struct TerminalModes: BitwiseCopyable {
  var inputFlags: UInt32 = 0x4500  // ICRNL, IXON, IUTF8
  var outputFlags: UInt32 = 0x5  // OPOST, ONLCR
  var controlFlags: UInt32 = 0xbf  // B38400, CS8, CREAD
  var localFlags: UInt32 = 0x8a3b  // ISIG, ICANON, ECHO…, IEXTEN
  var lineDiscipline: UInt8 = 0
  var characters: [19 of UInt8] = [
    0x03, 0x1c, 0x7f, 0x15, 0x04, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0x0f, 0x17, 0x16, 0, 0, 0,
  ]
}

/// A terminal, or a console that is none: then terminal calls give ENOTTY.
public final class Terminal: PseudoNode {
  /// Where it reads from.
  public let input: any ConsoleEndpoint
  /// Where it writes to.
  public let output: any ConsoleEndpoint
  private let needsTerminal: Bool
  private let lock = Mutex()
  // Guarded by `lock`.
  private var modes = TerminalModes()
  private var foregroundGroup: Int32 = 1
  private var sizeSet: WindowSize?

  init(
    _ fileSystem: FileSystem, inode: UInt64, mode: UInt32, specialDevice: UInt64, input: any ConsoleEndpoint,
    output: any ConsoleEndpoint, needsTerminal: Bool = false
  ) {
    self.input = input
    self.output = output
    self.needsTerminal = needsTerminal
    super.init(fileSystem, inode: inode, type: .characterDevice, mode: mode, specialDevice: specialDevice)
  }

  /// The same device with another way out.
  convenience init(sameAs other: Terminal, output: any ConsoleEndpoint) {
    self.init(
      other.fileSystem, inode: other.inode, mode: other.mode, specialDevice: other.specialDevice, input: other.input,
      output: output)
  }

  private var isTerminal: Bool { input.isTerminal || output.isTerminal }

  /// /dev/tty is only there for who has a terminal.
  public override func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    if needsTerminal, !isTerminal { throw .ENXIO }
    return try super.open(flags, at: location)
  }

  public override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try input.read(into: &transfer, nonBlocking: flags.contains(.nonBlocking))
  }

  public override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try output.write(from: &transfer, nonBlocking: flags.contains(.nonBlocking))
  }

  public override var readyMask: ReadyMask {
    input.readyMask.subtracting(.writable).union(output.readyMask.subtracting(.readable))
  }
  /// The input's: the output's side is ready again soon enough for a terminal.
  public override var pollSource: PollSource? { input.pollSource }

  public override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    let address = VirtualAddress(argument)
    if request == ControlRequest.readableByteCount {
      try UserSpan.write(input.readableByteCount.i32, at: address)
      return 0
    }
    guard isTerminal else { throw .ENOTTY }
    switch request {
    case 0x5401: try UserSpan.write(lock.withLock { modes }, at: address)  // TCGETS
    case 0x5402, 0x5403, 0x5404:  // TCSETS, TCSETSW, TCSETSF
      let new = try UserSpan.read(TerminalModes.self, at: address)
      lock.withLock { modes = new }
    case 0x5409, 0x540a, 0x540b, 0x540e: break  // TCSBRK, TCXONC, TCFLSH, TIOCSCTTY
    case 0x540f: try UserSpan.write(lock.withLock { foregroundGroup }, at: address)  // TIOCGPGRP
    case 0x5410:  // TIOCSPGRP
      let group = try UserSpan.read(Int32.self, at: address)
      lock.withLock { foregroundGroup = group }
    case 0x5413:  // TIOCGWINSZ
      let size = lock.withLock { sizeSet } ?? (output.isTerminal ? output : input).windowSize
      let both: [4 of UInt16] = [size.rows, size.columns, 0, 0]
      try UserSpan.write(both, at: address)
    case 0x5414:  // TIOCSWINSZ
      let both = try UserSpan.read([4 of UInt16].self, at: address)
      lock.withLock { sizeSet = WindowSize(columns: both[1], rows: both[0]) }
    case 0x5429: try UserSpan.write(Int32(1), at: address)  // TIOCGSID
    default: throw .ENOTTY
    }
    return 0
  }
}

/// A standard stream that is no terminal: fstat calls it a pipe.
final class StreamNode: AnonymousVnode {
  private let endpoint: any ConsoleEndpoint

  init(_ endpoint: any ConsoleEndpoint) {
    self.endpoint = endpoint
    super.init(type: .fifo, mode: 0o600)
  }

  override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try endpoint.read(into: &transfer, nonBlocking: flags.contains(.nonBlocking))
  }

  override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try endpoint.write(from: &transfer, nonBlocking: flags.contains(.nonBlocking))
  }

  override var readyMask: ReadyMask { endpoint.readyMask }
  override var pollSource: PollSource? { endpoint.pollSource }

  override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    guard request == ControlRequest.readableByteCount else { throw .ENOTTY }
    try UserSpan.write(endpoint.readableByteCount.i32, at: VirtualAddress(argument))
    return 0
  }
}
