// Proportional rate reduction: how much may be sent for each acknowledgement while a loss is repaired (RFC 6937).
//
// The window goes down to its new size over one round trip, in step with what arrives, rather than at once; if losses took more than
// that, slow start brings it up again (the RFC's reduction bound: that of slow start while the peer makes progress, else the
// conservative one).
import Base

struct ProportionalRateReduction {
  /// Bytes delivered since recovery began (prr_delivered).
  private var delivered = 0
  /// Bytes sent since then (prr_out).
  private var sent = 0
  /// Bytes under way when it began (RecoverFS).
  private var flight = 1

  /// Recovery begins with so many bytes under way.
  mutating func begin(flight: Int) {
    self.flight = max(flight, 1)
    (delivered, sent) = (0, 0)
  }

  /// Bytes have been sent.
  @inline(__always) mutating func sent(_ count: Int) { sent &+= count }

  /// The congestion window after an acknowledgement.
  /// - Parameters:
  ///   - newly: bytes that it says were delivered.
  ///   - pipe: bytes under way.
  ///   - threshold: the window to come down to.
  ///   - makesProgress: it acknowledges new data, and nothing more was found lost.
  mutating func window(
    delivered newly: Int, pipe: Int, threshold: Int, segmentSize: Int, makesProgress: Bool
  ) -> Int {
    delivered &+= newly
    var count: Int
    if pipe > threshold {
      count = (delivered &* threshold &+ flight &- 1) / flight &- sent
    } else {
      var limit = max(delivered &- sent, newly)
      if makesProgress { limit &+= segmentSize }
      count = min(threshold &- pipe, limit)
    }
    // The first retransmission goes out in any case.
    if sent == 0 { count = max(count, segmentSize) }
    return pipe &+ max(count, 0)
  }
}
