// SegmentSplitter: the parts of a packet that stands for several, where the interface cannot split it: TCP segments and UDP datagrams. Pure.
import Base
import Devices

/// Goes through the parts of a packet.
struct SegmentSplitter {
  private let header: OutgoingHeader
  private let segmentation: PacketSegmentation
  /// Bytes of the transport's header.
  private let headerByteCount: Int
  private var offset: Int
  private let isWhole: Bool

  /// For a packet that begins with the transport's header.
  init(_ packet: borrowing Packet, _ header: OutgoingHeader) {
    self.header = header
    segmentation = packet.segmentation
    let head = packet.head
    if segmentation.kind == .udp {
      headerByteCount = 8
    } else {
      headerByteCount = head.count > 12 ? (head[12] &>> 4).int &* 4 : 0
    }
    offset = headerByteCount
    isWhole = head.count >= headerByteCount && headerByteCount >= 8 && segmentation.segmentByteCount > 0
  }

  /// The next part of the packet: with a header of its own, its data shared, its checksum `.partial`; nil after the last.
  /// - Throws: ENOBUFS; EINVAL: it has no header.
  mutating func next(_ packet: borrowing Packet) throws(Errno) -> Packet? {
    guard isWhole else { throw .EINVAL }
    if offset >= packet.byteCount { return nil }
    let step = min(segmentation.segmentByteCount.int, packet.byteCount &- offset)
    let isFirst = offset == headerByteCount
    let isLast = offset &+ step == packet.byteCount
    guard var part = Packet(headroom: Packet.headroom, capacity: headerByteCount),
      let start = part.extend(headerByteCount),
      let source = packet.head.baseAddress
    else { throw .ENOBUFS }
    start.copyMemory(from: source, byteCount: headerByteCount)
    guard part.append(packet, from: offset, count: step) else { throw .ENOBUFS }
    var checksum = InternetChecksum()
    checksum.addPseudoHeader(
      header.source, header.destination, protocol: header.protocolNumber, byteCount: headerByteCount &+ step)
    if segmentation.kind == .udp {
      start.storeBytes(of: (headerByteCount &+ step).u16.bigEndian, toByteOffset: 4, as: UInt16.self)
      start.storeBytes(of: checksum.partial.bigEndian, toByteOffset: 6, as: UInt16.self)
      part.checksum = .partial(start: 0, offset: 6)
    } else {
      let number = UInt32(bigEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
      start.storeBytes(of: (number &+ (offset &- headerByteCount).u32).bigEndian, toByteOffset: 4, as: UInt32.self)
      var flags = start.load(fromByteOffset: 13, as: UInt8.self)
      if !isLast { flags &= ~0x09 }  // FIN and PSH
      if !isFirst && segmentation.hasCongestionMark { flags &= ~0x80 }  // CWR
      start.storeBytes(of: flags, toByteOffset: 13, as: UInt8.self)
      start.storeBytes(of: checksum.partial.bigEndian, toByteOffset: 16, as: UInt16.self)
      part.checksum = .partial(start: 0, offset: 16)
    }
    part.flowHash = packet.flowHash
    part.queuePair = packet.queuePair
    part.transportOffset = 0
    offset &+= step
    return part
  }
}
