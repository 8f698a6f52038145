// Scripts: what a connection sends, and what it is sent, line by line, in the notation of tcpdump and packetdrill.
//
//   > S. 0:0(0) ack 1 win 65535 <mss 1460,sack>     the connection sends this; what is not named may be anything
//   < P. 1:101(100) ack 1                           this arrives; bytes are the pattern's at their place
//   +0.040                                          seconds pass; timers fire
//   sent N                                          it sends so many segments, whichever
//   connect | accept <...> | write N [more] [urgent] | read N | finish | close | abort | set WHAT [N] | mtu N | icmp ... |
//   state NAME | error NAME | nothing | events NAME... | check WHAT N
//
// Numbers count from each side's SYN. Flags: S F R P . U E W. Times are exact. Whatever the connection sends must be
// expected before the next line that is not '>'; repeated 'nothing' says so at the end.
import Base
import Devices
import Foundation
import Testing

@testable import Network

final class TCPScript {
  let connection: TestConnection
  let settings: TCPSettings
  static let ours: UInt32 = 0xffff_f000
  static let theirs: UInt32 = 0x7fff_ff00
  var sent: [Segment] = []
  var written = 0
  var peerWindow = 65_535
  /// The peer's clock of timestamps; and what it echoes: the last that it has seen.
  var peerClock: UInt32 = 5000
  var lastStamp: UInt32 = 0
  var peerStamps = false
  var location: SourceLocation
  var line = ""

  init(
    _ settings: TCPSettings = TCPSettings(), mtu: Int = 1500, isV6: Bool = false, largestSend: Int = 0,
    _ location: SourceLocation = #_sourceLocation
  ) {
    self.settings = settings
    self.location = location
    connection = TestConnection(settings, from: 1000, to: 80, mtu: mtu, isV6: isV6, largestSend: largestSend)
  }

  func fail(_ text: String) { Issue.record("line '\(line)': \(text)", sourceLocation: location) }

  private func collect() { sent += connection.takeSegments() }

  private func describe(_ segment: Segment) -> String {
    let h = segment.header
    let names: [(TCPFlags, String)] = [
      (.synchronize, "S"), (.finish, "F"), (.reset, "R"), (.push, "P"), (.acknowledge, "."), (.urgent, "U"),
      (.congestionEcho, "E"), (.windowReduced, "W"),
    ]
    let flags = names.map { h.flags.contains($0.0) ? $0.1 : "" }.joined()
    let start = Int(h.sequence.rawValue &- Self.ours)
    let ack = h.flags.contains(.acknowledge) ? " ack \(h.acknowledgement.rawValue &- Self.theirs)" : ""
    var options = ""
    if h.options.maximumSegmentSize > 0 { options += " mss \(h.options.maximumSegmentSize)" }
    if h.options.permitsSelective { options += " sack" }
    if let scale = h.options.windowScale { options += " wscale \(scale)" }
    for index in 0..<h.options.blockCount {
      let b = h.options.blocks[index]
      options += " sack \(b.start.rawValue &- Self.theirs):\(b.end.rawValue &- Self.theirs)"
    }
    if h.options.hasTimestamp { options += " ts \(h.options.timestamp) \(h.options.timestampEcho)" }
    return
      "\(flags) \(start):\(start + segment.payload.count)(\(segment.payload.count))\(ack) win \(h.window) <\(options)>"
      + (segment.isCapable ? " ect" : "")
  }

  /// Runs the lines.
  @discardableResult func run(_ text: String) -> TCPScript {
    for raw in text.split(separator: "\n") {
      line = raw.split(separator: "#", omittingEmptySubsequences: false)[0].trimmingCharacters(in: .whitespaces)
      if line.isEmpty { continue }
      collect()
      if !line.hasPrefix(">"), !line.hasPrefix("sent"), !sent.isEmpty {
        fail("before it was sent: " + sent.map(describe).joined(separator: "; "))
        sent = []
      }
      execute(line.split(separator: " ").map(String.init))
      connection.settle()
    }
    collect()
    if !sent.isEmpty { fail("at the end was sent: " + sent.map(describe).joined(separator: "; ")) }
    return self
  }

  private func execute(_ words: [String]) {
    let number = words.count > 1 ? Int(words[1]) ?? 0 : 0
    let now = connection.now
    switch words[0] {
    case ">": expect(words)
    case "<": inject(words)
    case "nothing": break
    case "sent":
      if sent.count != number { fail("\(sent.count) were sent: " + sent.map(describe).joined(separator: "; ")) }
      sent = []
    case "connect":
      connection.core.connect(initialSequence: Self.ours, timestampOffset: 0, now: now)
    case "accept": accept(words)
    case "write":
      connection.core.expectsMore = words.contains("more")
      let bytes = pattern(number, from: written)
      let count = bytes.withUnsafeBytes { connection.core.append(copying: $0) }
      written += count
      if words.contains("urgent") { connection.core.markUrgent() }
    case "read":
      let count = connection.read(number)
      if count != number { fail("read \(count) bytes") }
    case "finish": connection.core.finishSending(now: now)
    case "close": connection.core.close(now: now)
    case "abort": connection.core.abort(now: now)
    case "mtu": connection.core.changePath(mtu: number)
    case "toobig":
      connection.core.packetTooBig(mtu: number, quoted: UInt32(Int(words[2])!) &+ Self.ours, now: now)
    case "icmp":
      let errno: Errno = words[1] == "EHOSTUNREACH" ? .EHOSTUNREACH : .ECONNREFUSED
      connection.core.errorArrived(
        errno, isHard: words.contains("hard"), quoted: UInt32(Int(words[2])!) &+ Self.ours, now: now)
    case "set": set(words)
    case "window": peerWindow = number
    case "state":
      let state = "\(connection.core.state)"
      if state != words[1] { fail("it is in \(state)") }
    case "error":
      let error = connection.core.error.map { "\($0)" } ?? "none"
      if !error.contains(words[1]) { fail("its error is \(error)") }
    case "check": check(words)
    default:
      if words[0].hasPrefix("+"), let seconds = Double(words[0].dropFirst()) {
        connection.advance(to: now + UInt64((seconds * 1e9).rounded()))
      } else {
        fail("no such command")
      }
    }
  }

  private func set(_ words: [String]) {
    let value = words.count > 2 ? Int(words[2])! : 1
    let time = UInt64(value) * 1_000_000
    switch words[1] {
    case "nodelay": connection.core.options.isUndelayed = value != 0
    case "cork": connection.core.options.isCorked = value != 0
    case "keepalive":
      connection.core.options.isKeptAlive = value != 0
      connection.core.armKeepalive(connection.now)
    case "keepidle": connection.core.options.keepaliveIdle = time
    case "keepinterval": connection.core.options.keepaliveInterval = time
    case "keepcount": connection.core.options.keepaliveCount = value
    case "usertimeout": connection.core.options.userTimeout = time
    case "inline": connection.core.options.takesUrgentInline = true
    case "quick":
      connection.core.quickCount = value
      connection.core.isInteractive = value == 0
    case "capacity":
      connection.core.receiveCapacity = value
      connection.core.options.isReceiveBufferLocked = true
    case "cwnd": connection.core.congestion.setWindow(value, segmentSize: connection.core.segmentSize)
    case "clock": peerClock = UInt32(value)
    default: fail("no such option")
    }
  }

  private func check(_ words: [String]) {
    let wanted = Int(words[2])!
    let core = connection.core.congestion
    let found: Int
    switch words[1] {
    case "cwnd": found = core.window
    case "ssthresh": found = core.threshold
    case "pipe": found = connection.core.pipe
    case "unconsumed": found = connection.core.unconsumed
    case "mss": found = connection.core.segmentSize
    case "retransmissions": found = Int(connection.core.statistics.retransmissions)
    case "connected": found = connection.events.contains(.connected) ? 1 : 0
    case "readable": found = connection.core.isReadable ? 1 : 0
    case "urgent": found = connection.core.takeUrgentByte(isPeek: true).map { Int($0) } ?? -1
    case "mark": found = connection.core.countBeforeUrgent ?? -1
    default: return fail("no such thing")
    }
    if found != wanted { fail("\(words[1]) is \(found)") }
  }

  // MARK: Segments

  private static let flagNames: [Character: TCPFlags] = [
    "S": .synchronize, "F": .finish, "R": .reset, "P": .push, ".": .acknowledge, "U": .urgent, "E": .congestionEcho,
    "W": .windowReduced,
  ]

  /// `1:1001(1000)`: the first number, and how many bytes.
  private func range(_ word: String) -> (Int, Int) {
    let parts = word.split { ":()".contains($0) }.map { Int($0)! }
    return (parts[0], parts[2])
  }

  private func value(_ name: String, _ words: [String]) -> Int? {
    words.firstIndex(of: name).flatMap { $0 + 1 < words.count ? Int(words[$0 + 1]) : nil }
  }

  /// The words within angle brackets, split at commas.
  private func options(_ words: [String]) -> [[String]] {
    let text = words.joined(separator: " ")
    guard let open = text.firstIndex(of: "<"), text.first != "<" || text.dropFirst().contains("<") else { return [] }
    let start = text.first == "<" ? text[text.index(after: open)...].firstIndex(of: "<") : open
    guard let start, let end = text.lastIndex(of: ">") else { return [] }
    return text[text.index(after: start)..<end].split(separator: ",").map { $0.split(separator: " ").map(String.init) }
  }

  private func flags(_ word: String) -> TCPFlags {
    var result: TCPFlags = []
    for letter in word { if let flag = Self.flagNames[letter] { result.insert(flag) } }
    return result
  }

  private func expect(_ words: [String]) {
    if sent.isEmpty { return fail("nothing was sent") }
    let segment = sent.removeFirst()
    let header = segment.header
    let text = describe(segment)
    if header.options.hasTimestamp { lastStamp = header.options.timestamp }
    if header.flags != flags(words[1]) { return fail("was sent: \(text)") }
    let (start, count) = range(words[2])
    if header.sequence.rawValue &- Self.ours != UInt32(truncatingIfNeeded: start) || segment.payload.count != count {
      return fail("was sent: \(text)")
    }
    // Data begins at number 1.
    if count > 0, segment.payload != pattern(count, from: start - 1) { fail("its bytes are others: \(text)") }
    if let ack = value("ack", words), header.acknowledgement.rawValue &- Self.theirs != UInt32(ack) {
      fail("was sent: \(text)")
    }
    if let window = value("win", words), header.window.int != window { fail("was sent: \(text)") }
    if let pointer = value("urg", words), header.urgentPointer.int != pointer { fail("urg \(header.urgentPointer)") }
    if words.contains("ect") != segment.isCapable { fail("was sent: \(text)") }
    var blocks = 0
    for option in options(words.filter { $0 != ">" }) {
      switch option[0] {
      case "mss": if header.options.maximumSegmentSize.int != Int(option[1])! { fail("was sent: \(text)") }
      case "wscale": if header.options.windowScale.map({ Int($0) }) != Int(option[1])! { fail("was sent: \(text)") }
      case "ts": if !header.options.hasTimestamp { fail("was sent: \(text)") }
      case "nots": if header.options.hasTimestamp { fail("was sent: \(text)") }
      case "sackok": if !header.options.permitsSelective { fail("was sent: \(text)") }
      case "ecr": if header.options.timestampEcho != UInt32(option[1])! { fail("was sent: \(text)") }
      case "nosack": if header.options.blockCount != 0 { fail("was sent: \(text)") }
      case "nooptions":
        if header.byteCount != 20 { fail("was sent: \(text)") }
      case "sack":
        for word in option.dropFirst() {
          let parts = word.split(separator: ":").map { UInt32($0)! }
          let block = SequenceRange(SequenceNumber(parts[0] &+ Self.theirs), SequenceNumber(parts[1] &+ Self.theirs))
          if blocks >= header.options.blockCount || header.options.blocks[blocks] != block {
            fail("was sent: \(text)")
          }
          blocks += 1
        }
        if blocks != header.options.blockCount { fail("was sent: \(text)") }
      default: fail("no such option")
      }
    }
  }

  private func header(_ words: [String]) -> TCPHeader {
    var header = TCPHeader(flags(words[1]), from: 80, to: 1000)
    let (start, _) = range(words[2])
    header.sequence = SequenceNumber(UInt32(truncatingIfNeeded: start) &+ Self.theirs)
    header.acknowledgement = SequenceNumber(UInt32(value("ack", words) ?? 0) &+ Self.ours)
    header.window = UInt16(value("win", words) ?? peerWindow)
    header.urgentPointer = UInt16(value("urg", words) ?? 0)
    if peerStamps, !header.flags.contains(.reset) {
      header.options.hasTimestamp = true
      header.options.timestamp = peerClock &+ UInt32(connection.now / 1_000_000)
      header.options.timestampEcho = lastStamp
    }
    readOptions(options(words), into: &header)
    return header
  }

  private func readOptions(_ options: [[String]], into header: inout TCPHeader) {
    for option in options {
      switch option[0] {
      case "mss": header.options.maximumSegmentSize = UInt16(option[1])!
      case "wscale": header.options.windowScale = UInt8(option[1])!
      case "sackok": header.options.permitsSelective = true
      case "ts":
        header.options.hasTimestamp = true
        peerStamps = true
        // The peer's clock goes on from there.
        let time = UInt32(connection.now / 1_000_000)
        if option.count > 1 { peerClock = UInt32(option[1])! &- time }
        header.options.timestamp = peerClock &+ time
        header.options.timestampEcho = option.count > 2 ? UInt32(option[2])! : lastStamp
      case "nots": header.options.hasTimestamp = false
      case "sack":
        for word in option.dropFirst() {
          let parts = word.split(separator: ":").map { UInt32($0)! }
          header.options.blocks[header.options.blockCount] = SequenceRange(
            SequenceNumber(parts[0] &+ Self.ours), SequenceNumber(parts[1] &+ Self.ours))
          header.options.blockCount += 1
        }
      default: fail("no such option")
      }
    }
  }

  private func inject(_ words: [String]) {
    let (start, count) = range(words[2])
    var mark = CongestionMark.notCapable
    if words.contains("ce") { mark = .experienced }
    let segment = Segment(header: header(words), payload: pattern(count, from: start - 1))
    connection.arrive(segment, mark: mark, capacity: 4000)
  }

  /// A handshake as a listener settles it, completed by an ACK.
  private func accept(_ words: [String]) {
    var request = TCPHeader(.synchronize, from: 80, to: 1000)
    if words.contains("ecn") { request.flags.formUnion([.congestionEcho, .windowReduced]) }
    request.sequence = SequenceNumber(Self.theirs)
    request.window = UInt16(peerWindow)
    readOptions(options(words), into: &request)
    var handshake = request.handshake(
      initialSend: SequenceNumber(Self.ours), timestampOffset: 0, capacity: 3 << 20, settings)
    handshake.sentAt = connection.now
    connection.core.accept(handshake, now: connection.now)
    lastStamp = connection.core.timestamp(connection.now)
    if let time = value("rtt", words) { connection.advance(to: connection.now + UInt64(time) * 1_000_000) }
    line = "the ACK of accept"
    inject(["<", ".", "1:1(0)", "ack", "1", "win", "\(value("win", words) ?? peerWindow)"])
    connection.settle()
  }
}
