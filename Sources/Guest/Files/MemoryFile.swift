// MemoryFile: a file without a name, all in memory (memfd_create), that can be sealed against changes.
//
// Seals only ever get more. A call that changes the file holds the seal lock while it looks at them and does its work, so that
// a seal, once set, holds for everything that comes after.
import Base
import Locks
import Memory

/// What may no longer be done with a memory file; the numbers are F_SEAL_*.
public struct FileSeals: OptionSet, Sendable {
  /// Linux's bits.
  public let rawValue: UInt32
  /// Seals from Linux's bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// No more seals (F_SEAL_SEAL).
  public static var seal: FileSeals { FileSeals(rawValue: 1) }
  /// It does not get smaller (F_SEAL_SHRINK).
  public static var shrink: FileSeals { FileSeals(rawValue: 2) }
  /// It does not get larger (F_SEAL_GROW).
  public static var grow: FileSeals { FileSeals(rawValue: 4) }
  /// Nobody writes to it (F_SEAL_WRITE).
  public static var write: FileSeals { FileSeals(rawValue: 8) }
  /// Nobody writes to it but through mappings that are there already (F_SEAL_FUTURE_WRITE).
  public static var futureWrite: FileSeals { FileSeals(rawValue: 16) }
  /// Whether it may be executed does not change (F_SEAL_EXEC).
  public static var execute: FileSeals { FileSeals(rawValue: 32) }
  /// All there are.
  public static var all: FileSeals { FileSeals(rawValue: 63) }
  /// Whether new writes and writable mappings are refused.
  public var forbidWriting: Bool { !isDisjoint(with: [.write, .futureWrite]) }
}

/// A regular file in memory.
public final class MemoryFile: AnonymousVnode {
  private let object = MemoryObject()
  private let sealLock = Mutex()
  private var current: FileSeals
  private var permissions: UInt32
  private var modified = FileTime.now

  /// An empty file.
  /// - Parameters:
  ///   - sealable: whether seals can be added.
  ///   - executable: whether its mode allows executing it.
  public init(sealable: Bool, executable: Bool) {
    current = sealable ? [] : .seal
    if !executable { current.insert(.execute) }
    permissions = executable ? 0o777 : 0o666
    super.init(type: .regular, mode: executable ? 0o777 : 0o666)
  }

  public override var isSeekable: Bool { true }
  public override func memoryObject() throws(Errno) -> MemoryObject { object }

  public override func findData(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 {
    guard let found = object.findData(from: offset, end: end) else { throw .ENXIO }
    return found
  }
  public override func findHole(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 {
    object.findHole(from: offset, end: end)
  }

  public override func getAttributes() throws(Errno) -> StatInformation {
    var result = try super.getAttributes()
    result.linkCount = 0
    result.byteCount = object.byteCount
    result.blockCount = object.residentPages.u64 &* 8
    sealLock.withLock {
      result.mode = type.modeBits | permissions
      result.modificationTime = modified
      result.changeTime = modified
    }
    return result
  }

  // MARK: Seals

  /// What is forbidden now.
  public var seals: FileSeals { sealLock.withLock { current } }

  /// Forbids more.
  /// - Throws: EPERM (no more seals), EBUSY (somebody may write through a mapping).
  public func add(_ seals: FileSeals) throws(Errno) {
    sealLock.lock()
    defer { sealLock.unlock() }
    guard !current.contains(.seal) else { throw .EPERM }
    if seals.contains(.write), !current.contains(.write), object.hasWritableMappings { throw .EBUSY }
    current.formUnion(seals)
  }

  // MARK: Changes

  public override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try object.read(at: offset, into: &transfer)
  }

  public override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    // Program memory is copied under no lock: a seal that comes meanwhile counts from the next call on, as on Linux, where it
    // waits for this one.
    let seals = self.seals
    if seals.forbidWriting { throw .EPERM }
    if seals.contains(.grow) {
      guard offset &+ transfer.remaining.u64 <= object.byteCount else { throw .EPERM }
    }
    let count = try object.write(at: offset, from: &transfer)
    if count > 0 { sealLock.withLock { modified = FileTime.now } }
    return count
  }

  public override func setAttributes(_ change: AttributeChange) throws(Errno) {
    sealLock.lock()
    defer { sealLock.unlock() }
    if let mode = change.mode {
      if current.contains(.execute), (mode ^ permissions) & 0o111 != 0 { throw .EPERM }
      permissions = mode & FileMode.permissionMask
    }
    if let byteCount = change.byteCount {
      let old = object.byteCount
      if byteCount < old, current.contains(.shrink) { throw .EPERM }
      if byteCount > old, current.contains(.grow) { throw .EPERM }
      try object.truncate(to: byteCount)
      modified = FileTime.now
    }
  }

  public override func allocate(mode: UInt32, offset: UInt64, byteCount: UInt64) throws(Errno) {
    let (keepsSize, punches): (UInt32, UInt32) = (1, 2)
    let (end, overflow) = offset.addingReportingOverflow(byteCount)
    guard !overflow, end <= 0x7fff_ffff_ffff_ffff else { throw .EFBIG }
    sealLock.lock()
    defer { sealLock.unlock() }
    switch mode {
    case 0:
      guard end > object.byteCount else { return }
      if current.contains(.grow) { throw .EPERM }
      try object.truncate(to: end)
    case keepsSize: return
    case keepsSize | punches:
      if current.forbidWriting { throw .EPERM }
      try object.discard(offset: offset, byteCount: byteCount)
    default: throw .EOPNOTSUPP
    }
  }
}
