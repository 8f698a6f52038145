// LoopbackInterface: packets to ourselves, by function call: the sender classifies its packet and gives it to the flow it is for.
//
// What is for no flow, and what takes longer, is left to `NetworkStack.runDeferred`: the sender may hold a connection's lock.
import Base
import Devices
import Locks

/// lo.
final class LoopbackInterface: NetworkInterface {
  init(_ stack: NetworkStack) {
    super.init(
      stack, kind: .loopback, index: 1, name: [0x6c, 0x6f], linkAddress: .zero, mtu: 65_536, maximumMTU: 65_536,
      offloads: [.checksum, .tcp4, .tcp6, .udp, .congestionMark], flags: [.up, .loopback, .running, .lowerUp])
  }

  override func transmit(_ packet: consuming Packet) {
    let byteCount = packet.byteCount.u64
    count(.transmittedPackets)
    count(.transmittedBytes, byteCount)
    count(.receivedPackets)
    count(.receivedBytes, byteCount)
    packet.interfaceIndex = index
    packet.linkOffset = 0
    packet.networkOffset = 0
    // It never leaves the machine: nobody has to look.
    packet.checksum = .verified
    if isTapped {
      tap?.frame(packet, isOutgoing: true)
      tap?.frame(packet, isOutgoing: false)
    }
    stack.deliverLocally(packet, self)
  }
}
