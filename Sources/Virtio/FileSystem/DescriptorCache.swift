// A bounded cache of open descriptors by node, least recently used first out: what keeps the server's descriptors
// independent of the size of the tree. All access is under the server's lock; descriptors close when their last user is done.

/// What a cached descriptor is good for.
enum DescriptorUse: UInt64, CaseIterable {
  /// O_PATH of a directory: names are looked up beneath it.
  case names = 0
  /// A directory opened for reading. Taken out while in use, since its position is its state.
  case entries = 1
  /// A regular file opened for reading.
  case data = 2
  /// A regular file opened for writing, and for reading where its mode allows that.
  case writing = 3
}

/// The cache.
struct DescriptorCache {
  private struct Slot {
    var key: UInt64
    var descriptor: OpenDescriptor
    /// When it was last known to lie beneath the root (ns of the server's clock).
    var verified: UInt64
    var newer: Int
    var older: Int
  }

  private static let none = -1
  private var slots: [Slot] = []
  private var index: [UInt64: Int] = [:]
  private var newest = DescriptorCache.none
  private var oldest = DescriptorCache.none
  private let capacity: Int

  /// A cache of `capacity` descriptors, 1 or more.
  init(capacity: Int) { self.capacity = max(1, capacity) }

  /// Descriptors in the cache.
  var count: Int { slots.count }

  /// The descriptor of a node and when it was verified; it becomes the most recently used.
  mutating func find(_ node: UInt64, _ use: DescriptorUse) -> (descriptor: OpenDescriptor, verified: UInt64)? {
    guard let slot = index[Self.key(node, use)] else { return nil }
    detach(slot)
    attach(slot)
    return (slots[slot].descriptor, slots[slot].verified)
  }

  /// Puts a descriptor in, in place of an older one of the same node and use, or of the least recently used.
  mutating func insert(_ node: UInt64, _ use: DescriptorUse, _ descriptor: OpenDescriptor, verified: UInt64) {
    let key = Self.key(node, use)
    var slot = index[key] ?? Self.none
    if slot == Self.none, slots.count < capacity {
      slots.append(Slot(key: key, descriptor: descriptor, verified: verified, newer: Self.none, older: Self.none))
      slot = slots.count - 1
    } else {
      if slot == Self.none {
        slot = oldest
        index[slots[slot].key] = nil
      }
      detach(slot)
      slots[slot].key = key
      slots[slot].descriptor = descriptor
      slots[slot].verified = verified
    }
    index[key] = slot
    attach(slot)
  }

  /// Takes a descriptor out.
  mutating func remove(_ node: UInt64, _ use: DescriptorUse) -> (descriptor: OpenDescriptor, verified: UInt64)? {
    guard let slot = index.removeValue(forKey: Self.key(node, use)) else { return nil }
    let found = (slots[slot].descriptor, slots[slot].verified)
    detach(slot)
    let last = slots.count - 1
    if slot != last {
      let moved = slots[last]
      slots[slot] = moved
      index[moved.key] = slot
      if moved.newer != Self.none { slots[moved.newer].older = slot } else { newest = slot }
      if moved.older != Self.none { slots[moved.older].newer = slot } else { oldest = slot }
    }
    slots.removeLast()
    return found
  }

  private static func key(_ node: UInt64, _ use: DescriptorUse) -> UInt64 { node << 2 | use.rawValue }

  private mutating func detach(_ slot: Int) {
    let entry = slots[slot]
    if entry.newer != Self.none { slots[entry.newer].older = entry.older } else { newest = entry.older }
    if entry.older != Self.none { slots[entry.older].newer = entry.newer } else { oldest = entry.newer }
  }

  private mutating func attach(_ slot: Int) {
    slots[slot].newer = Self.none
    slots[slot].older = newest
    if newest != Self.none { slots[newest].newer = slot } else { oldest = slot }
    newest = slot
  }
}
