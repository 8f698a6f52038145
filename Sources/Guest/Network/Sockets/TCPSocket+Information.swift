// TCP_INFO: what a program can learn of its connection (`struct tcp_info`, as of Linux 6.1).
import Base
import Devices
import Locks

/// struct tcp_info.
private struct Information: BitwiseCopyable {
  var state: UInt8 = 0
  var congestionState: UInt8 = 0
  var retransmits: UInt8 = 0
  var probes: UInt8 = 0
  var backoff: UInt8 = 0
  var options: UInt8 = 0
  /// Shifts of the windows: theirs in the low four bits, ours in the high ones.
  var scales: UInt8 = 0
  var flags: UInt8 = 0
  var timeout: UInt32 = 0
  var acknowledgementTimeout: UInt32 = 0
  var sendSegmentSize: UInt32 = 0
  var receiveSegmentSize: UInt32 = 0
  var unacknowledged: UInt32 = 0
  var sacked: UInt32 = 0
  var lost: UInt32 = 0
  var retransmitted: UInt32 = 0
  var forwardAcknowledged: UInt32 = 0
  var lastDataSent: UInt32 = 0
  var lastAcknowledgementSent: UInt32 = 0
  var lastDataReceived: UInt32 = 0
  var lastAcknowledgementReceived: UInt32 = 0
  var pathMTU: UInt32 = 0
  var receiveThreshold: UInt32 = 0
  var roundTrip: UInt32 = 0
  var roundTripVariance: UInt32 = 0
  var sendThreshold: UInt32 = 0
  var congestionWindow: UInt32 = 0
  var advertisedSegmentSize: UInt32 = 0
  var reordering: UInt32 = 3
  var receiverRoundTrip: UInt32 = 0
  var receiverSpace: UInt32 = 0
  var totalRetransmissions: UInt32 = 0
  var pacingRate: UInt64 = .max
  var largestPacingRate: UInt64 = .max
  var bytesAcknowledged: UInt64 = 0
  var bytesReceived: UInt64 = 0
  var segmentsOut: UInt32 = 0
  var segmentsIn: UInt32 = 0
  var unsentBytes: UInt32 = 0
  var leastRoundTrip: UInt32 = .max
  var dataSegmentsIn: UInt32 = 0
  var dataSegmentsOut: UInt32 = 0
  var deliveryRate: UInt64 = 0
  var busyTime: UInt64 = 0
  var windowLimitedTime: UInt64 = 0
  var bufferLimitedTime: UInt64 = 0
  var delivered: UInt32 = 0
  var deliveredMarked: UInt32 = 0
  var bytesSent: UInt64 = 0
  var bytesRetransmitted: UInt64 = 0
  var duplicatesReported: UInt32 = 0
  var reorderingSeen: UInt32 = 0
  var outOfOrderReceived: UInt32 = 0
  var sendWindow: UInt32 = 0
}

extension TCPSocket {
  /// Answers TCP_INFO.
  func putInformation(_ result: inout OptionResult) {
    var information = Information()
    let now = begin()
    let flow = flow
    information.state = state.rawValue
    if let listener {
      // As Linux has it: who waits to be accepted, and how many may.
      information.unacknowledged = listener.waitingCount.load(ordering: .relaxed).u32
      information.sacked = listener.backlog.u32
    } else if let flow {
      fill(&information, flow, now: now)
    }
    end(flow, now: now)
    result.put(information)
  }

  private func fill(_ result: inout Information, _ flow: TCPFlow, now: UInt64) {
    func since(_ time: UInt64) -> UInt32 {
      time == 0 || time > now ? 0 : min((now &- time) / 1_000_000, UInt32.max.u64).u32
    }
    result.congestionState =
      switch flow.core.recovery {
      case .open: 0
      case .reduced: 2
      case .recovering: 3
      case .timedOut: 4
      }
    result.retransmits = min(flow.core.timeoutCount, 255).u8
    result.probes = min(flow.core.probeCount, 255).u8
    result.backoff = min(flow.core.backoff, 255).u8
    if flow.core.usesTimestamps { result.options |= 1 }
    if flow.core.usesSelective { result.options |= 2 }
    if flow.core.sendScale > 0 || flow.core.receiveScale > 0 { result.options |= 4 }
    if flow.core.usesNotification { result.options |= 8 }
    result.scales = flow.core.sendScale & 15 | flow.core.receiveScale &<< 4
    result.timeout = (flow.core.roundTrip.timeout(backoff: flow.core.backoff) / 1000).u32
    result.acknowledgementTimeout = (tcp.settings.acknowledgementDelay / 1000).u32
    let size = max(flow.core.segmentSize, 1)
    result.sendSegmentSize = size.u32
    result.receiveSegmentSize = flow.core.receiveSegmentSize.u32
    result.unacknowledged = ((flow.core.flight &+ size &- 1) / size).u32
    result.sacked = flow.core.scoreboard.sackedSegmentCount.u32
    result.lost = ((flow.core.scoreboard.lostByteCount &+ size &- 1) / size).u32
    result.lastDataSent = since(flow.core.statistics.lastDataSentAt)
    result.lastDataReceived = since(flow.core.lastDataReceivedAt)
    result.lastAcknowledgementReceived = since(flow.core.statistics.lastAcknowledgementAt)
    result.pathMTU = flow.core.path.mtu.u32
    result.receiveThreshold = flow.core.receiveCapacity.u32
    result.roundTrip = (flow.core.roundTrip.smoothed / 1000).u32
    result.roundTripVariance = (flow.core.roundTrip.variance / 1000).u32
    let threshold = flow.core.congestion.threshold
    result.sendThreshold = threshold >= CongestionControl.largest ? 0x7fff_ffff : (threshold / size).u32
    result.congestionWindow = max(flow.core.congestion.window / size, 1).u32
    result.advertisedSegmentSize = flow.core.advertisedSegmentSize.u32
    result.receiverRoundTrip = (flow.core.receiverRoundTrip / 1000).u32
    result.receiverSpace = flow.core.receiveCapacity.u32
    result.totalRetransmissions = flow.core.statistics.retransmissions
    result.bytesAcknowledged = flow.core.statistics.bytesAcknowledged
    result.bytesReceived = flow.core.statistics.bytesReceived
    result.segmentsOut = flow.core.statistics.segmentsSent
    result.segmentsIn = flow.core.statistics.segmentsReceived
    result.unsentBytes = max(flow.core.sendQueue.end - flow.core.sendNext, 0).u32
    if let least = flow.core.roundTrip.minimum { result.leastRoundTrip = (least / 1000).u32 }
    result.dataSegmentsIn = flow.core.statistics.dataSegmentsReceived
    result.dataSegmentsOut = flow.core.statistics.dataSegmentsSent
    result.bytesSent = flow.core.statistics.bytesSent
    result.bytesRetransmitted = flow.core.statistics.bytesRetransmitted
    result.duplicatesReported = flow.core.statistics.duplicatesSeen
    result.sendWindow = flow.core.sendWindow.u32
  }
}
