// The regions of an address space, in an AVL tree ordered by address and augmented with holes, so that finding a region and
// finding a free range are both logarithmic. Regions never overlap; the tree does not own its records.
import Base

/// A balanced tree of regions.
struct RegionTree: ~Copyable {
  private(set) var root: RegionPointer?
  /// Regions in the tree.
  private(set) var count = 0
  /// Sum of their bytes.
  private(set) var byteCount: UInt64 = 0

  init() {}

  // MARK: Looking

  /// The lowest region that ends above `address`: the one that contains it, or else the next one.
  func first(endingAbove address: UInt64) -> RegionPointer? {
    var node = root
    var best: RegionPointer?
    while let here = node {
      if here.pointee.end > address {
        best = here
        node = here.pointee.left
      } else {
        node = here.pointee.right
      }
    }
    return best
  }

  /// The region that contains `address`.
  func find(_ address: UInt64) -> RegionPointer? {
    guard let region = first(endingAbove: address), region.pointee.start <= address else { return nil }
    return region
  }

  /// The region behind another one.
  func next(after region: RegionPointer) -> RegionPointer? { first(endingAbove: region.pointee.end) }

  /// The highest region that starts below `address`.
  func last(startingBelow address: UInt64) -> RegionPointer? {
    var node = root
    var best: RegionPointer?
    while let here = node {
      if here.pointee.start < address {
        best = here
        node = here.pointee.right
      } else {
        node = here.pointee.left
      }
    }
    return best
  }

  /// Whether no region has a byte in `start..<end`.
  func isFree(_ start: UInt64, _ end: UInt64) -> Bool {
    guard let region = first(endingAbove: start) else { return true }
    return region.pointee.start >= end
  }

  /// The highest free range of `size` bytes within `low..<high` whose start is a multiple of `alignment`.
  func highestGap(size: UInt64, low: UInt64, high: UInt64, alignment: UInt64 = 4096) -> UInt64? {
    gap(root, size, low, high, alignment)
  }

  /// `low..<high` is what lies around the subtree, clipped to what is asked for.
  private func gap(_ node: RegionPointer?, _ size: UInt64, _ low: UInt64, _ high: UInt64, _ alignment: UInt64)
    -> UInt64?
  {
    guard high > low && high &- low >= size else { return nil }
    guard let here = node else {
      let start = (high &- size).alignedDown(to: alignment)
      return start >= low ? start : nil
    }
    let start = here.pointee.treeStart
    let end = here.pointee.treeEnd
    let outside = (high > end && high &- max(end, low) >= size) || (start > low && min(start, high) &- low >= size)
    guard outside || here.pointee.treeGap >= size else { return nil }
    if here.pointee.end < high,
      let found = gap(here.pointee.right, size, max(low, here.pointee.end), high, alignment)
    {
      return found
    }
    return gap(here.pointee.left, size, low, min(high, here.pointee.start), alignment)
  }

  // MARK: Changing

  /// Puts a region in; it must not overlap another one.
  mutating func insert(_ region: RegionPointer) {
    region.pointee.left = nil
    region.pointee.right = nil
    Self.update(region)
    root = Self.insert(region, into: root)
    count &+= 1
    byteCount &+= region.pointee.end &- region.pointee.start
  }

  /// Takes a region out.
  mutating func remove(_ region: RegionPointer) {
    root = Self.remove(region.pointee.start, from: root)
    count &-= 1
    byteCount &-= region.pointee.end &- region.pointee.start
  }

  /// Changes a region's bounds without passing a neighbour.
  mutating func resize(_ region: RegionPointer, start: UInt64, end: UInt64) {
    byteCount &-= region.pointee.end &- region.pointee.start
    let key = region.pointee.start
    region.pointee.start = start
    region.pointee.end = end
    byteCount &+= end &- start
    Self.refresh(root, region, key: key)
  }

  private static func insert(_ region: RegionPointer, into node: RegionPointer?) -> RegionPointer {
    guard let node else { return region }
    if region.pointee.start < node.pointee.start {
      node.pointee.left = insert(region, into: node.pointee.left)
    } else {
      node.pointee.right = insert(region, into: node.pointee.right)
    }
    return balance(node)
  }

  private static func remove(_ start: UInt64, from node: RegionPointer?) -> RegionPointer? {
    guard let node else { return nil }
    if start < node.pointee.start {
      node.pointee.left = remove(start, from: node.pointee.left)
    } else if start > node.pointee.start {
      node.pointee.right = remove(start, from: node.pointee.right)
    } else {
      guard let right = node.pointee.right else { return node.pointee.left }
      var lowest: RegionPointer?
      let rest = removeLowest(right, &lowest)
      let successor = lowest.unsafelyUnwrapped
      successor.pointee.right = rest
      successor.pointee.left = node.pointee.left
      return balance(successor)
    }
    return balance(node)
  }

  private static func removeLowest(_ node: RegionPointer, _ lowest: inout RegionPointer?) -> RegionPointer? {
    guard let left = node.pointee.left else {
      lowest = node
      return node.pointee.right
    }
    node.pointee.left = removeLowest(left, &lowest)
    return balance(node)
  }

  /// Recomputes what depends on a region's bounds on the way down to it. `key` is its start before the change, and the
  /// other regions on the way still tell left from right by it.
  private static func refresh(_ node: RegionPointer?, _ region: RegionPointer, key: UInt64) {
    guard let node else { return }
    if node != region { refresh(key < node.pointee.start ? node.pointee.left : node.pointee.right, region, key: key) }
    update(node)
  }

  private static func update(_ node: RegionPointer) {
    let left = node.pointee.left
    let right = node.pointee.right
    node.pointee.height = 1 &+ max(left?.pointee.height ?? 0, right?.pointee.height ?? 0)
    node.pointee.treeStart = left?.pointee.treeStart ?? node.pointee.start
    node.pointee.treeEnd = right?.pointee.treeEnd ?? node.pointee.end
    var gap: UInt64 = 0
    if let left { gap = max(left.pointee.treeGap, node.pointee.start &- left.pointee.treeEnd) }
    if let right { gap = max(gap, max(right.pointee.treeGap, right.pointee.treeStart &- node.pointee.end)) }
    node.pointee.treeGap = gap
  }

  private static func balance(_ node: RegionPointer) -> RegionPointer {
    let tilt = Self.tilt(node)
    if tilt > 1, let left = node.pointee.left {
      if Self.tilt(left) < 0 { node.pointee.left = rotateLeft(left) }
      return rotateRight(node)
    }
    if tilt < -1, let right = node.pointee.right {
      if Self.tilt(right) > 0 { node.pointee.right = rotateRight(right) }
      return rotateLeft(node)
    }
    update(node)
    return node
  }

  private static func tilt(_ node: RegionPointer) -> Int {
    (node.pointee.left?.pointee.height ?? 0) &- (node.pointee.right?.pointee.height ?? 0)
  }

  private static func rotateRight(_ node: RegionPointer) -> RegionPointer {
    guard let left = node.pointee.left else { return node }
    node.pointee.left = left.pointee.right
    left.pointee.right = node
    update(node)
    update(left)
    return left
  }

  private static func rotateLeft(_ node: RegionPointer) -> RegionPointer {
    guard let right = node.pointee.right else { return node }
    node.pointee.right = right.pointee.left
    right.pointee.left = node
    update(node)
    update(right)
    return right
  }

  /// For tests: whether order, balance and the sums in all nodes are right.
  func isSound() -> Bool {
    var previous: UInt64 = 0
    return Self.isSound(root, &previous)
  }

  private static func isSound(_ node: RegionPointer?, _ previous: inout UInt64) -> Bool {
    guard let node else { return true }
    guard isSound(node.pointee.left, &previous) else { return false }
    guard node.pointee.start >= previous, node.pointee.end > node.pointee.start else { return false }
    previous = node.pointee.end
    guard isSound(node.pointee.right, &previous) else { return false }
    let before = node.pointee
    update(node)
    return abs(tilt(node)) <= 1 && before.height == node.pointee.height && before.treeGap == node.pointee.treeGap
      && before.treeStart == node.pointee.treeStart && before.treeEnd == node.pointee.treeEnd
  }
}
