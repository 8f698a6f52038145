// PairingHeap: a priority queue of nodes that live in their owners; no allocation ever.
//
// Insertion and finding the first are O(1), removal of any node O(log n) amortised. Chosen over a binary heap because it
// needs no array that could be full, and over a red-black tree because nothing needs the order of all.
// Invariants: the root precedes (or equals) all; every node precedes its children; `previous` of a node is its left
// sibling or, for a leftmost child, its parent; the root has neither sibling nor previous. Depth of recursion: none.
//
// SAFETY of all: a node's owner keeps it alive and in place while it is in a heap. Links are nil or nodes of the same heap;
// they are touched by the heap's calls only, and whoever makes one that changes the heap is alone with it.

/// The links of a node in a `PairingHeap`; the heap's alone.
public struct PairingLinks<Node: ~Copyable> {
  var child: UnsafeMutablePointer<Node>?
  var sibling: UnsafeMutablePointer<Node>?
  var previous: UnsafeMutablePointer<Node>?
  /// Links of a node in no heap.
  @inline(__always) public init() {}
}

/// What can be in a `PairingHeap`, in one at a time.
public protocol PairingNode: ~Copyable {
  /// The heap's links.
  var links: PairingLinks<Self> { get set }
  /// Whether this one comes out before the other; must not change while in a heap.
  borrowing func precedes(_ other: borrowing Self) -> Bool
}

/// A priority queue over nodes owned by others, who keep them alive and in place while they are in it.
public struct PairingHeap<Node: PairingNode & ~Copyable>: ~Copyable {
  /// The node that comes out first; nil if there is none.
  public private(set) var first: UnsafeMutablePointer<Node>?

  /// An empty heap.
  @inline(__always) public init() {}

  /// Whether there is no node.
  @inline(__always) public var isEmpty: Bool { first == nil }

  /// Adds a node that is in no heap. After others that it does not precede.
  public mutating func insert(_ node: UnsafeMutablePointer<Node>) {
    node.pointee.links = PairingLinks()
    first = Self.meld(first, node)
  }

  /// Takes out the first.
  public mutating func removeFirst() -> UnsafeMutablePointer<Node>? {
    guard let node = first else { return nil }
    first = Self.combine(node.pointee.links.child)
    node.pointee.links = PairingLinks()
    return node
  }

  /// Takes out a node that is in this heap.
  public mutating func remove(_ node: UnsafeMutablePointer<Node>) {
    if node == first {
      _ = removeFirst()
      return
    }
    let links = node.pointee.links
    let previous = links.previous.unsafelyUnwrapped  // Only the root has none.
    if previous.pointee.links.child == node {
      previous.pointee.links.child = links.sibling
    } else {
      previous.pointee.links.sibling = links.sibling
    }
    if let sibling = links.sibling { sibling.pointee.links.previous = previous }
    first = Self.meld(first, Self.combine(links.child))
    node.pointee.links = PairingLinks()
  }

  /// Calls the body with every node, parents before children. It may change the nodes, but not whom they precede.
  public borrowing func forEach(_ body: (UnsafeMutablePointer<Node>) -> Void) {
    var next = first
    while let node = next {
      body(node)
      next = node.pointee.links.child ?? Self.following(node)
    }
  }

  /// The next node that is not below this one.
  private static func following(_ start: UnsafeMutablePointer<Node>) -> UnsafeMutablePointer<Node>? {
    var node = start
    while true {
      if let sibling = node.pointee.links.sibling { return sibling }
      // Up: to the leftmost of the siblings, and from there to the parent.
      while let previous = node.pointee.links.previous, previous.pointee.links.child != node { node = previous }
      guard let parent = node.pointee.links.previous else { return nil }
      node = parent
    }
  }

  /// Joins two heaps given by their roots; the left one stays on top of equals.
  private static func meld(
    _ left: UnsafeMutablePointer<Node>?, _ right: UnsafeMutablePointer<Node>?
  ) -> UnsafeMutablePointer<Node>? {
    guard let left else { return right }
    guard let right else { return left }
    let isRightFirst = right.pointee.precedes(left.pointee)
    let top = isRightFirst ? right : left
    let under = isRightFirst ? left : right
    let child = top.pointee.links.child
    under.pointee.links.sibling = child
    under.pointee.links.previous = top
    if let child { child.pointee.links.previous = under }
    top.pointee.links.child = under
    return top
  }

  /// Joins a list of siblings to one heap: pairs from left to right, then the pairs from right to left.
  private static func combine(_ siblings: UnsafeMutablePointer<Node>?) -> UnsafeMutablePointer<Node>? {
    var pairs: UnsafeMutablePointer<Node>?
    var rest = siblings
    while let one = rest {
      let two = one.pointee.links.sibling
      rest = two.flatMap { $0.pointee.links.sibling }
      one.pointee.links.sibling = nil
      one.pointee.links.previous = nil
      if let two {
        two.pointee.links.sibling = nil
        two.pointee.links.previous = nil
      }
      let pair = meld(one, two).unsafelyUnwrapped
      pair.pointee.links.sibling = pairs
      pairs = pair
    }
    var root: UnsafeMutablePointer<Node>?
    while let pair = pairs {
      pairs = pair.pointee.links.sibling
      pair.pointee.links.sibling = nil
      root = meld(pair, root)
    }
    return root
  }
}
