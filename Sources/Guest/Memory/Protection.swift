// What may be done with memory, and what a page fault tried to do.

/// Rights of a mapping.
public struct Protection: OptionSet, Equatable, Sendable {
  /// The bits, as in mmap's PROT_*.
  public let rawValue: UInt8
  /// Rights from PROT_* bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// No access.
  public static var none: Protection { [] }
  /// Loads.
  public static var read: Protection { Protection(rawValue: 1) }
  /// Stores.
  public static var write: Protection { Protection(rawValue: 2) }
  /// Instruction fetches.
  public static var execute: Protection { Protection(rawValue: 4) }
}

/// What an access that faulted wanted.
public enum FaultAccess {
  /// A load.
  case read
  /// A store.
  case write
  /// An instruction fetch.
  case execute
}

/// What became of a page fault.
public enum FaultResult: Equatable {
  /// The access can be tried again.
  case resolved
  /// Nothing is mapped there: SIGSEGV with SEGV_MAPERR.
  case notMapped
  /// The mapping forbids it: SIGSEGV with SEGV_ACCERR.
  case accessDenied
  /// Behind the end of the mapped object, or its page could not be read: SIGBUS with BUS_ADRERR.
  case busError
  /// Memory is out: the program is to be killed.
  case outOfMemory
}

extension FaultAccess {
  /// What the CPU's page-fault error code says.
  @inline(__always)
  public init(errorCode: UInt64) {
    self = errorCode & 0x10 != 0 ? .execute : errorCode & 2 != 0 ? .write : .read
  }
}
