// UDP below its sockets (RFC 768, 8200 8.1): what is checked of a datagram, and what happens to one that nobody wants.
import Base
import Devices

/// Datagrams.
public enum UDP {
  /// Bytes of the header.
  public static var headerByteCount: Int { 8 }

  /// Checks a received datagram, which begins with UDP's header, and cuts it to its length. For whoever takes it out of its flow's ring.
  /// - Returns: false: the length or the checksum is wrong, and it is to be dropped; it has been counted.
  public static func accept(_ packet: inout Packet, _ stack: NetworkStack) -> Bool {
    let header = packet.internetHeader
    let isV4 = header.source.isV4
    guard check(&packet, header) else {
      stack.count(.udpErrors, isV4: isV4)
      return false
    }
    return true
  }

  static func check(_ packet: inout Packet, _ header: InternetHeader) -> Bool {
    guard packet.pull(headerByteCount), let start = packet.head.baseAddress else { return false }
    let length = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt16.self)).int
    // Of several datagrams in one each has a length of its own.
    if packet.segmentation.kind != .udp {
      guard length >= headerByteCount, length <= packet.byteCount else { return false }
      packet.dropLast(packet.byteCount &- length)
    }
    // IPv4 may do without a checksum, IPv6 may not.
    if start.loadUnaligned(fromByteOffset: 6, as: UInt16.self) == 0 && packet.checksum == .none {
      return header.source.isV4
    }
    return InternetChecksum.isTransportValid(packet, header)
  }
}

/// UDP, for datagrams without a flow.
final class UDPTransport: Transport {
  private unowned(unsafe) let stack: NetworkStack

  init(_ stack: NetworkStack) { self.stack = stack }

  override func packetArrived(_ packet: consuming Packet, _ header: InternetHeader) {
    let isV4 = header.source.isV4
    guard UDP.check(&packet, header) else { return stack.count(.udpErrors, isV4: isV4) }
    stack.count(.udpNoPorts, isV4: isV4)
    guard let link = stack.interface(index: header.interfaceIndex) else { return }
    stack.sendError(about: packet, type: isV4 ? 3 : 1, code: isV4 ? 3 : 4, info: 0, link)
  }
}
