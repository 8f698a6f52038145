// DentryCache: the names of one file system that are known, present ones and absent ones.
//
// A hash table in shards, keyed by parent and name; each shard has a lock that is held for the length of a chain only.
// The table keeps what it holds alive. It forgets entries that nobody else refers to, the longest unused ones first (one
// bit, looked at by a hand that goes round), once a shard has its share of `limit`. A directory with known
// children is never forgotten, because they refer to it.
//
// Order of locks: directory locks, then `topology`, then a shard's. Renames take `topology` for writing; paths and ".."
// are read under it. Lookups need only the shard.
//
// SAFETY of all: what is unwrapped unchecked is the parent of an entry that is in a chain, or that is renamed; only roots
// have none, and those are neither. A parent changes under `topology` and while its entry is in no chain.
import Base
import Locks
import Platform

/// The name cache of a file system.
final class DentryCache {
  private final class Shard {
    let lock = Mutex()
    var chains: [Dentry?] = [Dentry?](repeating: nil, count: 4)
    var count = 0
    var hand = 0
  }

  private static let shardCount = 8
  private let shards: [Shard]
  private let limitPerShard: Int
  let topology = ReaderWriterLock()

  init(limit: Int = 65_536) {
    var shards: [Shard] = []
    shards.reserveCapacity(Self.shardCount)
    for _ in 0..<Self.shardCount { shards.append(Shard()) }
    self.shards = shards
    limitPerShard = max(limit / Self.shardCount, 16)
  }

  /// Names in the cache; for tests.
  var count: Int {
    var sum = 0
    for shard in shards { sum &+= shard.lock.withLock { shard.count } }
    return sum
  }

  // MARK: Finding

  /// The entry of a name, if it is known and may still be believed.
  func find(_ parent: Dentry, _ name: PathBytes) -> Dentry? {
    let hash = hash(parent, name)
    let shard = shard(hash)
    shard.lock.lock()
    let found = search(shard, hash, parent, name)
    found?.isRecent = true
    shard.lock.unlock()
    guard let found else { return nil }
    let validUntil = found.validUntil.load(ordering: .relaxed)
    if validUntil == .max || Clock.now() < validUntil { return found }
    return found.mountCount.load(ordering: .relaxed) > 0 ? found : nil
  }

  /// Notes what a directory said about a name, and returns the entry for it: the one there is if it says the same.
  func enter(_ parent: Dentry, _ name: PathBytes, _ result: LookupResult) -> Dentry {
    guard result.validity > 0 else { return Dentry(parent: parent, name: name, vnode: result.vnode, validUntil: 0) }
    let validUntil: UInt64 = result.validity == .max ? .max : Clock.now() &+ result.validity
    let hash = hash(parent, name)
    let shard = shard(hash)
    let fresh = Dentry(parent: parent, name: name, vnode: result.vnode, validUntil: validUntil)
    // Given up once the lock is free.
    var replaced: Dentry?
    var forgotten: Dentry?
    defer {
      withExtendedLifetime(replaced) {}
      _ = Self.release(forgotten)
    }
    shard.lock.lock()
    defer { shard.lock.unlock() }
    if let known = search(shard, hash, parent, name) {
      if known.vnode === result.vnode {
        known.validUntil.store(validUntil, ordering: .relaxed)
        return known
      }
      replaced = known
      unlink(shard, hash, known)
    }
    if shard.count >= limitPerShard { forgotten = takeUnused(shard, 16, rounds: 2) }
    link(shard, hash, fresh)
    return fresh
  }

  // MARK: Changing names; with the directories' locks

  /// Takes a name out that is being removed. Who has the file open keeps the entry.
  func remove(_ entry: Dentry) {
    entry.isUnlinked.store(true, ordering: .releasing)
    forget(entry)
  }

  /// Takes a name out, so that the next lookup asks the file system.
  func forget(_ entry: Dentry) {
    topology.readLock()
    defer { topology.readUnlock() }
    takeOut(entry)
  }

  /// Gives an entry another name or parent, in the place of whatever is known there.
  func move(_ entry: Dentry, to parent: Dentry, _ name: PathBytes) {
    topology.writeLock()
    defer { topology.writeUnlock() }
    takeOut(entry)
    setName(entry, parent, name.copy)
    putIn(entry)
  }

  /// Swaps the places of two entries.
  func exchange(_ first: Dentry, _ second: Dentry) {
    topology.writeLock()
    defer { topology.writeUnlock() }
    takeOut(first)
    takeOut(second)
    let (parent, name) = (first.parent.unsafelyUnwrapped, first.name)
    setName(first, second.parent.unsafelyUnwrapped, second.name)
    setName(second, parent, name)
    putIn(first)
    putIn(second)
  }

  private func setName(_ entry: Dentry, _ parent: Dentry, _ name: [UInt8]) {
    entry.parent = parent
    entry.name = name
  }

  private func takeOut(_ entry: Dentry) {
    guard let parent = entry.parent else { return }
    let hash: UInt64 = entry.name.withPath { self.hash(parent, $0) }
    let shard = shard(hash)
    shard.lock.withLock { unlink(shard, hash, entry) }
  }

  private func putIn(_ entry: Dentry) {
    guard let parent = entry.parent else { return }
    let hash: UInt64 = entry.name.withPath { self.hash(parent, $0) }
    let shard = shard(hash)
    var replaced: Dentry?
    shard.lock.withLock {
      replaced = entry.name.withPath { search(shard, hash, parent, $0) }
      if let replaced { unlink(shard, hash, replaced) }
      link(shard, hash, entry)
    }
    _ = replaced
  }

  // MARK: Places

  /// The entry above; nil for a root.
  func parent(of entry: Dentry) -> Dentry? { topology.withReadLock { entry.parent } }

  /// Whether `ancestor` is `entry` or above it. The file system's rename lock keeps the answer true.
  func isAncestor(_ ancestor: Dentry, of entry: Dentry) -> Bool {
    topology.readLock()
    defer { topology.readUnlock() }
    var next: Dentry? = entry
    while let current = next {
      if current === ancestor { return true }
      next = current.parent
    }
    return false
  }

  // MARK: Chains; with the shard's lock

  @inline(__always) private func hash(_ parent: Dentry, _ name: PathBytes) -> UInt64 {
    let mixed = (name.hash ^ parent.address.u64 &>> 4) &* 0x9e37_79b9_7f4a_7c15
    return mixed ^ mixed &>> 29
  }

  @inline(__always) private func shard(_ hash: UInt64) -> Shard { shards[(hash &>> 32).int & (Self.shardCount &- 1)] }

  private func search(_ shard: Shard, _ hash: UInt64, _ parent: Dentry, _ name: PathBytes) -> Dentry? {
    var next = shard.chains[hash.int & (shard.chains.count &- 1)]
    while let entry = next {
      if entry.parent === parent, entry.name.withPath({ $0 == name }) { return entry }
      next = entry.next
    }
    return nil
  }

  private func link(_ shard: Shard, _ hash: UInt64, _ entry: Dentry) {
    if shard.count >= shard.chains.count &* 2 { grow(shard) }
    let index = hash.int & (shard.chains.count &- 1)
    entry.next = shard.chains[index]
    shard.chains[index] = entry
    shard.count &+= 1
  }

  /// Takes an entry out of its chain, if it is there.
  private func unlink(_ shard: Shard, _ hash: UInt64, _ entry: Dentry) {
    let index = hash.int & (shard.chains.count &- 1)
    var before: Dentry?
    var next = shard.chains[index]
    while let current = next {
      if current === entry {
        if let before { before.next = entry.next } else { shard.chains[index] = entry.next }
        entry.next = nil
        shard.count &-= 1
        return
      }
      before = current
      next = current.next
    }
  }

  private func grow(_ shard: Shard) {
    let old = shard.chains
    shard.chains = [Dentry?](repeating: nil, count: old.count &* 2)
    for chain in old {
      var next = chain
      while let entry = next {
        next = entry.next
        let index = entry.name.withPath { hash(entry.parent.unsafelyUnwrapped, $0) }.int & (shard.chains.count &- 1)
        entry.next = shard.chains[index]
        shard.chains[index] = entry
      }
    }
  }

  // MARK: Shrinking

  /// Forgets up to `limit` names that only the table refers to and that were not found lately. For when memory is short: allocates
  /// nothing, waits for no lock.
  /// - Returns: how many.
  func shrink(_ limit: Int) -> Int {
    var given = 0
    for shard in shards where given < limit {
      guard shard.lock.tryLock() else { continue }
      let forgotten = takeUnused(shard, limit &- given, rounds: 1)
      shard.lock.unlock()
      given &+= Self.release(forgotten)
    }
    return given
  }

  /// Gives up a chain of entries that were taken out, one by one: the end of a long chain must not be many ends inside one another.
  /// - Returns: how many.
  private static func release(_ chain: consuming Dentry?) -> Int {
    var rest = chain
    var count = 0
    while let entry = rest {
      rest = entry.next
      entry.next = nil
      count &+= 1
    }
    return count
  }

  /// Takes out entries that only the table refers to and that were not found lately, so many times round the shard at most; they are
  /// chained to one another, to be given up without the lock.
  private func takeUnused(_ shard: Shard, _ limit: Int, rounds: Int) -> Dentry? {
    var taken: Dentry?
    var count = 0
    var turns = shard.chains.count &* rounds
    while turns > 0, count < limit {
      turns &-= 1
      shard.hand = (shard.hand &+ 1) & (shard.chains.count &- 1)
      var kept: Dentry?
      var next = shard.chains[shard.hand]
      shard.chains[shard.hand] = nil
      while var entry = next {
        next = entry.next
        entry.next = nil
        // Chains are short: the order within one does not matter. `entry` is the only reference if nobody uses it.
        if !entry.isRecent, isKnownUniquelyReferenced(&entry) {
          entry.next = taken
          taken = entry
          count &+= 1
          shard.count &-= 1
        } else {
          entry.isRecent = false
          entry.next = kept
          kept = entry
        }
      }
      shard.chains[shard.hand] = kept
    }
    return taken
  }
}
