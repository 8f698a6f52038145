// What TCP's tests are made with: segments as values, and a connection whose clock is the test's.
import Base
import Devices
import Foundation
import Testing

@testable import Network

/// A segment as the other end sees it.
struct Segment {
  var header: TCPHeader
  var payload: [UInt8]
  /// Marked as ECN-capable.
  var isCapable = false

  /// Takes a packet of a connection apart, into the segments that it stands for.
  static func segments(of packet: borrowing Packet, pseudoHeader: InternetChecksum) -> [Segment] {
    var bytes = [UInt8](repeating: 0, count: packet.byteCount)
    let isCopied = bytes.withUnsafeMutableBytes { packet.copy(from: 0, into: $0) }
    #expect(isCopied)
    let checksum = packet.checksum
    #expect(checksum == .partial(start: 0, offset: 16))
    var sum = pseudoHeader
    sum.add(bytes.count.u32)
    #expect(bytes[16].u16 << 8 | bytes[17].u16 == sum.partial, "the checksum's field has the pseudo header's sum")
    guard let header = bytes.withUnsafeBytes({ TCPHeader($0, segmentByteCount: $0.count) }) else {
      Issue.record("a connection sent a header that is none")
      return []
    }
    let payload = Array(bytes[header.byteCount...])
    let size = packet.segmentation.kind == .none ? max(payload.count, 1) : packet.segmentation.segmentByteCount.int
    var result: [Segment] = []
    var offset = 0
    repeat {
      let end = min(offset + size, payload.count)
      var part = header
      part.sequence += offset
      part.dataCount = end - offset
      var flags = header.flags
      if end < payload.count { flags.subtract([.finish, .push]) }
      if offset > 0 { flags.subtract(.windowReduced) }
      part.flags = flags
      result.append(Segment(header: part, payload: Array(payload[offset..<end]), isCapable: packet.tag == 1))
      offset = end
    } while offset < payload.count
    return result
  }

  /// The packet that carries it, in memory of `capacity` bytes at least.
  func packet(capacity: Int = 0) -> Packet {
    var fields = TCPHeaderFields(from: header.sourcePort, to: header.destinationPort)
    (fields.sequence, fields.acknowledgement, fields.flags) = (header.sequence, header.acknowledgement, header.flags)
    (fields.window, fields.urgentPointer) = (header.window, header.urgentPointer)
    let byteCount = 20 + header.options.byteCount
    let room = max(byteCount + payload.count, capacity)
    guard var packet = Packet(headroom: 0, capacity: room), let start = packet.extend(byteCount + payload.count) else {
      fatalError("the tests' memory is out")
    }
    fields.write(to: start, byteCount: byteCount, checksum: 0)
    header.options.write(to: start + 20)
    payload.withUnsafeBytes {
      if let base = $0.baseAddress { (start + byteCount).copyMemory(from: base, byteCount: $0.count) }
    }
    return packet
  }
}

extension TCPHeader {
  /// A header to be sent by a test.
  init(_ flags: TCPFlags, from source: UInt16, to destination: UInt16) {
    let bytes = [UInt8](repeating: 0, count: 12) + [0x50, flags.rawValue] + [UInt8](repeating: 0, count: 6)
    self = bytes.withUnsafeBytes { TCPHeader($0, segmentByteCount: 20) }!
    (sourcePort, destinationPort) = (source, destination)
  }
}

/// A connection with a clock, and a program at its end.
final class TestConnection {
  var core: TCPConnection
  var now: UInt64 = 1_000_000_000
  var events: TCPEvents = []
  /// All that has been read.
  var received: [UInt8] = []
  private var readerList = PacketList()

  init(
    _ settings: TCPSettings = TCPSettings(), from local: UInt16 = 1, to remote: UInt16 = 2, mtu: Int = 1500,
    isV6: Bool = false,
    largestSend: Int = 0
  ) {
    core = TCPConnection(
      settings, from: local, to: remote, pseudoHeader: TCPSegment.pseudoHeader(from: .loopback4, to: .loopback4),
      TCPPath(mtu: mtu, isV6: isV6, largestSend: largestSend))
  }

  /// Takes what is to be sent.
  func takeSegments() -> [Segment] {
    var result: [Segment] = []
    while let packet = core.outgoing.removeFirst() {
      result += Segment.segments(of: packet, pseudoHeader: core.pseudoHeader)
    }
    return result
  }

  func settle() {
    core.flush(now: now)
    events.formUnion(core.takeEvents())
  }

  func arrive(_ segment: Segment, mark: CongestionMark = .notCapable, capacity: Int = 0) {
    core.segmentArrived(segment.packet(capacity: capacity), mark: mark, now: now)
    settle()
  }

  /// Gives bytes to send; as many as there is room for.
  @discardableResult func write(_ bytes: [UInt8], isSlice: Bool = false) -> Int {
    let count = min(core.sendRoom, bytes.count)
    guard count > 0, !core.isFinishing else {
      core.isOutOfRoom = true
      return 0
    }
    if isSlice {
      guard let memory = PacketMemory.allocate(capacity: min(count, 32_768)) else { return 0 }
      let part = min(count, memory.capacity)
      bytes.withUnsafeBytes { memory.bytes.copyMemory(from: $0.baseAddress!, byteCount: part) }
      let isTaken = core.append(PacketSlice(memory: memory, offset: 0, count: part))
      #expect(isTaken)
      settle()
      return part
    }
    let done = bytes.withUnsafeBytes { core.append(copying: UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    settle()
    return done
  }

  /// Reads up to `count` bytes into `received`.
  @discardableResult func read(_ count: Int) -> Int {
    if readerList.byteCount < count { core.receiveQueue.take(count - readerList.byteCount, into: &readerList) }
    var done = 0
    while done < count, var packet = readerList.removeFirst() {
      let step = min(packet.byteCount, count - done)
      var part = [UInt8](repeating: 0, count: step)
      let isCopied = part.withUnsafeMutableBytes { packet.copy(from: 0, into: $0) }
      #expect(isCopied)
      received += part
      done += step
      if step < packet.byteCount {
        packet.dropFirst(step)
        readerList.prepend(packet)
      }
    }
    if done > 0 {
      core.consumed(done, now: now)
      settle()
    }
    return done
  }

  /// Lets time pass, firing timers when they are due.
  func advance(to time: UInt64) {
    while core.nextDeadline <= time {
      now = max(now, core.nextDeadline)
      core.timerFired(now: now)
      settle()
    }
    now = time
  }
}

/// A generator of numbers that tests can repeat (splitmix64).
struct Chance {
  var state: UInt64
  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// Below `limit`, which is above 0.
  mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
  /// True `permille` times in a thousand.
  mutating func happens(_ permille: Int) -> Bool { below(1000) < permille }
}
