// FileSizeLimit: how large the calling process may make files (RLIMIT_FSIZE).
//
// The layer above knows the limit and how to tell a program that it has met it. As long as no process has set one, a write looks at one
// word.
import Base
import Memory

/// The limit of the process that calls.
public enum FileSizeLimit {
  private static let isInUse = Atomic<Bool>(false)
  // SAFETY: both are set once at boot, before the first program; C function pointers.
  nonisolated(unsafe) private static var limit: (@convention(c) () -> UInt64)? = nil
  nonisolated(unsafe) private static var exceeded: (@convention(c) () -> Void)? = nil

  /// Says how the limit is found, and what happens when it is met (SIGXFSZ). Once, at boot.
  public static func install(
    limit: @escaping @convention(c) () -> UInt64, exceeded: @escaping @convention(c) () -> Void
  ) {
    (self.limit, self.exceeded) = (limit, exceeded)
  }

  /// Some process has a limit from now on.
  public static func use() { isInUse.store(true, ordering: .releasing) }

  /// Lets no more be written at an offset than the limit allows.
  /// - Throws: EFBIG: nothing.
  @inline(__always) static func apply(_ transfer: inout Transfer, at offset: UInt64) throws(Errno) {
    if isInUse.load(ordering: .relaxed) { try applyLimit(&transfer, at: offset) }
  }

  @inline(never) private static func applyLimit(_ transfer: inout Transfer, at offset: UInt64) throws(Errno) {
    guard let limit = limit?(), limit != .max, transfer.remaining > 0 else { return }
    guard offset < limit else {
      exceeded?()
      throw .EFBIG
    }
    if transfer.remaining.u64 > limit &- offset { transfer.limit(to: (limit &- offset).int) }
  }

  /// Whether a file of `old` bytes may have `new` ones.
  /// - Throws: EFBIG.
  static func check(_ new: UInt64, from old: @autoclosure () throws(Errno) -> UInt64) throws(Errno) {
    guard isInUse.load(ordering: .relaxed), let limit = limit?(), new > limit, try new > old() else { return }
    exceeded?()
    throw .EFBIG
  }
}
