// The end of the machine: with the first process.
import Base
import Platform

/// What happens when the first process has ended.
public enum MachineEnd {
  // SAFETY: set at boot, before the first process starts.
  nonisolated(unsafe) private static var flush: (() -> Void)?
  // SAFETY: likewise.
  nonisolated(unsafe) private static var writeBack: (() -> Void)?

  /// Runs `flush` before the end: writes out what must not be lost. Boot only.
  public static func install(_ flush: @escaping () -> Void) { self.flush = flush }

  /// Runs `writeBack` before any end: gives files what programs have stored in them, which outlives whoever did. Boot only.
  public static func installWriteBack(_ writeBack: @escaping () -> Void) { self.writeBack = writeBack }

  /// Ends the machine with the first process' wait status. A process that a signal has killed ends at once, as everywhere: what it
  /// had not finished writing to a stream may be for a reader that never reads.
  static func run(_ status: UInt32) -> Never {
    writeBack?()
    if status & 0x7f == 0 { flush?() }
    Monitor.exit(status)
  }
}
