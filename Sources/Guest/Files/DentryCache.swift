// DentryCache: the names of one file system that are known, present ones and absent ones.
//
// Hash tables in shards, keyed by directory and name, that are searched under RCU (NameTable); a shard's lock is for changes, each
// as long as a chain. A table counts what it holds. It forgets entries that nobody else refers to, the longest unused ones first (one
// mark, looked at by a hand that goes round), once a shard has its share of `limit`. A directory with known
// children is never forgotten, because they refer to it.
//
// Order of locks: directory locks, then `topology`, then a shard's. Renames take `topology` for writing; whoever wants the names of
// several entries at one moment takes it for reading. Lookups need neither.
//
// Who counts an entry and keeps it. A file has one entry for each of its names, so an entry that somebody keeps must stay in
// its table until its name goes. The table forgets only what nobody keeps, and a reader under RCU may be about to keep what it has
// found. They settle it so:
//  1. The reader counts the entry, then looks whether it `isLeaving`; if it is, it takes the count back and has found nothing.
//  2. The table marks the entry as leaving, then looks whether it has the only count; if it has not, it takes the mark away.
// Marking and counting are read-modify-writes before a load (sequentially consistent; x86's are full fences, and the compiler is
// kept from moving the load): either the table sees the count, and the entry stays, or the reader sees the mark. If both see
// the other, the entry stays and the reader asks the file system, which leads it to the same entry (`enter`). Both are steps of
// EntryState, which the model checker goes through as they are (UncountedWalkModelTests).
//
// Every entry is taken out of its table at most once: one that is not in it is not put in by a rename. So the table's count is given
// up once, with the call in the record that the entry had then (RecordCall).
//
// SAFETY of all: addresses of records and entries are taken from tables and records, by readers or with the lock, and
// a record's entry and directory are alive as long as it is in a table.
import Base
import Instructions
import Locks
import Pages
import Platform
import Threads

/// The name cache of a file system.
final class DentryCache {
  private struct ShardState: ~Copyable {
    let lock = Mutex()
    let names: NameTable
    var hand = 0
    /// Whose it is, counted while a growth is under way.
    let cache: Unmanaged<DentryCache>
    /// For freeing the buckets before the last growth.
    var growth = RCU.Call()
    var oldBuckets: RCUTable.Buckets?

    init(_ names: consuming NameTable, _ cache: Unmanaged<DentryCache>) {
      self.names = names
      self.cache = cache
    }
  }
  private typealias Shard = UnsafeMutablePointer<ShardState>

  private static let shardCount = 8
  private let shards = Shard.allocate(capacity: DentryCache.shardCount)
  private let limitPerShard: Int
  let topology = ReaderWriterLock()

  init(limit: Int = 65_536) {
    limitPerShard = max(limit / Self.shardCount, 16)
    for index in 0..<Self.shardCount {
      let names = NameTable(Self.newBuckets(4).unsafelyUnwrapped, size: 4)
      (shards + index).initialize(to: ShardState(names, .passUnretained(self)))
    }
  }

  deinit {
    for index in 0..<Self.shardCount {
      let shard = shards + index
      for bucket in 0..<shard.pointee.names.bucketCount {
        shard.pointee.names.forEach(inBucket: bucket) { record in
          shard.pointee.names.remove(record)
          let entry = Dentry.at(record.pointee.entry)
          entry._withUnsafeGuaranteedRef { $0.state.noteTabled(false) }
          entry.release()
        }
      }
      Self.free(shard.pointee.names.buckets)
    }
    shards.deinitialize(count: Self.shardCount)
    shards.deallocate()
  }

  /// Names in the cache; for tests.
  var count: Int {
    var sum = 0
    for index in 0..<Self.shardCount {
      let shard = shards + index
      sum &+= shard.pointee.lock.withLock { shard.pointee.names.count }
    }
    return sum
  }

  // MARK: Finding

  /// The entry of a name, if it is known and may still be believed. For a reader, who may use it until its section ends.
  @inline(__always) func glance(_ name: PathBytes, in directory: UInt) -> Unmanaged<Dentry>? {
    let hash = NameRecord.hash(of: name, in: directory)
    guard let found = shard(hash).pointee.names.find(name, in: directory, hash: hash) else { return nil }
    let entry = Dentry.at(found.pointee.entry)
    return entry._withUnsafeGuaranteedRef { $0.isBelieved } ? entry : nil
  }

  /// The entry of a name, if it is known and may still be believed.
  func find(_ parent: Dentry, _ name: PathBytes) -> Dentry? {
    RCU.read {
      guard let entry = glance(name, in: parent.address) else { return nil }
      return Dentry.keep(entry)
    }
  }

  /// Notes what a directory said about a name, and returns the entry for it: the one there is if it says the same.
  func enter(_ parent: Dentry, _ name: PathBytes, _ result: LookupResult) -> Dentry {
    // What is to be asked for every time has an entry as well: a mount on it, or below, must be found by the next who asks.
    guard result.validity > 0 || result.vnode != nil else {
      return Dentry(parent: parent, name: name, vnode: nil, validUntil: 0)
    }
    let validUntil: UInt64 =
      switch result.validity {
      case 0: 0
      case .max: .max
      default: Clock.now() &+ result.validity
      }
    let hash = NameRecord.hash(of: name, in: parent.address)
    let shard = shard(hash)
    let fresh = Dentry(parent: parent, name: name, vnode: result.vnode, validUntil: validUntil)
    var out = TakenOut()
    shard.pointee.lock.lock()
    if let record = shard.pointee.names.find(name, in: parent.address, hash: hash) {
      let known = Dentry.at(record.pointee.entry).takeUnretainedValue()
      if known.vnode === result.vnode {
        known.validUntil.store(validUntil, ordering: .relaxed)
        known.state.noteFound()
        shard.pointee.lock.unlock()
        return known
      }
      take(known, out: shard, &out)
    }
    if shard.pointee.names.count >= limitPerShard { takeUnused(shard, 16, rounds: 2, &out) }
    put(fresh, in: shard)
    shard.pointee.lock.unlock()
    out.release()
    return fresh
  }

  // MARK: Changing names; with the directories' locks

  /// Takes a name out that is being removed. Who has the file open keeps the entry.
  func remove(_ entry: Dentry) {
    entry.state.noteUnlinked()
    forget(entry)
  }

  /// Takes a name out, so that the next lookup asks the file system.
  func forget(_ entry: Dentry) {
    var out = TakenOut()
    topology.readLock()
    if entry.record.pointee.directory != 0 {
      let shard = shard(entry.record.pointee.node.hash)
      shard.pointee.lock.withLock { if entry.state.isTabled { take(entry, out: shard, &out) } }
    }
    topology.readUnlock()
    out.release()
  }

  /// Gives an entry another name or parent, in the place of whatever is known there.
  func move(_ entry: Dentry, to parent: Dentry, _ name: PathBytes) {
    var out = TakenOut()
    topology.writeLock()
    let wasIn = takeOut(entry)
    let old = entry.rename(parent, name)
    if wasIn { putIn(entry, &out) }
    topology.writeUnlock()
    out.release()
    Self.retire(old)
  }

  /// Swaps the places of two entries.
  func exchange(_ first: Dentry, _ second: Dentry) {
    var out = TakenOut()
    topology.writeLock()
    let (firstWasIn, secondWasIn) = (takeOut(first), takeOut(second))
    let (firstOld, secondOld) = (first.record, second.record)
    _ = first.rename(second.parent, secondOld.name())
    _ = second.rename(Dentry.at(firstOld.pointee.directory).takeUnretainedValue(), firstOld.name())
    if firstWasIn { putIn(first, &out) }
    if secondWasIn { putIn(second, &out) }
    topology.writeUnlock()
    out.release()
    Self.retire(firstOld)
    Self.retire(secondOld)
  }

  /// Takes an entry out that is put in again at once; says whether it was in. With `topology`.
  private func takeOut(_ entry: Dentry) -> Bool {
    let record = entry.record
    guard record.pointee.directory != 0 else { return false }
    let shard = shard(record.pointee.node.hash)
    return shard.pointee.lock.withLock { entry.state.isTabled && shard.pointee.names.remove(record) }
  }

  private func putIn(_ entry: Dentry, _ out: inout TakenOut) {
    let record = entry.record
    let hash = record.pointee.node.hash
    let shard = shard(hash)
    shard.pointee.lock.lock()
    if let other = shard.pointee.names.find(record.name(), in: record.pointee.directory, hash: hash) {
      take(Dentry.at(other.pointee.entry).takeUnretainedValue(), out: shard, &out)
    }
    shard.pointee.names.insert(record)
    grow(shard)
    shard.pointee.lock.unlock()
  }

  // MARK: Places

  /// The entry above; nil for a root.
  func parent(of entry: Dentry) -> Dentry? { RCU.read { entry.parent } }

  /// Whether `ancestor` is `entry` or above it. The file system's rename lock keeps the answer true.
  func isAncestor(_ ancestor: Dentry, of entry: Dentry) -> Bool {
    topology.readLock()
    defer { topology.readUnlock() }
    let wanted = ancestor.address
    var next = entry.address
    while next != 0 {
      if next == wanted { return true }
      next = Dentry.at(next)._withUnsafeGuaranteedRef { $0.record.pointee.directory }
    }
    return false
  }

  // MARK: Tables; with the shard's lock

  @inline(__always) private func shard(_ hash: UInt) -> Shard {
    shards + ((hash &>> 29).int & (Self.shardCount &- 1))
  }

  /// Puts a new entry in, which the table counts from now on.
  private func put(_ entry: Dentry, in shard: Shard) {
    _ = Unmanaged.passRetained(entry)
    entry.state.noteTabled(true)
    shard.pointee.names.insert(entry.record)
    grow(shard)
  }

  /// Takes an entry out for good.
  private func take(_ entry: Dentry, out shard: Shard, _ out: inout TakenOut) {
    let record = entry.record
    if shard.pointee.names.take(record, entry.state) { out.add(record) }
  }

  private func grow(_ shard: Shard) {
    guard let size = shard.pointee.names.wantedSize, let fresh = Self.newBuckets(size) else { return }
    shard.pointee.oldBuckets = shard.pointee.names.grow(fresh, size: size)
    _ = shard.pointee.cache.retain()
    RCU.later(
      withUnsafeMutablePointer(to: &shard.pointee.growth) { $0 },
      { context in
        let shard = context.unsafelyUnwrapped.assumingMemoryBound(to: ShardState.self)
        DentryCache.free(shard.pointee.oldBuckets.unsafelyUnwrapped)
        shard.pointee.names.hasGrown()
        shard.pointee.cache.release()
      }, shard)
  }

  private static func newBuckets(_ size: Int) -> RCUTable.Buckets? {
    let count = RCUTable.wordCount(size: size)
    return KernelHeap.allocate(byteCount: count &* MemoryLayout<LiveWord>.stride)?
      .bindMemory(to: LiveWord.self, capacity: count)
  }

  private static func free(_ buckets: RCUTable.Buckets) { KernelHeap.free(UnsafeMutableRawPointer(buckets)) }

  /// A record that an entry has had, and that is in no table: the entry has another one now.
  private static func retire(_ record: NameRecord.Reference) {
    guard record.pointee.use.replace() else { return }
    if RCU.synchronizeAtOnce() { return Dentry.release(record) }
    Dentry.releaseLater(record)
  }

  // MARK: Shrinking

  /// Forgets up to `limit` names that only the table refers to and that were not found lately. For when memory is short: allocates
  /// nothing, waits for no lock.
  /// - Returns: how many.
  func shrink(_ limit: Int) -> Int {
    var given = 0
    for index in 0..<Self.shardCount where given < limit {
      let shard = shards + index
      guard shard.pointee.lock.tryLock() else { continue }
      var out = TakenOut()
      takeUnused(shard, limit &- given, rounds: 1, &out)
      shard.pointee.lock.unlock()
      given &+= out.count
      out.release()
    }
    return given
  }

  /// Whether the table has an entry's only count.
  private static func isUnused(_ entry: Unmanaged<Dentry>) -> Bool {
    // The table's own count, for as long as it takes to look whether there are others.
    var own = entry.takeRetainedValue()
    defer { _ = Unmanaged.passRetained(own) }
    return isKnownUniquelyReferenced(&own)
  }

  /// Takes out entries that only the table refers to and that were not found lately, so many times round the shard at most.
  private func takeUnused(_ shard: Shard, _ limit: Int, rounds: Int, _ out: inout TakenOut) {
    let most = out.count &+ limit
    var turns = shard.pointee.names.bucketCount &* rounds
    while turns > 0, out.count < most {
      turns &-= 1
      shard.pointee.hand = (shard.pointee.hand &+ 1) & (shard.pointee.names.bucketCount &- 1)
      shard.pointee.names.forEach(inBucket: shard.pointee.hand) { record in
        let entry = Dentry.at(record.pointee.entry)
        let isRecent = entry._withUnsafeGuaranteedRef { entry in
          defer { entry.state.forgetFound() }
          return entry.state.isRecent
        }
        guard !isRecent else { return }
        // Nobody counts the entry for the looks at its marks: the table's own count may be the only one.
        let isLeft = EntryState.leave(
          mark: { isLeaving in entry._withUnsafeGuaranteedRef { $0.state.setLeaving(isLeaving) } },
          isUnused: { Self.isUnused(entry) })
        if isLeft { take(entry.takeUnretainedValue(), out: shard, &out) }
      }
    }
  }
}

/// Entries that have been taken out of their tables, whose counts are to be given up: when no lock is held any more, one by one, for the
/// end of a long chain must not be many ends inside one another.
private struct TakenOut {
  private var first: UInt = 0
  private(set) var count = 0

  mutating func add(_ record: NameRecord.Reference) {
    record.pointee.next = first
    first = UInt(bitPattern: record)
    count &+= 1
  }

  @inline(__always) mutating func release() {
    if first != 0 { releaseAll() }
  }

  @inline(never) private mutating func releaseAll() {
    let isOver = RCU.synchronizeAtOnce()
    while first != 0 {
      let record = NameRecord.at(first)
      first = record.pointee.next
      if isOver {
        Self.giveUp(record)
      } else {
        RCU.later(
          record.call(), { TakenOut.giveUp(NameRecord.at(UInt(bitPattern: $0))) }, UnsafeMutableRawPointer(record))
      }
    }
  }

  /// Gives up the table's count of an entry that no reader has any more but by others' counts.
  private static func giveUp(_ record: NameRecord.Reference) {
    let entry = Dentry.at(record.pointee.entry)
    // From here on the record may go at any moment, unless it has been replaced.
    if record.pointee.use.finish() { Dentry.releaseLater(record) }
    entry.release()
  }
}

extension Dentry {
  /// Whether a lookup may still believe it: a mount point always. It has been found.
  @inline(__always) var isBelieved: Bool {
    state.noteFound()
    let validUntil = validUntil.load(ordering: .relaxed)
    return validUntil == .max || isStillBelieved(validUntil)
  }

  @inline(never) private func isStillBelieved(_ validUntil: UInt64) -> Bool {
    Clock.now() < validUntil || mountCount.load(ordering: .relaxed) > 0
  }

  /// Counts an entry that a reader has found; nil if it is leaving its table.
  @inline(__always) static func keep(_ entry: Unmanaged<Dentry>) -> Dentry? {
    let isKept = entry._withUnsafeGuaranteedRef {
      $0.state.keep(
        count: {
          _ = entry.retain()
          instruction_compiler_barrier()
        }, uncount: { entry.release() })
    }
    return isKept ? entry.takeRetainedValue() : nil
  }
}
