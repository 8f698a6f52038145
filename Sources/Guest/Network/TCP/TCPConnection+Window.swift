// The receive window: what the peer is told it may send (RFC 9293, 3.8.6), and how large the buffer behind it becomes.
//
// The window never shrinks: what was promised is kept (MUST-34). It opens in steps that are worth a segment (silly-window
// avoidance, 3.8.6.2.2).
import Base
import Devices

extension TCPConnection {
  /// Bytes that the buffer has room for, in order.
  var freeCapacity: Int {
    var capacity = options.windowClamp > 0 ? min(receiveCapacity, options.windowClamp) : receiveCapacity
    if isMemoryShort { capacity = min(capacity, TCPMemory.least) }
    return max(capacity &- unconsumed, 0)
  }

  /// How much more room makes a larger window.
  var windowStep: Int {
    min((isMemoryShort ? min(receiveCapacity, TCPMemory.least) : receiveCapacity) / 2, receiveSegmentSize)
  }

  /// Where the window would end if it were told now.
  private var wantedEdge: SequenceNumber {
    let free = freeCapacity
    let promised = max(windowEdge - receiveNext, 0)
    return receiveNext + (free &- promised >= windowStep ? free : promised)
  }

  /// The window for a header, scaled; the peer knows of it from then on.
  mutating func takeWindow() -> UInt16 {
    let promised = max(windowEdge - receiveNext, 0)
    let wanted = wantedEdge - receiveNext
    var scaled = wanted &>> receiveScale.int
    // What was promised is kept though the shift cannot tell it exactly.
    if scaled &<< receiveScale.int < promised {
      scaled = (promised &+ (1 &<< receiveScale.int) &- 1) &>> receiveScale.int
    }
    scaled = min(scaled, 65_535)
    windowEdge = receiveNext + scaled &<< receiveScale.int
    return scaled.u16
  }

  /// The window that the peer knows of, as a header says it.
  var currentWindow: UInt16 { min(max(windowEdge - receiveNext, 0) &>> receiveScale.int, 65_535).u16 }

  /// Bytes that a reader may consume before it has to say so: until `consumed` would have the peer told of a larger window.
  var consumptionThreshold: Int {
    let promised = max(windowEdge - receiveNext, 0)
    if promised &* 2 > receiveCapacity, promised >= windowStep { return .max }
    return max(promised &+ max(promised, windowStep) &- freeCapacity, 1)
  }

  /// A reader has consumed so many of the bytes in order that it took.
  mutating func consumed(_ count: Int, now: UInt64) {
    unconsumed &-= count
    tuneReceiveBuffer(count, now: now)
    guard state.mayReceive, !owesAcknowledgement else { return }
    let promised = max(windowEdge - receiveNext, 0)
    let free = freeCapacity
    if free &- promised >= windowStep, free >= promised &* 2 || promised < windowStep { owesAcknowledgement = true }
  }

  // MARK: Tuning

  /// Dynamic right-sizing (Fisk and Feng, 2001): a buffer of twice what is consumed in a round trip lets the sender's window grow.
  private mutating func tuneReceiveBuffer(_ count: Int, now: UInt64) {
    guard !options.isReceiveBufferLocked, !isMemoryShort else { return }
    roundConsumed &+= count
    let time = roundTime
    guard time > 0, now &- roundStart >= time else { return }
    let wanted = 2 &* roundConsumed &+ 16 &* receiveSegmentSize
    (roundConsumed, roundStart) = (0, now)
    let most = settings.receiveBuffer.most / 2
    if wanted > receiveCapacity, receiveCapacity < most { receiveCapacity = min(wanted, most) }
  }

  /// A round trip as a receiver sees it.
  private var roundTime: UInt64 {
    let own = roundTrip.smoothed
    if receiverRoundTrip == 0 { return own }
    return own == 0 ? receiverRoundTrip : min(own, receiverRoundTrip)
  }

  /// Data has come in order: measures a round trip by how long the peer takes to fill a window, which is never less.
  mutating func measureReceiverRoundTrip(now: UInt64) {
    guard receiveNext >= receiverRoundEnd else { return }
    let time = now &- receiverRoundStart
    if receiverRoundStart != 0, time > 0 {
      receiverRoundTrip = receiverRoundTrip == 0 ? time : min((receiverRoundTrip &* 7 &+ time) / 8, time)
    }
    receiverRoundStart = now
    receiverRoundEnd = windowEdge
  }

  /// The same by an echoed timestamp.
  mutating func measureReceiverRoundTrip(echo: UInt32, now: UInt64) {
    guard echo != 0 else { return }
    let milliseconds = (timestamp(now) &- echo).i32
    guard milliseconds >= 0, milliseconds < 60_000 else { return }
    let time = max(milliseconds.u64, 1) &* 1_000_000
    receiverRoundTrip = receiverRoundTrip == 0 ? time : min((receiverRoundTrip &* 7 &+ time) / 8, time)
  }

  /// The send buffer holds two windows, so that the next one waits while one is under way.
  mutating func tuneSendBuffer() {
    guard !options.isSendBufferLocked else { return }
    let wanted = 2 &* congestion.window &+ 16 &* segmentSize
    sendLimit = min(max(sendLimit, wanted), settings.sendBuffer.most)
  }

  // MARK: Room for what a program sends

  /// Bytes that the program may leave now.
  var sendRoom: Int {
    let used = max(sendQueue.byteCount, sendQueue.footprint / 2)
    return max(sendLimit &- used, 0)
  }

  /// The program has found no memory for what it sends: it is told to try again in a moment.
  mutating func awaitMemory(now: UInt64) {
    memoryDeadline = now &+ 10_000_000
    isOutOfRoom = true
  }

  /// That moment has passed.
  mutating func memoryTimedOut() {
    memoryDeadline = .max
    if isOutOfRoom, isWritable {
      isOutOfRoom = false
      events.insert(.writable)
    }
  }

  /// Whether poll calls it writable: a third of the buffer is free, and not too much is unsent (TCP_NOTSENT_LOWAT).
  var isWritable: Bool {
    if memoryDeadline != .max { return false }
    if options.unsentLowMark > 0, sendQueue.end - sendNext >= options.unsentLowMark { return false }
    return sendRoom &* 3 >= sendLimit
  }
}
