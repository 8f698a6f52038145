// SegmentReassembly: data that has come out of order, and what the peer is told of it (RFC 2018, RFC 2883).
//
// Ranges are in order, neither overlap nor touch, and each has its packets in a list that covers it without gaps. What of a new segment is
// there already is cut off or, where it swallows whole ranges, takes their place. Memory is bounded three ways: by the number of
// ranges, by the memory that the packets hold, and small packets are copied together. What does not fit is not taken: the peer has it
// still. When the machine's memory is short all is forgotten (RFC 2018, 8; `TCPMemory`).
import Base
import Devices

struct SegmentReassembly: ~Copyable {
  /// The most ranges: the cost of a search and an insertion, also where a peer tries.
  static var maximumRanges: Int { 512 }

  private struct Range: BitwiseCopyable {
    var numbers: SequenceRange
    /// The list: words of packets, linked.
    var first: UInt
    var last: UInt
  }

  // SAFETY of all: words are those of leaked packets, each in one list.
  private var ranges = RingBuffer<Range>()
  /// Bytes of memory held.
  private(set) var footprint = 0
  /// Bytes of data.
  private(set) var byteCount = 0
  /// Where data came last, the latest first: their ranges are told first.
  private var recent: [4 of SequenceNumber] = .init(repeating: SequenceNumber(0))
  private var recentCount = 0

  deinit { for index in 0..<ranges.count { Self.drop(ranges[index].first) } }

  var isEmpty: Bool { ranges.isEmpty }
  var rangeCount: Int { ranges.count }
  /// The number behind the highest byte, if there is any.
  var end: SequenceNumber? { ranges.isEmpty ? nil : ranges[ranges.count &- 1].numbers.end }

  private static func drop(_ first: UInt) {
    var word = first
    while word != 0 {
      let next = Packet.next(of: word)
      _ = Packet(adopting: word)
      word = next
    }
  }

  private static func footprint(_ first: UInt) -> Int {
    var (word, sum) = (first, 0)
    while word != 0 {
      let packet = Packet(adopting: word)
      sum &+= packet.footprint
      _ = packet.leak()
      word = Packet.next(of: word)
    }
    return sum
  }

  // MARK: Coming in

  /// What became of a segment.
  enum Insertion: Equatable {
    /// It was taken, or what of it was new.
    case taken
    /// All of it was there.
    case duplicate
    /// There is no room.
    case refused
  }

  /// Takes the data of a segment that does not begin at the next number expected.
  /// - Parameters:
  ///   - packet: its data, all of it within the window.
  ///   - number: of its first byte.
  ///   - limit: bytes of memory that all may hold.
  ///   - duplicate: set to what of it was there already, if anything.
  mutating func insert(
    _ packet: consuming Packet, at number: SequenceNumber, limit: Int, duplicate: inout SequenceRange?
  ) -> Insertion {
    var numbers = SequenceRange(number, number + packet.byteCount)
    remember(number)
    let index = ranges.partition { $0.numbers.end < number }
    var continues = false
    if index < ranges.count, ranges[index].numbers.start <= number {
      let known = ranges[index].numbers.end
      if known >= numbers.end {
        duplicate = numbers
        return .duplicate
      }
      if known > number {
        duplicate = SequenceRange(number, known)
        packet.dropFirst(known - number)
        numbers.start = known
      }
      continues = true
    }
    guard footprint &+ min(packet.footprint, PacketPacking.factor &* packet.byteCount &+ 256) <= limit,
      continues || (ranges.count < Self.maximumRanges && ranges.reserve(1))
    else { return .refused }
    // What it swallows goes; what it runs into at its end is cut off there.
    let next = continues ? index &+ 1 : index
    while next < ranges.count, ranges[next].numbers.start < numbers.end {
      let other = ranges[next].numbers
      if duplicate == nil { duplicate = SequenceRange(other.start, SequenceNumber.earlier(other.end, numbers.end)) }
      if other.end > numbers.end {
        packet.dropLast(numbers.end - other.start)
        numbers.end = other.start
        break
      }
      footprint &-= Self.footprint(ranges[next].first)
      byteCount &-= other.count
      Self.drop(ranges[next].first)
      ranges.remove(at: next)
    }
    if !continues {
      // There is room: it was reserved.
      _ = ranges.insert(Range(numbers: SequenceRange(number, number), first: 0, last: 0), at: index)
    }
    byteCount &+= packet.byteCount
    append(packet, to: index)
    ranges.change(index) { $0.numbers.end = numbers.end }
    let after = index &+ 1
    if after < ranges.count, ranges[after].numbers.start == numbers.end { joinNext(index) }
    return .taken
  }

  /// Puts a packet behind the others of a range; its numbers are the caller's business.
  private mutating func append(_ packet: consuming Packet, to index: Int) {
    var word: UInt = 0
    let last = ranges[index].last
    if PacketPacking.isLoose(packet) {
      if last != 0 {
        var tail = Packet(adopting: last)
        let count = packet.byteCount
        if tail.isLastSliceUnshared, let place = tail.extend(count) {
          _ = packet.copy(from: 0, into: UnsafeMutableRawBufferPointer(start: place, count: count))
          _ = tail.leak()
          return
        }
        _ = tail.leak()
      }
      if let copy = PacketPacking.copy(packet, capacity: packet.byteCount) {
        footprint &+= copy.footprint
        word = copy.leak()
      }
    }
    if word == 0 {
      footprint &+= packet.footprint
      word = packet.leak()
    }
    Packet.setNext(of: word, 0)
    if last == 0 {
      ranges.change(index) { ($0.first, $0.last) = (word, word) }
    } else {
      Packet.setNext(of: last, word)
      ranges.change(index) { $0.last = word }
    }
  }

  /// A range and the one behind it, which touch, become one.
  private mutating func joinNext(_ index: Int) {
    let next = ranges[index &+ 1]
    ranges.change(index) {
      Packet.setNext(of: $0.last, next.first)
      $0.last = next.last
      $0.numbers.end = next.numbers.end
    }
    ranges.remove(at: index &+ 1)
  }

  // MARK: Going out

  /// Moves what follows `number` without a gap to the queue of what is in order.
  /// - Returns: the number behind it.
  mutating func take(from number: SequenceNumber, into queue: inout ReceiveQueue) -> SequenceNumber {
    var reached = number
    while !ranges.isEmpty, ranges[0].numbers.start <= reached {
      let range = ranges[0]
      ranges.removeFirst()
      byteCount &-= range.numbers.count
      var (word, at) = (range.first, range.numbers.start)
      while word != 0 {
        let next = Packet.next(of: word)
        var packet = Packet(adopting: word)
        footprint &-= packet.footprint
        let end = at + packet.byteCount
        if end > reached {
          if at < reached { packet.dropFirst(reached - at) }
          reached = end
          queue.append(packet)
        }
        at = end
        word = next
      }
    }
    return reached
  }

  /// Drops everything.
  mutating func removeAll() {
    for index in 0..<ranges.count { Self.drop(ranges[index].first) }
    ranges.removeAll()
    (footprint, byteCount, recentCount) = (0, 0, 0)
  }

  /// Drops the ranges that reach over a number: nothing comes behind it.
  mutating func removeAll(behind number: SequenceNumber) {
    while let end, end > number {
      let range = ranges[ranges.count &- 1]
      footprint &-= Self.footprint(range.first)
      byteCount &-= range.numbers.count
      Self.drop(range.first)
      ranges.remove(at: ranges.count &- 1)
    }
  }

  // MARK: What the peer is told

  private mutating func remember(_ number: SequenceNumber) {
    var index = min(recentCount, 3)
    while index > 0 {
      recent[index] = recent[index &- 1]
      index &-= 1
    }
    recent[0] = number
    recentCount = min(recentCount &+ 1, 4)
  }

  /// Fills blocks of a SACK option, the ranges that changed last first (RFC 2018, 4).
  /// - Parameters:
  ///   - duplicate: what the first block reports as received twice (RFC 2883), if anything.
  ///   - most: how many blocks there is room for.
  func fill(_ options: inout TCPOptions, duplicate: SequenceRange?, most: Int) {
    var count = 0
    if let duplicate, most > 0 {
      options.blocks[0] = duplicate
      count = 1
    }
    let first = count
    for recentIndex in 0..<recentCount where count < most {
      let number = recent[recentIndex]
      let index = ranges.partition { $0.numbers.end <= number }
      guard index < ranges.count, ranges[index].numbers.start <= number else { continue }
      add(ranges[index].numbers, first, most, &count, &options)
    }
    // What was received long ago fills what room is left.
    var index = 0
    while index < ranges.count, count < most, index < 4 {
      add(ranges[index].numbers, first, most, &count, &options)
      index &+= 1
    }
    options.blockCount = count
  }

  private func add(
    _ numbers: SequenceRange, _ first: Int, _ most: Int, _ count: inout Int, _ options: inout TCPOptions
  ) {
    for index in first..<max(count, first) where options.blocks[index] == numbers { return }
    if count < most {
      options.blocks[count] = numbers
      count &+= 1
    }
  }
}
