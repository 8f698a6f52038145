// Dentry: one name in one directory, with the file it names or the knowledge that it names none.
//
// A dentry keeps the directory's dentry alive, never the other way round: the name cache finds the children. What it names never
// changes; a name that gets or loses its file gets another dentry. Its own name and directory are a record (NameRecord), which a
// rename replaces, under the cache's topology lock.
//
// Readers under RCU reach dentries, and through them vnodes and records, without counting. Whatever leads a reader to one (a place
// in the cache, a record, a working directory, a mount) counts it, and gives that count up only when no reader can have it any more.
// So what a reader has is alive until its section ends, and it may count it. Whether it may keep what it has counted is another
// question, which `isLeaving` answers (DentryCache).
//
// With an entry ends its count of the directory. Directories that have been removed are counted by what was in them alone, and may lie in
// one another as deep as a program likes: each of them ends by a call of its own, not inside the end of the one below.
import Base
import Locks
import Threads

/// An entry of a directory.
public final class Dentry {
  /// The file; nil: the name is known not to be there.
  public let vnode: Vnode?
  /// What a walk finds here.
  let kind: WalkKind
  /// The address of its record, which is its own.
  private let recordWord: LiveWord
  let state: EntryState
  /// It lies in no directory, and never will.
  private let isRoot: Bool
  /// Until when it may be believed (`Clock.now`); `UInt64.max`: for good.
  let validUntil: Atomic<UInt64>
  /// How many mounts have it as their point.
  let mountCount = Atomic<Int>(0)

  // SAFETY of all: a record's directory is 0 or a dentry that the record counts; `release(_:)` ends both.
  init(parent: Dentry?, name: PathBytes, vnode: Vnode?, validUntil: UInt64) {
    self.vnode = vnode
    switch vnode?.type {
    case nil: kind = .absent
    case .directory: kind = .directory
    case .symbolicLink: kind = .link
    default: kind = .other
    }
    self.validUntil = Atomic(validUntil)
    isRoot = parent == nil
    recordWord = LiveWord(0)
    state = EntryState()
    recordWord.poke(UInt(bitPattern: makeRecord(parent, name)))
  }

  /// The root of a file system, or (with a name) a file that lies in no directory.
  public convenience init(root vnode: Vnode, name: PathBytes = PathBytes("")) {
    self.init(parent: nil, name: name, vnode: vnode, validUntil: .max)
  }

  deinit {
    // Its call is free: the table's count went with that.
    if endsHere { Self.release(record) } else { Self.releaseLater(record) }
  }

  /// Whether its directory does not end with it, or ends without another one. A directory may be taken out of its table right after
  /// this look; but not one above the other, again and again, in the moment in which each is looked at.
  private var endsHere: Bool {
    let directory = record.pointee.directory
    return directory == 0
      || Self.at(directory)._withUnsafeGuaranteedRef { $0.isRoot || $0.state.isTabled }
  }

  var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

  /// The dentry at an address that a reader, or whoever counts it, has.
  @inline(__always) static func at(_ address: UInt) -> Unmanaged<Dentry> {
    Unmanaged.fromOpaque(UnsafeRawPointer(bitPattern: address).unsafelyUnwrapped)
  }

  /// Whether the name has been removed.
  var isUnlinked: Bool { state.isUnlinked }

  // MARK: Name and directory; as a reader, or with the cache's topology lock

  /// Its record.
  @inline(__always) var record: NameRecord.Reference { NameRecord.at(recordWord.load()) }

  /// The directory; nil: it lies in none.
  var parent: Dentry? {
    let directory = record.pointee.directory
    return directory == 0 ? nil : Self.at(directory).takeUnretainedValue()
  }

  /// The name.
  var name: [UInt8] { record.name().copy }

  /// A record for another name of this entry.
  private func makeRecord(_ parent: Dentry?, _ name: PathBytes) -> NameRecord.Reference {
    let directory = parent.map { UInt(bitPattern: Unmanaged.passRetained($0).toOpaque()) }
    return NameRecord.make(directory: directory ?? 0, entry: address, name)
  }

  /// Gives it another name or directory; with the topology lock.
  /// - Returns: the old record, to be released when no reader can see it.
  func rename(_ parent: Dentry?, _ name: PathBytes) -> NameRecord.Reference {
    NameRecord.at(recordWord.exchange(UInt(bitPattern: makeRecord(parent, name))))
  }

  /// Ends a record that nobody can see any more.
  static func release(_ record: NameRecord.Reference) {
    let directory = record.pointee.directory
    NameRecord.free(record)
    if directory != 0 { at(directory).release() }
  }

  /// The same when no reader can see it any more; its call must be free.
  static func releaseLater(_ record: NameRecord.Reference) {
    RCU.later(
      record.call(), { Dentry.release(NameRecord.at(UInt(bitPattern: $0))) }, UnsafeMutableRawPointer(record))
  }
}

/// Marks of an entry.
struct EntryStateCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let marks = Word(recent)

  private static var recent: UInt { 1 }
  private static var unlinked: UInt { 2 }
  private static var leaving: UInt { 4 }
  private static var tabled: UInt { 8 }

  /// It has just been found.
  init() {}

  /// Whether it has been found since the cache last looked for what to forget.
  @inline(__always) var isRecent: Bool { marks.load() & Self.recent != 0 }
  /// Whether the name has been removed. For good.
  @inline(__always) var isUnlinked: Bool { marks.load() & Self.unlinked != 0 }
  /// Whether it may be on its way out of the cache, because nobody has it.
  @inline(__always) var isLeaving: Bool { marks.load() & Self.leaving != 0 }
  /// Whether a table has it; with the table's lock, or as a hint.
  var isTabled: Bool { marks.load() & Self.tabled != 0 }

  /// It has been found.
  @inline(__always) borrowing func noteFound() {
    let value = marks.load()
    // Who loses against another change need not try again: it is a hint.
    if value & Self.recent == 0 { _ = marks.compareExchange(value, value | Self.recent) }
  }

  borrowing func forgetFound() {
    let value = marks.load()
    if value & Self.recent != 0 { _ = marks.compareExchange(value, value & ~Self.recent) }
  }

  borrowing func noteUnlinked() { set(Self.unlinked, true) }
  /// A table has it, or has it no more. With the table's lock.
  borrowing func noteTabled(_ isTabled: Bool) { set(Self.tabled, isTabled) }
  /// A read-modify-write: what is loaded after it is not older.
  borrowing func setLeaving(_ isLeaving: Bool) { set(Self.leaving, isLeaving) }

  // MARK: Who keeps an entry and who lets go of it (DentryCache)

  /// A reader counts an entry that it has found, and looks whether that is too late.
  /// - Returns: whether it may keep it; if not, the count has been taken back.
  @inline(__always) borrowing func keep(count: () -> Void, uncount: () -> Void) -> Bool {
    count()
    guard isLeaving else { return true }
    uncount()
    return false
  }

  /// The table wants to let go of an entry, if it has the only count. With the table's lock.
  /// - Parameter mark: `setLeaving` of the entry's.
  /// - Returns: whether it may; if not, the entry stays.
  @inline(__always) static func leave(mark: (Bool) -> Void, isUnused: () -> Bool) -> Bool {
    mark(true)
    if isUnused() { return true }
    mark(false)
    return false
  }

  private borrowing func set(_ mark: UInt, _ isSet: Bool) {
    var value: UInt
    repeat { value = marks.load() } while !marks.compareExchange(value, isSet ? value | mark : value & ~mark)
  }
}

typealias EntryState = EntryStateCore<LiveWord>
