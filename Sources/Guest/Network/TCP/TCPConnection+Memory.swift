// What connections hold of what peers have sent: bounded for each, and for all of a machine together.
//
// What has come in order has been acknowledged, and stays until it is read; what has come out of order may be forgotten (RFC 2018, 8). So when
// all hold too much, or the machine's memory is short, a connection forgets what is out of order rather than take more, its window opens
// no further than a little, and data in order is taken only while little waits to be read: each connection makes progress if its program
// reads. What lies out of order for long while much is held is forgotten too, so that nobody keeps the others short by doing nothing.
//
// Connections tell what they hold in steps, so that they seldom write to the word that they share. So the bound for all is the limit, and for each
// connection what it may hold in any case, a step and a packet. What is to be sent is not counted.
import Base
import Locks
import Pages

/// Memory that the connections of one machine hold for what has been received.
public final class TCPMemory {
  /// A connection may hold so much more or less than it has told, in bytes.
  static var slack: Int { 8192 }
  /// What each connection may hold of data in order, and about what its window is, when all hold too much.
  static var least: Int { 16_384 }
  /// How long data out of order may lie while much is held, ns.
  static var patience: UInt64 { 1_000_000_000 }

  // SAFETY: a word that is read and written whole.
  /// Bytes that all may hold: an eighth of the memory (as tcp_mem has it, about).
  nonisolated(unsafe) public var limit = max((Frames.promisedByteCount / 8).int, 1 << 20)
  /// Bytes that they have told of.
  private let used = Atomic<Int>(0)

  init() {}

  /// Bytes held, as far as told.
  public var byteCount: Int { used.load(ordering: .relaxed) }
  /// Whether nothing more is to be held that can be done without.
  var isShort: Bool { byteCount > limit || !NetworkMemory.hasRoom }
  /// Whether so much is held that what nobody needs should go.
  var isMuch: Bool { byteCount > limit / 4 || !NetworkMemory.hasRoom }

  func change(by difference: Int) { used.wrappingAdd(difference, ordering: .relaxed) }
}

extension TCPConnection {
  /// Bytes of memory held for what has been received in order. (What a reader has only looked at has left the queue.)
  private var orderedFootprint: Int { max(receiveQueue.footprint, unconsumed) }

  /// Bytes of memory held for what has been received.
  var receiveFootprint: Int { orderedFootprint &+ reassembly.footprint }

  /// What one connection may hold: as much as its buffer, in the worst packing.
  var receiveFootprintLimit: Int { max(receiveCapacity, 65_536) &* PacketPacking.factor }

  /// Tells what is held, if it is much more or less than what was told last.
  mutating func accountMemory() {
    let difference = receiveFootprint &- accountedFootprint
    if difference > TCPMemory.slack || difference < -TCPMemory.slack {
      settings.memory.change(by: difference)
      accountedFootprint &+= difference
    }
    isMemoryShort = receiveFootprint > 0 && settings.memory.isShort
  }

  /// Data out of order has come. Forgets what there is if memory is short.
  /// - Returns: whether it may be held.
  mutating func mayHoldOutOfOrder(now: UInt64) -> Bool {
    if settings.memory.isShort {
      reassembly.removeAll()
      return false
    }
    // From the first of it on: who sends a little now and then does not keep the rest.
    if settings.memory.isMuch, reassemblyDeadline == .max { reassemblyDeadline = now &+ TCPMemory.patience }
    return true
  }

  /// Some of what was out of order has become part of the order, or all is gone.
  mutating func reassemblyProgressed(now: UInt64) {
    reassemblyDeadline = reassembly.isEmpty || !settings.memory.isMuch ? .max : now &+ TCPMemory.patience
  }

  /// Data in order has come. If memory is short, what is out of order goes first.
  /// - Returns: whether it may be held.
  mutating func mayHoldInOrder() -> Bool {
    if orderedFootprint < TCPMemory.least || !settings.memory.isShort { return true }
    if !reassembly.isEmpty {
      reassembly.removeAll()
      accountMemory()
      if !settings.memory.isShort { return true }
    }
    isMemoryShort = true
    return false
  }

  /// Whether no more data will come until some is read, so that waiting for more is in vain.
  var isHeldBack: Bool {
    unconsumed >= receiveCapacity
      || (isMemoryShort && (orderedFootprint >= TCPMemory.least || freeCapacity < windowStep))
  }

  /// Data has lain out of order for long.
  mutating func reassemblyTimedOut() {
    reassemblyDeadline = .max
    if settings.memory.isMuch { reassembly.removeAll() }
  }
}
