// WakeList: threads that other CPUs have made runnable on this one; lock-free, many pushers, one taker.
//
// `head`: a stack of nodes. `looking`: 1 while the owner promises to look again before it does anything else for long.
//
// Invariants, and why they hold:
//  1. Each pushed node is taken once: pushers link by compare-exchange on `head`, the owner takes all by one exchange. A
//     node is pushed again only after it was taken (its thread must run and sleep first).
//  2. No node lies there unseen. The pusher that finds the list empty interrupts the owner, unless the owner is looking. The
//     owner stops looking by an exchange on `looking`, and after that looks at `head` once more. The pusher pushes by a
//     compare-exchange, and after that looks at `looking`. All are sequentially consistent, so one sees the other. A pusher
//     that finds the list not empty need not interrupt: whoever pushed first did, or the owner was looking; and the owner
//     takes all that is there when it looks.

import Locks

/// What is in a `WakeList`; part of what it stands for.
struct WakeNode<Word: LockWord & ~Copyable>: ~Copyable {
  /// The next older one.
  let next = Word(0)
  /// Whose node this is.
  var owner: UInt

  init(owner: UInt) { self.owner = owner }
}

struct WakeList<Word: LockWord & ~Copyable>: ~Copyable {
  private let head = Word(0)
  private let looking = Word(0)

  init() {}

  /// Adds a node that is in no list. True: the owner must be interrupted.
  borrowing func push(_ node: UnsafeMutablePointer<WakeNode<Word>>) -> Bool {
    while true {
      let older = head.load()
      node.pointee.next.poke(older)
      guard head.compareExchange(older, UInt(bitPattern: node)) else { continue }
      return older == 0 && looking.load() == 0
    }
  }

  /// Owner: takes all and gives each to the body, oldest first. The node may be pushed again from within.
  borrowing func takeAll(_ body: (UInt) -> Void) {
    guard head.load() != 0 else { return }
    var rest = head.exchange(0)
    var ordered: UInt = 0
    while let node = UnsafeMutablePointer<WakeNode<Word>>(bitPattern: rest) {
      // SAFETY: words of the list are addresses of nodes, and taken nodes are ours until given to the body.
      let older = node.pointee.next.peek()
      node.pointee.next.poke(ordered)
      ordered = rest
      rest = older
    }
    while let node = UnsafeMutablePointer<WakeNode<Word>>(bitPattern: ordered) {
      ordered = node.pointee.next.peek()
      body(node.pointee.owner)
    }
  }

  /// Whether there is nothing to take; the owner's, after `stopLooking` exact but for pushers that will interrupt.
  borrowing func isEmpty() -> Bool { head.load() == 0 }

  /// Owner: promises to take all and to stop looking before it runs anything or halts.
  borrowing func startLooking() { looking.store(1) }

  /// Owner: ends the promise. True: there is something to take, start again.
  borrowing func stopLooking() -> Bool {
    _ = looking.exchange(0)
    return head.load() != 0
  }
}

// SAFETY: both words are atomic; it is made to be shared.
extension WakeList: @unchecked Sendable where Word: ~Copyable {}
