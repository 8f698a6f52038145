// Data by scripts: when it is sent and acknowledged, windows, urgent data, keep-alives, patience.
import Base
import Testing

@testable import Network

@Suite(.timeLimit(.minutes(5))) struct TCPDataTests {
  static var plain: TCPSettings { TCPStateTests.plain }

  // MARK: Acknowledgements (RFC 9293, 3.8.6.3)

  @Test func delayedAcknowledgement() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set quick 0
      < P. 1:101(100) ack 1
      +0.039
      nothing
      +0.001
      > . 1:1(0) ack 101
      """)
  }

  @Test func everySecondFullSegment() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set quick 0
      < . 1:1001(1000) ack 1
      < . 1001:2001(1000) ack 1
      > . 1:1(0) ack 2001
      < . 2001:3001(1000) ack 1
      +0.010
      < . 3001:4001(1000) ack 1
      > . 1:1(0) ack 4001
      """)
  }

  @Test func quickAtFirst() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      < . 1:1001(1000) ack 1
      > . 1:1(0) ack 1001
      < . 1001:1101(100) ack 1
      > . 1:1(0) ack 1101
      """)
  }

  @Test func answersTakeTheAcknowledgementAlong() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set quick 0
      < P. 1:101(100) ack 1
      +0.005
      read 100
      write 50
      > P. 1:51(50) ack 101
      +0.010
      < . 101:101(0) ack 51
      """)
  }

  @Test func outOfOrderIsToldAtOnce() {
    let settings = Self.plain
    settings.offersSelective = true
    TCPScript(settings).run(
      """
      accept <mss 1000,sackok>
      set quick 0
      < . 2001:3001(1000) ack 1
      > . 1:1(0) ack 1 <sack 2001:3001>
      < . 4001:5001(1000) ack 1
      > . 1:1(0) ack 1 <sack 4001:5001 2001:3001>
      < . 3001:4001(1000) ack 1
      > . 1:1(0) ack 1 <sack 2001:5001>
      < . 6001:6501(500) ack 1
      > . 1:1(0) ack 1 <sack 6001:6501 2001:5001>
      < . 1:1001(1000) ack 1
      > . 1:1(0) ack 1001 <sack 6001:6501 2001:5001>
      < . 1001:2001(1000) ack 1
      > . 1:1(0) ack 5001 <sack 6001:6501>
      < . 5001:6001(1000) ack 1
      > . 1:1(0) ack 6501 <nosack>
      read 6500
      """)
  }

  /// RFC 2883, 4: duplicates are reported first.
  @Test func duplicatesAreReported() {
    let settings = Self.plain
    settings.offersSelective = true
    TCPScript(settings).run(
      """
      accept <mss 1000,sackok>
      set quick 0
      < . 1:501(500) ack 1
      < . 1:501(500) ack 1
      > . 1:1(0) ack 501 <sack 1:501>
      < . 1501:2001(500) ack 1
      > . 1:1(0) ack 501 <sack 1501:2001>
      < . 1501:2001(500) ack 1                         # above the acknowledgement
      > . 1:1(0) ack 501 <sack 1501:2001 1501:2001>
      < . 1001:2001(1000) ack 1                        # half of it
      > . 1:1(0) ack 501 <sack 1501:2001 1001:2001>
      < . 1:1001(1000) ack 1                           # partly old, fills the gap
      > . 1:1(0) ack 2001 <sack 1:501>
      read 2000
      """)
  }

  @Test func overlappingSegmentsKeepTheBytesInOrder() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      < . 301:401(100) ack 1
      > . 1:1(0) ack 1
      < . 501:601(100) ack 1
      > . 1:1(0) ack 1
      < . 201:701(500) ack 1
      > . 1:1(0) ack 1
      < . 351:651(300) ack 1
      > . 1:1(0) ack 1
      < . 1:251(250) ack 1
      > . 1:1(0) ack 701
      read 700
      """)
    // The bytes themselves are checked by the simulation.
  }

  // MARK: Sending: Nagle, cork, silly windows (RFC 9293, 3.7.4, 3.8.6.2)

  @Test func nagle() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      write 100
      > P. 1:101(100) ack 1
      write 100
      write 100
      +0.010
      < . 1:1(0) ack 101
      > P. 101:301(200) ack 1
      write 900
      < . 1:1(0) ack 301
      > P. 301:1201(900) ack 1
      write 2300                  # full segments do not wait
      > . 1201:2201(1000) ack 1
      > . 2201:3201(1000) ack 1
      < . 1:1(0) ack 1201
      > P. 3201:3501(300) ack 1
      """)
  }

  @Test func withoutNagle() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set nodelay
      write 100
      > P. 1:101(100) ack 1
      write 100
      > P. 101:201(100) ack 1
      write 10 more
      write 10
      > P. 201:221(20) ack 1
      """)
  }

  @Test func cork() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000> rtt 10
      set cork
      write 100
      write 1000
      > . 1:1001(1000) ack 1
      < . 1:1(0) ack 1001
      write 50
      +0.150
      nothing
      set cork 0
      > P. 1001:1151(150) ack 1
      """)
    // Not for ever: a fifth of a second.
    TCPScript(Self.plain).run(
      """
      accept <mss 1000> rtt 10
      set cork
      write 100
      +0.199
      nothing
      +0.030
      > P. 1:101(100) ack 1
      """)
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set cork
      write 100
      finish
      > FP. 1:101(100) ack 1
      """)
  }

  @Test func smallWindowsAreNotFilled() {
    TCPScript(Self.plain).run(
      """
      window 1500
      accept <mss 1000> rtt 10
      write 3000
      > . 1:1001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1001 win 400        # less than a segment, and than half of 1500
      +0.200
      nothing
      +0.050                             # waited long enough
      > . 1001:1401(400) ack 1
      < . 1:1(0) ack 1401 win 800        # half of it
      > . 1401:2201(800) ack 1
      """)
  }

  @Test func closedWindowIsProbed() {
    TCPScript(Self.plain).run(
      """
      accept win 1000 <mss 1000> rtt 10
      write 2000
      > . 1:1001(1000) ack 1
      < . 1:1(0) ack 1001 win 0
      +0.300
      > . 1000:1000(0) ack 1
      < . 1:1(0) ack 1001 win 0
      +0.400
      > . 1000:1000(0) ack 1
      < . 1:1(0) ack 1001 win 0
      +0.900
      > . 1000:1000(0) ack 1
      < . 1:1(0) ack 1001 win 1000
      > P. 1001:2001(1000) ack 1
      < . 1:1(0) ack 2001
      """)
  }

  /// A peer that answers probes keeps the connection for ever; one that does not is gone after a while.
  @Test func closedWindowForEver() {
    let settings = Self.plain
    settings.retries = 3
    TCPScript(settings).run(
      """
      accept win 0 <mss 1000> rtt 10
      write 10
      +0.300
      > . 0:0(0) ack 1
      < . 1:1(0) ack 1 win 0
      +0.500
      > . 0:0(0) ack 1
      +0.900
      > . 0:0(0) ack 1
      +1.8
      > . 0:0(0) ack 1
      +3.6
      error ETIMEDOUT
      """)
    // Without a program it is not kept, however the peer answers.
    settings.orphanRetries = 2
    TCPScript(settings).run(
      """
      accept win 0 <mss 1000> rtt 10
      write 10
      close
      +0.300
      > . 0:0(0) ack 1
      < . 1:1(0) ack 1 win 0
      +0.500
      > . 0:0(0) ack 1
      < . 1:1(0) ack 1 win 0
      +0.900
      > R. 1:1(0) ack 1
      state closed
      """)
  }

  @Test func shrinkingWindow() {
    TCPScript(Self.plain).run(
      """
      accept win 4000 <mss 1000> rtt 10
      write 6000
      > . 1:1001(1000) ack 1
      > . 1001:2001(1000) ack 1
      > . 2001:3001(1000) ack 1
      > . 3001:4001(1000) ack 1
      +0.010
      < . 1:1(0) ack 1001 win 1000      # takes back 2000
      +0.300
      > . 1001:2001(1000) ack 1         # what was sent is sent again all the same
      < . 1:1(0) ack 4001 win 4000
      > . 4001:5001(1000) ack 1
      > P. 5001:6001(1000) ack 1
      """)
  }

  // MARK: Our window (RFC 9293, 3.8.6)

  @Test func windowClosesAndOpens() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set quick 0
      set capacity 3000
      < . 1:1001(1000) ack 1
      < . 1001:2001(1000) ack 1
      > . 1:1(0) ack 2001 win 63535     # what was promised stays
      """)
    let script = TCPScript(Self.plain)
    script.connection.core.receiveCapacity = 4000
    script.connection.core.options.isReceiveBufferLocked = true
    script.run(
      """
      accept <mss 1000>
      set quick 0
      < . 1:1001(1000) ack 1
      < . 1001:2001(1000) ack 1
      > . 1:1(0) ack 2001 win 2000
      < . 2001:3001(1000) ack 1
      < . 3001:4001(1000) ack 1
      > . 1:1(0) ack 4001 win 0
      < . 4001:4002(1) ack 1            # a probe
      > . 1:1(0) ack 4001 win 0
      read 900                          # less than a segment: not worth telling
      read 100
      > . 1:1(0) ack 4001 win 1000
      read 3000
      > . 1:1(0) ack 4001 win 4000
      """)
  }

  @Test func dataBeyondTheWindowIsCutOff() {
    let script = TCPScript(Self.plain)
    script.connection.core.receiveCapacity = 1500
    script.connection.core.options.isReceiveBufferLocked = true
    script.run(
      """
      accept <mss 1000>
      < . 1:1001(1000) ack 1
      > . 1:1(0) ack 1001 win 500
      < FP. 1001:2001(1000) ack 1
      > . 1:1(0) ack 1501 win 0
      state established
      check unconsumed 1500
      """)
  }

  @Test func finishFitsIntoAClosedWindow() {
    let script = TCPScript(Self.plain)
    script.connection.core.receiveCapacity = 1000
    script.connection.core.options.isReceiveBufferLocked = true
    script.run(
      """
      accept <mss 1000>
      < . 1:1001(1000) ack 1
      > . 1:1(0) ack 1001 win 0
      < F. 1001:1001(0) ack 1
      > . 1:1(0) ack 1002 win 0
      state closeWait
      """)
  }

  @Test func finishOutOfOrder() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      < FP. 101:201(100) ack 1
      > . 1:1(0) ack 1
      state established
      < . 1:101(100) ack 1
      > . 1:1(0) ack 202
      state closeWait
      read 200
      """)
    // What comes behind a FIN was never said.
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      < F. 101:101(0) ack 1
      > . 1:1(0) ack 1
      < . 101:301(200) ack 1
      > . 1:1(0) ack 1
      < . 1:101(100) ack 1
      > . 1:1(0) ack 102
      check unconsumed 100
      """)
  }

  // MARK: Urgent data (RFC 9293, 3.8.5; RFC 6093)

  @Test func urgentDataIsSent() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      write 100
      > P. 1:101(100) ack 1
      write 10 urgent
      > PU. 101:111(10) ack 1 urg 10
      write 10
      < . 1:1(0) ack 101
      < . 1:1(0) ack 111
      > P. 111:121(10) ack 1
      """)
  }

  @Test func urgentDataIsReceived() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set quick 0
      check mark -1
      < PU. 1:11(10) ack 1 urg 10
      check mark 9
      check urgent 9               # the pattern's tenth byte
      read 9
      check mark 0
      read 1
      check mark -1
      """)
    // Announced ahead of the byte.
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set quick 0
      < U. 1:11(10) ack 1 urg 30
      check mark 29
      check urgent -1
      < . 11:41(30) ack 1
      check urgent 29
      """)
  }

  // MARK: Keep-alive and patience (RFC 9293, 3.8.3 and 3.8.4)

  @Test func keepAlive() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000>
      set keepidle 10000
      set keepinterval 1000
      set keepcount 2
      set keepalive
      +9.5
      < P. 1:11(10) ack 1
      > . 1:1(0) ack 11
      +9.9
      nothing
      +0.1
      > . 0:0(0) ack 11
      < . 11:11(0) ack 1
      +10
      > . 0:0(0) ack 11
      +1
      > . 0:0(0) ack 11
      +1
      > R. 1:1(0) ack 11
      error ETIMEDOUT
      """)
  }

  @Test func userTimeout() {
    TCPScript(Self.plain).run(
      """
      accept <mss 1000> rtt 10
      set usertimeout 1000
      write 10
      > P. 1:11(10) ack 1
      +0.210
      > P. 1:11(10) ack 1
      +0.420
      > P. 1:11(10) ack 1
      +0.369
      nothing
      +0.001
      error ETIMEDOUT
      """)
  }

  @Test func patienceEnds() {
    let settings = Self.plain
    settings.retries = 2
    TCPScript(settings).run(
      """
      accept <mss 1000> rtt 10
      write 10
      > P. 1:11(10) ack 1
      +0.210
      > P. 1:11(10) ack 1
      +0.420
      > P. 1:11(10) ack 1
      icmp EHOSTUNREACH 1
      +0.840
      error EHOSTUNREACH
      state closed
      """)
  }

  @Test func errorsByICMP() {
    TCPScript(Self.plain).run(
      """
      connect
      > S 0:0(0)
      icmp ECONNREFUSED 5 hard          # not of this SYN
      state synSent
      icmp ECONNREFUSED 0 hard
      error ECONNREFUSED
      """)
    TCPScript(Self.plain).run(
      """
      accept
      write 10
      > P. 1:11(10) ack 1
      icmp ECONNREFUSED 1 hard          # a connection survives (RFC 5927, 4)
      state established
      """)
  }
}
