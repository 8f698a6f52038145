// The end of the machine: with the first process.
import Base
import Locks
import Platform

/// What happens when the first process has ended.
public enum MachineEnd {
  // SAFETY: set at boot, before the first process starts.
  nonisolated(unsafe) private static var flush: ((Deadline) -> Errno?)?
  // SAFETY: likewise.
  nonisolated(unsafe) private static var writeBack: (() -> Errno?)?
  // SAFETY: likewise.
  nonisolated(unsafe) private static var finishSending: ((Bool) -> Void)?

  /// Runs `flush` before the end: hands on what programs have written to standard output and error, and waits until the host has it, or
  /// the deadline has passed. It tells what a write has failed with that no program has been told of. Boot only.
  public static func installFlush(_ flush: @escaping (Deadline) -> Errno?) { self.flush = flush }

  /// Runs `writeBack` before any end: gives files what programs have stored in them, which outlives whoever did. It tells why some of
  /// it could not be. Boot only.
  public static func installWriteBack(_ writeBack: @escaping () -> Errno?) { self.writeBack = writeBack }

  /// Runs `finishSending` last: it waits until what programs have sent has arrived, a moment only if it is told true: a signal has ended the first
  /// process. Boot only.
  public static func installSending(_ finishSending: @escaping (Bool) -> Void) { self.finishSending = finishSending }

  /// How long whoever reads the output of a process that a signal has killed is waited for, in ns: what it has written is still with
  /// us, by Linux it would be in the pipe; but it may be for a reader that never reads.
  private static var patience: UInt64 { 1_000_000_000 }

  /// Ends the machine with the first process' wait status.
  static func run(_ status: UInt32) -> Never {
    let isDataLost = isLost("data of the program's files", writeBack.flatMap { $0() })
    let isKilled = status & 0x7f != 0
    let deadline: Deadline = isKilled ? .after(patience, from: Clock.now()) : .never
    let isOutputLost = isLost("the last of the program's output", flush.flatMap { $0(deadline) })
    finishSending?(isKilled)
    // A program that believes to have written everything has not succeeded.
    Monitor.exit((isDataLost || isOutputLost) && status == 0 ? 1 &<< 8 : status)
  }

  /// Whether something has failed, and a sentence about it.
  private static func isLost(_ what: StaticString, _ failure: Errno?) -> Bool {
    guard let failure else { return false }
    var line = TextLine()
    line.append("osv: ")
    line.append(what)
    line.append(" is lost: the host could not write it (error ")
    line.append(decimal: failure.rawValue.u64)
    line.append(")")
    line.show()
    return true
  }
}
