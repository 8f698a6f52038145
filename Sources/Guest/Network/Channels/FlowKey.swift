// FlowKey: what the classifier finds a flow by. The hash is keyed: whoever sends packets chooses addresses and ports, but not the key, and so
// cannot have many flows fall into one chain.
import Base

/// A protocol and a pair of ends, ours first. A wildcard for the far end is the family's unspecified address and port 0.
public struct FlowKey: Equatable, BitwiseCopyable, Sendable {
  /// Our address.
  public var local: IPAddress
  /// The other's.
  public var remote: IPAddress
  /// Our port.
  public var localPort: UInt16
  /// The other's.
  public var remotePort: UInt16
  /// IP's number of the protocol: 6, 17…
  public var protocolNumber: UInt8

  /// A conversation.
  @inline(__always) public init(
    protocol number: UInt8, local: IPAddress, localPort: UInt16, remote: IPAddress, remotePort: UInt16
  ) {
    self.local = local
    self.remote = remote
    self.localPort = localPort
    self.remotePort = remotePort
    protocolNumber = number
  }

  /// What is bound to an address, or to all of a family (unspecified), and takes from everybody.
  @inline(__always) public init(protocol number: UInt8, local: IPAddress, localPort: UInt16) {
    self.init(
      protocol: number, local: local, localPort: localPort, remote: local.isV4 ? .any4 : .any6, remotePort: 0)
  }

  /// Whether it takes from everybody.
  @inline(__always) public var isWildcard: Bool { remotePort == 0 && remote.isUnspecified }

  /// The key as seen from the other end.
  public var reversed: FlowKey {
    FlowKey(
      protocol: protocolNumber, local: remote, localPort: remotePort, remote: local, remotePort: localPort)
  }

  /// SipHash-1-3 of all of it: two words for IPv4, five for IPv6.
  @inline(__always) public func hash(_ key: SipKey) -> UInt64 {
    var hasher = SipHasher(key)
    if local.isV4 && remote.isV4 {
      hasher.combineShort(local.v4.u64 &<< 32 | remote.v4.u64)
    } else {
      hasher.combineShort(local.high)
      hasher.combineShort(local.low)
      hasher.combineShort(remote.high)
      hasher.combineShort(remote.low)
    }
    hasher.combineShort(protocolNumber.u64 &<< 32 | localPort.u64 &<< 16 | remotePort.u64)
    return hasher.finishShort()
  }
}
