// Loss recovery and congestion control by scripts: with SACK and without, RACK, probes of the tail, timeouts, ECN, path MTU.
import Base
import Testing

@testable import Network

@Suite(.timeLimit(.minutes(5))) struct TCPRecoveryTests {
  static var plain: TCPSettings { TCPStateTests.plain }
  static var selective: TCPSettings {
    let settings = plain
    settings.offersSelective = true
    return settings
  }

  /// RFC 5681, 3.1: a segment for each acknowledged, and then one a round trip.
  @Test func slowStartAndCongestionAvoidance() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000> rtt 10
      check cwnd 10000
      write 12000
      sent 10
      < . 1:1(0) ack 2001
      > . 10001:11001(1000) ack 1
      > P. 11001:12001(1000) ack 1
      check cwnd 12000
      """)
  }

  /// A window that was not used does not grow (RFC 7661).
  @Test func unusedWindowDoesNotGrow() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000> rtt 10
      write 1000
      > P. 1:1001(1000) ack 1
      < . 1:1(0) ack 1001
      check cwnd 10000
      """)
  }

  /// RFC 5681, 4.1: after an idle time the window is the initial one at most.
  @Test func idleRestarts() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000> rtt 10
      set cwnd 40000
      write 1000
      > P. 1:1001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1001
      +30
      write 1000
      > P. 1001:2001(1000) ack 1
      check cwnd 10000
      < . 1:1(0) ack 2001
      """)
  }

  // MARK: Without SACK (RFC 6582)

  @Test func fastRetransmit() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000> rtt 10
      write 8000
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      > . 2001:3001(1000) ack 1
      > . 3001:4001(1000) ack 1
      > . 4001:5001(1000) ack 1
      > . 5001:6001(1000) ack 1
      > . 6001:7001(1000) ack 1
      > P. 7001:8001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1001              # the second is lost
      < . 1:1(0) ack 1001
      < . 1:1(0) ack 1001
      < . 1:1(0) ack 1001
      > . 1001:2001(1000) ack 1
      check ssthresh 3500
      < . 1:1(0) ack 1001
      < . 1:1(0) ack 1001
      < . 1:1(0) ack 1001
      +0.010
      < . 1:1(0) ack 8001
      check cwnd 3500
      """)
  }

  /// Partial acknowledgements (RFC 6582, 3.2): two losses in one window, one retransmission a round trip.
  @Test func partialAcknowledgement() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000> rtt 10
      write 8000
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      > . 2001:3001(1000) ack 1
      > . 3001:4001(1000) ack 1
      > . 4001:5001(1000) ack 1
      > . 5001:6001(1000) ack 1
      > . 6001:7001(1000) ack 1
      > P. 7001:8001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1
      < . 1:1(0) ack 1
      < . 1:1(0) ack 1
      > . 1:1001(1000) ack 1
      +0.010
      < . 1:1(0) ack 3001              # the fourth is lost too
      > . 3001:4001(1000) ack 1
      +0.010
      < . 1:1(0) ack 8001
      """)
  }

  // MARK: With SACK

  @Test func selectiveRecovery() {
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 10
      write 10000
      sent 10
      +0.010
      < . 1:1(0) ack 1 <sack 1001:2001>           # the first and the fourth are lost
      < . 1:1(0) ack 1 <sack 1001:3001>
      < . 1:1(0) ack 1 <sack 4001:5001 1001:3001>
      > . 1:1001(1000) ack 1                      # the window comes down in step (RFC 6937)
      check ssthresh 5000
      < . 1:1(0) ack 1 <sack 4001:10001 1001:3001>
      > . 3001:4001(1000) ack 1
      check pipe 2000
      +0.010
      < . 1:1(0) ack 3001 <sack 4001:10001>
      < . 1:1(0) ack 10001
      check cwnd 5000
      check retransmissions 2
      """)
  }

  /// A repetition that is lost too is found by what was sent after it (RFC 8985, 3.2).
  @Test func lostRetransmission() {
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 10
      write 10000
      sent 10
      +0.010
      < . 1:1(0) ack 1 <sack 1001:4001>
      > . 1:1001(1000) ack 1
      < . 1:1(0) ack 1 <sack 1001:9001>
      +0.005
      write 3000
      > . 10001:11001(1000) ack 1
      > . 11001:12001(1000) ack 1
      > P. 12001:13001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1 <sack 10001:11001 1001:9001>   # sent later than the first's repetition, and here
      > . 1:1001(1000) ack 1
      > . 9001:10001(1000) ack 1
      +0.010
      < . 1:1(0) ack 13001
      """)
  }

  /// Reordering is no loss: two segments overtaken, and a quarter of a round trip of patience (RFC 8985, 6.2).
  @Test func reorderingIsWaitedFor() {
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 40
      write 4000
      sent 4
      +0.040
      < . 1:1(0) ack 1 <sack 1001:2001>
      +0.009
      nothing
      < . 1:1(0) ack 2001
      < . 1:1(0) ack 4001
      check retransmissions 0
      """)
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 40
      write 4000
      sent 4
      +0.040
      < . 1:1(0) ack 1 <sack 1001:2001>
      +0.0099
      nothing
      +0.0001
      > . 1:1001(1000) ack 1
      < . 1:1(0) ack 4001
      """)
  }

  /// The tail is lost: a probe comes before the timeout (RFC 8985, 7).
  @Test func tailProbe() {
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 10
      write 3000
      sent 3
      +0.0239
      nothing
      +0.0001                                   # two round trips and 4 ms
      > P. 2001:3001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1 <sack 2001:3001>         # the first two are lost
      > . 1:1001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1001 <sack 2001:3001>
      > . 1001:2001(1000) ack 1
      +0.010
      < . 1:1(0) ack 3001
      """)
  }

  @Test func tailProbeWithNewData() {
    TCPScript(Self.selective).run(
      """
      window 3000
      accept <mss 1000,sackok> rtt 10
      set cwnd 2000
      write 3000
      sent 2
      +0.024
      > P. 2001:3001(1000) ack 1
      < . 1:1(0) ack 3001
      """)
  }

  /// A probe that repaired a loss is congestion (RFC 8985, 7.4).
  @Test func tailProbeThatRepairs() {
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 10
      write 2000
      > . 1:1001(1000) ack 1
      > P. 1001:2001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1001
      write 1000
      > P. 2001:3001(1000) ack 1
      +0.024
      > P. 2001:3001(1000) ack 1
      write 1000
      > P. 3001:4001(1000) ack 1
      +0.010
      < . 1:1(0) ack 4001
      check ssthresh 2000
      """)
    // And one that was not needed is not, as the peer reports it.
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 10
      write 2000
      > . 1:1001(1000) ack 1
      > P. 1001:2001(1000) ack 1
      +0.024
      > P. 1001:2001(1000) ack 1
      < . 1:1(0) ack 2001
      < . 1:1(0) ack 2001 <sack 1001:2001>
      check cwnd 10000
      """)
  }

  @Test func timeout() {
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 10
      write 5000
      sent 5
      +0.024
      > P. 4001:5001(1000) ack 1
      +0.210
      > . 1:1001(1000) ack 1                    # the RTO counts from the probe
      check cwnd 1000
      check ssthresh 2500
      +0.420
      > . 1:1001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1001
      > . 1001:2001(1000) ack 1
      > . 2001:3001(1000) ack 1
      check cwnd 2000
      < . 1:1(0) ack 5001
      """)
  }

  /// What was sacked is not sent again after a timeout, unless the peer has forgotten it (RFC 2018, 8).
  @Test func timeoutWithSacks() {
    TCPScript(Self.selective).run(
      """
      accept <mss 1000,sackok> rtt 10
      write 5000
      sent 5
      +0.010
      < . 1:1(0) ack 1 <sack 3001:5001>
      +0.003
      > . 1:1001(1000) ack 1
      +0.207
      > . 1:1001(1000) ack 1
      +0.010
      < . 1:1(0) ack 3001 <sack 3001:5001>      # it had 3001 already: it has forgotten what it said
      """)
  }

  /// Taken back when the peer answers what was sent first (RFC 3522).
  @Test func spuriousTimeout() {
    let settings = Self.selective
    settings.offersTimestamps = true
    TCPScript(settings).run(
      """
      accept <mss 1012,sackok,ts> rtt 10
      write 2000
      > . 1:1001(1000) ack 1
      > P. 1001:2001(1000) ack 1
      < . 1:1(0) ack 1001
      +0.30
      > P. 1001:2001(1000) ack 1
      < . 1:1(0) ack 2001 <ts 6400 1010>
      check cwnd 10000
      """)
  }

  // MARK: ECN (RFC 3168)

  static var notified: TCPSettings {
    let settings = plain
    settings.congestionNotification = 1
    return settings
  }

  @Test func ecnIsNegotiated() {
    TCPScript(Self.notified).run(
      """
      connect
      > SEW 0:0(0)
      < SE. 0:0(0) ack 1 <mss 1000>
      > . 1:1(0) ack 1
      write 100
      > P. 1:101(100) ack 1 ect
      """)
    TCPScript(Self.notified).run(
      """
      connect
      > SEW 0:0(0)
      +1
      > S 0:0(0)                        # perhaps that was it
      < S. 0:0(0) ack 1 <mss 1000>
      > . 1:1(0) ack 1
      write 100
      > P. 1:101(100) ack 1
      """)
    // A peer that reflects everything has not understood.
    TCPScript(Self.notified).run(
      """
      connect
      > SEW 0:0(0)
      < SEW. 0:0(0) ack 1 <mss 1000>
      > . 1:1(0) ack 1
      write 100
      > P. 1:101(100) ack 1
      """)
  }

  @Test func ecnReducesOnce() {
    TCPScript(Self.notified).run(
      """
      accept ecn <mss 1000> rtt 10
      write 2000
      > . 1:1001(1000) ack 1 ect
      > P. 1001:2001(1000) ack 1 ect
      < E. 1:1(0) ack 1001
      check ssthresh 2000
      < E. 1:1(0) ack 2001              # the same window
      write 1000
      > PW. 2001:3001(1000) ack 1 ect
      < . 1:1(0) ack 3001
      check cwnd 2000
      """)
  }

  @Test func ecnIsEchoedUntilAnswered() {
    TCPScript(Self.notified).run(
      """
      accept ecn <mss 1000>
      set quick 0
      < . 1:101(100) ack 1 ce
      > E. 1:1(0) ack 101
      < P. 101:201(100) ack 1
      +0.040
      > E. 1:1(0) ack 201
      < PW. 201:301(100) ack 1
      +0.040
      > . 1:1(0) ack 301
      """)
  }

  // MARK: Path MTU

  @Test func tooBig() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1460> rtt 10
      write 2920
      > . 1:1461(1460) ack 1
      > P. 1461:2921(1460) ack 1
      toobig 1400 90000                 # of nothing that is under way
      check mss 1460
      toobig 1240 1
      > . 1:1201(1200) ack 1
      > . 1201:1461(260) ack 1
      > . 1461:2661(1200) ack 1
      > P. 2661:2921(260) ack 1
      check cwnd 14600
      toobig 68 1                       # no path is that narrow
      > . 1:513(512) ack 1
      > . 513:1025(512) ack 1
      > . 1025:1201(176) ack 1
      > . 1461:1973(512) ack 1
      > . 1973:2485(512) ack 1
      > . 2485:2661(176) ack 1
      check mss 512
      < . 1:1(0) ack 2921
      """)
  }

  @Test func blackHole() {
    let script = TCPScript(Self.plain)
    script.run(
      """
      accept <mss 1460> rtt 10
      write 2000
      > . 1:1461(1460) ack 1
      > P. 1461:2001(540) ack 1
      +0.210
      > . 1:1461(1460) ack 1
      +0.420
      > . 1:1461(1460) ack 1
      +0.840
      > . 1:737(736) ack 1
      check mss 736
      +0.010
      < . 1:1(0) ack 737
      > . 737:1461(724) ack 1
      > P. 1461:2001(540) ack 1
      < . 1:1(0) ack 2001
      """)
    // Ten minutes later a large one is tried.
    script.run(
      """
      set cwnd 14600
      +601
      write 5000
      > . 2001:3461(1460) ack 1
      > . 3461:4197(736) ack 1
      > . 4197:4933(736) ack 1
      > . 4933:5669(736) ack 1
      > . 5669:6405(736) ack 1
      > P. 6405:7001(596) ack 1
      +0.010
      < . 1:1(0) ack 6405
      check mss 1460
      < . 1:1(0) ack 7001
      """)
  }

  // MARK: Timestamps (RFC 7323)

  @Test func oldTimestampsAreRefused() {
    let settings = Self.plain
    settings.offersTimestamps = true
    TCPScript(settings).run(
      """
      accept <mss 1012,ts 100 0>
      set quick 0
      < P. 1:11(10) ack 1 <ts 200 0>
      +0.040
      > . 1:1(0) ack 11 <ecr 200>
      < P. 11:21(10) ack 1 <ts 150 0>   # from before
      > . 1:1(0) ack 11 <ecr 200>
      check unconsumed 10
      < R 11:11(0)                      # a reset needs none
      state closed
      """)
  }

  /// Who does not know what we have sent says nothing of the time either: a timestamp from the future would shut the real peer out.
  @Test func timestampsOfBlindSegmentsAreNotBelieved() {
    let settings = Self.plain
    settings.offersTimestamps = true
    TCPScript(settings).run(
      """
      accept <mss 1012,ts 100 0>
      set quick 0
      < P. 1:11(10) ack 1 <ts 200 0>
      +0.040
      > . 1:1(0) ack 11 <ecr 200>
      < . 11:11(0) ack 3000000000 <ts 2000000000 0>
      > . 1:1(0) ack 11 <ecr 200>
      < P. 11:21(10) ack 1 <ts 210 0>
      +0.040
      > . 1:1(0) ack 21 <ecr 210>
      check unconsumed 20
      """)
  }

  /// The echo is that of the first segment not acknowledged yet (RFC 7323, 4.3).
  @Test func echoedTimestamps() {
    let settings = Self.plain
    settings.offersTimestamps = true
    TCPScript(settings).run(
      """
      accept <mss 1012,ts 100 0>
      set quick 0
      < P. 1:11(10) ack 1 <ts 200 0>
      < P. 11:21(10) ack 1 <ts 201 0>
      +0.040
      > . 1:1(0) ack 21 <ecr 200>
      < P. 31:41(10) ack 1 <ts 203 0>   # out of order: not the one that will be acknowledged
      > . 1:1(0) ack 21 <ecr 200>
      < P. 21:31(10) ack 1 <ts 202 0>
      > . 1:1(0) ack 41 <ecr 202>
      """)
  }
}
