// IntrusiveList: a doubly linked list through its members; no allocation, O(1) everything.
//
// A member is in one list of a kind at a time and knows whether it is in one. Its owner keeps it alive and in place.
// Invariants: `first` has no previous, `last` no next; both are nil together; a member's `isLinked` is true just while
// it is between (or at) them.
//
// SAFETY of all: a member's owner keeps it alive and in place while it is linked. Links are nil or members of the same list;
// they are touched by the list's calls only, and whoever makes one that changes the list is alone with it.

/// A member's links; the list's alone.
public struct ListLinks<Member: ~Copyable> {
  var next: UnsafeMutablePointer<Member>?
  var previous: UnsafeMutablePointer<Member>?
  /// Whether the member is in a list.
  public fileprivate(set) var isLinked: Bool = false
  /// Links of a member of no list.
  @inline(__always) public init() {}
}

/// What can be in an `IntrusiveList`.
public protocol ListMember: ~Copyable {
  /// The list's links.
  var links: ListLinks<Self> { get set }
}

/// A list of members owned by others.
public struct IntrusiveList<Member: ListMember & ~Copyable>: ~Copyable {
  /// The first member, nil if there is none.
  public private(set) var first: UnsafeMutablePointer<Member>?
  /// The last member, nil if there is none.
  public private(set) var last: UnsafeMutablePointer<Member>?

  /// An empty list.
  @inline(__always) public init() {}

  /// Whether there is no member.
  @inline(__always) public var isEmpty: Bool { first == nil }

  /// The member behind this one.
  @inline(__always) public func next(_ member: UnsafeMutablePointer<Member>) -> UnsafeMutablePointer<Member>? {
    member.pointee.links.next
  }

  /// Adds a member of no list at the end.
  @inline(__always) public mutating func append(_ member: UnsafeMutablePointer<Member>) {
    link(member, after: last, before: nil)
  }

  /// Adds a member of no list at the beginning.
  @inline(__always) public mutating func prepend(_ member: UnsafeMutablePointer<Member>) {
    link(member, after: nil, before: first)
  }

  /// Adds a member of no list before one of this list.
  @inline(__always) public mutating func insert(
    _ member: UnsafeMutablePointer<Member>, before other: UnsafeMutablePointer<Member>
  ) {
    link(member, after: other.pointee.links.previous, before: other)
  }

  /// Takes a member of this list out.
  @inline(__always) public mutating func remove(_ member: UnsafeMutablePointer<Member>) {
    let links = member.pointee.links
    assert(links.isLinked)
    if let next = links.next { next.pointee.links.previous = links.previous } else { last = links.previous }
    if let previous = links.previous { previous.pointee.links.next = links.next } else { first = links.next }
    member.pointee.links = ListLinks()
  }

  /// Takes the first member out.
  @inline(__always) public mutating func removeFirst() -> UnsafeMutablePointer<Member>? {
    guard let member = first else { return nil }
    remove(member)
    return member
  }

  private mutating func link(
    _ member: UnsafeMutablePointer<Member>, after previous: UnsafeMutablePointer<Member>?,
    before next: UnsafeMutablePointer<Member>?
  ) {
    assert(!member.pointee.links.isLinked)
    member.pointee.links.next = next
    member.pointee.links.previous = previous
    member.pointee.links.isLinked = true
    if let previous { previous.pointee.links.next = member } else { first = member }
    if let next { next.pointee.links.previous = member } else { last = member }
  }
}
