// The socket that passt speaks on: framing, partial sends, and a peer that lies.
import CSystemCalls
import Glibc
import Testing
import VirtioABI
import VirtioTestGuest

@testable import VirtioNet

/// A backend and the other end of its socket.
private final class Peer {
  let backend: StreamBackend
  let socket: CInt

  init() {
    var ends: [CInt] = [-1, -1]
    precondition(osv_socket_pair(&ends) == 0)
    backend = StreamBackend(socket: ends[0], mtu: 65_520)
    socket = ends[1]
  }

  deinit { close(socket) }

  func write(_ bytes: [UInt8]) { #expect(Glibc.write(socket, bytes, bytes.count) == bytes.count) }

  func write(frame: [UInt8]) { write(withUnsafeBytes(of: UInt32(frame.count).bigEndian) { Array($0) } + frame) }

  /// What there is to read now.
  func read() -> [UInt8] {
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = Glibc.read(socket, &buffer, buffer.count)
      if count <= 0 { return all }
      all += buffer[..<count]
    }
  }

  /// What the backend receives into a buffer of that size.
  func receive(room: Int = 70_000) -> (ReceiveOutcome, [UInt8]) {
    var buffer = [UInt8](repeating: 0xaa, count: room)
    let outcome = buffer.withUnsafeMutableBytes { bytes in
      // Two pieces, with a seam in the header.
      var pieces = [
        iovec(iov_base: bytes.baseAddress, iov_len: 7),
        iovec(iov_base: bytes.baseAddress! + 7, iov_len: room - 7),
      ]
      return pieces.withUnsafeMutableBufferPointer { backend.receive(pair: 0, into: UnsafeBufferPointer($0)) }
    }
    if case .frame(let count) = outcome { return (outcome, Array(buffer[..<count])) }
    return (outcome, [])
  }

  func transmit(_ frame: [UInt8]) -> TransmitOutcome {
    var header = [UInt8](repeating: 0, count: 12)
    var frame = frame
    return header.withUnsafeMutableBytes { header in
      frame.withUnsafeMutableBytes { frame in
        let half = frame.count / 2
        var pieces = [
          iovec(iov_base: header.baseAddress, iov_len: 12), iovec(iov_base: frame.baseAddress, iov_len: half),
          iovec(iov_base: frame.baseAddress! + half, iov_len: frame.count - half),
        ]
        return pieces.withUnsafeMutableBufferPointer { backend.transmit(pair: 0, UnsafeBufferPointer($0)) }
      }
    }
  }
}

@Suite struct StreamBackendTests {
  @Test func framesComeWholeHoweverTheyArrive() {
    let peer = Peer()
    #expect(peer.receive().0 == .none)
    let frames = [14, 60, 1500, 65_534].map { Frames.plain($0, seed: $0) }
    var bytes: [UInt8] = []
    for frame in frames { bytes += withUnsafeBytes(of: UInt32(frame.count).bigEndian) { Array($0) } + frame }
    // In odd portions.
    var received: [[UInt8]] = []
    var start = 0
    var generator = SeededGenerator(5)
    while start < bytes.count {
      let count = min(Int.random(in: 1...9000, using: &generator), bytes.count - start)
      peer.write(Array(bytes[start..<(start + count)]))
      start += count
      while case (.frame, let got) = peer.receive() { received.append(got) }
    }
    #expect(received.map { Array($0.dropFirst(12)) } == frames)
    #expect(received.allSatisfy { $0.prefix(12).allSatisfy { $0 == 0 } })
  }

  @Test func manySmallFramesGoRoundTheBuffer() {
    let peer = Peer()
    var expected = 0
    for round in 0..<300 {
      for index in 0..<8 { peer.write(frame: Frames.plain(100 + (round * 8 + index) % 1400, seed: round)) }
      while case (.frame(let count), _) = peer.receive() {
        #expect(count == 12 + 100 + expected % 1400)
        expected += 1
      }
    }
    #expect(expected == 2_400)
  }

  @Test func aFrameThatDoesNotFitIsCutShortAndTheNextIsWhole() {
    let peer = Peer()
    peer.write(frame: Frames.plain(1000))
    peer.write(frame: Frames.plain(80))
    #expect(peer.receive(room: 500).0 == .frame(500))
    #expect(peer.receive(room: 500).1.count == 92)
  }

  @Test(arguments: [0, 13, 65_554, 0xffff_ffff] as [UInt32]) func aLengthThatIsNoneEndsIt(length: UInt32) {
    let peer = Peer()
    peer.write(frame: Frames.plain(60))
    peer.write(withUnsafeBytes(of: length.bigEndian) { Array($0) } + [UInt8](repeating: 1, count: 100))
    #expect(peer.receive().0 == .frame(72))
    #expect(peer.receive().0 == .ended)
    #expect(peer.receive().0 == .ended)
  }

  @Test func theEndOfThePeerEndsIt() {
    let peer = Peer()
    peer.write(frame: Frames.plain(60))
    shutdown(peer.socket, CInt(SHUT_RDWR))
    #expect(peer.receive().0 == .frame(72))
    #expect(peer.receive().0 == .ended)
    #expect(peer.transmit(Frames.plain(60)) == .refused)
  }

  @Test func whatIsSentHasItsLengthInFront() {
    let peer = Peer()
    #expect(peer.transmit(Frames.plain(60)) == .sent)
    #expect(peer.transmit(Frames.plain(61)) == .sent)
    #expect(peer.read() == [0, 0, 0, 60] + Frames.plain(60) + [0, 0, 0, 61] + Frames.plain(61))
  }

  @Test func aSocketWithoutRoomKeepsTheRestAndTheOrder() {
    let peer = Peer()
    var frames: [[UInt8]] = []
    // A small buffer, so that frames are cut.
    var size: CInt = 20_000
    setsockopt(peer.backend.descriptor(ofPair: 0), SOL_SOCKET, SO_SNDBUF, &size, socklen_t(MemoryLayout<CInt>.size))
    var sawFull = false
    var read: [UInt8] = []
    var generator = SeededGenerator(9)
    for round in 0..<200 {
      let frame = Frames.plain(Int.random(in: 14...65_000, using: &generator), seed: round)
      switch peer.transmit(frame) {
      case .sent: frames.append(frame)
      case .full:
        sawFull = true
        read += peer.read()
        #expect(peer.backend.flush(pair: 0) || round > 0)
      case .refused: Issue.record("refused")
      }
    }
    for _ in 0..<10 {
      read += peer.read()
      if peer.backend.flush(pair: 0) { break }
    }
    read += peer.read()
    #expect(sawFull)
    var start = 0
    for (index, frame) in frames.enumerated() {
      guard start + 4 + frame.count <= read.count else {
        Issue.record("frame \(index) is missing")
        return
      }
      #expect(Array(read[(start + 4)..<(start + 4 + frame.count)]) == frame, "frame \(index)")
      start += 4 + frame.count
    }
    #expect(start == read.count)
  }
}
