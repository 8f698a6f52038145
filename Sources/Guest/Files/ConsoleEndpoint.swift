// ConsoleEndpoint: what a console driver gives to the file system: a stream of bytes each way.
import Base
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

/// One end of a standard stream. Calls may sleep; several threads may call at once.
public protocol ConsoleEndpoint: AnyObject {
  /// Reads what is there, sleeping while there is nothing.
  /// - Returns: bytes read; 0 at the end of the stream.
  /// - Throws: EAGAIN (if not to block), EINTR, EFAULT, EIO.
  func read(into transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int
  /// Writes everything, sleeping while there is no room.
  /// - Returns: bytes written.
  /// - Throws: EAGAIN (if not to block), EINTR, EFAULT, EPIPE (nobody reads any more), EIO.
  func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int
  /// What can be done without sleeping.
  var readyMask: ReadyMask { get }
  /// Tells when `readyMask` changes.
  var pollSource: PollSource { get }
  /// Whether the host's side is a terminal.
  var isTerminal: Bool { get }
  /// The terminal's size.
  var windowSize: WindowSize { get }
  /// Bytes that a read would get now (FIONREAD).
  var readableByteCount: Int { get }
}
