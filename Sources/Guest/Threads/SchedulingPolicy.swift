// SchedulingPolicy: what a program may say about how its thread shares CPUs.

import Base

/// A thread's policy, with its numbers as Linux has them.
public struct SchedulingPolicy: Equatable, Sendable {
  /// What decides when the thread runs.
  public enum Kind: UInt8, Sendable {
    /// A share of the CPU by weight.
    case other = 0
    /// Before all ordinary threads and lower priorities, for as long as it wants.
    case fifo = 1
    /// The same, in turn with its equals.
    case roundRobin = 2
    /// As `other`, but waking it interrupts nobody.
    case batch = 3
    /// As `other`, with the least weight.
    case idle = 5
  }

  /// The kind.
  public var kind: Kind
  /// 1 (low) to 99 for `fifo` and `roundRobin`; 0 for the others.
  public var priority: UInt8
  /// -20 (much) to 19 (little); counts for `other` and `batch`.
  public var nice: Int8

  /// A policy with those numbers.
  public init(kind: Kind = .other, priority: UInt8 = 0, nice: Int8 = 0) {
    self.kind = kind
    self.priority = priority
    self.nice = nice
  }

  /// What every thread has that nobody has said anything about.
  public static var ordinary: SchedulingPolicy { SchedulingPolicy() }

  /// Its share of the CPU is proportional to this; the ordinary one is 1024, and each nice level a factor of 1.25.
  public var weight: UInt32 {
    if kind == .idle { return 3 }
    return Self.weights[(max(-20, min(19, nice.int)) &+ 20)]
  }

  /// As one word, the ordinary one 0; the top byte is free for the priority that the thread has inherited (PriorityInheritance).
  var word: UInt32 { kind.rawValue.u32 | priority.u32 &<< 8 | UInt8(bitPattern: nice).u32 &<< 16 }
  init(word: UInt32) {
    self.init(
      kind: Kind(rawValue: (word & 0xff).u8) ?? .other, priority: (word &>> 8 & 0xff).u8,
      nice: Int8(bitPattern: (word &>> 16 & 0xff).u8))
  }

  // MARK: The word with an inherited priority

  static func inherited(_ word: UInt32) -> UInt8 { (word &>> 24).u8 }
  static func word(_ word: UInt32, inheriting priority: UInt8) -> UInt32 { word & 0xff_ffff | priority.u32 &<< 24 }
  /// The real-time priority with which the thread runs; 0: it is an ordinary one.
  static func priority(ofWord word: UInt32) -> UInt8 {
    max(SchedulingPolicy(word: word).ownRealTimePriority, inherited(word))
  }
  var ownRealTimePriority: UInt8 { kind == .fifo || kind == .roundRobin ? priority : 0 }

  /// 1024 * 1.25^-nice, as Linux rounds them.
  private static let weights: [40 of UInt32] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916,  // -20 to -11
    9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277,  // -10 to -1
    1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
  ]
}

extension RunNode {
  /// Takes over a policy, and what comes with it by inheritance; in no queue.
  mutating func adopt(_ policy: SchedulingPolicy, inheriting inherited: UInt8 = 0) {
    price = RunNode.price(weight: policy.weight)
    priority = max(policy.ownRealTimePriority, inherited)
    isRoundRobin = policy.kind == .roundRobin
    isBatch = policy.kind == .batch || policy.kind == .idle
  }
}
