// The end of the machine: with the first process.
import Base
import Locks
import Platform

/// What happens when the first process has ended.
public enum MachineEnd {
  // SAFETY: set at boot, before the first process starts.
  nonisolated(unsafe) private static var streams: (any StandardStreams)?
  // SAFETY: likewise.
  nonisolated(unsafe) private static var writeBack: (() -> Bool)?

  /// What has the standard streams' output at the end. Boot only.
  public static func install(_ streams: any StandardStreams) { self.streams = streams }

  /// Runs `writeBack` before any end: gives files what programs have stored in them, which outlives whoever did, and tells whether
  /// some of it is lost; it has written a sentence then. Boot only.
  public static func installWriteBack(_ writeBack: @escaping () -> Bool) { self.writeBack = writeBack }

  /// How long whoever reads the output of a process that a signal has killed is waited for, in ns: what it has written is still with
  /// us, by Linux it would be in the pipe; but it may be for a reader that never reads.
  private static var patience: UInt64 { 1_000_000_000 }

  /// Ends the machine with the first process' wait status.
  static func run(_ status: UInt32) -> Never {
    let isDataLost = writeBack?() ?? false
    let isKilled = status & 0x7f != 0
    let isOutputLost = streams?.flush(until: isKilled ? .after(patience, from: Clock.now()) : .never) ?? false
    // A program that believes to have written everything has not succeeded.
    Monitor.exit((isDataLost || isOutputLost) && status == 0 ? 1 &<< 8 : status)
  }
}

/// Who has what programs have written to standard output and error and the host has not.
public protocol StandardStreams: AnyObject {
  /// Hands it on and waits until the host has it, or the deadline has passed.
  /// - Returns: whether some of it is lost, and no program has been told of that; a sentence was written then.
  func flush(until deadline: Deadline) -> Bool
}
