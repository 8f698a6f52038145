// PacketRing: packets on their way from whoever receives for a flow to the thread that has the flow.
//
// A ring of slots, each 0 or a packet. The producer's index and the consumer's are their own: the slots themselves say what is full, so
// neither side reads the other's index, and a line of slots goes from one CPU to the other once.
//
// State. `slots`: 0 or the word of a packet. `tail`: the producer's next slot. `head`: the consumer's next slot. `turn`: 1 while
// somebody is the producer. (A flow has one producer at most times, the thread of its queue; but a device may put its packets into any queue, and
// what comes by loopback is pushed by the sender.)
//
// Invariants, and why they hold:
//  1. There is one producer at a time: it has raised `turn` from 0 by an exchange, and lowers it by a releasing store. It keeps
//     the CPU meanwhile, for some tens of instructions. Who finds `turn` raised tries again so often, then gives up: its packet is
//     lost, as packets may be.
//  2. There is one consumer at a time: the caller sees to that (it has the flow's lock). `head` is its alone.
//  3. Full slots are those from `head` on up to before `tail`, going round: a slot is filled only at `tail` and emptied only at `head`.
//  4. Each packet is popped once, whole, in the order of pushing: the producer fills a slot that it saw empty (acquiring: the consumer
//     has read it) by a releasing store; the consumer loads acquiring, so it sees all of the packet, and then empties by a releasing store.
//  5. A pushed packet is seen by who looks after it was told so: the producer tells after its store.
import Base
import Devices
import Instructions
import Locks
import Pages

/// The ring over words; what they mean is the user's.
public struct PacketRingCore<Word: LockWord & ~Copyable>: ~Copyable {
  // SAFETY: memory for `mask` + 1 words, given for good by the caller of `init`.
  private let slots: UnsafeMutablePointer<Word>
  private let mask: UInt
  // The producer's, the consumer's, and what both read lie in different cache lines.
  private let apart: (UInt, UInt, UInt, UInt, UInt, UInt) = (0, 0, 0, 0, 0, 0)
  private let turn: Word
  private let tail: Word
  private let apart2: (UInt, UInt, UInt, UInt, UInt, UInt) = (0, 0, 0, 0, 0, 0)
  private let head: Word

  /// An empty ring in fresh memory for `capacity` words, a power of two.
  public init(_ memory: UnsafeMutablePointer<Word>, capacity: Int) {
    for index in 0..<capacity { (memory + index).initialize(to: Word(0)) }
    slots = memory
    mask = capacity.uint &- 1
    turn = Word(0)
    tail = Word(0)
    head = Word(0)
  }

  /// Its memory.
  public var memory: UnsafeMutablePointer<Word> { slots }

  /// What became of a push.
  public enum Outcome: Sendable {
    /// It is in.
    case pushed
    /// The ring is full.
    case full
    /// Others were pushing for all of `tries`.
    case busy
  }

  /// Adds a word that is not 0. A producer; any context, but with no interrupt handler among the producers.
  public borrowing func push(_ word: UInt, tries: Int, pause: () -> Void) -> Outcome {
    Word.disablePreemption()
    defer { Word.enablePreemption() }
    var left = tries
    while turn.exchange(1) != 0 {
      left &-= 1
      if left == 0 { return .busy }
      pause()
    }
    let at = tail.peek()
    let slot = slots + (at & mask).int
    guard slot.pointee.load() == 0 else {
      turn.store(0)
      return .full
    }
    slot.pointee.store(word)
    tail.poke(at &+ 1)
    turn.store(0)
    return .pushed
  }

  /// Takes the oldest word; 0 if there is none. The consumer.
  @inline(__always) public borrowing func pop() -> UInt {
    let at = head.peek()
    let slot = slots + (at & mask).int
    let word = slot.pointee.load()
    if word == 0 { return 0 }
    slot.pointee.store(0)
    head.poke(at &+ 1)
    return word
  }

  /// Whether there is nothing to pop: exact for the consumer, a hint for others.
  @inline(__always) public borrowing func isEmpty() -> Bool { slots[(head.peek() & mask).int].load() == 0 }

  /// Whether more than half is full; a hint.
  @inline(__always) public borrowing func isHalfFull() -> Bool {
    // Half a round before the last that was pushed: if that is still there, so is all behind it.
    slots[((tail.peek() &- 1 &- (mask &>> 1)) & mask).int].load() != 0
  }
}

// SAFETY: all that changes is an atomic word, or is one side's alone (1, 2).
extension PacketRingCore: @unchecked Sendable where Word: ~Copyable {}

/// The kernel's: packets, owned while they are in it.
public struct PacketRing: ~Copyable {
  private let core: PacketRingCore<LiveWord>

  /// How often a producer looks for its turn: some microseconds.
  private static var tries: Int { 1000 }

  /// An empty ring; nil if memory is out.
  /// - Parameter capacity: a power of two.
  public init?(capacity: Int = 256) {
    guard let memory = KernelHeap.allocate(byteCount: capacity &* MemoryLayout<LiveWord>.stride, alignment: 64) else {
      return nil
    }
    // SAFETY: fresh memory of that size.
    core = PacketRingCore(memory.bindMemory(to: LiveWord.self, capacity: capacity), capacity: capacity)
  }

  deinit {
    while true {
      let word = core.pop()
      if word == 0 { break }
      _ = Packet(adopting: word)
    }
    KernelHeap.free(core.memory)
  }

  /// Adds a packet; false if there is no room (or others kept pushing): it is dropped. A producer.
  public borrowing func push(_ packet: consuming Packet) -> Bool {
    let word = packet.leak()
    if core.push(word, tries: Self.tries, pause: { instruction_pause() }) == .pushed { return true }
    _ = Packet(adopting: word)
    return false
  }

  /// Takes the oldest packet. The consumer.
  @inline(__always) public borrowing func pop() -> Packet? {
    let word = core.pop()
    return word == 0 ? nil : Packet(adopting: word)
  }

  /// Whether there is nothing to pop: exact for the consumer, a hint for others.
  @inline(__always) public var isEmpty: Bool { core.isEmpty() }

  /// Whether more than half is full; a hint.
  @inline(__always) public var isHalfFull: Bool { core.isHalfFull() }
}
