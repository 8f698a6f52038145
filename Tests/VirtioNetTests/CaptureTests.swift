// What --capture writes, read back by the rules of pcapng.
import Glibc
import NetTestBackend
import Synchronization
import Testing
import VirtioABI

@testable import VirtioNet

/// A block of a file.
private struct Block {
  var type: UInt32
  var body: [UInt8]

  func word(_ offset: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(body[offset + $1]) << UInt32(8 * $1) } }

  /// The options from an offset on.
  func options(from start: Int) -> [UInt16: [UInt8]] {
    var offset = start
    var options: [UInt16: [UInt8]] = [:]
    while offset + 4 <= body.count {
      let code = UInt16(body[offset]) | UInt16(body[offset + 1]) << 8
      let count = Int(body[offset + 2]) | Int(body[offset + 3]) << 8
      if code == 0 { break }
      options[code] = Array(body[(offset + 4)..<(offset + 4 + count)])
      offset += 4 + (count + 3) / 4 * 4
    }
    return options
  }

  static func parse(_ bytes: [UInt8]) -> [Block] {
    var blocks: [Block] = []
    var start = 0
    while start < bytes.count {
      let whole = Block(type: 0, body: Array(bytes[start...].prefix(8)))
      let length = Int(whole.word(4))
      guard length >= 12, length % 4 == 0, start + length <= bytes.count else {
        Issue.record("a block of \(length) bytes at \(start) of \(bytes.count)")
        return blocks
      }
      let block = Block(type: whole.word(0), body: Array(bytes[(start + 8)..<(start + length - 4)]))
      let end = Block(type: 0, body: Array(bytes[(start + length - 4)..<(start + length)]))
      #expect(end.word(0) == UInt32(length))
      blocks.append(block)
      start += length
    }
    return blocks
  }
}

@Suite struct CaptureTests {
  /// A file without a name.
  private func file() -> CInt {
    var template = Array("/tmp/osv-capture-XXXXXX".utf8CString)
    let descriptor = mkstemp(&template)
    unlink(template)
    return descriptor
  }

  private func contents(_ descriptor: CInt) -> [UInt8] {
    var status = stat()
    fstat(descriptor, &status)
    var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
    #expect(pread(descriptor, &bytes, bytes.count, 0) == bytes.count)
    return bytes
  }

  @Test func framesOfBothDirectionsAreRecorded() throws {
    let descriptor = file()
    defer { close(descriptor) }
    let guest = try NetGuest(capture: PacketCapture(descriptor: descriptor, interfaces: ["eth0", "eth1"]))
    let (large, header) = Frames.tcp(data: 9001, segment: 1000)
    guest.send(large, header)
    for index in 0..<8 { _ = guest.post(2048, index: index) }
    #expect(eventually { guest.device.report.transmitted.packets == 1 })
    guest.network.deliver([TestFrame(Frames.plain(61)), TestFrame(large, header: header)])
    #expect(eventually { guest.device.report.received.packets == 2 })

    let blocks = Block.parse(contents(descriptor))
    #expect(blocks.map(\.type) == [0x0a0d_0d0a, 1, 1, 6, 6, 6])
    #expect(blocks[0].word(0) == 0x1a2b_3c4d && blocks[0].word(4) == 1)
    #expect(blocks[1].word(0) == 1 && blocks[1].options(from: 8)[2] == Array("eth0".utf8))
    #expect(blocks[2].options(from: 8)[2] == Array("eth1".utf8) && blocks[2].options(from: 8)[9] == [9])
    let now = UInt64(time(nil))
    let expected: [(frame: [UInt8], direction: UInt8)] = [(large, 2), (Frames.plain(61), 1), (large, 1)]
    for (block, (frame, direction)) in zip(blocks[3...], expected) {
      let count = UInt32(frame.count)
      #expect(block.word(0) == 0 && block.word(12) == count && block.word(16) == count)
      #expect(Array(block.body[20..<(20 + frame.count)]) == frame)
      let padded = (frame.count + 3) / 4 * 4
      #expect(block.options(from: 20 + padded)[2] == [direction, 0, 0, 0])
      let stamp = (UInt64(block.word(4)) << 32 | UInt64(block.word(8))) / 1_000_000_000
      #expect(stamp <= now + 1 && stamp + 60 > now)
    }
  }

  @Test func aRecordThatFailsEndsAndTellsOnce() throws {
    var ends: [CInt] = [-1, -1]
    try #require(pipe(&ends) == 0)
    close(ends[0])
    signal(SIGPIPE, SIG_IGN)
    let failures = Failures()
    let capture = PacketCapture(descriptor: ends[1], interfaces: ["eth0"]) { code in
      failures.codes.withLock { $0.append(code) }
    }
    let guest = try NetGuest(capture: capture)
    for index in 0..<3 { guest.send(Frames.plain(60), index: index) }
    #expect(eventually { guest.device.report.transmitted.packets == 3 })
    #expect(failures.codes.withLock { $0 } == [EPIPE])
    close(ends[1])
  }
  private final class Failures: Sendable { let codes = Mutex<[CInt]>([]) }

  /// A pipe that nobody reads holds up nothing: what it has no room for is left out, and it says how much that was.
  @Test func aPipeThatNobodyReadsHoldsUpNothing() throws {
    var ends: [CInt] = [-1, -1]
    try #require(pipe(&ends) == 0)
    _ = fcntl(ends[1], F_SETFL, O_NONBLOCK)
    defer { for end in ends { close(end) } }
    let losses = Failures()
    let capture = PacketCapture(
      descriptor: ends[1], interfaces: ["eth0", "eth1"],
      onFailure: { code in losses.codes.withLock { $0.append(code) } },
      onLoss: { losses.codes.withLock { $0.append(0) } })
    func record(_ count: Int, interface: Int = 0) {
      var frame = Frames.plain(count)
      frame.withUnsafeMutableBytes { bytes in
        var piece = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
        withUnsafePointer(to: &piece) {
          capture.record(
            interface: interface, isOutbound: true, UnsafeBufferPointer(start: $0, count: 1), skip: 0, byteCount: count)
        }
      }
    }
    for _ in 0..<100 { record(9000) }
    for _ in 0..<3 { record(100, interface: 1) }
    #expect(losses.codes.withLock { $0 } == [0])
    // Now somebody reads all that there is, and more comes.
    var bytes: [UInt8] = []
    func drain() {
      _ = fcntl(ends[0], F_SETFL, O_NONBLOCK)
      var buffer = [UInt8](repeating: 0, count: 5000)
      while true {
        let count = read(ends[0], &buffer, buffer.count)
        if count <= 0 { break }
        bytes += buffer[..<count]
      }
    }
    drain()
    record(200)
    record(200, interface: 1)
    record(300)
    drain()
    let frames = Block.parse(bytes).filter { $0.type == 6 }
    let first = frames.count - 3
    #expect((1..<100).contains(first))
    for block in frames[..<first] {
      #expect(block.word(16) == 9000 && Array(block.body[20..<9020]) == Frames.plain(9000))
    }
    let options = frames[first...].map { block in
      (block.word(0), block.word(16), block.options(from: 20 + Int(block.word(12) + 3) / 4 * 4)[4])
    }
    let missing = UInt64(100 - first)
    #expect(options.map(\.0) == [0, 1, 0] && options.map(\.1) == [200, 200, 300])
    #expect(options[0].2 == withUnsafeBytes(of: missing.littleEndian) { Array($0) })
    #expect(options[1].2 == [3, 0, 0, 0, 0, 0, 0, 0] && options[2].2 == nil)
    #expect(losses.codes.withLock { $0 } == [0])
  }

  @Test func aPipeThatIsReadSlowlyGetsWholeBlocks() throws {
    var ends: [CInt] = [-1, -1]
    try #require(pipe(&ends) == 0)
    let capture = PacketCapture(descriptor: ends[1], interfaces: ["eth0"])
    let frame = Frames.plain(50_000)
    let writer = ends[1]
    startThread {
      var bytes = frame
      for _ in 0..<20 {
        bytes.withUnsafeMutableBytes { bytes in
          var pieces = [
            iovec(iov_base: bytes.baseAddress, iov_len: 12),
            iovec(iov_base: bytes.baseAddress! + 12, iov_len: bytes.count - 12),
          ]
          pieces.withUnsafeMutableBufferPointer {
            capture.record(interface: 0, isOutbound: true, UnsafeBufferPointer($0), skip: 12, byteCount: 49_988)
          }
        }
      }
      close(writer)
    }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 5000)
    while true {
      let count = read(ends[0], &buffer, buffer.count)
      if count <= 0 { break }
      bytes += buffer[..<count]
    }
    let blocks = Block.parse(bytes)
    #expect(blocks.count == 22)
    #expect(blocks.dropFirst(2).allSatisfy { Array($0.body[20..<(20 + 49_988)]) == Array(frame[12...]) })
    close(ends[0])
  }
}
