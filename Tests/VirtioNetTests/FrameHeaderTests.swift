// What a guest may say about a frame, as tables: the pure check.
import Glibc
import Testing
import VirtioABI
import VirtioTestGuest

@testable import VirtioNet

@Suite struct FrameHeaderTests {
  private let all = FrameHeader(features: NetGuest.everything, mtu: 1500)

  private func check(_ header: VirtioNetworkHeader, _ frame: [UInt8], by check: FrameHeader? = nil)
    -> VirtioNetworkHeader?
  {
    frame.withUnsafeBytes {
      (check ?? all).check(
        header, byteCount: frame.count, prefix: UnsafeRawBufferPointer(rebasing: $0[..<min(18, frame.count)]))
    }
  }

  @Test func plainFramesPassUpToTheMTU() {
    let plain = VirtioNetworkHeader()
    #expect(check(plain, Frames.plain(13)) == nil)
    #expect(check(plain, Frames.plain(14)) != nil)
    #expect(check(plain, Frames.plain(1518)) != nil)
    #expect(check(plain, Frames.plain(1519)) == nil)
    #expect(check(plain, Frames.plain(65_553), by: FrameHeader(features: 0, mtu: 65_535)) != nil)
    #expect(check(plain, Frames.plain(65_554), by: FrameHeader(features: 0, mtu: 65_535)) == nil)
  }

  @Test func whatIsNotAskedForIsNotPassedOn() throws {
    var header = VirtioNetworkHeader()
    header.flags = 0xfe
    header.headerByteCount = 5
    header.segmentByteCount = 6
    header.checksumStart = 7
    header.checksumOffset = 8
    header.bufferCount = 9
    let checked = try #require(check(header, Frames.plain(60)))
    #expect(withUnsafeBytes(of: checked) { $0.allSatisfy { $0 == 0 } })
  }

  @Test func aChecksumLiesInTheFrame() throws {
    var header = VirtioNetworkHeader()
    header.flags = VirtioNetworkHeader.needsChecksum
    header.checksumStart = 34
    header.checksumOffset = 6
    let frame = Frames.plain(42)
    #expect(check(header, frame)?.checksumStart == 34)
    #expect(check(header, Frames.plain(41)) == nil)
    for (start, offset): (UInt16, UInt16) in [(13, 0), (0, 6), (41, 0), (0xffff, 0xffff), (34, 0xffff)] {
      header.checksumStart = start
      header.checksumOffset = offset
      #expect(check(header, frame) == nil, "\(start) \(offset)")
    }
    header.checksumStart = 40
    header.checksumOffset = 0
    #expect(check(header, frame) != nil)
    #expect(check(header, frame, by: FrameHeader(features: NetGuest.control, mtu: 1500)) == nil)
  }

  @Test(arguments: [false, true]) func unsegmentedTCPPasses(isV6: Bool) throws {
    let (frame, header) = Frames.tcp(data: 30_000, segment: 1440, isV6: isV6)
    let checked = try #require(check(header, frame))
    #expect(checked.segmentByteCount == 1440 && checked.segmentation == header.segmentation)
    #expect(checked.headerByteCount == header.headerByteCount)
  }

  /// Each change of a good header is refused.
  @Test(arguments: 0..<12) func nonsenseIsRefused(number: Int) {
    var (frame, header) = Frames.tcp(data: 30_000, segment: 1440)
    switch number {
    case 0: header.flags = 0
    case 1: header.segmentByteCount = 0
    case 2: header.segmentByteCount = 0xffff
    case 3: header.segmentByteCount = 14  // 2,143 segments
    case 4: header.segmentation = VirtioNetworkHeader.tcp6  // of an IPv4 frame
    case 5: header.segmentation = 2
    case 6: header.segmentation = 3
    case 7: header.segmentation = VirtioNetworkHeader.ecn
    case 8: header.segmentation = VirtioNetworkHeader.udp  // whose checksum is elsewhere
    case 9: header.segmentation = VirtioNetworkHeader.udp | VirtioNetworkHeader.ecn
    case 10: header.checksumOffset = 6
    default: frame = Array(frame[..<50])
    }
    #expect(check(header, frame) == nil)
  }

  @Test func kindsThatWereNotAgreedOnAreRefused() {
    let cases: [(UInt64, Bool)] = [(VirtioNetworkABI.hostTCP4, false), (VirtioNetworkABI.hostTCP6, true)]
    for (feature, isV6) in cases {
      let (frame, header) = Frames.tcp(data: 9000, segment: 1440, isV6: isV6)
      #expect(check(header, frame, by: FrameHeader(features: NetGuest.everything & ~feature, mtu: 1500)) == nil)
      var marked = header
      marked.segmentation |= VirtioNetworkHeader.ecn
      #expect(check(marked, frame) != nil)
      let without = FrameHeader(features: NetGuest.everything & ~VirtioNetworkABI.hostECN, mtu: 1500)
      #expect(check(marked, frame, by: without) == nil)
    }
  }

  @Test func unsegmentedUDPPassesBehindATagToo() {
    var (frame, header) = Frames.tcp(data: 9000, segment: 1440)
    header.segmentation = VirtioNetworkHeader.udp
    header.checksumOffset = 6
    #expect(check(header, frame) != nil)
    frame.insert(contentsOf: [0x81, 0x00, 0x00, 0x07], at: 12)
    header.checksumStart += 4
    #expect(check(header, frame) != nil)
    frame[16] = 0x12
    #expect(check(header, frame) == nil)
  }

  @Test func theHintOfTheHeadersLengthIsBounded() {
    var (frame, header) = Frames.tcp(data: 3000, segment: 1000)
    for (given, expected): (UInt16, UInt16) in [(0, 54), (53, 54), (60, 60), (0xffff, UInt16(frame.count))] {
      header.headerByteCount = given
      #expect(check(header, frame)?.headerByteCount == expected)
    }
    frame = []
  }

  /// Whatever passes is bounded, for any header.
  @Test func randomHeadersAreBoundedOrRefused() {
    var generator = SeededGenerator(3)
    var passed = 0
    for round in 0..<30_000 {
      let features = generator.next() & NetGuest.everything | (round % 2 == 0 ? NetGuest.everything : 0)
      var header = VirtioNetworkHeader()
      header.flags = UInt8.random(in: 0...3, using: &generator)
      header.segmentation = [0, 0, 1, 4, 5, 0x81, 0x84, UInt8.random(in: 0...255, using: &generator)]
        .randomElement(using: &generator)!
      header.headerByteCount = UInt16(truncatingIfNeeded: generator.next())
      header.segmentByteCount = UInt16(truncatingIfNeeded: generator.next() >> (generator.next() & 15))
      header.checksumStart = UInt16(truncatingIfNeeded: generator.next() >> (generator.next() & 15))
      header.checksumOffset = [0, 6, 16, UInt16(truncatingIfNeeded: generator.next())].randomElement(using: &generator)!
      let count = Int(generator.next() >> (48 + generator.next() & 15))
      var prefix = (0..<min(18, count)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      if count > 14, round % 3 > 0 { prefix.replaceSubrange(12..<14, with: round % 3 == 1 ? [8, 0] : [0x86, 0xdd]) }
      let check = FrameHeader(features: features, mtu: 1500)
      guard let checked = prefix.withUnsafeBytes({ check.check(header, byteCount: count, prefix: $0) }) else {
        continue
      }
      passed += 1
      #expect(count >= 14 && count <= 65_553)
      #expect(checked.flags & ~VirtioNetworkHeader.needsChecksum == 0 && checked.bufferCount == 0)
      if checked.flags != 0 {
        #expect(features & VirtioNetworkABI.checksum != 0)
        #expect(Int(checked.checksumStart) + Int(checked.checksumOffset) + 2 <= count)
      }
      if checked.segmentation == 0 {
        #expect(count <= 1518 && checked.segmentByteCount == 0)
      } else {
        #expect(checked.flags != 0 && checked.segmentByteCount > 0 && Int(checked.headerByteCount) <= count)
        #expect(count / Int(checked.segmentByteCount) <= 2_100)
      }
    }
    #expect(passed > 500)
  }
}

@Suite struct TokenBucketTests {
  @Test func noLimitNeverWaits() {
    var bucket = TokenBucket(rate: 0, now: 5)
    bucket.take(byteCount: 1 << 40)
    #expect(bucket.wait(now: 5) == 0)
  }

  @Test(arguments: [1, 9_999, 1_000_000, 1_500_001, 1_000_000_000, TokenBucket.rateLimit])
  func onAverageTheRateIsKept(rate: UInt64) {
    var now: UInt64 = 1_000_000
    var bucket = TokenBucket(rate: rate, now: now)
    var passed: Double = 0
    var generator = SeededGenerator(rate)
    // The bucket's content passes at once; from then on it is the rate.
    while bucket.wait(now: now) == 0 { bucket.take(byteCount: 1500) }
    let start = now
    for _ in 0..<20_000 {
      let wait = bucket.wait(now: now)
      if wait > 0 {
        // Somebody who looks too often, or late by a little.
        now += max(1, Bool.random(using: &generator) ? wait : wait / 3 + 1)
        continue
      }
      let count = Int.random(in: 60...65_000, using: &generator)
      bucket.take(byteCount: count)
      passed += Double(8 * count)
    }
    let expected = Double(rate) * Double(now - start) / 1e9
    #expect(abs(passed - expected) < expected / 50 + 2_000_000, "\(passed) bits, \(expected) expected")
  }

  @Test func aPauseFillsTheBucketAndNoMore() {
    var bucket = TokenBucket(rate: 8_000_000, now: 0)
    var count = 0
    let now: UInt64 = 3_600_000_000_000
    while bucket.wait(now: now) == 0 {
      bucket.take(byteCount: 1000)
      count += 1
    }
    #expect((130...133).contains(count))
    // Time that goes back is no time.
    #expect(bucket.wait(now: 0) > 0)
  }
}

@Suite struct ControlCommandTests {
  private let open = ReceiveFilter(own: 0x0200_0000_0001)

  private func command(
    _ bytes: [UInt8], filter: ReceiveFilter? = nil, features: UInt64 = NetGuest.everything | VirtioNetworkABI.multiqueue
  ) -> ControlCommand {
    bytes.withUnsafeBytes { ControlCommand($0, filter: filter ?? open, features: features, pairCount: 4) }
  }

  @Test func shortAndUnknownCommandsAreRefused() {
    for bytes: [UInt8] in [
      [], [0], [0, 0], [0, 6, 1], [0, 0, 2], [0, 0, 1, 1], [1, 1, 2, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0], [2, 0, 1],
      [2, 2, 1, 0], [3, 0], [4, 0, 0, 0], [4, 1, 1, 0], [5, 0, 0, 0, 0, 0, 0, 0, 0, 0], [255, 255],
      // A group's address, and none.
      [1, 1, 3, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0],
    ] { #expect(command(bytes) == .refused, "\(bytes)") }
  }

  @Test func commandsNeedTheirFeatures() {
    let cases: [([UInt8], UInt64)] = [
      ([0, 0, 1], VirtioNetworkABI.controlReceive), ([0, 3, 1], VirtioNetworkABI.controlReceiveExtra),
      ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], VirtioNetworkABI.controlReceive),
      ([1, 1, 2, 0, 0, 0, 0, 1], VirtioNetworkABI.controlAddress), ([4, 0, 2, 0], VirtioNetworkABI.multiqueue),
    ]
    for (bytes, feature) in cases {
      #expect(command(bytes) != .refused)
      #expect(command(bytes, features: (NetGuest.everything | VirtioNetworkABI.multiqueue) & ~feature) == .refused)
    }
  }

  @Test func tablesOfAnySize() throws {
    func table(_ count: Int, claimed: Int? = nil) -> [UInt8] {
      let claimed = UInt32(claimed ?? count)
      let addresses: [UInt8] = (0..<count).flatMap { (index: Int) -> [UInt8] in
        [2, 0, 0, 0, UInt8(index >> 8), UInt8(index & 255)]
      }
      return withUnsafeBytes(of: claimed.littleEndian) { Array($0) } + addresses
    }
    guard case .filter(let some) = command([1, 0] + table(64) + table(3)) else { throw Wrong() }
    #expect(
      some.unicast.count == 64 && !some.hasMoreUnicast
        && some.multicast == [0x0200_0000_0000, 0x0200_0000_0001, 0x0200_0000_0002])
    guard case .filter(let many) = command([1, 0] + table(65) + table(600)) else { throw Wrong() }
    #expect(many.unicast.count == 64 && many.hasMoreUnicast && many.multicast.count == 64 && many.hasMoreMulticast)
    // Counts that the data does not have.
    #expect(command([1, 0] + table(2, claimed: 3) + table(0)) == .refused)
    #expect(command([1, 0] + table(0, claimed: 0xffff_ffff)) == .refused)
    #expect(command([1, 0] + table(1)) == .refused)
    #expect(command([1, 0] + table(1) + table(1) + [0]) == .refused)
  }
  private struct Wrong: Error {}

  @Test func virtualNetworksAreLetThroughOneByOne() {
    var filter = open
    filter.vlans = [UInt64](repeating: 0, count: 64)
    func frame(_ id: Int) -> [UInt8] {
      Frames.broadcast + Frames.peer + [0x81, 0, UInt8(0xe0 | id >> 8), UInt8(id & 255), 8, 0]
    }
    func passes(_ id: Int) -> Bool { frame(id).withUnsafeBytes { filter.accepts($0) } }
    #expect(!passes(5) && !passes(4095))
    for id in [5, 4095, 64] {
      guard case .filter(let changed) = command([2, 0, UInt8(id & 255), UInt8(id >> 8)], filter: filter) else {
        Issue.record("refused")
        return
      }
      filter = changed
    }
    #expect(passes(5) && passes(4095) && passes(64) && !passes(6))
    if case .filter(let changed) = command([2, 1, 5, 0], filter: filter) { filter = changed }
    #expect(!passes(5) && passes(64))
    // Without a tag, and with an id that there is not.
    #expect(Frames.plain(60).withUnsafeBytes { filter.accepts(UnsafeRawBufferPointer(rebasing: $0[..<18])) })
    #expect(command([2, 0, 0, 0x10], filter: filter) == .refused)
  }

  @Test func randomCommandsAreTakenOrRefused() {
    var generator = SeededGenerator(11)
    var filter = open
    for _ in 0..<50_000 {
      let count = Int.random(in: 0...40, using: &generator)
      var bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: generator.next() & generator.next()) }
      if count > 0 { bytes[0] %= 6 }
      if case .filter(let changed) = command(bytes, filter: filter) {
        filter = changed
        #expect(filter.unicast.count <= 64 && filter.multicast.count <= 64)
      }
    }
  }
}
