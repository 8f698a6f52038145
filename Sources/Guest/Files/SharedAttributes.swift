// SharedAttributes: what a file system knows of a file's attributes, for readers that take no lock.
//
// They change under a lock of the file system's, within `change`. Whoever has that lock reads them by their names; readers
// without it (walks under RCU, which may not wait, and calls that need not) take all of one moment, by a count of the changes
// (SequenceCount): never the new mode with the old owner.
import Base
import Locks

/// Attributes of a file.
public struct SharedAttributesCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let sequence = SequenceCountCore<Word>()
  private let modeAndLinks: Word
  private let owners: Word
  private let accessSeconds = Word(0)
  private let modificationSeconds = Word(0)
  private let changeSeconds = Word(0)
  /// Nanoseconds of the access (low) and of the modification; of the change.
  private let fractions = Word(0)
  private let changeFraction = Word(0)
  private let expiry: Word

  /// Attributes that may be believed until `validUntil` (of the file system's clock; `UInt64.max`: for good).
  public init(mode: UInt32, linkCount: UInt32, userID: UInt32, groupID: UInt32, validUntil: UInt64 = .max) {
    modeAndLinks = Word(Self.pair(mode, linkCount))
    owners = Word(Self.pair(userID, groupID))
    expiry = Word(validUntil.uint)
  }

  @inline(__always) private static func pair(_ low: UInt32, _ high: UInt32) -> UInt { (low.u64 | high.u64 &<< 32).uint }

  // MARK: With the lock

  /// Runs a body that sets some of them, which readers see all at once. With the lock; it must not sleep.
  @inline(__always) public borrowing func change(_ body: (borrowing Self) -> Void) { sequence.write { body(self) } }

  /// Type and permissions. Set within `change`, like the others.
  public var mode: UInt32 {
    get { modeAndLinks.peek().u32 }
    nonmutating set { modeAndLinks.store(Self.pair(newValue, linkCount)) }
  }
  /// Names the file has.
  public var linkCount: UInt32 {
    get { (modeAndLinks.peek() &>> 32).u32 }
    nonmutating set { modeAndLinks.store(Self.pair(mode, newValue)) }
  }
  /// Owner.
  public var userID: UInt32 {
    get { owners.peek().u32 }
    nonmutating set { owners.store(Self.pair(newValue, groupID)) }
  }
  /// Group.
  public var groupID: UInt32 {
    get { (owners.peek() &>> 32).u32 }
    nonmutating set { owners.store(Self.pair(userID, newValue)) }
  }
  /// Last read.
  public var accessTime: FileTime {
    get { FileTime(seconds: accessSeconds.peek().i64, nanoseconds: fractions.peek().u32) }
    nonmutating set {
      accessSeconds.store(newValue.seconds.uint)
      fractions.store(Self.pair(newValue.nanoseconds, (fractions.peek() &>> 32).u32))
    }
  }
  /// Last change of the contents.
  public var modificationTime: FileTime {
    get { FileTime(seconds: modificationSeconds.peek().i64, nanoseconds: (fractions.peek() &>> 32).u32) }
    nonmutating set {
      modificationSeconds.store(newValue.seconds.uint)
      fractions.store(Self.pair(fractions.peek().u32, newValue.nanoseconds))
    }
  }
  /// Last change of the attributes.
  public var changeTime: FileTime {
    get { FileTime(seconds: changeSeconds.peek().i64, nanoseconds: changeFraction.peek().u32) }
    nonmutating set {
      changeSeconds.store(newValue.seconds.uint)
      changeFraction.store(newValue.nanoseconds.uint)
    }
  }
  /// Until when they may be believed.
  public var validUntil: UInt64 {
    get { expiry.peek().u64 }
    nonmutating set { expiry.store(newValue.uint) }
  }

  // MARK: Without the lock

  /// Fills in mode, links, owners and times of one moment.
  /// - Returns: until when they may be believed; nil if they kept changing, and nothing is filled in.
  @inline(__always) public borrowing func load(into result: inout StatInformation) -> UInt64? {
    let found = sequence.read {
      (
        modeAndLinks.load(), owners.load(), accessSeconds.load(), modificationSeconds.load(), changeSeconds.load(),
        fractions.load(), changeFraction.load(), expiry.load()
      )
    }
    guard let found else { return nil }
    result.mode = found.0.u32
    result.linkCount = (found.0 &>> 32).u32
    result.userID = found.1.u32
    result.groupID = (found.1 &>> 32).u32
    result.accessTime = FileTime(seconds: found.2.i64, nanoseconds: found.5.u32)
    result.modificationTime = FileTime(seconds: found.3.i64, nanoseconds: (found.5 &>> 32).u32)
    result.changeTime = FileTime(seconds: found.4.i64, nanoseconds: found.6.u32)
    return found.7.u64
  }

  /// What mode and owners of one moment say about rights.
  /// - Returns: whether they allow them, and until when that may be believed; nil if they kept changing.
  @inline(__always) public borrowing func allow(_ rights: AccessRights, _ credentials: Credentials) -> (
    isAllowed: Bool, validUntil: UInt64
  )? {
    let found = sequence.read { (modeAndLinks.load(), owners.load(), expiry.load()) }
    guard let found else { return nil }
    let isAllowed = credentials.allows(
      rights, mode: found.0.u32, userID: found.1.u32, groupID: (found.1 &>> 32).u32)
    return (isAllowed, found.2.u64)
  }

  /// Whether the access time lies before the last change; a hint.
  @inline(__always) public var isAccessBehind: Bool {
    let accessed = accessSeconds.load().i64
    let (modified, changed) = (modificationSeconds.load().i64, changeSeconds.load().i64)
    if accessed > modified, accessed > changed { return false }
    let both = fractions.load()
    return accessTime(accessed, both.u32, isBefore: modified, (both &>> 32).u32)
      || accessTime(accessed, both.u32, isBefore: changed, changeFraction.load().u32)
  }

  @inline(__always) private func accessTime(
    _ seconds: Int64, _ nanoseconds: UInt32, isBefore other: Int64, _ otherNanoseconds: UInt32
  ) -> Bool { seconds < other || (seconds == other && nanoseconds < otherNanoseconds) }
}

/// The kernel's.
public typealias SharedAttributes = SharedAttributesCore<LiveWord>

// SAFETY: all that changes is an atomic word.
extension SharedAttributesCore: @unchecked Sendable where Word: ~Copyable {}
