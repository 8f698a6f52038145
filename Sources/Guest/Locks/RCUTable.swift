// RCUTable: a hash table that readers search under RCU, without a lock and without writing, also while it grows.
//
// Chains of intrusive nodes hang on an array of buckets. Each node has two links: the array in use says which of them its chains
// use. Growing builds the chains of a larger array over the other links, which no reader follows, and then publishes that
// array: readers that are under way go on through the old one, later ones take the new one.
//
// An array's words: `size` buckets (a power of two) after a word that holds the size, times two, plus the number of the link.
//
// Invariants, and why they hold (writers come one at a time, which the caller sees to; readers never wait):
//  1. A reader finds a node that is in the table from before its section to after it: the chains of the array that it loaded
//     (acquiring) held the node when that array was published (releasing) or it was inserted, and removing others only
//     makes a chain skip them.
//  2. No reader follows a link that is being rewritten: growing writes the links that the array in use does not use, and begins
//     only once the array before that one is gone (`isGrowing`), which was freed after a grace period, so that nobody follows
//     its links.
//  3. A removed node keeps its links until it is freed or inserted again, after a grace period, which is the caller's business;
//     who stands on it finds the way on.

import Base

/// A node of a table; part of what it stands for.
public struct RCUTableNode<Word: LockWord & ~Copyable>: ~Copyable {
  fileprivate let even = Word(0)
  fileprivate let odd = Word(0)
  /// The key's hash; constant while the node is in a table.
  public var hash: UInt
  /// Whose node this is: what searches give.
  public var owner: UInt

  /// A node in no table.
  public init(hash: UInt, owner: UInt) {
    self.hash = hash
    self.owner = owner
  }
}

/// A growing hash table with readers under RCU.
public struct RCUTableCore<Word: LockWord & ~Copyable>: ~Copyable {
  /// A node's address.
  public typealias Node = UnsafeMutablePointer<RCUTableNode<Word>>
  /// An array of buckets with its size: one word more than it has buckets.
  public typealias Buckets = UnsafeMutablePointer<Word>

  private let current: Word
  private let growing = Word(0)
  private let number = Word(0)

  /// An empty table over an array of `size` buckets (a power of two) in fresh memory for `wordCount(size)` words.
  public init(_ memory: Buckets, size: Int) {
    Self.prepare(memory, size: size, link: 0)
    current = Word(UInt(bitPattern: memory))
  }

  /// Words of an array with so many buckets.
  public static func wordCount(size: Int) -> Int { size &+ 1 }

  /// The array in use, for whoever takes the table apart.
  public var buckets: Buckets { at(current.load()) }

  /// How many nodes there are; exact for the writer.
  public var count: Int { number.load().int }

  private static func prepare(_ memory: Buckets, size: Int, link: UInt) {
    memory.initialize(to: Word(size.uint &* 2 &+ link))
    for index in 1...size { (memory + index).initialize(to: Word(0)) }
  }

  @inline(__always) private borrowing func at(_ word: UInt) -> Buckets {
    // SAFETY: the word is always the address of an array.
    UnsafeMutablePointer(bitPattern: word).unsafelyUnwrapped
  }

  @inline(__always) private static func node(_ word: UInt) -> Node? {
    // SAFETY: words of chains are 0 or addresses of nodes, which are not freed under a reader.
    UnsafeMutablePointer(bitPattern: word)
  }

  @inline(__always) private static func withLink<R>(
    _ node: Node, _ link: UInt, _ body: (borrowing Word) -> R
  ) -> R {
    link == 0 ? body(node.pointee.even) : body(node.pointee.odd)
  }

  // MARK: Reading

  /// The owner of the first node with that hash that `matches`; nil if there is none. A reader, or the writer.
  @inline(__always) public borrowing func find(_ hash: UInt, where matches: (UInt) -> Bool) -> UInt? {
    let buckets = at(current.load())
    let form = buckets.pointee.peek()
    var next = buckets[1 &+ (hash & (form &>> 1 &- 1)).int].load()
    while let node = Self.node(next) {
      if node.pointee.hash == hash && matches(node.pointee.owner) { return node.pointee.owner }
      next = Self.withLink(node, form & 1) { $0.load() }
    }
    return nil
  }

  /// Gives the body every owner; those that come or go meanwhile may be missing. A reader, or the writer, whose body may remove the
  /// node that it was given.
  public borrowing func forEach(_ body: (UInt) -> Void) {
    let buckets = at(current.load())
    let form = buckets.pointee.peek()
    for index in 0..<(form &>> 1).int {
      var next = buckets[1 &+ index].load()
      while let node = Self.node(next) {
        next = Self.withLink(node, form & 1) { $0.load() }
        body(node.pointee.owner)
      }
    }
  }

  /// How many buckets there are, for the writer.
  public var bucketCount: Int { (at(current.load()).pointee.peek() &>> 1).int }

  // MARK: Writing, one at a time

  /// Gives the body every owner in one bucket; it may remove the node that it was given.
  public borrowing func forEach(inBucket index: Int, _ body: (UInt) -> Void) {
    let buckets = at(current.load())
    let form = buckets.pointee.peek()
    var next = buckets[1 &+ index].load()
    while let node = Self.node(next) {
      next = Self.withLink(node, form & 1) { $0.load() }
      body(node.pointee.owner)
    }
  }

  /// Adds a node that is in no table and that no reader has seen in this one since a grace period.
  public borrowing func insert(_ node: Node) {
    let buckets = at(current.load())
    Self.push(node, onto: buckets, form: buckets.pointee.peek())
    number.poke(number.peek() &+ 1)
  }

  private static func push(_ node: Node, onto buckets: Buckets, form: UInt) {
    let bucket = buckets + (1 &+ (node.pointee.hash & (form &>> 1 &- 1)).int)
    withLink(node, form & 1) { $0.store(bucket.pointee.load()) }
    bucket.pointee.store(UInt(bitPattern: node))
  }

  /// Takes a node out, false if it is not there. Readers may still see it until a grace period has passed.
  @discardableResult public borrowing func remove(_ node: Node) -> Bool {
    let buckets = at(current.load())
    let form = buckets.pointee.peek()
    let bucket = buckets + (1 &+ (node.pointee.hash & (form &>> 1 &- 1)).int)
    var before: Node?
    var next = bucket.pointee.load()
    while let other = Self.node(next) {
      next = Self.withLink(other, form & 1) { $0.load() }
      if other == node {
        if let before { Self.withLink(before, form & 1) { $0.store(next) } } else { bucket.pointee.store(next) }
        number.poke(number.peek() &- 1)
        return true
      }
      before = other
    }
    return false
  }

  /// Whether there are more nodes than buckets and the table may grow now: the size to grow to, else nil.
  public var wantedSize: Int? {
    let size = (at(current.load()).pointee.peek() &>> 1).int
    return growing.load() == 0 && number.peek().int > size ? size &* 2 : nil
  }

  /// Goes over to a larger array, in fresh memory for `wordCount(size)` words. Only when `wantedSize` has said so.
  /// - Returns: the old array: to be freed after a grace period, and then `hasGrown` to be called.
  public borrowing func grow(_ memory: Buckets, size: Int) -> Buckets {
    growing.store(1)
    let old = at(current.load())
    let form = old.pointee.peek()
    Self.prepare(memory, size: size, link: 1 &- form & 1)
    let newForm = memory.pointee.peek()
    for index in 0..<(form &>> 1).int {
      var next = old[1 &+ index].load()
      while let node = Self.node(next) {
        next = Self.withLink(node, form & 1) { $0.load() }
        Self.push(node, onto: memory, form: newForm)
      }
    }
    current.store(UInt(bitPattern: memory))
    return old
  }

  /// The old array is gone: a grace period has passed. From any thread.
  public borrowing func hasGrown() { growing.store(0) }
}

/// The kernel's.
public typealias RCUTable = RCUTableCore<LiveWord>

// SAFETY: all that changes is an atomic word; what chains lead to is freed behind a grace period.
extension RCUTableCore: @unchecked Sendable where Word: ~Copyable {}
