// The parts of the network in the forms in which others are shown them, and back.
import Base

extension NetworkStack {
  /// All interfaces.
  public var links: [LinkStatus] {
    interfaces.map { interface in
      var counts = LinkCounts()
      let statistics = interface.statistics
      counts.receivedPackets = statistics.receivedPackets
      counts.receivedBytes = statistics.receivedBytes
      counts.receivedErrors = statistics.receivedErrors
      counts.receivedDropped = statistics.receivedDropped
      counts.multicast = statistics.multicast
      counts.sentPackets = statistics.transmittedPackets
      counts.sentBytes = statistics.transmittedBytes
      counts.sentDropped = statistics.transmittedDropped
      return LinkStatus(
        index: interface.index, name: interface.name, isLoopback: interface.kind == .loopback,
        address: Self.bytes(interface.linkAddress), mtu: interface.mtu.u32, flags: interface.flags.rawValue,
        counts: counts)
    }
  }

  private static func bytes(_ address: LinkAddress) -> [UInt8] {
    var result: [UInt8] = []
    for index in 0..<6 as Range<UInt64> { result.append((address.value &>> (40 &- index &* 8)).u8) }
    return result
  }

  /// All addresses.
  public var addressStatuses: [AddressStatus] {
    let now = environment.now()
    return addresses.map { own in
      let address = own.address
      // RT_SCOPE_HOST, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE.
      let scope: UInt8 = address.isLoopback ? 254 : address.isLinkLocal ? 253 : 0
      var flags: UInt32 = own.validUntil == .max ? 0x80 : 0
      switch own.state {
      case .tentative: flags |= 0x40
      case .optimistic: flags |= 0x04
      case .preferred: break
      case .deprecated: flags |= 0x20
      case .duplicate: flags |= 0x08
      }
      return AddressStatus(
        interfaceIndex: own.interfaceIndex, address: address, prefixLength: own.prefixLength,
        broadcast: own.broadcast, scope: scope, flags: flags,
        preferredSeconds: Self.seconds(until: own.preferredUntil, now),
        validSeconds: Self.seconds(until: own.validUntil, now))
    }
  }

  private static func seconds(until time: UInt64, _ now: UInt64) -> UInt32 {
    time == .max ? .max : time <= now ? 0 : ((time &- now) / 1_000_000_000).u32
  }

  /// All routes that lead somewhere.
  public var routeStatuses: [RouteStatus] {
    var result: [RouteStatus] = []
    for route in routes where route.kind == .unicast {
      result.append(
        RouteStatus(
          destination: route.destination, prefixLength: route.prefixLength,
          gateway: route.gateway.isUnspecified ? nil : route.gateway, interfaceIndex: route.interfaceIndex,
          metric: route.metric, source: route.preferredSource.isUnspecified ? nil : route.preferredSource,
          origin: route.origin))
    }
    return result
  }

  /// All neighbours.
  public var neighbourStatuses: [NeighbourStatus] {
    neighbourDescriptions.map { neighbour in
      NeighbourStatus(
        interfaceIndex: neighbour.interfaceIndex, address: neighbour.address,
        linkAddress: neighbour.link == .zero ? nil : Self.bytes(neighbour.link), state: neighbour.state)
    }
  }

  /// Adds a route.
  /// - Throws: EEXIST, ENODEV, ENETUNREACH, ENOBUFS, ENOMEM.
  func add(_ status: RouteStatus, replaces: Bool) throws(Errno) {
    var route = Route(
      to: status.destination, status.prefixLength.int, gateway: status.gateway, interfaceIndex: status.interfaceIndex)
    route.metric = status.metric
    route.origin = status.origin
    if let source = status.source { route.preferredSource = source }
    try add(route, replacing: replaces)
  }

  /// Takes a route out: one that is as described, as far as something is said.
  /// - Throws: ESRCH: there is none; ENOMEM.
  func remove(_ status: RouteStatus) throws(Errno) {
    for route in routes {
      guard route.destination == status.destination.prefix(status.prefixLength.int),
        route.prefixLength == status.prefixLength,
        status.gateway == nil || status.gateway == route.gateway,
        status.interfaceIndex == 0 || status.interfaceIndex == route.interfaceIndex
      else { continue }
      return try remove(route)
    }
    throw .ESRCH
  }
}
