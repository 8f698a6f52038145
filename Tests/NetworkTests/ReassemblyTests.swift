// Datagrams from fragments: in any order, doubled, overlapping, missing, and too many.
import Base
import Devices
import Pages
import Testing

@testable import Network

@Suite(.serialized) struct ReassemblyTests {
  init() { HostedArena.prepare() }

  private func key(_ number: UInt32) -> FragmentReassembly.Key {
    FragmentReassembly.Key(
      source: .one4, destination: .two4, identification: number, protocolNumber: 17, interfaceIndex: 2)
  }

  /// What became of a fragment of these bytes: the datagram's bytes, and how many were given up.
  private func enter(
    _ reassembly: FragmentReassembly, _ number: UInt32, _ bytes: [UInt8], at offset: Int, more: Bool, now: UInt64 = 0
  ) throws -> (whole: [UInt8]?, failed: Int) {
    let packet = try Packet.of([UInt8](repeating: 0x45, count: 20) + bytes)
    var outcome = reassembly.enter(packet, key(number), offset: offset, headers: 20, hasMore: more, now: now)
    guard outcome.total > 0 else { return (nil, outcome.failed) }
    var whole = [UInt8](repeating: 0, count: outcome.total)
    while let fragment = outcome.fragments.removeFirst() {
      let bytes = fragment.allBytes
      let start = FragmentReassembly.offset(fragment.tag)
      whole.replaceSubrange(
        start..<start + FragmentReassembly.count(fragment.tag), with: bytes[FragmentReassembly.headers(fragment.tag)...]
      )
    }
    return (whole, outcome.failed)
  }

  @Test func anyOrderGivesTheDatagram() throws {
    var random = SystemRandomNumberGenerator()
    let reassembly = FragmentReassembly(key: SipKey(1, 2))
    for round in 0..<500 {
      let data = (0..<Int.random(in: 9...5000, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
      var pieces: [(offset: Int, bytes: [UInt8], more: Bool)] = []
      var at = 0
      while at < data.count {
        let step = min(8 * Int.random(in: 1...100, using: &random), data.count - at)
        pieces.append((at, Array(data[at..<at + step]), at + step < data.count))
        at += step
      }
      // Some come twice.
      if let double = pieces.randomElement(using: &random), pieces.count > 1 { pieces.append(double) }
      pieces.shuffle(using: &random)
      var got: [UInt8]?
      for piece in pieces {
        if got != nil { break }
        let result = try enter(reassembly, UInt32(round), piece.bytes, at: piece.offset, more: piece.more)
        #expect(result.failed == 0)
        got = result.whole ?? got
      }
      #expect(got == data)
    }
    #expect(reassembly.usage.datagrams <= 1)
  }

  @Test func overlapsEndTheDatagram() throws {
    let piece = [UInt8](repeating: 1, count: 16)
    // The second reaches into the first; around it; beyond the end; a second end; an end before what is there.
    let cases: [[(at: Int, count: Int, more: Bool)]] = [
      [(0, 16, true), (8, 16, true)], [(16, 16, true), (8, 32, true)], [(16, 8, false), (16, 16, true)],
      [(16, 8, false), (0, 8, false)], [(32, 16, true), (0, 16, false)], [(0, 16, true), (8, 8, false)],
    ]
    for (number, pieces) in cases.enumerated() {
      let reassembly = FragmentReassembly(key: SipKey(1, 2))
      var failed = 0
      for one in pieces {
        let bytes = one.count == 16 ? piece : [UInt8](repeating: 2, count: one.count)
        let result = try enter(reassembly, UInt32(number), bytes, at: one.at, more: one.more)
        failed += result.failed
        #expect(result.whole == nil)
      }
      #expect(failed == 1, "case \(number)")
      #expect(reassembly.usage.datagrams == 0 && reassembly.usage.footprint == 0)
    }
  }

  @Test func fragmentsThatCannotBeAreRefused() throws {
    let reassembly = FragmentReassembly(key: SipKey(1, 2))
    // Empty; not a multiple of 8 though more follow; beyond 64 KiB.
    for (bytes, at, more) in [([], 0, true), ([1, 2, 3], 0, true), ([UInt8](repeating: 0, count: 64), 65_528, false)]
      as [([UInt8], Int, Bool)]
    {
      let result = try enter(reassembly, 1, bytes, at: at, more: more)
      #expect(result.whole == nil && result.failed == 1)
    }
    #expect(reassembly.usage.footprint == 0)
  }

  @Test func memoryIsBounded() throws {
    let reassembly = FragmentReassembly(key: SipKey(1, 2))
    let piece = [UInt8](repeating: 1, count: 4000)
    // Many datagrams that are never whole, and one with very many fragments.
    for number in 0..<3000 { _ = try enter(reassembly, UInt32(number), piece, at: 0, more: true) }
    #expect(reassembly.usage.datagrams <= FragmentReassembly.datagramLimit)
    #expect(reassembly.usage.footprint <= FragmentReassembly.memoryLimit)
    var failed = 0
    for number in 0..<2000 {
      failed += try enter(reassembly, 9999, [UInt8](repeating: 0, count: 8), at: 16 * number, more: true).failed
    }
    #expect(failed > 0 && reassembly.usage.footprint <= FragmentReassembly.memoryLimit)
    var deadline: UInt64 = 0
    while reassembly.takeExpired(now: .max, &deadline) != nil {}
    #expect(reassembly.usage.datagrams == 0 && reassembly.usage.footprint == 0)
  }

  @Test func timeRunsOut() throws {
    let reassembly = FragmentReassembly(key: SipKey(1, 2))
    _ = try enter(reassembly, 1, [UInt8](repeating: 1, count: 8), at: 0, more: true, now: 1000)
    _ = try enter(reassembly, 2, [UInt8](repeating: 1, count: 8), at: 8, more: true, now: 2000)
    var deadline: UInt64 = 0
    func expire(_ now: UInt64) -> Bool? {
      guard let expired = reassembly.takeExpired(now: now, &deadline) else { return nil }
      return expired.packet != nil
    }
    #expect(expire(30_000_000_999) == nil && deadline == 30_000_001_000)
    // Of the first one its first fragment is there, of the second it is not.
    #expect(expire(30_000_001_000) == true)
    #expect(expire(30_000_001_000) == nil && deadline == 30_000_002_000)
    #expect(expire(.max) == false)
    #expect(expire(.max) == nil && deadline == .max)
  }
}
