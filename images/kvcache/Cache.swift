// The items: hash tables, each with a lock and its items in the order of their last use.
//
// An item is one block: what is known of it, its key, its value and the line's end that follows it in answers. What a shard holds is bounded;
// the items that were not used for longest go first. Keys are hashed with a seed that nobody outside knows.
import GuestAPI

/// What stands in front of an item's key.
struct ItemHead {
  var nextInBucket: UnsafeMutablePointer<ItemHead>?
  var older: UnsafeMutablePointer<ItemHead>?
  var newer: UnsafeMutablePointer<ItemHead>?
  var hash: Int
  /// Unique for each change of an item.
  var version: UInt64
  /// Seconds since 1970 at which it is no more; 0: never.
  var expiry: Int
  var flags: UInt32
  var keyByteCount: Int32
  /// Of the value alone.
  var valueByteCount: Int
}

typealias Item = UnsafeMutablePointer<ItemHead>

extension Item {
  // SAFETY of all three: an item's block has room for its head, key and value, and two bytes more.
  var key: UnsafeMutableRawPointer { UnsafeMutableRawPointer(self) + MemoryLayout<ItemHead>.stride }
  var value: UnsafeMutableRawPointer { key + Int(pointee.keyByteCount) }
  /// The value with the end of its line.
  var line: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: value, count: pointee.valueByteCount + 2) }
  /// What its block takes of the program's memory, which gives out powers of two, with 16 bytes in front.
  var byteCount: Int {
    let used = MemoryLayout<ItemHead>.stride + Int(pointee.keyByteCount) + pointee.valueByteCount + 2 + 16
    return 1 << (Int.bitWidth - (used - 1).leadingZeroBitCount)
  }

  static func make(key: UnsafeRawBufferPointer, hash: Int, valueByteCount: Int) -> Item {
    let block = UnsafeMutableRawPointer.allocate(
      byteCount: MemoryLayout<ItemHead>.stride + key.count + valueByteCount + 2, alignment: 16)
    let item = block.initializeMemory(
      as: ItemHead.self,
      to: ItemHead(
        hash: hash, version: 0, expiry: 0, flags: 0, keyByteCount: Int32(key.count), valueByteCount: valueByteCount))
    item.key.copyMemory(from: key.baseAddress!, byteCount: key.count)
    (item.value + valueByteCount).storeBytes(of: 0x0d, as: UInt8.self)
    (item.value + valueByteCount + 1).storeBytes(of: 0x0a, as: UInt8.self)
    return item
  }
}

/// A part of the items, used with its lock.
final class Shard {
  let lock = Lock()
  private var buckets: UnsafeMutableBufferPointer<Item?>
  private var oldest: Item?
  private var newest: Item?
  private let byteLimit: Int
  private var lastVersion: UInt64 = 0
  private(set) var count = 0
  private(set) var byteCount = 0
  private(set) var evictions = 0
  private(set) var total = 0

  init(byteLimit: Int) {
    self.byteLimit = byteLimit
    buckets = .allocate(capacity: 1024)
    buckets.initialize(repeating: nil)
  }

  /// The item of a key, nil if there is none (any more).
  func find(_ key: UnsafeRawBufferPointer, _ hash: Int, now: Int) -> Item? {
    var next = buckets[hash & (buckets.count - 1)]
    while let item = next {
      if item.pointee.hash == hash, Int(item.pointee.keyByteCount) == key.count,
        UnsafeRawBufferPointer(start: item.key, count: key.count).elementsEqual(key)
      {
        if item.pointee.expiry != 0, item.pointee.expiry <= now {
          remove(item)
          return nil
        }
        return item
      }
      next = item.pointee.nextInBucket
    }
    return nil
  }

  /// The item was used just now.
  func touch(_ item: Item) {
    guard newest != item else { return }
    unlink(item)
    link(item)
  }

  /// Takes an item over, in the place of `old` if there was one.
  func insert(_ item: Item, replacing old: Item?) {
    if let old { remove(old) }
    lastVersion += 1
    item.pointee.version = lastVersion
    byteCount += item.byteCount
    while byteCount > byteLimit, let oldest {
      evictions += 1
      remove(oldest)
    }
    if count >= buckets.count { grow() }
    let bucket = item.pointee.hash & (buckets.count - 1)
    item.pointee.nextInBucket = buckets[bucket]
    buckets[bucket] = item
    link(item)
    count += 1
    total += 1
  }

  /// Takes an item away.
  func remove(_ item: Item) {
    let bucket = item.pointee.hash & (buckets.count - 1)
    if buckets[bucket] == item {
      buckets[bucket] = item.pointee.nextInBucket
    } else {
      var before = buckets[bucket]
      while let one = before, one.pointee.nextInBucket != item { before = one.pointee.nextInBucket }
      before?.pointee.nextInBucket = item.pointee.nextInBucket
    }
    unlink(item)
    count -= 1
    byteCount -= item.byteCount
    UnsafeMutableRawPointer(item).deallocate()
  }

  func removeAll() {
    while let oldest { remove(oldest) }
  }

  /// No item that is here now lives longer than that.
  func limit(to expiry: Int) {
    var next = oldest
    while let item = next {
      if item.pointee.expiry == 0 || item.pointee.expiry > expiry { item.pointee.expiry = expiry }
      next = item.pointee.newer
    }
  }

  private func link(_ item: Item) {
    item.pointee.older = newest
    item.pointee.newer = nil
    newest?.pointee.newer = item
    newest = item
    if oldest == nil { oldest = item }
  }

  private func unlink(_ item: Item) {
    let (older, newer) = (item.pointee.older, item.pointee.newer)
    if let older { older.pointee.newer = newer } else { oldest = newer }
    if let newer { newer.pointee.older = older } else { newest = older }
  }

  private func grow() {
    let larger = UnsafeMutableBufferPointer<Item?>.allocate(capacity: buckets.count * 2)
    larger.initialize(repeating: nil)
    for first in buckets {
      var next = first
      while let item = next {
        next = item.pointee.nextInBucket
        let bucket = item.pointee.hash & (larger.count - 1)
        item.pointee.nextInBucket = larger[bucket]
        larger[bucket] = item
      }
    }
    buckets.deallocate()
    buckets = larger
  }
}

// SAFETY: the shards never change, and have locks.
/// All items.
final class Cache: @unchecked Sendable {
  private static let shardBits = 6
  static let keyLimit = 250
  static let valueLimit = 1 << 20

  let byteLimit: Int
  private let shards: [Shard]

  init(byteLimit: Int) {
    self.byteLimit = byteLimit
    let count = 1 << Self.shardBits
    shards = (0..<count).map { _ in Shard(byteLimit: byteLimit / count) }
  }

  /// Runs the body with the shard of a key, locked.
  func with<Result>(_ key: UnsafeRawBufferPointer, _ body: (Shard, _ hash: Int) -> Result) -> Result {
    var hasher = Hasher()
    hasher.combine(bytes: key)
    let hash = hasher.finalize()
    let shard = shards[hash >> 48 & ((1 << Self.shardBits) - 1)]
    return shard.lock.withLock { body(shard, hash) }
  }

  /// Runs the body with each shard, locked.
  func forEach(_ body: (Shard) -> Void) {
    for shard in shards { shard.lock.withLock { body(shard) } }
  }
}
