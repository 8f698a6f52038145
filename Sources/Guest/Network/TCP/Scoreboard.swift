// Scoreboard: what is under way to the peer, by the segments that it left in, and what is known of each (RFC 6675, 3 and 4).
//
// A record stands for what left in one packet, which may be many segments of `segmentSize` bytes (the last one perhaps shorter); SACK
// blocks split records, at borders of segments only, so that there are never more records than segments; neighbours that are sacked become
// one. Records are bounded, also where a peer takes small segments and reports every other one of a large window: what would be one too
// many is not split and stays as not sacked, and nothing new is sent.
//
// Each byte under way is in one record. Of a record: `isSacked`: the peer has it out of order. `isLost`: its last but one
// transmission, or its last one if it is not `isRetransmitted`, is taken to be lost. `isRetransmitted`: it has been sent again since it
// was found lost, and that is under way. The pipe (RFC 6675, SetPipe) is what is neither sacked nor lost, and what was
// retransmitted; sums are kept as flags change.
import Base

/// One record.
struct SentSegment: BitwiseCopyable {
  struct Flags: OptionSet, BitwiseCopyable {
    let rawValue: UInt8
    @inline(__always) init(rawValue: UInt8) { self.rawValue = rawValue }
    @inline(__always) static var sacked: Flags { Flags(rawValue: 1) }
    @inline(__always) static var lost: Flags { Flags(rawValue: 2) }
    @inline(__always) static var retransmitted: Flags { Flags(rawValue: 4) }
    /// It was sent more than once: its round trip is no measurement (Karn).
    @inline(__always) static var everRetransmitted: Flags { Flags(rawValue: 8) }
    /// It was sent to find out whether the path takes segments of its size (RFC 4821).
    @inline(__always) static var probe: Flags { Flags(rawValue: 16) }
  }
  var numbers: SequenceRange
  /// When it was sent last, ns.
  var sentAt: UInt64
  /// Bytes of data of each of its segments.
  var segmentSize: UInt16
  var flags: Flags = []

  @inline(__always) var isSacked: Bool { flags.contains(.sacked) }
  @inline(__always) var isLost: Bool { flags.contains(.lost) }
  @inline(__always) var isRetransmitted: Bool { flags.contains(.retransmitted) }
  /// Whether it is to be sent again.
  @inline(__always) var awaitsRetransmission: Bool {
    flags.intersection([.sacked, .lost, .retransmitted]) == .lost
  }
  @inline(__always) var segmentCount: Int {
    let size = max(segmentSize.int, 1)
    return numbers.count <= size ? 1 : (numbers.count &+ size &- 1) / size
  }
}

struct Scoreboard: ~Copyable {
  /// Records at most for what is sent and for what blocks split. Our own repetitions may split as many again: they have to go on.
  static var limit: Int { 8192 }
  /// Bytes at most of a record of sacked ones: one packet repeats them if the peer forgets them.
  private static var mergedByteLimit: Int { 32_768 }
  /// From so many records on the number of sacked segments need not be exact for two to become one.
  private static var crowd: Int { 1024 }

  private(set) var records = RingBuffer<SentSegment>()
  private(set) var sackedByteCount = 0
  private(set) var sackedSegmentCount = 0
  private(set) var lostByteCount = 0
  private(set) var retransmittedByteCount = 0
  /// Bytes (and SYN or FIN) under way, sacked or not.
  private(set) var byteCount = 0
  /// No record before this number awaits retransmission.
  private var searchStart = SequenceNumber(0)

  @inline(__always) var isEmpty: Bool { records.isEmpty }
  @inline(__always) var count: Int { records.count }
  @inline(__always) subscript(index: Int) -> SentSegment { records[index] }

  /// Bytes that are in the network, as far as known.
  @inline(__always) var pipe: Int {
    byteCount &- sackedByteCount &- lostByteCount &+ retransmittedByteCount
  }

  /// Adds what is sent for the first time; memory for it must have been reserved.
  mutating func append(_ numbers: SequenceRange, at now: UInt64, segmentSize: Int) {
    if isEmpty { searchStart = numbers.start }
    let isAdded = records.append(SentSegment(numbers: numbers, sentAt: now, segmentSize: segmentSize.u16))
    precondition(isAdded)
    byteCount &+= numbers.count
  }

  /// Sees to it that one can be appended and one be split; false if memory is out, or there are too many.
  mutating func reserve() -> Bool { count < Self.limit && records.reserve(2) }

  /// Marks the last record as a probe of the path's MTU.
  mutating func markLastAsProbe() { if count > 0 { records.change(count &- 1) { $0.flags.insert(.probe) } } }

  private mutating func account(_ record: SentSegment, _ sign: Int) {
    let byteCount = record.numbers.count &* sign
    if record.isSacked {
      sackedByteCount &+= byteCount
      sackedSegmentCount &+= record.segmentCount &* sign
    }
    if record.isLost { lostByteCount &+= byteCount }
    if record.isRetransmitted { retransmittedByteCount &+= byteCount }
  }

  /// Changes a record's flags and keeps the sums.
  private mutating func setFlags(_ index: Int, _ flags: SentSegment.Flags) {
    account(records[index], -1)
    records.change(index) { $0.flags = flags }
    account(records[index], 1)
  }

  // MARK: What acknowledgements say

  /// Takes out the first record, which is acknowledged, or its part before `number`.
  /// - Returns: it, or that part.
  mutating func removeFirst(before number: SequenceNumber) -> SentSegment {
    var first = records[0]
    account(first, -1)
    if first.numbers.end > number {
      records.change(0) { $0.numbers.start = number }
      account(records[0], 1)
      first.numbers.end = number
    } else {
      records.removeFirst()
    }
    byteCount &-= first.numbers.count
    if searchStart < first.numbers.end { searchStart = first.numbers.end }
    return first
  }

  /// Marks what a block covers, segments by segments.
  /// - Parameter body: is given each record that has become sacked by it, as it was before.
  /// - Returns: how many records were looked at.
  @discardableResult
  mutating func markSacked(_ block: SequenceRange, _ body: (SentSegment) -> Void) -> Int {
    var index = records.partition { $0.numbers.end <= block.start }
    let first = index
    var (visited, isChanged) = (0, false)
    while index < count, records[index].numbers.start < block.end {
      visited &+= 1
      let record = records[index]
      guard !record.isSacked else {
        index &+= 1
        continue
      }
      let part = Self.segments(of: record, in: block)
      guard part.count > 0 else {
        index &+= 1
        continue
      }
      if part.start > record.numbers.start {
        guard count < Self.limit, split(index, at: part.start) else { break }
        index &+= 1
      }
      if part.end < record.numbers.end, count >= Self.limit || !split(index, at: part.end) { break }
      let before = records[index]
      // What the peer has is neither lost nor under way.
      setFlags(index, before.flags.union(.sacked).subtracting([.lost, .retransmitted]))
      body(before)
      isChanged = true
      index &+= 1
    }
    if isChanged { mergeSacked(max(first &- 1, 0), min(index, count &- 1)) }
    return visited
  }

  /// Makes one record of neighbours that are sacked, from one index to another.
  private mutating func mergeSacked(_ first: Int, _ last: Int) {
    let isCrowded = count > Self.crowd
    var (kept, index) = (first, first &+ 1)
    while index <= last {
      let (one, other) = (records[kept], records[index])
      if Self.mayMerge(one, other, isCrowded: isCrowded) {
        var merged = one
        merged.numbers.end = other.numbers.end
        merged.sentAt = max(one.sentAt, other.sentAt)
        merged.flags.formUnion(other.flags)
        account(one, -1)
        account(other, -1)
        account(merged, 1)
        records[kept] = merged
      } else {
        kept &+= 1
        records[kept] = other
      }
      index &+= 1
    }
    if kept < last { records.remove(at: kept &+ 1, count: last &- kept) }
  }

  private static func mayMerge(_ one: SentSegment, _ other: SentSegment, isCrowded: Bool) -> Bool {
    guard one.isSacked, other.isSacked, one.segmentSize == other.segmentSize,
      other.numbers.end - one.numbers.start <= mergedByteLimit, !one.flags.union(other.flags).contains(.probe)
    else { return false }
    return isCrowded || one.numbers.count % max(one.segmentSize.int, 1) == 0
  }

  /// The whole segments of a record that a block covers.
  private static func segments(of record: SentSegment, in block: SequenceRange) -> SequenceRange {
    let size = max(record.segmentSize.int, 1)
    var (start, end) = (record.numbers.start, record.numbers.end)
    if block.start > start { start += (block.start - start &+ size &- 1) / size &* size }
    if block.end < end { end = record.numbers.start + (block.end - record.numbers.start) / size &* size }
    return start < end ? SequenceRange(start, end) : SequenceRange(start, start)
  }

  /// Makes two records of one; false if memory is out, or there are far too many.
  mutating func split(_ index: Int, at number: SequenceNumber) -> Bool {
    var second = records[index]
    assert(number > second.numbers.start && number < second.numbers.end)
    second.numbers.start = number
    guard count < 2 &* Self.limit, records.reserve(1) else { return false }
    account(records[index], -1)
    records.change(index) { $0.numbers.end = number }
    account(records[index], 1)
    account(second, 1)
    return records.insert(second, at: index &+ 1)
  }

  // MARK: Losses

  /// The index of the first record that reaches over `number`.
  func index(behind number: SequenceNumber) -> Int { records.partition { $0.numbers.end <= number } }

  /// Takes a record's last transmission for lost.
  mutating func markLost(_ index: Int) {
    let record = records[index]
    assert(!record.isSacked)
    setFlags(index, record.flags.union(.lost).subtracting(.retransmitted))
    if record.numbers.start < searchStart { searchStart = record.numbers.start }
  }

  /// Takes everything that is not sacked for lost (RFC 6298, 5.4 and RFC 8985, 6.3), and what is sacked too if it has been forgotten.
  mutating func markAllLost(forgettingSacks: Bool) {
    for index in 0..<count {
      let record = records[index]
      if record.isSacked, !forgettingSacks { continue }
      setFlags(index, record.flags.union(.lost).subtracting([.retransmitted, .sacked]))
    }
    if count > 0 { searchStart = records[0].numbers.start }
  }

  /// Takes what was sent in segments larger than `size` for lost: they are too large for the path.
  mutating func markLargeLost(_ size: Int) {
    for index in 0..<count {
      let record = records[index]
      if !record.isSacked, min(record.segmentSize.int, record.numbers.count) > size { markLost(index) }
    }
  }

  /// Takes nothing for lost that has not been sent again: it was no loss.
  mutating func forgetLosses() {
    for index in 0..<count where records[index].isLost {
      setFlags(index, records[index].flags.subtracting([.lost, .retransmitted]))
    }
  }

  /// Finds the first record that awaits retransmission.
  mutating func firstToRetransmit() -> Int? {
    guard lostByteCount > retransmittedByteCount else { return nil }
    var index = records.partition { $0.numbers.end <= searchStart }
    while index < count {
      if records[index].awaitsRetransmission {
        searchStart = records[index].numbers.start
        return index
      }
      index &+= 1
    }
    return nil
  }

  /// A record has been sent again.
  mutating func markRetransmitted(_ index: Int, at now: UInt64) {
    let flags = records[index].flags
    // One that was not taken for lost (a probe of the tail) is under way twice, and counts once.
    setFlags(index, flags.union(flags.contains(.lost) ? [.retransmitted, .everRetransmitted] : .everRetransmitted))
    records.change(index) { $0.sentAt = now }
  }

  /// Forgets everything.
  mutating func removeAll() {
    records.removeAll()
    (sackedByteCount, sackedSegmentCount, lostByteCount, retransmittedByteCount, byteCount) = (0, 0, 0, 0, 0)
  }
}
