// PacketList: packets in order, linked through their records. Not synchronised; allocates nothing.
import Base

/// A queue of packets that it owns.
public struct PacketList: ~Copyable {
  private var first: UInt = 0
  private var last: UInt = 0
  /// How many there are.
  public private(set) var count = 0
  /// Bytes of all of them.
  public private(set) var byteCount = 0

  /// None.
  @inline(__always) public init() {}

  deinit {
    var word = first
    while word != 0 {
      let next = Packet.next(of: word)
      _ = Packet(adopting: word)
      word = next
    }
  }

  /// Whether there is none.
  @inline(__always) public var isEmpty: Bool { first == 0 }

  /// Adds one at the end.
  public mutating func append(_ packet: consuming Packet) {
    byteCount &+= packet.byteCount
    count &+= 1
    let word = packet.leak()
    Packet.setNext(of: word, 0)
    if last == 0 { first = word } else { Packet.setNext(of: last, word) }
    last = word
  }

  /// Adds one in front.
  public mutating func prepend(_ packet: consuming Packet) {
    byteCount &+= packet.byteCount
    count &+= 1
    let word = packet.leak()
    Packet.setNext(of: word, first)
    if first == 0 { last = word }
    first = word
  }

  /// Takes the first one out.
  public mutating func removeFirst() -> Packet? {
    guard first != 0 else { return nil }
    let packet = Packet(adopting: first)
    first = Packet.next(of: first)
    if first == 0 { last = 0 }
    count &-= 1
    byteCount &-= packet.byteCount
    return packet
  }

  /// Lets the body look at the first one; nil if there is none.
  public func withFirst<R>(_ body: (borrowing Packet) -> R) -> R? {
    guard first != 0 else { return nil }
    let packet = Packet(adopting: first)
    let result = body(packet)
    _ = packet.leak()
    return result
  }

  /// Lets the body look at each, in order.
  public func forEach(_ body: (borrowing Packet) -> Void) {
    var word = first
    while word != 0 {
      let packet = Packet(adopting: word)
      body(packet)
      word = Packet.next(of: packet.leak())
    }
  }

  /// Adds bytes at the end of the last one, where its memory has room and nobody shares it (`Packet.extend`): where to write them.
  public mutating func extendLast(_ count: Int) -> UnsafeMutableRawPointer? {
    guard last != 0 else { return nil }
    var packet = Packet(adopting: last)
    let end = packet.sliceCount &- 1
    let place = end >= 0 && packet.slice(end).memory.isUnshared ? packet.extend(count) : nil
    _ = packet.leak()
    if place != nil { byteCount &+= count }
    return place
  }

  /// Takes all of them, in order, from another list.
  public mutating func append(_ other: inout PacketList) {
    if other.first == 0 { return }
    if last == 0 { first = other.first } else { Packet.setNext(of: last, other.first) }
    last = other.last
    count &+= other.count
    byteCount &+= other.byteCount
    (other.first, other.last, other.count, other.byteCount) = (0, 0, 0, 0)
  }

  /// Drops all of them.
  public mutating func removeAll() { while let packet = removeFirst() { _ = consume packet } }
}
