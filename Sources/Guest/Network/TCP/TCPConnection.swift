// TCPConnection: one connection by RFC 9293, without input or output: packets, calls and the time come in as arguments; what is to be
// sent is left in `outgoing`, what its owner should know in `events`, and when it wants to be called in `nextDeadline`.
//
// The owner, who calls under one lock, does after each call or batch of calls: `flush(now)`, send `outgoing`, take `events`, arm
// its timer. Names follow the RFC: SND.UNA is `acknowledged`, SND.NXT `sendNext`, RCV.NXT `receiveNext`. Handshakes of a listener
// are not here: a connection that was accepted begins in SYN-RECEIVED with what its request settled, and takes the ACK that
// completes it.
//
// Times are nanoseconds of one monotonic clock. Deadlines are `.max` when there is none.
import Base
import Devices

/// What a path to a peer allows.
struct TCPPath: BitwiseCopyable {
  /// The largest IP packet.
  var mtu: Int
  /// Whether it is IPv6.
  var isV6: Bool
  /// Bytes of data that one packet may have, to be cut into segments on its way out; 0: one segment.
  var largestSend: Int = 65_535 - 60 - 60

  /// Bytes of IP and TCP headers without options.
  @inline(__always) var headerByteCount: Int { isV6 ? 60 : 40 }
}

/// What a socket asks of its connection.
struct TCPOptionsOfSocket: BitwiseCopyable {
  /// TCP_NODELAY, TCP_CORK.
  var isUndelayed = false
  var isCorked = false
  /// SO_KEEPALIVE and TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT; 0: as the settings have it.
  var isKeptAlive = false
  var keepaliveIdle: UInt64 = 0
  var keepaliveInterval: UInt64 = 0
  var keepaliveCount = 0
  /// TCP_USER_TIMEOUT, ns; 0: none.
  var userTimeout: UInt64 = 0
  /// TCP_SYNCNT; 0: as the settings have it.
  var synRetries = 0
  /// TCP_LINGER2, ns; 0: as the settings have it; `.max`: no FIN_WAIT2 without a program.
  var finishTimeout: UInt64 = 0
  /// TCP_MAXSEG; 0: none.
  var segmentSize = 0
  /// TCP_WINDOW_CLAMP; 0: none.
  var windowClamp = 0
  /// TCP_NOTSENT_LOWAT; 0: none.
  var unsentLowMark = 0
  /// SO_OOBINLINE.
  var takesUrgentInline = false
  /// SO_RCVLOWAT.
  var receiveLowMark = 1
  /// SO_RCVBUF and SO_SNDBUF have been set: no tuning.
  var isReceiveBufferLocked = false
  var isSendBufferLocked = false
}

/// What two ends have settled by their SYNs.
struct TCPHandshake {
  /// Our first number, and theirs.
  var initialSend: SequenceNumber
  var initialReceive: SequenceNumber
  /// What the peer takes.
  var peerSegmentSize: Int
  /// The window of the peer's SYN, which is not scaled.
  var peerWindow: Int
  /// Shifts of their windows and ours; nil: no scaling.
  var sendScale: UInt8?
  var receiveScale: UInt8?
  var usesSelective: Bool
  var usesTimestamps: Bool
  var recentTimestamp: UInt32 = 0
  var usesNotification: Bool
  /// What we add to our clock in timestamps.
  var timestampOffset: UInt32
  /// When the SYN-ACK was sent; 0: not known, or more than once.
  var sentAt: UInt64 = 0
}

struct TCPConnection: ~Copyable {
  /// Where recovery stands.
  enum Recovery: UInt8 {
    /// Nothing is wrong.
    case open
    /// The window was reduced though nothing is known to be lost (ECN, a probe that repaired a loss).
    case reduced
    /// Losses are being repaired.
    case recovering
    /// After a timeout.
    case timedOut
  }

  let settings: TCPSettings
  let localPort: UInt16
  let remotePort: UInt16
  /// The sum of the pseudo header's constant part.
  let pseudoHeader: InternetChecksum
  var path: TCPPath
  var options = TCPOptionsOfSocket()
  var state = TCPState.closed
  /// Why it has failed; and what ICMP has said meanwhile, which counts when patience ends.
  var error: Errno?
  var softError: Errno?
  var events: TCPEvents = []
  var outgoing = PacketList()

  // MARK: What we send

  var sendQueue = SendQueue()
  var scoreboard = Scoreboard()
  var initialSend = SequenceNumber(0)
  /// SND.UNA.
  var acknowledged = SequenceNumber(0)
  /// SND.NXT.
  var sendNext = SequenceNumber(0)
  /// SND.WND, SND.WL1, SND.WL2, and the largest window so far.
  var sendWindow = 0
  var windowSequence = SequenceNumber(0)
  var windowAcknowledgement = SequenceNumber(0)
  var largestSendWindow = 0
  var sendScale: UInt8 = 0
  /// The number behind the last urgent byte (SND.UP), while there is one.
  var urgentEnd: SequenceNumber?
  /// The program sends no more: a FIN follows the data; and it has been sent.
  var isFinishing = false
  var hasSentFinish = false
  /// The end of the last segment smaller than full (Minshall's variant of Nagle's rule).
  var lastSmallEnd = SequenceNumber(0)
  /// Up to where PSH is owed.
  var pushEnd = SequenceNumber(0)
  /// More follows at once (MSG_MORE).
  var expectsMore = false
  /// Bytes that the program may leave with us.
  var sendLimit: Int
  /// The program has met a full buffer and is told when there is room.
  var isOutOfRoom = false
  /// The program has found no memory, and is told to try again then.
  var memoryDeadline = UInt64.max
  /// MSS of the peer; without options.
  var peerSegmentSize = 536
  /// Bytes of data of a full segment.
  var segmentSize = 536
  var lastSentAt: UInt64 = 0

  // MARK: What we receive

  var receiveQueue = ReceiveQueue()
  var reassembly = SegmentReassembly()
  /// What the machine's account has of both, and whether memory was short when it was looked at last (`TCPMemory`).
  var accountedFootprint = 0
  var isMemoryShort = false
  /// When what is out of order has lain there for long.
  var reassemblyDeadline = UInt64.max
  var initialReceive = SequenceNumber(0)
  /// RCV.NXT.
  var receiveNext = SequenceNumber(0)
  /// The end of the window that the peer knows of: RCV.NXT + RCV.WND.
  var windowEdge = SequenceNumber(0)
  var receiveScale: UInt8 = 0
  /// Bytes in order that no reader has consumed.
  var unconsumed = 0
  /// How many of those the buffer is to hold: the largest window.
  var receiveCapacity: Int
  /// Bytes of data of the peer's segments, as seen.
  var receiveSegmentSize = 536
  /// The number of the FIN that has come, ahead of data perhaps; and whether its turn has come.
  var finishNumber: SequenceNumber?
  var hasFinished = false
  /// No reader is there (any more): data that comes is refused.
  var isReaderGone = false
  /// The number of the last urgent byte, and where it is.
  var urgentNumber: SequenceNumber?
  var urgentState = UrgentState.none
  var urgentByte: UInt8 = 0

  /// Where the urgent byte is.
  enum UrgentState: UInt8 {
    case none
    /// Announced, not here.
    case announced
    /// Here, not read.
    case present
    /// Read out of band.
    case taken
  }

  // MARK: Acknowledgements

  /// Last.ACK.sent.
  var lastAcknowledgementSent = SequenceNumber(0)
  /// One is to be sent with the next flush.
  var owesAcknowledgement = false
  /// Bytes in order since the last.
  var unacknowledgedCount = 0
  /// So many are sent at once.
  var quickCount = 0
  /// The program answers soon: acknowledgements go along.
  var isInteractive = false
  /// When anything came, and when data did.
  var lastReceivedAt: UInt64 = 0
  var lastDataReceivedAt: UInt64 = 0
  var duplicateReceived: SequenceRange?
  var lastChallengeAt: UInt64 = 0
  var duplicateAcknowledgements = 0

  // MARK: Options in use

  var usesSelective = false
  var usesTimestamps = false
  var timestampOffset: UInt32 = 0
  /// TS.Recent, and when it came.
  var recentTimestamp: UInt32 = 0
  var recentTimestampAt: UInt64 = 0
  var usesNotification = false
  /// ECE goes out until CWR comes; CWR goes out with the next data (RFC 3168, 6.1).
  var owesCongestionEcho = false
  var owesWindowReduced = false

  // MARK: Congestion

  var roundTrip: RoundTripTime
  var congestion: CongestionControl
  var recentArrival = RecentAcknowledgement()
  var rateReduction = ProportionalRateReduction()
  var recovery = Recovery.open
  /// Recovery ends when this is acknowledged.
  var recoveryEnd = SequenceNumber(0)
  /// Before the reduction, in case it was for nothing.
  var windowBefore = 0
  var thresholdBefore = 0
  /// The timestamp of the first retransmission since; nil: it cannot be taken back (RFC 3522).
  var retransmissionStamp: UInt32?
  /// The window limited us up to here.
  var limitedEnd = SequenceNumber(0)
  /// The most that was in the pipe in this window of data, which ends there.
  var flightPeak = 0
  var flightPeakEnd = SequenceNumber(0)
  /// A probe of the tail is under way (TLP.end_seq, RFC 8985, 7).
  var tailProbeEnd: SequenceNumber?
  var isTailProbeRetransmission = false

  // MARK: Timers

  var retransmissionDeadline = UInt64.max
  var tailProbeDeadline = UInt64.max
  var reorderingDeadline = UInt64.max
  var persistDeadline = UInt64.max
  var acknowledgementDeadline = UInt64.max
  var keepaliveDeadline = UInt64.max
  /// FIN-WAIT-2 without a program.
  var finishDeadline = UInt64.max
  /// How often the RTO has been doubled; timeouts in a row; and probes.
  var backoff = 0
  var timeoutCount = 0
  /// Probes of a closed window in a row, and those of them that nobody has answered.
  var persistBackoff = 0
  var probeCount = 0
  var keepaliveCount = 0
  /// Since when nothing has been heard of what was sent; 0: nothing is awaited.
  var waitingSince: UInt64 = 0

  // MARK: Tuning, path, counts

  /// Receive-buffer tuning: bytes consumed since the round began, when that was, and how long a round is.
  var roundConsumed = 0
  var roundStart: UInt64 = 0
  var receiverRoundTrip: UInt64 = 0
  var receiverRoundEnd = SequenceNumber(0)
  var receiverRoundStart: UInt64 = 0
  /// What large segments vanishing has taught; 0: nothing.
  var probedSegmentSize = 0
  var fullSizeTimeouts = 0
  var nextSizeProbeAt = UInt64.max
  var statistics = Statistics()

  /// For TCP_INFO.
  struct Statistics {
    var bytesSent: UInt64 = 0
    var bytesRetransmitted: UInt64 = 0
    var bytesAcknowledged: UInt64 = 0
    var bytesReceived: UInt64 = 0
    var segmentsSent: UInt32 = 0
    var segmentsReceived: UInt32 = 0
    var dataSegmentsSent: UInt32 = 0
    var dataSegmentsReceived: UInt32 = 0
    var retransmissions: UInt32 = 0
    var duplicatesSeen: UInt32 = 0
    var lastDataSentAt: UInt64 = 0
    var lastAcknowledgementAt: UInt64 = 0
  }

  /// A connection in CLOSED.
  init(
    _ settings: TCPSettings, from localPort: UInt16, to remotePort: UInt16, pseudoHeader: InternetChecksum,
    _ path: TCPPath
  ) {
    self.settings = settings
    self.localPort = localPort
    self.remotePort = remotePort
    self.pseudoHeader = pseudoHeader
    self.path = path
    sendLimit = settings.sendBuffer.first
    receiveCapacity = settings.receiveBuffer.first / 2
    roundTrip = RoundTripTime(
      initial: settings.initialTimeout, least: settings.leastTimeout, most: settings.largestTimeout)
    congestion = CongestionControl(settings.congestionAlgorithm, window: 536)
  }

  deinit { if accountedFootprint != 0 { settings.memory.change(by: 0 &- accountedFootprint) } }

  /// When `timerFired` wants to be called; `.max`: never.
  var nextDeadline: UInt64 {
    let sending = min(min(retransmissionDeadline, tailProbeDeadline), min(reorderingDeadline, persistDeadline))
    let rest = min(min(acknowledgementDeadline, keepaliveDeadline), finishDeadline)
    return min(min(sending, rest), min(reassemblyDeadline, memoryDeadline))
  }

  /// Takes what has happened.
  mutating func takeEvents() -> TCPEvents {
    defer { events = [] }
    return events
  }

  /// The number behind all that the program has given us, the FIN included.
  @inline(__always) var sendEnd: SequenceNumber { sendQueue.end + (isFinishing ? 1 : 0) }
  /// Bytes (and FIN) that have not been sent yet.
  @inline(__always) var unsentCount: Int { sendEnd - sendNext }
  /// Bytes under way, whatever became of them (RFC 5681: FlightSize).
  @inline(__always) var flight: Int { sendNext - acknowledged }
  /// Bytes taken to be in the network. Without SACK, each duplicate ACK stands for a segment that has left it.
  @inline(__always) var pipe: Int {
    let left = usesSelective ? 0 : min(duplicateAcknowledgements &* segmentSize, max(flight &- segmentSize, 0))
    return max(scoreboard.pipe &- left, 0)
  }
  /// The clock of timestamps: milliseconds.
  @inline(__always) func timestamp(_ now: UInt64) -> UInt32 { (now / 1_000_000).u32 &+ timestampOffset }
}
