// TaggedStack: a lock-free stack of numbered nodes (Treiber's), whose head counts how often it was popped.
//
// State. `head`: in the low 32 bits the number of the top node plus 1, or 0; in the high 32 bits the tag. `links`, one word a node:
// the same low bits of the node below. The stacks of a set of nodes share their links, since a node is in one of them at most; who has
// taken a node may do with what it stands for as it likes.
//
// Invariants, and why they hold:
//  1. The nodes in the stack are those pushed and not yet popped: each change is one compare-exchange of `head`.
//  2. A pop puts the node below the top into `head`, though it read `head` and the link at different times: if the exchange
//     succeeds, `head` had the same tag at both times, so nothing was popped in between (each pop raises the tag, and a push leaves
//     it). So the top node stayed in the stack, and a link is written only by who pushes its node. Without the tag, the same top could
//     have come back upon other nodes (ABA).
//  3. A link that is read too late is another's: links are never freed, and the exchange fails then, by 2.
// The tag comes round after 2^32 pops: a CPU would have to stand still, with interrupts off, between its look and its exchange while
// others pop that often, a minute at the least, and then find exactly the same number and top.
// Orders: what was written before a push is seen after the pop that takes its node, by the exchanges; links are loaded acquiring.
import Base

/// A stack of nodes with numbers. 8 bytes; empty is zero. From any context, takes no lock and never sleeps.
public struct TaggedStack<Word: LockWord & ~Copyable>: ~Copyable {
  private let head: Word

  private static var number: UInt { 0xffff_ffff }
  private static var onePop: UInt { 1 << 32 }

  /// An empty stack.
  @inline(__always) public init() { head = Word(0) }

  /// Whether there was nothing in it, a moment ago.
  @inline(__always) public borrowing func isEmpty() -> Bool { head.load() & Self.number == 0 }

  /// Adds a node that is in no stack.
  /// - Parameter links: one word for each node of the set, the same for all its stacks.
  @inline(__always)
  public borrowing func push(_ node: UInt32, _ links: UnsafeMutablePointer<Word>) {
    while true {
      let old = head.load()
      links[node.int].store(old & Self.number)
      if head.compareExchange(old, old & ~Self.number | (node.uint &+ 1)) { return }
    }
  }

  /// Takes the node that was added last; nil if there is none.
  @inline(__always)
  public borrowing func pop(_ links: UnsafeMutablePointer<Word>) -> UInt32? {
    while true {
      let old = head.load()
      guard old & Self.number != 0 else { return nil }
      let node = (old & Self.number &- 1).u32
      let below = links[node.int].load()
      if head.compareExchange(old, (old & ~Self.number &+ Self.onePop) | below) { return node }
    }
  }
}

// Made to be shared.
// SAFETY: its one word is atomic. Links are the users', a word for each number that they push.
extension TaggedStack: @unchecked Sendable where Word: ~Copyable {}
