// Transport: who gets packets for which there is no flow, and errors about packets that were sent.
import Base
import Devices

/// A protocol above IP.
open class Transport {
  /// One that takes nothing.
  public init() {}

  /// A packet without a flow has come. Called in a thread that holds nothing.
  /// - Parameters:
  ///   - packet: begins with the transport's header, of which at least the first 8 bytes lie in its first slice; its length is IP's. The
  ///     transport's checksum has not been looked at.
  ///   - header: what IP's header says. The source is no group; the destination may be one, or everybody (`packet.destination`).
  open func packetArrived(_ packet: consuming Packet, _ header: InternetHeader) {}

  /// A packet that was sent has met an error. Called in a thread that holds nothing. By default the flow is told.
  /// - Parameters:
  ///   - key: of the packet, as of a flow of ours.
  ///   - flow: the flow of that key, if there is one: for UDP also one that is bound to the port alone.
  ///   - quoted: the transport's header as it was sent, 8 bytes or more. Whether the message is to be believed is the transport's to say (RFC 5927).
  open func errorArrived(_ error: InternetError, _ key: FlowKey, _ flow: Flow?, quoted: UnsafeRawBufferPointer) {
    flow?.errorArrived(error, key, quoted: quoted)
  }
}

/// Raw sockets, as IP sees them.
open class RawReceivers {
  /// None.
  public init() {}

  /// Whether there may be one for a protocol; looked at for every packet, also with preemption off.
  open func wants(_ protocolNumber: UInt8) -> Bool { false }

  /// Gives clones of a packet to those who want it, after reassembly and before transports. In a thread that holds nothing.
  /// - Parameter packet: begins with the network's header.
  /// - Returns: whether somebody took it: then nobody is told that the protocol is unknown.
  open func deliver(_ packet: borrowing Packet, _ header: InternetHeader) -> Bool { false }
}

/// Packet sockets, as an interface sees them. An interface's tap is set once and stays.
open class PacketTap {
  /// None.
  public init() {}

  /// Whether anybody listens; looked at for every frame, also with preemption off.
  open var isListening: Bool { false }

  /// A frame was received, or is about to be transmitted. In a thread; the sender may hold a connection's lock.
  /// - Parameter packet: begins with the link's header, on loopback with the network's; its checksum may be left to the device.
  open func frame(_ packet: borrowing Packet, isOutgoing: Bool) {}
}
