// A network of two connections, whose losses, delays, repetitions and changes of order are a seed's.
import Base
import Devices
import Testing

@testable import Network

/// What a network does to packets.
struct NetworkModel {
  /// In thousandths.
  var loss = 0
  var duplication = 0
  var reordering = 0
  var marking = 0
  /// One way, ns.
  var delay: UInt64 = 5_000_000
  var jitter: UInt64 = 0
  /// Bits a second; 0: no limit. And how many bytes wait at most.
  var rate: UInt64 = 0
  var queue = 64_000
  /// Memory that a received packet lies in.
  var capacity = 4080
}

final class TCPSimulation {
  struct Event {
    var time: UInt64
    var order: Int
    var toServer: Bool
    var segment: Segment
    var mark: CongestionMark
  }

  let client: TestConnection
  let server: TestConnection
  var model: NetworkModel
  var chance: Chance
  var now: UInt64 = 1_000_000_000
  var busyUntil: [UInt64] = [0, 0]
  var flying: [Event] = []
  var order = 0
  var segmentCount = 0
  var lostCount = 0
  /// Called at each step, to write and read.
  var programs: ((TCPSimulation) -> Void)?
  /// Window and pipe over time, for traces.
  var trace: ((TCPSimulation) -> Void)?

  init(
    _ model: NetworkModel, seed: UInt64, settings: TCPSettings = TCPSettings(), mtu: Int = 1500,
    largestSend: Int = 65_000
  ) {
    self.model = model
    chance = Chance(seed)
    client = TestConnection(settings, from: 1000, to: 80, mtu: mtu, largestSend: largestSend)
    server = TestConnection(settings, from: 80, to: 1000, mtu: mtu, largestSend: largestSend)
  }

  /// Begins with both ends opening: the client actively, the server by what a listener would have settled.
  func open() {
    let number = UInt32(truncatingIfNeeded: chance.next())
    client.core.connect(initialSequence: number, timestampOffset: 77, now: now)
    client.settle()
  }

  private func transmit(_ segment: Segment, toServer: Bool) {
    segmentCount += 1
    if chance.happens(model.loss) {
      lostCount += 1
      return
    }
    let direction = toServer ? 1 : 0
    var leaves = now
    if model.rate > 0 {
      let byteCount = UInt64(segment.payload.count + 40 + segment.header.options.byteCount)
      let start = max(busyUntil[direction], now)
      // Bytes that wait already.
      if (start - now) * model.rate / 8_000_000_000 > UInt64(model.queue) {
        lostCount += 1
        return
      }
      leaves = start + byteCount * 8_000_000_000 / model.rate
      busyUntil[direction] = leaves
    }
    var mark: CongestionMark = segment.isCapable ? .capable0 : .notCapable
    if segment.isCapable, chance.happens(model.marking) { mark = .experienced }
    let copies = chance.happens(model.duplication) ? 2 : 1
    for _ in 0..<copies {
      var time = leaves + model.delay
      if model.jitter > 0, chance.happens(model.reordering) { time += UInt64(chance.below(Int(model.jitter))) }
      order += 1
      let event = Event(time: time, order: order, toServer: toServer, segment: segment, mark: mark)
      let index = flying.firstIndex { ($0.time, $0.order) > (event.time, event.order) } ?? flying.count
      flying.insert(event, at: index)
    }
  }

  private func pump() {
    for segment in client.takeSegments() { transmit(segment, toServer: true) }
    for segment in server.takeSegments() { transmit(segment, toServer: false) }
  }

  private func arrive(_ event: Event) {
    let end = event.toServer ? server : client
    if event.toServer, end.core.state == .closed, end.core.initialReceive == SequenceNumber(0),
      event.segment.header.flags.contains(.synchronize)
    {
      // What a listener does, in short.
      var handshake = event.segment.header.handshake(
        initialSend: SequenceNumber(UInt32(truncatingIfNeeded: chance.next())), timestampOffset: 99, capacity: 3 << 20,
        end.core.settings)
      handshake.sentAt = now
      end.core.accept(handshake, now: now)
      end.core.sendSynchronize(now)
      end.settle()
      return
    }
    // TIME-WAIT answers what comes again (RFC 9293, 3.10.7.4), in place of the record that does so elsewhere.
    if end.core.state == .timeWait, event.segment.header.sequenceCount > 0 {
      end.core.owesAcknowledgement = true
      return end.settle()
    }
    end.arrive(event.segment, mark: event.mark, capacity: model.capacity)
  }

  /// Runs until nothing more can happen, `isDone`, or `limit`.
  func run(limit: UInt64, until isDone: (TCPSimulation) -> Bool) {
    let end = now + limit
    while now < end {
      programs?(self)
      pump()
      if isDone(self) { return }
      let deadline = min(client.core.nextDeadline, server.core.nextDeadline)
      // Programs look again after a while if there is something for them.
      let isAwaited = client.core.unconsumed > 0 || server.core.unconsumed > 0
      let next = min(min(flying.first?.time ?? .max, deadline), isAwaited ? now + 1_000_000 : .max)
      guard next < .max else { return }
      now = max(now, next)
      (client.now, server.now) = (now, now)
      trace?(self)
      if let first = flying.first, first.time <= now {
        flying.removeFirst()
        arrive(first)
      } else {
        client.advance(to: now)
        server.advance(to: now)
      }
    }
  }
}

/// Bytes that say where they are.
func pattern(_ count: Int, from start: Int = 0) -> [UInt8] {
  var result = [UInt8](repeating: 0, count: count)
  for index in 0..<count {
    let place = start + index
    result[index] = UInt8(truncatingIfNeeded: place ^ place >> 8 ^ place >> 16)
  }
  return result
}
