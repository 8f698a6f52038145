// The sockets and connections of a machine, as others are shown them.
import Base

extension NetworkStack {
  /// Sockets of a protocol that have a port, and connections without a socket.
  public func statuses(ofProtocol number: UInt8) -> [InternetSocketStatus] {
    var result: [InternetSocketStatus] = []
    for socket in sockets.all(ofProtocol: number) {
      let status = socket.status
      if status.local.port != 0 { result.append(status) }
    }
    if number == InternetProtocol.tcp { transmission.addRemains(to: &result) }
    return result
  }

  /// Raw sockets; their protocol stands for the local port, as ever.
  public var rawStatuses: [InternetSocketStatus] {
    sockets.all(kind: .raw).map { socket in
      var status = socket.status
      status.local.port = socket.protocolNumber.u16
      return status
    }
  }

  /// From which ports one is chosen for who names none.
  public var portRange: (first: UInt16, last: UInt16) {
    let both = sockets.portRange.load(ordering: .relaxed)
    return ((both &>> 16).u16, both.u16)
  }

  /// What TCP has counted, by the names of SNMP (RFC 4022).
  public var transmissionCounts: [(StaticString, UInt64)] { transmission.counts }
}
