// ConsoleEndpoint: what a console driver gives to the file system: a stream of bytes each way.
import Base
import Locks
import Memory

/// Size of a terminal.
public struct WindowSize: Sendable {
  /// Characters in a line.
  public var columns: UInt16
  /// Lines.
  public var rows: UInt16
  /// A size.
  public init(columns: UInt16, rows: UInt16) {
    self.columns = columns
    self.rows = rows
  }
}

/// `struct termios` of Linux's system calls (36 bytes).
public struct TerminalModes: BitwiseCopyable, Sendable {
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

  /// Bit of `local`: input comes in lines.
  public static let isCanonical: UInt32 = 2
  /// Index in `characters`: for how many tenths of a second a read without lines waits.
  public static let time = 5
  /// Index in `characters`: for how many bytes a read without lines waits.
  public static let minimum = 6
}

/// What can be asked of the terminal behind a stream.
public enum TerminalRequest: Sendable {
  /// How it is.
  case ask
  /// Other modes.
  case set(TerminalModes)
  /// Other modes, after what was typed and not read is dropped.
  case discardAndSet(TerminalModes)
  /// What was typed and not read is dropped.
  case discard
}

/// How a terminal is.
public struct TerminalState: Sendable {
  /// Its modes.
  public var modes = TerminalModes()
  /// Its size.
  public var size = WindowSize(columns: 0, rows: 0)
  /// Bytes that a read would get from the host.
  public var readableByteCount = 0
  /// Nothing known.
  public init() {}
}

/// One end of a standard stream. Calls may sleep; several threads may call at once.
public protocol ConsoleEndpoint: AnyObject {
  /// Reads what is there, sleeping while there is nothing.
  /// - Returns: bytes read; 0 at the end of the stream.
  /// - Throws: EAGAIN (if not to block, or the deadline has passed), EINTR, EFAULT, EIO.
  func read(into transfer: inout Transfer, nonBlocking: Bool, until deadline: Deadline) throws(Errno) -> Int
  /// Writes everything, sleeping while there is no room.
  /// - Returns: bytes written.
  /// - Throws: EAGAIN (if not to block), EINTR, EFAULT, EPIPE (nobody reads any more), EIO.
  func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int
  /// Hands on what was written, if some of it waits for more: a descriptor is being closed.
  /// - Throws: what a write has failed with meanwhile (ENOSPC, EIO…), unless somebody was told already.
  func finishWriting() throws(Errno)
  /// What can be done without sleeping.
  var readyMask: ReadyMask { get }
  /// Tells when `readyMask` changes.
  var pollSource: PollSource { get }
  /// Whether the host's side is a terminal.
  var isTerminal: Bool { get }
  /// Carries out a request to the terminal and says how it is afterwards.
  /// - Parameter isForced: also from the background.
  /// - Throws: ENOTTY, ERESTART (a process in the background may not do that, and gets SIGTTOU), EIO, EINTR.
  func terminal(_ request: TerminalRequest, isForced: Bool) throws(Errno) -> TerminalState
  /// Bytes that a read would get now (FIONREAD).
  var readableByteCount: Int { get }
}
