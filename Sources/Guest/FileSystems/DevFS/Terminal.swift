// Terminal: the console as a character device. Its line discipline is the host terminal's, whose modes are asked for and set through
// the console driver; nothing of them is kept here but what a read has to know.
//
// A read without lines waits for VMIN bytes and VTIME tenths of a second. The host is always asked for what is there: it reads for many
// programs' sake, and a read of its own that counts bytes would hold up the next one.
import Base
import Files
import Locks
import Memory
import Platform

/// What all names of the terminal (/dev/console, /dev/tty, the standard streams) have in common.
final class TerminalSettings {
  let lock = Mutex()
  // Guarded by `lock`.
  var foregroundGroup: Int32 = 1
  var sizeSet: WindowSize?
  /// How reads wait: VMIN and VTIME, once the program has set them and asked for input without lines.
  var reading: (minimum: UInt8, time: UInt8)?
  /// VMIN and VTIME as the program has set them: the host's are others.
  var set: (minimum: UInt8, time: UInt8)?
}

/// A terminal, or a console that is none: then terminal calls give ENOTTY.
public final class Terminal: PseudoNode {
  /// Where it reads from.
  public let input: any ConsoleEndpoint
  /// Where it writes to.
  public let output: any ConsoleEndpoint
  private let needsTerminal: Bool
  private let settings: TerminalSettings

  init(
    _ fileSystem: FileSystem, inode: UInt64, mode: UInt32, specialDevice: UInt64, input: any ConsoleEndpoint,
    output: any ConsoleEndpoint, settings: TerminalSettings, needsTerminal: Bool = false
  ) {
    self.input = input
    self.output = output
    self.settings = settings
    self.needsTerminal = needsTerminal
    super.init(fileSystem, inode: inode, type: .characterDevice, mode: mode, specialDevice: specialDevice)
  }

  /// The same device with another way out.
  convenience init(sameAs other: Terminal, output: any ConsoleEndpoint) {
    self.init(
      other.fileSystem, inode: other.inode, mode: other.mode, specialDevice: other.specialDevice, input: other.input,
      output: output, settings: other.settings)
  }

  private var isTerminal: Bool { input.isTerminal || output.isTerminal }
  private var terminalEnd: any ConsoleEndpoint { input.isTerminal ? input : output }

  /// /dev/tty is only there for who has a terminal.
  public override func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    if needsTerminal, !isTerminal { throw .ENXIO }
    return try super.open(flags, at: location)
  }

  // MARK: Reading and writing

  public override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    let nonBlocking = flags.contains(.nonBlocking)
    guard input.isTerminal, let (minimum, time) = settings.lock.withLock({ settings.reading }) else {
      return try input.read(into: &transfer, nonBlocking: nonBlocking, until: .never)
    }
    if minimum == 0 { return try readWithoutMinimum(&transfer, time, nonBlocking) }
    let wanted = min(minimum.int, transfer.remaining)
    var deadline = Deadline.never
    var total = 0
    while total < wanted {
      do throws(Errno) {
        let count = try input.read(into: &transfer, nonBlocking: nonBlocking, until: deadline)
        if count == 0 { break }
        total &+= count
      } catch {
        if total == 0 { throw error }
        break
      }
      // The time runs from byte to byte.
      if time > 0 { deadline = Self.deadline(time) }
    }
    return total
  }

  /// VMIN is 0: what is there within the time, or nothing.
  private func readWithoutMinimum(_ transfer: inout Transfer, _ time: UInt8, _ nonBlocking: Bool) throws(Errno) -> Int {
    do throws(Errno) {
      return try input.read(
        into: &transfer, nonBlocking: nonBlocking || time == 0, until: time == 0 ? .never : Self.deadline(time))
    } catch {
      if error == .EAGAIN, time == 0 || !nonBlocking { return 0 }
      throw error
    }
  }

  private static func deadline(_ tenths: UInt8) -> Deadline { .after(tenths.u64 &* 100_000_000, from: Clock.now()) }

  public override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try output.write(from: &transfer, nonBlocking: flags.contains(.nonBlocking))
  }

  public override var readyMask: ReadyMask {
    input.readyMask.subtracting(.writable).union(output.readyMask.subtracting(.readable))
  }
  /// The input's: the output's side is ready again soon enough for a terminal.
  public override var pollSource: PollSource? { input.pollSource }

  // MARK: Control

  public override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    try control(request, argument, isForced: false)
  }

  /// The same; `isForced`: for a program that wants to change the terminal from the background too (SIGTTOU is ignored or blocked).
  public func control(_ request: UInt32, _ argument: UInt64, isForced: Bool) throws(Errno) -> Int {
    let address = VirtualAddress(argument)
    if request == ControlRequest.readableByteCount {
      var count = input.readableByteCount
      // What has come already, and what the host still has.
      if input.isTerminal { count &+= try input.terminal(.ask, isForced: false).readableByteCount }
      try UserSpan.write(count.i32, at: address)
      return 0
    }
    guard isTerminal else { throw .ENOTTY }
    switch request {
    case 0x5401: try UserSpan.write(try modes(), at: address)  // TCGETS
    case 0x5402, 0x5403, 0x5404:  // TCSETS, TCSETSW, TCSETSF: what was written is out already
      try set(try UserSpan.read(TerminalModes.self, at: address), discardsInput: request == 0x5404, isForced)
    case 0x802c_542a:  // TCGETS2
      var both = ModesAndSpeeds()
      both.modes = try modes()
      try UserSpan.write(both, at: address)
    case 0x402c_542b, 0x402c_542c, 0x402c_542d:  // TCSETS2, TCSETSW2, TCSETSF2
      let both = try UserSpan.read(ModesAndSpeeds.self, at: address)
      try set(both.modes, discardsInput: request == 0x402c_542d, isForced)
    case 0x540b:  // TCFLSH
      guard argument <= 2 else { throw .EINVAL }
      if argument != 1 { _ = try terminalEnd.terminal(.discard, isForced: isForced) }
    // TCSBRK, TCXONC, TIOCEXCL, TIOCNXCL, TIOCSCTTY, TIOCNOTTY, TCSBRKP
    case 0x5409, 0x540a, 0x540c, 0x540d, 0x540e, 0x5422, 0x5425: break
    case 0x540f: try UserSpan.write(settings.lock.withLock { settings.foregroundGroup }, at: address)  // TIOCGPGRP
    case 0x5410:  // TIOCSPGRP
      let group = try UserSpan.read(Int32.self, at: address)
      settings.lock.withLock { settings.foregroundGroup = group }
    case 0x5411, 0x5424: try UserSpan.write(Int32(0), at: address)  // TIOCOUTQ, TIOCGETD (N_TTY)
    case 0x5413:  // TIOCGWINSZ
      var size = settings.lock.withLock { settings.sizeSet }
      if size == nil { size = try terminalEnd.terminal(.ask, isForced: false).size }
      let both: [4 of UInt16] = [size.unsafelyUnwrapped.rows, size.unsafelyUnwrapped.columns, 0, 0]
      try UserSpan.write(both, at: address)
    case 0x5414:  // TIOCSWINSZ
      let both = try UserSpan.read([4 of UInt16].self, at: address)
      settings.lock.withLock { settings.sizeSet = WindowSize(columns: both[1], rows: both[0]) }
    case 0x5429: try UserSpan.write(Int32(1), at: address)  // TIOCGSID
    default: throw .ENOTTY
    }
    return 0
  }

  private func modes() throws(Errno) -> TerminalModes {
    var modes = try terminalEnd.terminal(.ask, isForced: false).modes
    if let set = settings.lock.withLock({ settings.set }) {
      modes.characters[TerminalModes.minimum] = set.minimum
      modes.characters[TerminalModes.time] = set.time
    }
    return modes
  }

  private func set(_ modes: TerminalModes, discardsInput: Bool, _ isForced: Bool) throws(Errno) {
    _ = try terminalEnd.terminal(discardsInput ? .discardAndSet(modes) : .set(modes), isForced: isForced)
    let set = (
      minimum: modes.characters[TerminalModes.minimum], time: modes.characters[TerminalModes.time]
    )
    settings.lock.withLock {
      settings.set = set
      settings.reading = modes.local & TerminalModes.isCanonical == 0 ? set : nil
    }
  }

  /// struct termios2: modes, and speeds in bits a second, which a console does not have.
  private struct ModesAndSpeeds: BitwiseCopyable {
    var modes = TerminalModes()
    var inputSpeed: UInt32 = 38400
    var outputSpeed: UInt32 = 38400
  }
}
