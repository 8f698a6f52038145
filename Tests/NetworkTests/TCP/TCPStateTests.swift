// The state machine of RFC 9293, by scripts: how connections open and close, and what is refused.
import Base
import Testing

@testable import Network

@Suite(.timeLimit(.minutes(5))) struct TCPStateTests {
  /// No options, so that numbers are simple.
  static var plain: TCPSettings {
    let settings = TCPSettings()
    settings.offersTimestamps = false
    settings.offersSelective = false
    settings.offersScaling = false
    settings.congestionAlgorithm = .newReno
    return settings
  }

  @Test func opensActively() {
    TCPScript().run(
      """
      connect
      > S 0:0(0) win 65535 <mss 1460,sackok,ts,wscale 6>
      state synSent
      +0.010
      < S. 0:0(0) ack 1 win 65535 <mss 1460,sackok,ts,wscale 7>
      > . 1:1(0) ack 1 <ts,nosack>
      state established
      check connected 1
      check mss 1448
      check cwnd 14480
      """)
  }

  @Test func peerWithoutOptions() {
    TCPScript().run(
      """
      connect
      > S 0:0(0)
      < S. 0:0(0) ack 1 win 5000
      > . 1:1(0) ack 1 <nots,nooptions>
      check mss 536
      """)
    TCPScript(isV6: true).run(
      """
      connect
      > S 0:0(0) <mss 1440>
      < S. 0:0(0) ack 1 win 5000
      > . 1:1(0) ack 1
      check mss 1220
      """)
  }

  @Test func synIsRepeatedAndGivenUp() {
    let script = TCPScript().run(
      """
      connect
      > S 0:0(0)
      +0.999999
      nothing
      +0.000001
      > S 0:0(0)
      +2
      > S 0:0(0)
      +4
      > S 0:0(0)
      +8
      > S 0:0(0)
      +16
      > S 0:0(0)
      +32
      > S 0:0(0)
      +64
      error ETIMEDOUT
      state closed
      """)
    #expect(script.connection.events.contains([.failed, .ended]))
  }

  @Test func firstWindowAfterLostSynIsOneSegment() {
    TCPScript(Self.plain).run(
      """
      connect
      > S 0:0(0)
      +1
      > S 0:0(0)
      < S. 0:0(0) ack 1 <mss 1000>
      > . 1:1(0) ack 1
      check cwnd 1000
      """)
  }

  @Test func refused() {
    TCPScript().run(
      """
      connect
      > S 0:0(0)
      < R. 0:0(0) ack 1
      error ECONNREFUSED
      state closed
      """)
    // One that acknowledges nothing of ours means nothing (RFC 9293, 3.10.7.3).
    TCPScript().run(
      """
      connect
      > S 0:0(0)
      < R 0:0(0)
      < R. 0:0(0) ack 7
      state synSent
      """)
  }

  /// A half-open connection is found out (RFC 9293, 3.5.1, figure 9).
  @Test func oldAcknowledgementInSynSent() {
    TCPScript().run(
      """
      connect
      > S 0:0(0)
      < . 100:100(0) ack 300
      > R 300:300(0)
      < S. 100:100(0) ack 0
      > R 0:0(0)
      state synSent
      """)
  }

  @Test func opensOnBothSidesAtOnce() {
    TCPScript(Self.plain).run(
      """
      connect
      > S 0:0(0)
      < S 0:0(0) win 1000 <mss 1000>
      > S. 0:0(0) ack 1
      state synReceived
      < S 0:0(0)               # again: ours was lost
      > S. 0:0(0) ack 1
      < S. 0:0(0) ack 1 win 1000
      state established
      """)
    // The SYN-ACK is lost, and comes again by the timer.
    TCPScript(Self.plain).run(
      """
      connect
      > S 0:0(0)
      < S 0:0(0)
      > S. 0:0(0) ack 1
      +1
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 1
      state established
      """)
  }

  @Test func acceptsWithDataInTheAcknowledgement() {
    TCPScript().run(
      """
      accept <mss 1460>
      state established
      < P. 1:101(100) ack 1
      > . 1:1(0) ack 101
      read 100
      """)
  }

  /// What is not ours in SYN-RECEIVED is reset (RFC 9293, 3.10.7.4).
  @Test func wrongAcknowledgementInSynReceived() {
    TCPScript(Self.plain).run(
      """
      connect
      > S 0:0(0)
      < S 0:0(0)
      > S. 0:0(0) ack 1
      < . 1:1(0) ack 77
      > R 77:77(0)
      state synReceived
      < R 1:1(0)
      state closed
      error ECONNREFUSED
      """)
  }

  // MARK: Closing

  @Test func closesFirst() {
    let script = TCPScript(Self.plain).run(
      """
      accept
      finish
      > F. 1:1(0) ack 1
      state finWait1
      < . 1:1(0) ack 2
      state finWait2
      < P. 1:11(10) ack 2
      > . 2:2(0) ack 11
      read 10
      < F. 11:11(0) ack 2
      > . 2:2(0) ack 12
      state timeWait
      """)
    #expect(script.connection.events.contains([.ended, .drained, .peerFinished]))
  }

  @Test func closesSecond() {
    TCPScript(Self.plain).run(
      """
      accept
      < F. 1:1(0) ack 1
      > . 1:1(0) ack 2
      state closeWait
      check readable 1
      write 100
      > P. 1:101(100) ack 2
      < . 2:2(0) ack 101
      finish
      > F. 101:101(0) ack 2
      state lastAck
      < . 2:2(0) ack 102
      state closed
      error none
      """)
  }

  @Test func closeAtOnce() {
    TCPScript(Self.plain).run(
      """
      accept
      finish
      > F. 1:1(0) ack 1
      < F. 1:1(0) ack 1
      > . 2:2(0) ack 2
      state closing
      < . 2:2(0) ack 2
      state timeWait
      """)
    // The peer's FIN acknowledges ours.
    TCPScript(Self.plain).run(
      """
      accept
      finish
      > F. 1:1(0) ack 1
      < F. 1:1(0) ack 2
      > . 2:2(0) ack 2
      state timeWait
      """)
  }

  @Test func finishWaitsForData() {
    TCPScript(Self.plain).run(
      """
      accept win 1000 <mss 500>
      write 1400
      > . 1:501(500) ack 1
      > . 501:1001(500) ack 1
      finish
      state finWait1
      < . 1:1(0) ack 1001 win 1000
      > FP. 1001:1401(400) ack 1
      +0.010
      < . 1:1(0) ack 1402
      state finWait2
      """)
  }

  @Test func finishIsRepeated() {
    TCPScript(Self.plain).run(
      """
      accept rtt 10
      finish
      > F. 1:1(0) ack 1
      +0.210
      > F. 1:1(0) ack 1
      < . 1:1(0) ack 2
      state finWait2
      """)
  }

  /// What is left unread is lost, and the peer learns that (RFC 2525, 2.17).
  @Test func closeWithUnreadDataResets() {
    TCPScript(Self.plain).run(
      """
      accept
      < P. 1:11(10) ack 1
      > . 1:1(0) ack 11
      close
      > R. 1:1(0) ack 11
      state closed
      """)
  }

  @Test func dataForNobodyResets() {
    TCPScript(Self.plain).run(
      """
      accept
      close
      > F. 1:1(0) ack 1
      < . 1:1(0) ack 2
      < P. 1:11(10) ack 2
      > R. 2:2(0) ack 1
      state closed
      """)
  }

  @Test func finWait2WithoutProgramEnds() {
    TCPScript(Self.plain).run(
      """
      accept
      close
      > F. 1:1(0) ack 1
      < . 1:1(0) ack 2
      state finWait2
      +59.9
      state finWait2
      +0.2
      state closed
      """)
  }

  @Test func abortResets() {
    TCPScript(Self.plain).run(
      """
      accept
      write 10
      > P. 1:11(10) ack 1
      abort
      > R. 11:11(0) ack 1
      state closed
      """)
  }

  // MARK: RST and SYN in the window (RFC 5961)

  @Test func resetExactly() {
    TCPScript(Self.plain).run(
      """
      accept
      < R 1:1(0)
      state closed
      error ECONNRESET
      """)
    TCPScript(Self.plain).run(
      """
      accept
      < F. 1:1(0) ack 1
      > . 1:1(0) ack 2
      < R 2:2(0)
      state closed
      error EPIPE
      """)
  }

  @Test func resetInTheWindowIsChallenged() {
    TCPScript(Self.plain).run(
      """
      accept
      < R 100:100(0)
      > . 1:1(0) ack 1
      < R 200:200(0)           # not twice in half a second
      state established
      +0.5
      < R 300:300(0)
      > . 1:1(0) ack 1
      < R 70000:70000(0)       # outside
      state established
      """)
  }

  @Test func synInTheWindowIsChallenged() {
    TCPScript(Self.plain).run(
      """
      accept
      < S 1:1(0)
      > . 1:1(0) ack 1
      +1
      < S 900000:900000(0)
      > . 1:1(0) ack 1
      state established
      """)
  }

  @Test func acknowledgementsOfTheFutureAndPast() {
    TCPScript(Self.plain).run(
      """
      accept win 60000
      write 10
      > P. 1:11(10) ack 1
      < . 1:1(0) ack 12        # of what was not sent
      > . 11:11(0) ack 1
      +1
      > P. 1:11(10) ack 1
      > P. 1:11(10) ack 1
      < . 1:1(0) ack 11
      < P. 1:11(10) ack 1      # old, but within the largest window: its data counts
      > . 11:11(0) ack 11
      read 10
      +1
      < P. 11:21(10) ack 4294900000
      > . 11:11(0) ack 11
      """)
  }

  @Test func unacceptableSegments() {
    TCPScript(Self.plain).run(
      """
      accept
      < P. 1:101(100) ack 1
      > . 1:1(0) ack 101
      < P. 1:101(100) ack 1    # again
      > . 1:1(0) ack 101
      < P. 90000:90001(1) ack 1
      > . 1:1(0) ack 101
      < . 0:0(0) ack 1         # a keep-alive
      > . 1:1(0) ack 101
      read 100
      check unconsumed 0
      """)
  }
}
