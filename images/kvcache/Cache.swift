// The items: parts of them by the hash of their keys, each with a lock, a table and a ring of memory.
//
// A part's items lie one behind the other in its ring, in the order in which they were stored; the oldest make room for new ones, and memory is never
// more than was given. What is read and has become old is stored anew, if that cannot hit itself, so what is in use stays. Keys are hashed with a seed
// that nobody outside knows.
import GuestAPI

/// What stands in front of an item's key.
struct ItemHead {
  /// Bytes of the block, a multiple of 16. The filling at the ring's end has only that and `isLive`.
  var blockByteCount: Int32
  var isLive: Bool
  /// Seconds since 1970 at which it was stored, and at which it is no more (0: never).
  var stored = 0
  var expiry = 0
  var nextInBucket: UnsafeMutablePointer<ItemHead>?
  var hash = 0
  /// Unique for each change of an item of the part.
  var version: UInt64 = 0
  var flags: UInt32 = 0
  var keyByteCount: Int32 = 0
  /// Of the value alone.
  var valueByteCount = 0
}

typealias Item = UnsafeMutablePointer<ItemHead>

extension Item {
  // SAFETY of all three: an item's block has room for its head, key and value, and two bytes more.
  var key: UnsafeMutableRawPointer { UnsafeMutableRawPointer(self) + MemoryLayout<ItemHead>.stride }
  var value: UnsafeMutableRawPointer { key + Int(pointee.keyByteCount) }
  /// The value with the end of its line.
  var line: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: value, count: pointee.valueByteCount + 2) }
}

/// A part of the items, used with its lock.
final class Shard {
  let lock = Lock()
  private var buckets: UnsafeMutableBufferPointer<Item?>
  private let ring: UnsafeMutableRawPointer
  private let capacity: Int
  /// Where the next block goes, where the oldest is, and whether the next has begun anew at the ring's beginning while the oldest has not.
  private var head = 0
  private var tail = 0
  private var isWrapped = false
  private var lastVersion: UInt64 = 0
  /// From then on items stored before it are no more; 0: no such time.
  private var flushTime = 0
  private(set) var count = 0
  private(set) var byteCount = 0
  private(set) var evictions = 0
  private(set) var total = 0

  /// - Parameter capacity: bytes of the ring, a multiple of 16.
  init(capacity: Int) {
    self.capacity = capacity
    // Pages of it are there once they are used.
    ring = .allocate(byteCount: capacity, alignment: 16)
    buckets = .allocate(capacity: 1024)
    buckets.initialize(repeating: nil)
  }

  /// Bytes of a block for a key and a value.
  static func blockByteCount(key: Int, value: Int) -> Int {
    (MemoryLayout<ItemHead>.stride + key + value + 2 + 15) & ~15
  }

  /// The item of a key, nil if there is none (any more).
  func find(_ key: UnsafeRawBufferPointer, _ hash: Int, now: Int) -> Item? {
    var next = buckets[hash & (buckets.count - 1)]
    while let item = next {
      if item.pointee.hash == hash, Int(item.pointee.keyByteCount) == key.count,
        UnsafeRawBufferPointer(start: item.key, count: key.count).elementsEqual(key)
      {
        let isFlushed = flushTime != 0 && now >= flushTime && item.pointee.stored < flushTime
        guard !isFlushed, item.pointee.expiry == 0 || item.pointee.expiry > now else {
          remove(item)
          return nil
        }
        return item
      }
      next = item.pointee.nextInBucket
    }
    return nil
  }

  /// The item was read just now: where it is now.
  func touch(_ item: Item) -> Item {
    let offset = UnsafeMutableRawPointer(item) - ring
    let size = Int(item.pointee.blockByteCount)
    let age = head > offset ? head - offset : head + capacity - offset
    let distance = offset >= tail ? offset - tail : offset + capacity - tail
    // Where there is no room, making it takes a block's size, as much to fill the ring's end, and what is left of the last one that went.
    let hasRoom = isWrapped ? tail - head >= size : capacity - head >= size
    guard age > capacity / 4, hasRoom || distance > 2 * size + capacity / 4 else { return item }
    unlink(item)
    let copy = reserve(size)
    UnsafeMutableRawPointer(copy).copyMemory(from: UnsafeMutableRawPointer(item), byteCount: size)
    item.pointee.isLive = false
    link(copy)
    return copy
  }

  /// A new item with that key, whose value is to be filled in, in the place of one that has been removed before.
  func insert(
    key: UnsafeRawBufferPointer, hash: Int, valueByteCount: Int, flags: UInt32, expiry: Int, now: Int
  ) -> Item {
    let item = reserve(Self.blockByteCount(key: key.count, value: valueByteCount))
    lastVersion += 1
    total += 1
    item.pointee.stored = now
    item.pointee.expiry = expiry
    item.pointee.hash = hash
    item.pointee.version = lastVersion
    item.pointee.flags = flags
    item.pointee.keyByteCount = Int32(key.count)
    item.pointee.valueByteCount = valueByteCount
    item.key.copyMemory(from: key.baseAddress!, byteCount: key.count)
    (item.value + valueByteCount).storeBytes(of: 0x0d, as: UInt8.self)
    (item.value + valueByteCount + 1).storeBytes(of: 0x0a, as: UInt8.self)
    link(item)
    return item
  }

  /// Takes an item away. What it held stays as it is until the next is stored.
  func remove(_ item: Item) {
    unlink(item)
    item.pointee.isLive = false
  }

  func removeAll() {
    buckets.update(repeating: nil)
    (head, tail, isWrapped) = (0, 0, false)
    (count, byteCount) = (0, 0)
  }

  /// From that time on what has been stored before is no more.
  func flush(at time: Int) { flushTime = time }

  // MARK: The ring

  private func block(_ offset: Int) -> Item { (ring + offset).assumingMemoryBound(to: ItemHead.self) }

  /// A block at the head, of at most a quarter of the ring; older ones make room.
  private func reserve(_ size: Int) -> Item {
    while true {
      if head == tail, !isWrapped { (head, tail) = (0, 0) }
      if isWrapped {
        if tail - head >= size { break }
        dropOldest()
      } else if capacity - head >= size {
        break
      } else {
        if head < capacity { fill(capacity - head) }
        (head, isWrapped) = (0, true)
      }
    }
    let item = block(head)
    item.initialize(to: ItemHead(blockByteCount: Int32(size), isLive: true))
    head += size
    return item
  }

  /// A block of nothing up to the ring's end, which may be smaller than an item's head.
  private func fill(_ size: Int) {
    (ring + head).storeBytes(of: Int32(size), as: Int32.self)
    (ring + head + MemoryLayout<Int32>.size).storeBytes(of: false, as: Bool.self)
  }

  private func dropOldest() {
    let size = Int((ring + tail).load(as: Int32.self))
    if (ring + tail + MemoryLayout<Int32>.size).load(as: Bool.self) {
      evictions += 1
      unlink(block(tail))
    }
    tail += size
    if tail == capacity { (tail, isWrapped) = (0, false) }
  }

  // MARK: The table

  private func link(_ item: Item) {
    if count >= buckets.count { grow() }
    let bucket = item.pointee.hash & (buckets.count - 1)
    item.pointee.nextInBucket = buckets[bucket]
    buckets[bucket] = item
    count += 1
    byteCount += Int(item.pointee.blockByteCount)
  }

  private func unlink(_ item: Item) {
    let bucket = item.pointee.hash & (buckets.count - 1)
    if buckets[bucket] == item {
      buckets[bucket] = item.pointee.nextInBucket
    } else {
      var before = buckets[bucket]
      while let one = before, one.pointee.nextInBucket != item { before = one.pointee.nextInBucket }
      before?.pointee.nextInBucket = item.pointee.nextInBucket
    }
    count -= 1
    byteCount -= Int(item.pointee.blockByteCount)
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

  let byteLimit: Int
  /// The largest value.
  let valueLimit: Int
  private let shards: [Shard]

  init(byteLimit: Int) {
    self.byteLimit = byteLimit
    let count = 1 << Self.shardBits
    let capacity = byteLimit / count & ~15
    // A block is at most a quarter of a ring.
    valueLimit = min(1 << 20, capacity / 4 - Shard.blockByteCount(key: Self.keyLimit, value: 0))
    shards = (0..<count).map { _ in Shard(capacity: capacity) }
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
