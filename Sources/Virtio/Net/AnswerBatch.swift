// When the frames that the guest has given are sent: at once, or with those that are about to follow.
//
// A frame wakes who waits for it, often at once and in the guest's place: on a processor that a vCPU shares with its client, each answer sent
// by itself costs the guest its turn, and an interrupt when the next request comes. Who has given the guest several requests can expect
// several answers, so the first waits for the others: until there are as many as there were requests, or `countLimit`, but never longer
// than `timeLimit`. One request open is answered at once. Where the others do not come (a request is no frame to answer, or its answer
// takes longer) waiting is of no use: it is then left for a number of times that doubles.
// Used by the pair's worker alone.
import VirtioQueue

/// What a pair's worker knows of answers that are to come.
struct AnswerBatch {
  /// Frames for which none waits any longer.
  static let countLimit = 16
  /// Nanoseconds that a frame waits at most.
  static let timeLimit: UInt64 = 50_000
  /// More answers than that are not expected: requests need not be answered at all.
  static let owedLimit = 1024

  /// Frames given to the guest that may yet be answered.
  private(set) var owed = 0
  /// When the first frame that waits was seen, 0 if none waits, and how many there were then.
  private var since: UInt64 = 0
  private var countAtFirst = 0
  private var waiting = Backoff()

  /// Frames have been given to the guest.
  mutating func hasDelivered(_ count: Int) { owed = min(owed + count, Self.owedLimit) }

  /// No answer is expected any more: others may send them while the worker sleeps.
  mutating func forget() {
    owed = 0
    since = 0
  }

  /// So many frames have been sent.
  mutating func hasSent(_ count: Int) {
    owed = max(0, owed - count)
    since = 0
  }

  /// Whether frames that the guest has given wait for more.
  /// - Parameters:
  ///   - count: how many there are.
  ///   - now: the time in nanoseconds, not 0.
  mutating func holds(_ count: Int, now: @autoclosure () -> UInt64) -> Bool {
    guard count > 0, count < min(owed, Self.countLimit) else {
      if since != 0, count > countAtFirst { waiting.wasOfUse() }
      return false
    }
    if since == 0 {
      if waiting.isLeftOut() { return false }
      (since, countAtFirst) = (now(), count)
      return true
    }
    if now() &- since < Self.timeLimit { return true }
    if count == countAtFirst { waiting.wasInVain() } else { waiting.wasOfUse() }
    owed = 0
    return false
  }
}

extension AnswerBatch {
  /// Bytes of a frame's beginning that tell: Ethernet's header, IPv4's with all options, TCP's.
  static let prefixByteCount = 14 + 60 + 20
  private static let linkByteCount = FrameHeader.linkByteCount
  private static let (tcp, synchronizeOrFinish): (UInt8, UInt8) = (6, 3)

  /// Whether a frame may be answered, from its beginning: any but a segment of TCP (RFC 9293, 3.1) that only acknowledges.
  static func mayBeAnswered(_ frame: UnsafeRawBufferPointer) -> Bool {
    func word(_ offset: Int) -> UInt16 { UInt16(frame[offset]) << 8 | UInt16(frame[offset + 1]) }
    guard frame.count >= linkByteCount + 40 else { return true }
    let segment: Int
    let end: Int
    switch word(12) {
    case EtherType.ipv4 where frame[linkByteCount + 9] == tcp:
      segment = linkByteCount + 4 * Int(frame[linkByteCount] & 15)
      end = linkByteCount + Int(word(linkByteCount + 2))
    case EtherType.ipv6 where frame[linkByteCount + 6] == tcp:
      segment = linkByteCount + 40
      end = segment + Int(word(linkByteCount + 4))
    default: return true
    }
    guard frame.count >= segment + 14 else { return true }
    return segment + 4 * Int(frame[segment + 12] >> 4) != end || frame[segment + 13] & synchronizeOrFinish != 0
  }
}
