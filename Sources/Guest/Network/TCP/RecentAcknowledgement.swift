// RACK: losses found by time: what was sent well before something that has arrived since is lost (RFC 8985).
import Base

/// RACK's state of a connection.
struct RecentAcknowledgement {
  /// Segments sacked from which on no reordering is expected (RFC 8985, 5.1: DupThresh).
  static var duplicateThreshold: Int { 3 }

  /// When the one sent last, of all that have arrived, was sent, and its end (RACK.xmit_ts, RACK.end_seq).
  private(set) var sentAt: UInt64 = 0
  private(set) var end = SequenceNumber(0)
  /// Its round trip (RACK.rtt).
  private(set) var roundTrip: UInt64 = 0
  /// The highest number that has arrived (RACK.fack), now and before this acknowledgement.
  private(set) var highest = SequenceNumber(0)
  private var highestBefore = SequenceNumber(0)
  /// Whether something has arrived later than what was sent after it.
  private(set) var hasSeenReordering = false
  private var windowMultiplier: UInt64 = 1
  private var windowPersistence = 0
  private var duplicateRound: SequenceNumber?
  /// Where the search for losses goes on, if it has not come through, and the latest time that something before is due at; 0: none.
  private var searchStart: SequenceNumber?
  private var searchDue: UInt64 = 0
  /// Records that one acknowledgement has looked at; the next one, or the timer, goes on.
  static var searchLimit: Int { 512 }
  private static var searchPause: UInt64 { 1_000_000 }

  /// Numbers begin here.
  mutating func begin(at number: SequenceNumber) { (highest, highestBefore, end) = (number, number, number) }

  /// An acknowledgement comes.
  mutating func beginAcknowledgement() { highestBefore = highest }

  /// Something has arrived, as this acknowledgement says (6.2, steps 2 and 3).
  /// - Parameter isCertain: it is the last transmission that has arrived, as timestamps show or because there was only one.
  mutating func arrived(_ record: SentSegment, now: UInt64, minimum: UInt64?, isCertain: Bool) {
    let wasRetransmitted = record.flags.contains(.everRetransmitted)
    if record.numbers.end > highest { highest = record.numbers.end }
    if record.numbers.end < highestBefore, !wasRetransmitted { hasSeenReordering = true }
    let time = now &- record.sentAt
    if wasRetransmitted {
      guard isCertain, time >= minimum ?? 0 else { return }
    }
    roundTrip = time
    if Self.isLater(record.sentAt, record.numbers.end, sentAt, end) {
      sentAt = record.sentAt
      end = record.numbers.end
    }
  }

  /// RACK_sent_after.
  private static func isLater(_ time: UInt64, _ end: SequenceNumber, _ other: UInt64, _ otherEnd: SequenceNumber)
    -> Bool
  {
    time > other || (time == other && end > otherEnd)
  }

  /// The peer has said that it received something twice: we were too quick (6.2, step 4).
  mutating func sawDuplicate(acknowledged: SequenceNumber, next: SequenceNumber) {
    if let round = duplicateRound, acknowledged < round { return }
    duplicateRound = next
    windowMultiplier = min(windowMultiplier &+ 1, 64)
    windowPersistence = 16
  }

  /// A recovery has ended.
  mutating func recoveryEnded() {
    guard windowPersistence > 0 else { return }
    windowPersistence &-= 1
    if windowPersistence == 0 { windowMultiplier = 1 }
  }

  /// How much longer than what overtook it something may take (6.2, step 4: RACK.reo_wnd).
  func reorderingWindow(isRecovering: Bool, sackedSegments: Int, _ time: RoundTripTime) -> UInt64 {
    if !hasSeenReordering, isRecovering || sackedSegments >= Self.duplicateThreshold { return 0 }
    return min(windowMultiplier &* ((time.minimum ?? time.smoothed) / 4), time.smoothed)
  }

  /// Marks what is lost (6.2, step 5).
  /// - Returns: bytes found lost, how long to wait before looking again, ns (0: nothing to wait for), and records looked at.
  mutating func findLosses(
    _ board: inout Scoreboard, window: UInt64, now: UInt64
  ) -> (byteCount: Int, wait: UInt64, visited: Int) {
    var (found, latest, visited) = (0, UInt64(0), 0)
    var index = 0
    if let start = searchStart { (index, latest) = (board.index(behind: start), searchDue) }
    searchStart = nil
    while index < board.count {
      let record = board[index]
      if visited == Self.searchLimit {
        (searchStart, searchDue) = (record.numbers.start, latest)
        return (found, Self.searchPause, visited)
      }
      visited &+= 1
      index &+= 1
      if record.isSacked || record.awaitsRetransmission { continue }
      guard Self.isLater(sentAt, end, record.sentAt, record.numbers.end) else {
        // What was sent once was sent in order: nothing behind it was sent earlier.
        if !record.flags.contains(.everRetransmitted) { break }
        continue
      }
      let due = record.sentAt &+ roundTrip &+ window
      if due <= now {
        board.markLost(index &- 1)
        found &+= record.numbers.count
      } else {
        latest = max(latest, due)
      }
    }
    if latest == 0 { return (found, 0, visited) }
    return (found, latest > now ? latest &- now : Self.searchPause, visited)
  }
}
