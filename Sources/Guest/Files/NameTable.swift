// NameTable: names by directory, found under RCU without a lock and without writing (Locks/RCUTable has that argument).
//
// What a find under RCU means: the record that it returns was in the table at some moment of the find. The reader gets to a record
// by a link that led there when it was loaded or, if the link's own record had been taken out before that, when that was done; and
// that record was in the table at some moment of the find by the same argument. A record that has been taken out is put in nowhere
// again, so no reader strays into another chain. So each step of a walk happens at one moment, and the moments are in order.
//
// That a find returns nothing says nothing: between two records of an entry that is being renamed there is none.
import Base
import Locks
import Pages
import Threads

/// A table of names; its changes come one at a time, by its lock.
struct NameTableCore<Word: LockWord & ~Copyable>: ~Copyable {
  typealias Record = NameRecordCore<Word>.Reference
  private let table: RCUTableCore<Word>

  /// An empty table over an array of `size` buckets in fresh memory.
  init(_ memory: RCUTableCore<Word>.Buckets, size: Int) { table = RCUTableCore(memory, size: size) }

  /// How many names there are; exact with the lock.
  var count: Int { table.count }

  /// The record of a name, if it is there. A reader, or with the lock; a reader may use it until its section ends.
  @inline(__always) borrowing func find(_ name: PathBytes, in directory: UInt, hash: UInt) -> Record? {
    guard let found = table.find(hash, where: { Record(bitPattern: $0).unsafelyUnwrapped.names(name, in: directory) })
    else { return nil }
    return NameRecordCore<Word>.at(found)
  }

  // MARK: With the lock

  /// Puts a record in that has never been in.
  borrowing func insert(_ record: Record) { table.insert(record.node()) }

  /// Takes a record out; false if it is not there.
  @discardableResult borrowing func remove(_ record: Record) -> Bool { table.remove(record.node()) }

  /// Takes the record of an entry out for good: its call is for giving up the table's count, after a grace period.
  /// - Returns: false if it is not there.
  borrowing func take(_ record: Record, _ state: borrowing EntryStateCore<Word>) -> Bool {
    guard remove(record) else { return false }
    state.noteTabled(false)
    record.pointee.use.begin()
    return true
  }

  /// How many buckets there are.
  var bucketCount: Int { table.bucketCount }

  /// Gives the body every record of a bucket; it may take it out.
  borrowing func forEach(inBucket index: Int, _ body: (Record) -> Void) {
    table.forEach(inBucket: index) { body(NameRecordCore<Word>.at($0)) }
  }

  /// The size to grow to, nil if it is large enough or may not grow now.
  var wantedSize: Int? { table.wantedSize }
  /// See `RCUTableCore`.
  borrowing func grow(_ memory: RCUTableCore<Word>.Buckets, size: Int) -> RCUTableCore<Word>.Buckets {
    table.grow(memory, size: size)
  }
  /// See `RCUTableCore`.
  borrowing func hasGrown() { table.hasGrown() }
  /// The array in use, for whoever takes the table apart.
  var buckets: RCUTableCore<Word>.Buckets { table.buckets }
}

typealias NameTable = NameTableCore<LiveWord>
