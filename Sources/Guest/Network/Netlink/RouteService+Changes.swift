// What rtnetlink changes: addresses and routes are added and removed, interfaces go up and down and get other sizes. The caller is privileged.
import Base

extension RouteService {
  /// Does what a request asks for.
  /// - Throws: EOPNOTSUPP: nothing like that can change here; EEXIST, ESRCH, EADDRNOTAVAIL, ENODEV, EINVAL…
  func change(_ request: NetlinkRequest) throws(Errno) {
    switch request.type {
    case Message.newLink, Message.setLink: try changeLink(request)
    case Message.newAddress: try changeAddress(request, adds: true)
    case Message.deleteAddress: try changeAddress(request, adds: false)
    case Message.newRoute: try changeRoute(request, adds: true)
    case Message.deleteRoute: try changeRoute(request, adds: false)
    default: throw .EOPNOTSUPP
    }
  }

  private func changeLink(_ request: NetlinkRequest) throws(Errno) {
    let message = try request.structure(LinkMessage.self)
    // Nobody makes interfaces.
    guard message.index > 0 else { throw .EOPNOTSUPP }
    guard let interface = stack.interface(index: message.index.u32) else { throw .ENODEV }
    if let mtu = request.number(4, behind: 16) { try interface.setMTU(mtu.int) }
    // IFF_UP.
    if (message.change | message.flags) & 1 != 0 { interface.setUp(message.flags & 1 != 0) }
  }

  private func changeAddress(_ request: NetlinkRequest, adds: Bool) throws(Errno) {
    let message = try request.structure(AddressMessage.self)
    guard let interface = stack.interface(index: message.index) else { throw .ENODEV }
    guard
      let address = request.address(AddressAttribute.local, behind: 8)
        ?? request.address(AddressAttribute.address, behind: 8),
      family(of: address) == message.family, message.prefixLength <= address.bitCount
    else { throw .EINVAL }
    if adds {
      try interface.add(InterfaceAddress(address, prefixLength: message.prefixLength.int))
    } else {
      try interface.remove(address)
    }
  }

  private func changeRoute(_ request: NetlinkRequest, adds: Bool) throws(Errno) {
    let message = try request.structure(RouteMessage.self)
    guard message.family == Self.family4 || message.family == Self.family6 else { throw .EOPNOTSUPP }
    let isV4 = message.family == Self.family4
    let destination = request.address(RouteAttribute.destination, behind: 12) ?? (isV4 ? .any4 : .any6)
    guard family(of: destination) == message.family, message.destinationLength <= destination.bitCount else {
      throw .EINVAL
    }
    let gateway = request.address(RouteAttribute.gateway, behind: 12)
    var route = RouteStatus(
      destination: destination, prefixLength: message.destinationLength, gateway: gateway,
      interfaceIndex: request.number(RouteAttribute.interface, behind: 12) ?? 0,
      metric: request.number(RouteAttribute.priority, behind: 12) ?? (isV4 ? 0 : 1024),
      source: request.address(RouteAttribute.source, behind: 12), origin: message.origin)
    if route.interfaceIndex == 0, let gateway, adds {
      route.interfaceIndex = try stack.route(to: gateway, source: nil, interface: 0).interfaceIndex
    }
    if adds {
      guard stack.interface(index: route.interfaceIndex) != nil else { throw .ENODEV }
      try stack.add(route, replaces: request.header.flags & NetlinkHeader.replace != 0)
    } else {
      try stack.remove(route)
    }
  }
}
