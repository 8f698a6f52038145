// What connections hold of what peers send, all together, and what a FIN says of data that came before it.
import Base
import Devices
import Memory
import Testing

@testable import Network

@Suite(.serialized, .timeLimit(.minutes(5))) struct TCPMemoryTests {
  private static let size = 1400

  private func segment(_ offset: Int, _ count: Int = size, _ flags: TCPFlags = []) -> Segment {
    var header = TCPHeader(flags.union(.acknowledge), from: 1000, to: 80)
    header.sequence = SequenceNumber(1001) + offset
    header.acknowledgement = SequenceNumber(5001)
    header.window = 65_535
    return Segment(header: header, payload: (0..<count).map { UInt8(truncatingIfNeeded: offset + $0) })
  }

  /// A connection that a listener has accepted.
  private func open(_ settings: TCPSettings) -> TestConnection {
    let connection = TestConnection(settings, from: 80, to: 1000)
    var request = TCPHeader(.synchronize, from: 1000, to: 80)
    request.sequence = SequenceNumber(1000)
    request.window = 65_535
    (request.options.permitsSelective, request.options.maximumSegmentSize) = (true, 1460)
    let handshake = request.handshake(
      initialSend: SequenceNumber(5000), timestampOffset: 0, capacity: 3 << 20, settings)
    connection.core.accept(handshake, now: connection.now)
    connection.arrive(segment(0, 0))
    #expect(connection.core.state == .established)
    return connection
  }

  private func footprint(_ connections: [TestConnection]) -> Int {
    connections.reduce(0) { $0 + $1.core.receiveFootprint }
  }

  /// A thousand peers leave a hole each; who sends in order is heard all the same, and in the end they hold little.
  @Test func holesAreBoundedForAll() {
    let settings = TCPSettings()
    settings.memory.limit = 16 << 20
    let bound = settings.memory.limit + 1000 * TCPMemory.slack
    let many = (0..<1000).map { _ in open(settings) }
    for number in 1...40 {
      for connection in many { connection.arrive(segment(number * Self.size), capacity: 4000) }
      #expect(footprint(many) <= bound)
    }
    #expect(settings.memory.byteCount > settings.memory.limit / 4)
    let honest = open(settings)
    for number in 0..<200 {
      honest.arrive(segment(number * Self.size), capacity: 4000)
      honest.read(Self.size)
    }
    #expect(honest.received.count == 200 * Self.size)
    // Nobody comes to close the holes.
    for connection in many { connection.advance(to: connection.now + 3 * TCPMemory.patience) }
    #expect(settings.memory.byteCount <= settings.memory.limit / 4)
    // Then there is room again for what is out of order.
    honest.arrive(segment(202 * Self.size), capacity: 4000)
    #expect(honest.core.reassembly.byteCount == Self.size)
  }

  /// Programs that do not read make their peers wait; who reads goes on.
  @Test func unreadDataIsBoundedForAll() {
    let settings = TCPSettings()
    settings.memory.limit = 4 << 20
    let many = (0..<300).map { _ in open(settings) }
    for number in 0..<40 {
      for connection in many { connection.arrive(segment(number * Self.size), capacity: 4000) }
    }
    let most = settings.memory.limit + 300 * (TCPMemory.least + TCPMemory.slack + 4500)
    #expect(footprint(many) <= most)
    let last = many[299]
    let taken = last.core.unconsumed
    #expect(taken > 0 && taken < 40 * Self.size)
    var next = taken
    while next < 80 * Self.size {
      last.read(65_536)
      last.arrive(segment(next), capacity: 4000)
      next += Self.size
    }
    last.read(65_536)
    #expect(last.received.count == next)
    #expect(last.received == (0..<next).map { UInt8(truncatingIfNeeded: $0) })
  }

  /// Who waits for more than may be held is told that there will be no more until some is read.
  @Test func aLowMarkThatCannotBeReachedCountsAsReached() {
    let settings = TCPSettings()
    let connection = open(settings)
    connection.core.options.receiveLowMark = 100_000
    connection.arrive(segment(0))
    var isReadable = connection.core.isReadable
    #expect(!isReadable)
    connection.events = []
    settings.memory.limit = 0
    var next = Self.size
    for _ in 0..<40 where !connection.core.isReadable {
      connection.arrive(segment(next), capacity: 4000)
      next = connection.core.unconsumed
    }
    isReadable = connection.core.isReadable
    #expect(isReadable && connection.events.contains(.readable))
    #expect(connection.core.unconsumed < 100_000)
    // It reads, and the peer goes on.
    connection.read(1 << 20)
    connection.arrive(segment(next), capacity: 4000)
    #expect(connection.core.unconsumed == Self.size)
  }

  /// A byte now and then does not keep what has lain there for long.
  @Test func aHoleIsNotKeptByFeedingIt() {
    let settings = TCPSettings()
    settings.memory.limit = 64 << 10
    let other = open(settings)
    for number in 0..<12 { other.arrive(segment(number * Self.size), capacity: 4000) }
    #expect(settings.memory.byteCount > settings.memory.limit / 4 && settings.memory.byteCount < settings.memory.limit)
    let connection = open(settings)
    connection.arrive(segment(10 * Self.size), capacity: 4000)
    #expect(connection.core.reassembly.byteCount == Self.size)
    for count in 1...8 {
      connection.advance(to: connection.now + TCPMemory.patience / 4)
      connection.arrive(segment(11 * Self.size + count - 1, 1))
    }
    #expect(connection.core.reassembly.byteCount < Self.size)
  }

  /// What is in order takes the place of what is not.
  @Test func dataInOrderGoesFirst() {
    let settings = TCPSettings()
    let connection = open(settings)
    for number in 0..<6 { connection.arrive(segment(number * Self.size), capacity: 4000) }
    for number in 20..<40 { connection.arrive(segment(number * Self.size), capacity: 4000) }
    settings.memory.limit = 60_000
    #expect(settings.memory.byteCount > settings.memory.limit)
    connection.arrive(segment(6 * Self.size), capacity: 4000)
    #expect(connection.core.unconsumed == 7 * Self.size && connection.core.reassembly.byteCount == 0)
  }

  @Test func theAccountIsEvenInTheEnd() {
    let settings = TCPSettings()
    do {
      let connections = (0..<20).map { _ in open(settings) }
      for number in [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13] {
        for connection in connections { connection.arrive(segment(number * Self.size), capacity: 4000) }
      }
      #expect(settings.memory.byteCount > 20 * 8 * 4000)
      connections[0].core.abort(now: connections[0].now)
      connections[1].read(65_536)
      connections[1].core.abort(now: connections[1].now)
      connections[1].settle()
    }
    #expect(settings.memory.byteCount == 0)
  }

  /// Both kinds count against what one connection may hold.
  @Test func oneConnectionIsBounded() {
    let settings = TCPSettings()
    let connection = open(settings)
    let limit = connection.core.receiveFootprintLimit
    // 500 bytes in a large block each would be copied; these lie in blocks of their own.
    for number in 0..<20 { connection.arrive(segment(number * Self.size), capacity: 4000) }
    for number in 22..<46 { connection.arrive(segment(number * Self.size), capacity: 4000) }
    #expect(connection.core.receiveFootprint <= limit)
    #expect(connection.core.reassembly.byteCount > 0 && connection.core.unconsumed == 20 * Self.size)
  }

  // MARK: What a FIN says

  /// Data behind a FIN is none, also if it came first.
  @Test func aFinishBelowDataOutOfOrder() {
    let connection = open(TCPSettings())
    connection.arrive(segment(500, 1500))
    connection.arrive(segment(1000, 0, .finish))
    connection.arrive(segment(0, 500))
    connection.arrive(segment(500, 500))
    #expect(connection.core.hasFinished && connection.core.state == .closeWait)
    connection.read(10_000)
    #expect(connection.received.count == 1000)
  }

  /// What comes behind a FIN is reported as nothing that came twice.
  @Test func dataBehindTheFinishIsNoDuplicate() {
    let connection = open(TCPSettings())
    connection.arrive(segment(0, 100, .finish))
    #expect(connection.core.state == .closeWait)
    _ = connection.takeSegments()
    connection.arrive(segment(1000, 100))
    let answers = connection.takeSegments()
    #expect(answers.count == 1 && answers.allSatisfy { $0.header.options.blockCount == 0 })
    // What did come twice is.
    connection.arrive(segment(0, 100))
    let others = connection.takeSegments()
    #expect(others.count == 1 && others[0].header.options.blockCount == 1)
  }

  /// A packet that was cut down does not keep its memory.
  @Test(arguments: [100, 1025, 3000, 5400]) func aSmallPartOfALargePacketIsCopied(count: Int) throws {
    var queue = ReceiveQueue()
    for _ in 0..<20 {
      var packet = try need(Packet(headroom: 0, capacity: 65_000))
      _ = packet.extend(60_000)
      packet.dropLast(60_000 - count)
      queue.append(packet)
    }
    let (footprint, byteCount) = (queue.footprint, queue.byteCount)
    #expect(byteCount == 20 * count)
    #expect(footprint <= PacketPacking.factor * byteCount + 5000)
  }
}

/// What a program meets when there is no memory for what it sends.
@Suite(.serialized, .timeLimit(.minutes(5))) struct TCPSendMemoryTests {
  /// Where memory is in pieces, pieces are taken.
  @Test func memoryInPiecesWillDo() throws {
    let bytes = (0..<40_000).map { UInt8(truncatingIfNeeded: $0) }
    // SAFETY: freed at the end of the test, after its last use.
    let source = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
    defer { source.deallocate() }
    source.copyBytes(from: bytes)
    var (got, asked): ([UInt8], [Int]) = ([], [])
    var transfer = Transfer(kernelSource: UnsafeRawBufferPointer(source))
    while transfer.remaining > 0 {
      let piece = try PacketSlice.filled(&transfer, min(transfer.remaining, 32_640)) { count in
        asked.append(count)
        return count > PacketMemory.pageCapacity ? nil : PacketMemory.allocate(capacity: count)
      }
      guard let piece else { throw Errno.ENOMEM }
      got += Array(piece.bytes)
      piece.memory.release()
    }
    #expect(got == bytes)
    #expect(asked.prefix(4) == [32_640, 16_320, 8160, 4080])
  }

  /// A connection without memory is not writable, and tells when to try again.
  @Test func withoutMemoryItIsTriedAgain() {
    let connection = TestConnection()
    connection.core.awaitMemory(now: connection.now)
    let isWritable = connection.core.isWritable
    #expect(!isWritable && connection.core.nextDeadline == connection.now + 10_000_000)
    connection.advance(to: connection.now + 9_000_000)
    #expect(!connection.events.contains(.writable))
    connection.advance(to: connection.now + 2_000_000)
    #expect(connection.events.contains(.writable))
    let isAgain = connection.core.isWritable
    #expect(isAgain && connection.core.nextDeadline == .max)
  }
}
