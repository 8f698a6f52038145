// What sockets ask the machine's network that its parts answer together.
import Base

extension NetworkStack {
  /// Whether there is an interface besides loopback.
  var hasNetwork: Bool { interfaces.count > 1 }

  /// The interface with an address.
  func interface(with address: IPAddress) -> NetworkInterface? {
    for interface in interfaces {
      for other in interface.addresses where other.address == address { return interface }
    }
    return nil
  }

  /// Our address that a packet was meant for: itself, or the interface's where it was meant for many.
  func specificDestination(of header: InternetHeader) -> IPAddress {
    if kind(of: header.destination) == .local { return header.destination }
    guard let interface = interface(index: header.interfaceIndex) else { return .any4 }
    for address in interface.addresses where address.address.isV4 { return address.address }
    return .any4
  }
}
