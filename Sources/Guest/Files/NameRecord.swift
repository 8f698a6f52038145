// NameRecord: one name in one directory, and the entry that has it. It never changes: an entry that is renamed gets another one. So
// whoever has a record, without any lock, has a directory and a name that belong together.
//
// A record lies in memory of its own with the name's bytes behind it, filled up with zeros to whole words. Its entry owns it, and it
// counts the directory's entry. It is freed with its entry, or, when the entry has been given another, once no reader can see it; but not
// while the call in it waits to be made (RecordCall).
import Base
import Locks
import Pages
import Threads

/// A name in a directory.
struct NameRecordCore<Word: LockWord & ~Copyable>: ~Copyable {
  typealias Reference = UnsafeMutablePointer<NameRecordCore<Word>>

  /// Its place in the table of names.
  var node: RCUTableNode<Word>
  /// For giving up the table's count of the entry, once; or, when the entry has another record, for the end of this one.
  var call = DeferredCall<Word>()
  /// Whose the call is.
  let use = RecordCallCore<Word>()
  /// The address of the directory's entry; 0: none.
  let directory: UInt
  /// The address of the entry that has the name.
  let entry: UInt
  /// Bytes of the name.
  let byteCount: Int
  /// The next of the records that were taken out together.
  var next: UInt = 0

  private init(directory: UInt, entry: UInt, byteCount: Int, hash: UInt) {
    node = RCUTableNode(hash: hash, owner: 0)
    self.directory = directory
    self.entry = entry
    self.byteCount = byteCount
  }

  /// A new record in memory of its own.
  static func make(directory: UInt, entry: UInt, _ name: PathBytes) -> Reference {
    let words = name.wordCount
    // SAFETY: room for the record and the words behind it, all of which are initialised.
    let memory = UnsafeMutableRawPointer.allocate(
      byteCount: MemoryLayout<NameRecordCore<Word>>.stride &+ words &* 8, alignment: 16)
    let record = memory.bindMemory(to: NameRecordCore<Word>.self, capacity: 1)
    record.initialize(
      to: NameRecordCore(
        directory: directory, entry: entry, byteCount: name.count, hash: hash(of: name, in: directory)))
    record.pointee.node.owner = UInt(bitPattern: record)
    let text = (memory + MemoryLayout<NameRecordCore<Word>>.stride).bindMemory(to: UInt64.self, capacity: words)
    for index in 0..<words { (text + index).initialize(to: name.word(index)) }
    return record
  }

  /// Ends a record that nobody can see any more.
  static func free(_ record: Reference) {
    record.deinitialize(count: 1)
    UnsafeMutableRawPointer(record).deallocate()
  }

  /// The record at an address that is not 0.
  @inline(__always) static func at(_ address: UInt) -> Reference {
    // SAFETY: the caller has it from a table, or from an entry.
    Reference(bitPattern: address).unsafelyUnwrapped
  }

  /// The hash of a name in a directory.
  @inline(__always) static func hash(of name: PathBytes, in directory: UInt) -> UInt {
    let mixed = (name.hash ^ directory.u64 &>> 4) &* 0x9e37_79b9_7f4a_7c15
    return (mixed ^ mixed &>> 32).uint
  }
}

extension UnsafeMutablePointer where Pointee: ~Copyable {
  /// Its node's place.
  @inline(__always) func node<Word: LockWord & ~Copyable>() -> RCUTableCore<Word>.Node
  where Pointee == NameRecordCore<Word> {
    // SAFETY: the node lies within the record, which is neither moved nor copied.
    withUnsafeMutablePointer(to: &pointee.node) { $0 }
  }

  /// Its call's place.
  @inline(__always) func call<Word: LockWord & ~Copyable>() -> UnsafeMutablePointer<DeferredCall<Word>>
  where Pointee == NameRecordCore<Word> {
    // SAFETY: likewise.
    withUnsafeMutablePointer(to: &pointee.call) { $0 }
  }

  /// The name; it lies in the record.
  @inline(__always) func name<Word: LockWord & ~Copyable>() -> PathBytes where Pointee == NameRecordCore<Word> {
    let start = UnsafeRawPointer(self) + MemoryLayout<NameRecordCore<Word>>.stride
    return PathBytes(UnsafeRawBufferPointer(start: start, count: pointee.byteCount))
  }

  /// Whether it is the record of that name in that directory.
  @inline(__always) func names<Word: LockWord & ~Copyable>(_ name: PathBytes, in directory: UInt) -> Bool
  where Pointee == NameRecordCore<Word> {
    guard pointee.directory == directory, pointee.byteCount == name.count else { return false }
    // SAFETY: the words behind the record, as many as the name has.
    let text = (UnsafeRawPointer(self) + MemoryLayout<NameRecordCore<Word>>.stride)
      .assumingMemoryBound(to: UInt64.self)
    for index in 0..<name.wordCount where text[index] != name.word(index) { return false }
    return true
  }
}

typealias NameRecord = NameRecordCore<LiveWord>

/// What the call in a record is for: who takes the entry out of its table and who gives the entry another record may meet there.
///
/// Invariant: the record is ended once, and not before its call has been made. It is taken out at most once, by `begin`, after
/// which it is in no table; only then, or never, is it replaced. One exchange and one compare-exchange decide: either `finish` comes
/// first, and the call is free again for who replaces the record, or `replace` does, and who makes the call ends the record. All are
/// read-modify-writes, acquiring and releasing; `begin` is before both, by the lock of the table.
struct RecordCallCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let state = Word(0)

  private static var isFree: UInt { 0 }
  private static var isPending: UInt { 1 }
  private static var isReplaced: UInt { 2 }

  /// The entry has been taken out of its table: the call will be made for that. With the table's lock.
  borrowing func begin() { state.store(Self.isPending) }

  /// The call is made.
  /// - Returns: whether the record has been replaced meanwhile: its end is the caller's business.
  borrowing func finish() -> Bool { state.exchange(Self.isFree) == Self.isReplaced }

  /// The entry has another record.
  /// - Returns: whether the end of this one is the caller's business, and the call free for it.
  borrowing func replace() -> Bool { !state.compareExchange(Self.isPending, Self.isReplaced) }
}
