// HashTable: the kernel's dictionary, for trivial keys and values (Swift's Dictionary brings floating point along).
//
// Open addressing with linear probing in a power-of-two array of slots; removal shifts followers back, so there are no
// tombstones and lookups stay short. Grows at three quarters full; memory being out is a trap there, so a table that a
// program can drive is made large enough before (`reserve` under the caller's limit).
// Invariant: a key lies at or behind its home slot (hash modulo capacity), and no slot between the two is empty.
// Not synchronised.

/// A key of a `HashTable`: hashed with the table's key, so that a program cannot aim at one slot.
public protocol HashTableKey: Equatable, BitwiseCopyable {
  /// A hash of all that `==` compares.
  func hash(_ key: SipKey) -> UInt64
}

extension UInt64: HashTableKey {
  /// SipHash of the number.
  @inline(__always) public func hash(_ key: SipKey) -> UInt64 { key.hash(self) }
}

/// Keys with values, both trivial.
public struct HashTable<Key: HashTableKey, Value: BitwiseCopyable>: ~Copyable {
  private struct Slot {
    var key: Key
    var value: Value
    var hash: UInt64
  }

  private let sipKey: SipKey
  private var slots: UnsafeMutablePointer<Slot>?
  private var isUsed: UnsafeMutablePointer<Bool>?
  private var capacity: Int = 0
  /// How many keys there are.
  public private(set) var count: Int = 0

  /// An empty table; allocates nothing.
  public init(key: SipKey) { sipKey = key }

  deinit {
    slots?.deallocate()
    isUsed?.deallocate()
  }

  /// The value of a key, nil if the key is not there.
  public borrowing func find(_ key: Key) -> Value? {
    guard let slots, let index = index(of: key, hash: key.hash(sipKey)) else { return nil }
    return slots[index].value
  }

  /// Gives a key a value, and returns the one it had.
  @discardableResult public mutating func set(_ key: Key, _ value: Value) -> Value? {
    let hash = key.hash(sipKey)
    if let slots, let index = index(of: key, hash: hash) {
      let old = slots[index].value
      slots[index].value = value
      return old
    }
    if (count &+ 1) &* 4 > capacity &* 3 { grow(to: max(8, capacity &* 2)) }
    place(Slot(key: key, value: value, hash: hash))
    count &+= 1
    return nil
  }

  /// Removes a key, and returns the value it had.
  @discardableResult public mutating func remove(_ key: Key) -> Value? {
    guard let slots, let isUsed, let found = index(of: key, hash: key.hash(sipKey)) else { return nil }
    let old = slots[found].value
    let mask = capacity &- 1
    var hole = found
    var next = (hole &+ 1) & mask
    // Whoever may lie in the hole without lying before its home moves there.
    while isUsed[next] {
      let home = slots[next].hash.int & mask
      if (next &- home) & mask >= (next &- hole) & mask {
        slots[hole] = slots[next]
        hole = next
      }
      next = (next &+ 1) & mask
    }
    isUsed[hole] = false
    count &-= 1
    return old
  }

  /// Makes room for that many keys in all, so that no `set` up to there allocates.
  public mutating func reserve(_ keys: Int) {
    var wanted = max(8, capacity)
    while keys &* 4 > wanted &* 3 { wanted &*= 2 }
    if wanted > capacity { grow(to: wanted) }
  }

  /// Calls the body for each key and value, in no order. The table must not be changed meanwhile.
  public borrowing func forEach(_ body: (Key, Value) -> Void) {
    guard let slots, let isUsed else { return }
    for index in 0..<capacity where isUsed[index] { body(slots[index].key, slots[index].value) }
  }

  private borrowing func index(of key: Key, hash: UInt64) -> Int? {
    guard let slots, let isUsed else { return nil }
    let mask = capacity &- 1
    var index = hash.int & mask
    // Ends: at most three quarters are used.
    while isUsed[index] {
      if slots[index].hash == hash && slots[index].key == key { return index }
      index = (index &+ 1) & mask
    }
    return nil
  }

  private mutating func place(_ slot: Slot) {
    guard let slots, let isUsed else { return }
    let mask = capacity &- 1
    var index = slot.hash.int & mask
    while isUsed[index] { index = (index &+ 1) & mask }
    slots[index] = slot
    isUsed[index] = true
  }

  private mutating func grow(to newCapacity: Int) {
    let old = (slots: slots, isUsed: isUsed, capacity: capacity)
    capacity = newCapacity
    // SAFETY: slots are trivial: bytes that `isUsed` does not vouch for are never read.
    slots = .allocate(capacity: capacity)
    let used = UnsafeMutablePointer<Bool>.allocate(capacity: capacity)
    used.initialize(repeating: false, count: capacity)
    isUsed = used
    guard let slots = old.slots, let isUsed = old.isUsed else { return }
    for index in 0..<old.capacity where isUsed[index] { place(slots[index]) }
    slots.deallocate()
    isUsed.deallocate()
  }
}
