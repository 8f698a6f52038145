// The way from a socket to its destinations, and the network header of what it sends.
import Base
import Files
import Locks

extension InternetSocket {
  /// The way to an end, by the interface and from the address that the socket is bound to; a control message may name others.
  /// Waits for an address that is on its way (DHCP), so the caller holds nothing.
  /// - Throws: ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL, ENODEV, EINVAL (link-local without an interface), EINTR.
  public final func findRoute(
    to destination: InternetEndpoint, control: OutgoingControl = OutgoingControl()
  ) throws(Errno) -> RouteCache {
    let (options, bound) = lock.withLock { (self.options, local.address) }
    let address = destination.address
    var interface = control.interfaceIndex != 0 ? control.interfaceIndex : options.interfaceIndex
    if !address.isV4, address.isLinkLocal || address.isLinkLocalMulticast {
      if destination.scope != 0 {
        guard interface == 0 || interface == destination.scope else { throw .EINVAL }
        interface = destination.scope
      } else if interface == 0, address.isMulticast {
        interface = options.multicastInterface6
      }
      guard interface != 0 || address.isMulticast else { throw .EINVAL }
    }
    var source: IPAddress?
    if !control.source.isUnspecified { source = control.source }
    if source == nil, !bound.isUnspecified, !bound.isMulticast, stack.kind(of: bound) != .broadcast { source = bound }
    if address.isMulticast {
      if interface == 0 { interface = address.isV4 ? options.multicastInterface4 : options.multicastInterface6 }
      if source == nil, address.isV4, options.multicastSource != .any4 { source = options.multicastSource }
    } else if interface == 0 {
      interface = address.isV4 ? options.unicastInterface4 : options.unicastInterface6
    }
    // An address of the other family cannot be a source.
    if let source, source.isV4 != address.isV4 { throw address.isV4 ? .EINVAL : .ENETUNREACH }
    if stack.isConfiguring(isV4: address.isV4), stack.kind(of: address) == .other {
      try stack.waitForConfiguration(isV4: address.isV4)
    }
    do throws(Errno) { return try stack.route(to: address, source: source, interface: interface) } catch {
      explain(error)
      throw error
    }
  }

  /// The header of a packet as the options say. With the lock.
  public final func header(
    from source: IPAddress, to destination: IPAddress, control: OutgoingControl = OutgoingControl()
  ) -> OutgoingHeader {
    var result = OutgoingHeader(source: source, destination: destination, protocolNumber: protocolNumber)
    let isV4 = destination.isV4
    if isV4 {
      result.trafficClass = options.trafficClass4
      result.hopLimit = destination.isMulticast ? options.multicastHopLimit4 : options.hopLimit4
    } else {
      result.trafficClass = options.trafficClass6
      let limit = destination.isMulticast ? options.multicastHopLimit6 : options.hopLimit6
      result.hopLimit = limit >= 0 ? limit.u8 : destination.isMulticast ? 1 : 0
    }
    if control.trafficClass >= 0 { result.trafficClass = control.trafficClass.u8 }
    if control.hopLimit >= 0 { result.hopLimit = control.hopLimit.u8 }
    if destination.isMulticast, !options.has(isV4 ? .loopsMulticast4 : .loopsMulticast6) {
      result.flags.insert(.noLoop)
    }
    if isOn(SocketOption.broadcast) { result.flags.insert(.mayBroadcast) }
    switch isV4 ? options.pathMTU4 : options.pathMTU6 {
    case .never, .omitted: break
    case .wanted: if kind == .stream { result.flags.insert(.dontFragment) }
    case .always: result.flags.insert(.dontFragment)
    case .probing, .interface: result.flags.formUnion([.dontFragment, .ignorePathMTU])
    }
    if !isV4, control.dontFragment > 0 || control.dontFragment < 0 && options.has(.refusesFragments6) {
      result.flags.insert(.dontFragment)
    }
    return result
  }
}
