// SocketTables: what the sockets of a machine have in common: ports of each protocol, who takes whole packets, and a list of all sockets.
//
// The list keeps its sockets until they are closed. Its lock is a leaf.
import Base
import Locks

/// Tables of one machine's network.
public final class SocketTables {
  /// Ports of TCP.
  public let tcpPorts: PortTable
  /// Ports of UDP.
  public let udpPorts: PortTable
  /// Identifiers of ICMP echoes, and of ICMPv6's.
  let echoIdentifiers: PortTable
  /// Raw sockets.
  let rawReceivers = SocketRawReceivers()
  /// Packet sockets.
  let taps = SocketTap()
  /// The first port and the last one that are chosen for who names none (net.ipv4.ip_local_port_range).
  let portRange = Atomic<UInt32>(32_768 << 16 | 60_999)

  /// Empty tables.
  /// - Parameters:
  ///   - key: what nobody outside knows.
  ///   - random: a source of random numbers.
  public init(key: SipKey, random: @escaping () -> UInt64) {
    tcpPorts = PortTable(.connections, key: key, random: random)
    udpPorts = PortTable(.datagrams, key: key, random: random)
    echoIdentifiers = PortTable(.datagrams, key: key, random: random)
  }

  // MARK: All sockets

  private let lock = Mutex()
  // Guarded by `lock`, with the links.
  private var first: InternetSocket?
  /// How many sockets there are.
  public private(set) var count = 0

  func add(_ socket: InternetSocket) {
    lock.withLock {
      socket.nextListed = first
      if let first { first.previousListed = Unmanaged.passUnretained(socket) }
      first = socket
      count &+= 1
    }
  }

  func remove(_ socket: InternetSocket) {
    lock.withLock {
      // SAFETY: whoever is before one in the list is in the list, and kept by it.
      let previous = socket.previousListed?.takeUnretainedValue()
      guard previous != nil || first === socket else { return }
      let next = socket.nextListed
      if let previous { previous.nextListed = next } else { first = next }
      next?.previousListed = socket.previousListed
      (socket.nextListed, socket.previousListed) = (nil, nil)
      count &-= 1
    }
  }

  /// All sockets of a protocol; of one kind, if that is said.
  public func all(ofProtocol number: UInt8? = nil, kind: SocketKind? = nil) -> [InternetSocket] {
    lock.withLock {
      var result: [InternetSocket] = []
      var next = first
      while let socket = next {
        next = socket.nextListed
        if let number, socket.protocolNumber != number { continue }
        if let kind, socket.kind != kind { continue }
        result.append(socket)
      }
      return result
    }
  }
}
