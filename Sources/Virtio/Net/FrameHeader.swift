// The check of what a guest says about a frame that it transmits. Pure: it looks at copies, and tables test it.
//
// Whatever passes is bounded: the checksum lies inside the frame, a segment is neither empty nor so small that one frame becomes thousands,
// headers end inside the frame, and the kind of segmentation was agreed on and fits what the frame begins with. Bits that nobody
// knows are dropped.
import VirtioABI

/// Checks transmitted headers.
struct FrameHeader {
  /// Bytes of an Ethernet header.
  static let linkByteCount = 14
  /// Bytes of a VLAN's tag.
  static let tagByteCount = 4
  /// Bytes of an IP packet at most.
  static let largestPacket = 65_535
  /// Segments that a frame may become.
  static let segmentLimit = 2_048
  /// Bytes at a frame's front that the check looks at.
  static let prefixByteCount = 18

  private static let tcpHeader = 20
  private static let udpHeader = 8
  private static let tcpChecksum = 16
  private static let udpChecksum = 6

  /// What was agreed on.
  let features: UInt64
  /// Largest IP packet that is not segmented.
  let mtu: Int

  /// Bytes of a frame that nothing is to be done with, at most.
  var plainLimit: Int { mtu + Self.linkByteCount + Self.tagByteCount }

  /// Bytes of any frame at most.
  static let frameLimit = largestPacket + linkByteCount + tagByteCount

  /// The header to go by; nil if the guest's makes no sense.
  /// - Parameters:
  ///   - header: a copy of what the guest wrote.
  ///   - byteCount: bytes of the frame.
  ///   - prefix: a copy of its first `prefixByteCount` bytes, or of all if it is shorter.
  func check(_ header: VirtioNetworkHeader, byteCount: Int, prefix: UnsafeRawBufferPointer) -> VirtioNetworkHeader? {
    guard byteCount >= Self.linkByteCount, byteCount <= Self.frameLimit else { return nil }
    var checked = VirtioNetworkHeader()
    let start = Int(header.checksumStart)
    if header.flags & VirtioNetworkHeader.needsChecksum != 0 {
      guard features & VirtioNetworkABI.checksum != 0, start >= Self.linkByteCount,
        start + Int(header.checksumOffset) + 2 <= byteCount
      else { return nil }
      checked.flags = VirtioNetworkHeader.needsChecksum
      checked.checksumStart = header.checksumStart
      checked.checksumOffset = header.checksumOffset
    }
    let kind = header.segmentation & ~VirtioNetworkHeader.ecn
    guard kind != VirtioNetworkHeader.none else {
      return header.segmentation == VirtioNetworkHeader.none && byteCount <= plainLimit ? checked : nil
    }

    // Segments need their checksums.
    guard checked.flags != 0, isAgreed(header.segmentation), Self.fits(kind, prefix) else { return nil }
    let isUDP = kind == VirtioNetworkHeader.udp
    guard Int(header.checksumOffset) == (isUDP ? Self.udpChecksum : Self.tcpChecksum) else { return nil }
    let headers = start + (isUDP ? Self.udpHeader : Self.tcpHeader)
    let segment = Int(header.segmentByteCount)
    guard headers <= byteCount, segment > 0, segment < Int(UInt16.max),
      (byteCount - headers) / segment < Self.segmentLimit
    else { return nil }
    checked.segmentation = header.segmentation
    checked.segmentByteCount = header.segmentByteCount
    // A hint: no shorter than what must be there, no longer than the frame.
    checked.headerByteCount = UInt16(min(max(Int(header.headerByteCount), headers), byteCount, Int(UInt16.max)))
    return checked
  }

  private func isAgreed(_ segmentation: UInt8) -> Bool {
    let needed: UInt64
    switch segmentation & ~VirtioNetworkHeader.ecn {
    case VirtioNetworkHeader.tcp4: needed = VirtioNetworkABI.hostTCP4
    case VirtioNetworkHeader.tcp6: needed = VirtioNetworkABI.hostTCP6
    case VirtioNetworkHeader.udp: needed = VirtioNetworkABI.hostUDP
    default: return false
    }
    if segmentation & VirtioNetworkHeader.ecn != 0 {
      guard features & VirtioNetworkABI.hostECN != 0, needed != VirtioNetworkABI.hostUDP else { return false }
    }
    return features & needed != 0
  }

  /// Whether the frame's type, behind a VLAN's tag if there is one, is the protocol that the kind of segmentation is about.
  private static func fits(_ kind: UInt8, _ prefix: UnsafeRawBufferPointer) -> Bool {
    func type(at offset: Int) -> UInt16 {
      offset + 2 <= prefix.count ? UInt16(prefix[offset]) << 8 | UInt16(prefix[offset + 1]) : 0
    }
    var found = type(at: 12)
    if found == EtherType.vlan || found == EtherType.serviceVLAN { found = type(at: 16) }
    return switch kind {
    case VirtioNetworkHeader.tcp4: found == EtherType.ipv4
    case VirtioNetworkHeader.tcp6: found == EtherType.ipv6
    default: found == EtherType.ipv4 || found == EtherType.ipv6
    }
  }
}

/// The types of frames that matter here (IEEE 802).
enum EtherType {
  static let ipv4: UInt16 = 0x0800
  static let ipv6: UInt16 = 0x86dd
  static let vlan: UInt16 = 0x8100
  static let serviceVLAN: UInt16 = 0x88a8
}
