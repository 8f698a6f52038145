// What a peer can make of the list of what is under way: its length, and the steps that an acknowledgement costs.
import Base
import Testing

@testable import Network

@Suite(.timeLimit(.minutes(5))) struct ScoreboardTests {
  private static let size = 88

  /// A board with so many packets of so many small segments each, sent one after another.
  private static func fill(_ board: inout Scoreboard, packets: Int, segments: Int) {
    var start = SequenceNumber(1)
    for number in 0..<packets {
      let end = start + segments * size
      let hasRoom = board.reserve()
      #expect(hasRoom)
      board.append(SequenceRange(start, end), at: UInt64(number) + 1, segmentSize: size)
      start = end
    }
  }

  private static func block(_ first: Int, _ count: Int = 1) -> SequenceRange {
    SequenceRange(SequenceNumber(1) + first * size, SequenceNumber(1) + (first + count) * size)
  }

  @Test func everyOtherSegmentDoesNotMakeRecordsWithoutEnd() {
    var board = Scoreboard()
    Self.fill(&board, packets: 100, segments: 550)
    var reported = 0
    for segment in stride(from: 1, to: 55_000, by: 2) { board.markSacked(Self.block(segment)) { _ in reported += 1 } }
    let count = board.count
    #expect(count <= Scoreboard.limit && count > Scoreboard.limit - 4)
    // What could not be entered counts as not sacked.
    let (sacked, segments) = (board.sackedByteCount, board.sackedSegmentCount)
    #expect(sacked == reported * Self.size && segments == reported && reported < 27_500)
    // Nothing new is sent then, but what is lost is still sent again, in pieces.
    let isReserved = board.reserve()
    #expect(!isReserved)
    board.markAllLost(forgettingSacks: false)
    let isSplit = board.split(board.count - 1, at: SequenceNumber(1) + 54_999 * Self.size)
    #expect(isSplit)
    // Once the peer says that all is there, all is.
    while !board.isEmpty { _ = board.removeFirst(before: SequenceNumber(1) + 55_000 * Self.size) }
    let (left, pipe, last) = (board.byteCount, board.pipe, board.sackedSegmentCount)
    #expect(left == 0 && pipe == 0 && last == 0)
  }

  /// What is sacked becomes one record again, so that going over it costs little.
  @Test func neighboursThatAreSackedBecomeOne() {
    var board = Scoreboard()
    Self.fill(&board, packets: 1000, segments: 1)
    for segment in stride(from: 1, to: 1000, by: 2) { board.markSacked(Self.block(segment)) { _ in } }
    let before = board.count
    #expect(before == 1000)
    for segment in stride(from: 998, to: 0, by: -2) { board.markSacked(Self.block(segment)) { _ in } }
    // One that is not, and the others by 32 KiB.
    let (count, segments, bytes) = (board.count, board.sackedSegmentCount, board.sackedByteCount)
    #expect(count <= 8 && segments == 999 && bytes == 999 * Self.size)
    let visited = board.markSacked(Self.block(1, 999)) { _ in Issue.record("nothing is new") }
    #expect(visited <= 8)
    let (one, two) = (board[0], board[1])
    #expect(!one.isSacked && two.isSacked)
    // The peer may forget: then all is lost, and in records of one packet each.
    board.markAllLost(forgettingSacks: true)
    for index in 0..<board.count {
      let byteCount = board[index].numbers.count
      #expect(byteCount <= 32_768)
    }
    let (lost, still) = (board.lostByteCount, board.sackedByteCount)
    #expect(lost == 1000 * Self.size && still == 0)
  }

  /// Short segments, whose number a record of several cannot tell, stay apart while there are few.
  @Test func shortSegmentsAreCounted() {
    var board = Scoreboard()
    for number in 0..<10 {
      let isReserved = board.reserve()
      #expect(isReserved)
      let start = SequenceNumber(1) + number * 10
      board.append(SequenceRange(start, start + 10), at: 1, segmentSize: 88)
    }
    board.markSacked(SequenceRange(SequenceNumber(11), SequenceNumber(101))) { _ in }
    let segments = board.sackedSegmentCount
    #expect(segments == 9)
  }

  /// Sends segments of 88 bytes, has every other one sacked, and the last of all, which left well after the others.
  @Test func findingLossesIsBoundedAndComplete() {
    var board = Scoreboard()
    Self.fill(&board, packets: 8000, segments: 1)
    var recent = RecentAcknowledgement()
    recent.begin(at: SequenceNumber(1))
    recent.beginAcknowledgement()
    for segment in stride(from: 1, to: 8000, by: 2) {
      board.markSacked(Self.block(segment)) { recent.arrived($0, now: 10_000, minimum: nil, isCertain: true) }
    }
    var (found, rounds) = (0, 0)
    while true {
      let result = recent.findLosses(&board, window: 0, now: 20_000)
      #expect(result.visited <= RecentAcknowledgement.searchLimit)
      found += result.byteCount
      rounds += 1
      if result.wait == 0 || rounds > 100 { break }
    }
    #expect(rounds == 16 && found == 4000 * Self.size)
    // From the beginning again after that.
    board.markRetransmitted(0, at: 5)
    let again = recent.findLosses(&board, window: 0, now: 20_000)
    #expect(again.byteCount == Self.size)
  }

  /// What is not due yet is not forgotten when the search goes on elsewhere.
  @Test func whatIsDueLaterIsWaitedFor() {
    var board = Scoreboard()
    Self.fill(&board, packets: 1000, segments: 1)
    var recent = RecentAcknowledgement()
    recent.begin(at: SequenceNumber(1))
    recent.beginAcknowledgement()
    board.markSacked(Self.block(999)) { recent.arrived($0, now: 10_000, minimum: nil, isCertain: true) }
    // The round trip is 9000; the first one is due at 9001 + 500,000,000.
    let first = recent.findLosses(&board, window: 500_000_000, now: 10_000)
    #expect(first.byteCount == 0 && first.wait == 1_000_000 && first.visited == RecentAcknowledgement.searchLimit)
    let second = recent.findLosses(&board, window: 500_000_000, now: 10_000)
    #expect(second.byteCount == 0 && second.wait > 499_000_000 && second.visited < RecentAcknowledgement.searchLimit)
  }

  @Test func elementsGoOutOfTheMiddleByTheShorterSide() {
    for (index, removed) in [(0, 3), (2, 5), (9, 8), (14, 6), (5, 0), (0, 20)] {
      var buffer = RingBuffer<Int>()
      // Around the end of the memory.
      for number in 0..<12 { _ = buffer.append(number) }
      buffer.removeFirst(12)
      for number in 0..<20 { _ = buffer.append(number) }
      buffer.remove(at: index, count: removed)
      var expected = Array(0..<20)
      expected.removeSubrange(index..<(index + removed))
      let count = buffer.count
      #expect(count == expected.count)
      var left: [Int] = []
      for place in 0..<count { left.append(buffer[place]) }
      #expect(left == expected)
    }
  }
}
