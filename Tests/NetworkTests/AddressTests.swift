// Addresses and checksums.
import Base
import Testing

@testable import Network

@Suite struct AddressTests {
  private func v6(_ high: UInt64, _ low: UInt64) -> IPAddress { IPAddress(high: high, low: low) }

  @Test func bothFamiliesAreReadAndWritten() {
    let four = IPAddress(v4: 0xc0a8_0102)
    #expect(four.isV4 && four.v4 == 0xc0a8_0102)
    var bytes = [UInt8](repeating: 0, count: 16)
    bytes.withUnsafeMutableBytes { four.writeV4(to: $0.baseAddress! + 1) }
    #expect(Array(bytes[1..<5]) == [192, 168, 1, 2])
    bytes.withUnsafeMutableBytes { four.writeV6(to: $0.baseAddress!) }
    #expect(bytes == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2])
    #expect(bytes.withUnsafeBytes { IPAddress(readingV6: $0.baseAddress!) } == four)
    #expect(bytes.withUnsafeBytes { IPAddress(readingV4: $0.baseAddress! + 12) } == four)
    #expect(!IPAddress.any6.isV4 && !IPAddress.loopback6.isV4 && IPAddress.any4.isV4)
  }

  @Test func kindsOfAddresses() {
    #expect(IPAddress.any4.isUnspecified && IPAddress.any6.isUnspecified && !IPAddress.loopback4.isUnspecified)
    #expect(IPAddress(v4: 0x7f12_3456).isLoopback && IPAddress.loopback6.isLoopback && !v6(1, 1).isLoopback)
    #expect(IPAddress(v4: 0xe000_0001).isMulticast && IPAddress(v4: 0xefff_ffff).isMulticast)
    #expect(!IPAddress(v4: 0xdfff_ffff).isMulticast && !IPAddress(v4: 0xf000_0000).isMulticast)
    #expect(IPAddress.allNodes6.isMulticast && IPAddress.allNodes6.isLinkLocalMulticast)
    #expect(v6(0xfe80 << 48, 5).isLinkLocal && v6(0xfebf << 48, 5).isLinkLocal && !v6(0xfec0 << 48, 5).isLinkLocal)
    #expect(IPAddress(v4: 0xa9fe_0001).isLinkLocal && !IPAddress(v4: 0xa9fd_0001).isLinkLocal)
    #expect(v6(0xfe80 << 48, 0x1234_5678_9abc_def0).solicitedNodeGroup == v6(0xff02 << 48, 0x1_ffbc_def0))
  }

  @Test func prefixes() {
    let net = IPAddress(v4: 0xc0a8_0100)
    #expect(IPAddress(v4: 0xc0a8_01ff).hasPrefix(net, 24) && !IPAddress(v4: 0xc0a8_02ff).hasPrefix(net, 24))
    #expect(IPAddress(v4: 0x0808_0808).hasPrefix(.any4, 0) && !IPAddress.loopback6.hasPrefix(.any4, 0))
    #expect(!IPAddress.loopback4.hasPrefix(.any6, 0) && v6(.max, .max).hasPrefix(.any6, 0))
    #expect(IPAddress(v4: 0xc0a8_01ff).prefix(24) == net && net.broadcast(prefixLength: 24).v4 == 0xc0a8_01ff)
    #expect(net.broadcast(prefixLength: 22).v4 == 0xc0a8_03ff)
    let prefix = v6(0x2001_0db8_0000_0001, 0)
    #expect(v6(0x2001_0db8_0000_0001, 99).hasPrefix(prefix, 64) && !v6(0x2001_0db8_0000_0000, 99).hasPrefix(prefix, 64))
    #expect(v6(0x2001_0db8_0000_0001, 0x80 << 56).hasPrefix(v6(0x2001_0db8_0000_0001, 0xff << 56), 65))
    #expect(v6(1, 2).hasPrefix(v6(1, 2), 128) && !v6(1, 3).hasPrefix(v6(1, 2), 128))
    #expect(v6(0x2001_0db8 << 32 | 0xffff, 77).prefix(48) == v6(0x2001_0db8 << 32, 0))
    #expect(net.commonPrefixLength(IPAddress(v4: 0xc0a8_0180)) == 24)
    #expect(v6(1, 0).commonPrefixLength(v6(1, 1)) == 127 && v6(1, 1).commonPrefixLength(v6(1, 1)) == 128)
  }
}

@Suite struct ChecksumTests {
  /// As the RFC says it: 16 bits a step.
  private func plain(_ bytes: [UInt8]) -> UInt16 {
    var sum: UInt32 = 0
    for index in stride(from: 0, to: bytes.count, by: 2) {
      sum += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
    }
    while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
    return ~UInt16(sum)
  }

  private func fast(_ bytes: [UInt8]) -> UInt16 {
    var checksum = InternetChecksum()
    bytes.withUnsafeBytes { checksum.add($0) }
    return checksum.value
  }

  @Test func theExampleOfTheRFC() {
    // RFC 1071, 3.
    #expect(fast([0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]) == ~0xddf2)
  }

  @Test func everyLengthAndPlaceIsAsThePlainOne() {
    var random = SystemRandomNumberGenerator()
    for count in 0..<200 {
      var bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
      if count % 3 == 0 { bytes = [UInt8](repeating: 0xff, count: count) }
      #expect(fast(bytes) == plain(bytes))
      for cut in 0...count {
        var checksum = InternetChecksum()
        bytes.withUnsafeBytes {
          checksum.add(UnsafeRawBufferPointer(rebasing: $0[..<cut]), at: 0)
          checksum.add(UnsafeRawBufferPointer(rebasing: $0[cut...]), at: cut)
        }
        #expect(checksum.value == plain(bytes))
      }
    }
  }

  @Test func whatWasSummedWithItsChecksumIsValid() {
    var random = SystemRandomNumberGenerator()
    for count in 1..<100 {
      var bytes = (0..<(2 * count)).map { _ in UInt8.random(in: 0...255, using: &random) } + [0, 0]
      let value = fast(bytes)
      (bytes[2 * count], bytes[2 * count + 1]) = (UInt8(value >> 8), UInt8(value & 0xff))
      var checksum = InternetChecksum()
      bytes.withUnsafeBytes { checksum.add($0) }
      #expect(checksum.isValid)
      bytes[count] ^= 1
      var wrong = InternetChecksum()
      bytes.withUnsafeBytes { wrong.add($0) }
      #expect(!wrong.isValid)
    }
  }

  @Test func updatingIsSummingAnew() {
    var random = SystemRandomNumberGenerator()
    for _ in 0..<10_000 {
      var bytes = (0..<20).map { _ in UInt8.random(in: 0...255, using: &random) }
      let old = UInt16(bytes[4]) << 8 | UInt16(bytes[5])
      let before = fast(bytes)
      let new = [0, 0xffff, UInt16.random(in: 0...0xffff, using: &random)].randomElement(using: &random)!
      (bytes[4], bytes[5]) = (UInt8(new >> 8), UInt8(new & 0xff))
      #expect(InternetChecksum.updated(before, from: old, to: new) == fast(bytes))
    }
    // RFC 1624, 4: the case that the older equation gets wrong.
    #expect(InternetChecksum.updated(0xdd2f, from: 0x5555, to: 0x3285) == 0x0000)
  }

  @Test func numbersAndAddressesAreTheirBytes() {
    let address = IPAddress(high: 0x2001_0db8_1234_5678, low: 0x9abc_def0_1122_3344)
    var checksum = InternetChecksum()
    checksum.addPseudoHeader(address, .loopback6, protocol: 17, byteCount: 0x1_2345)
    var bytes = [UInt8](repeating: 0, count: 40)
    bytes.withUnsafeMutableBytes {
      address.writeV6(to: $0.baseAddress!)
      IPAddress.loopback6.writeV6(to: $0.baseAddress! + 16)
    }
    bytes[33] = 1
    bytes[34] = 0x23
    bytes[35] = 0x45
    bytes[39] = 17
    #expect(checksum.value == plain(bytes) && checksum.partial == ~plain(bytes))
    var four = InternetChecksum()
    four.addPseudoHeader(IPAddress(v4: 0x0a00_0001), IPAddress(v4: 0xc0a8_0102), protocol: 6, byteCount: 20)
    #expect(four.value == plain([10, 0, 0, 1, 192, 168, 1, 2, 0, 6, 0, 20]))
  }
}
