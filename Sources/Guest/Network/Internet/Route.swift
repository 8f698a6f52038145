// Routes: which interface, and which neighbour, leads to a destination; and the way that a socket remembers.
import Base
import Devices
import Locks

/// An entry of the routing table.
public struct Route: BitwiseCopyable, Equatable, Sendable {
  /// What it does with packets; the numbers are RTN_*.
  public enum Kind: UInt8, BitwiseCopyable, Sendable {
    /// Sends them on.
    case unicast = 1
    /// Drops them without a word: EINVAL.
    case blackhole = 6
    /// EHOSTUNREACH.
    case unreachable = 7
    /// EACCES.
    case prohibited = 8
  }

  /// The destinations: those that have the first `prefixLength` bits of it.
  public var destination: IPAddress
  /// Bits of the family's 32 or 128.
  public var prefixLength: UInt8
  /// What it does.
  public var kind = Kind.unicast
  /// Who made it; RTPROT_*: 2 the kernel, 3 at boot, 4 the administrator, 9 a router advertisement, 16 DHCP.
  public var origin: UInt8 = 3
  /// The router; unspecified: destinations are neighbours.
  public var gateway: IPAddress
  /// By which interface.
  public var interfaceIndex: UInt32
  /// Of routes to the same destinations that with the smallest is taken.
  public var metric: UInt32 = 0
  /// Largest IP packet, 0 for the interface's.
  public var mtu: UInt32 = 0
  /// The source to be chosen; unspecified: any that is suitable.
  public var preferredSource: IPAddress
  /// When it ends, ns; `.max`: never.
  public var validUntil: UInt64 = .max

  /// A route to neighbours on an interface, or to a router there.
  public init(to destination: IPAddress, _ prefixLength: Int, gateway: IPAddress? = nil, interfaceIndex: UInt32) {
    let none: IPAddress = destination.isV4 ? .any4 : .any6
    self.destination = destination.prefix(prefixLength)
    self.prefixLength = prefixLength.u8
    self.gateway = gateway ?? none
    self.interfaceIndex = interfaceIndex
    preferredSource = none
  }

  /// Whether two lead to the same destinations in the same way, for adding and removing.
  func isSame(_ other: Route) -> Bool {
    destination == other.destination && prefixLength == other.prefixLength && gateway == other.gateway
      && interfaceIndex == other.interfaceIndex && kind == other.kind
  }
}

/// The way to a destination, as a socket remembers it. A plain value; what it points to is there as long as the stack's
/// generation is the one that it was made in.
public struct RouteCache: BitwiseCopyable {
  /// What is special about the destination.
  struct Flags: OptionSet, BitwiseCopyable {
    let rawValue: UInt8
    static var loopback: Flags { Flags(rawValue: 1) }
    static var broadcast: Flags { Flags(rawValue: 2) }
    static var multicast: Flags { Flags(rawValue: 4) }
  }

  /// The stack's generation; 0: it is empty.
  var generation: UInt32 = 0
  /// By which interface.
  public internal(set) var interfaceIndex: UInt32 = 0
  /// Where to.
  public internal(set) var destination = IPAddress.any6
  /// The source address that suits.
  public internal(set) var source = IPAddress.any6
  /// The neighbour to which it is sent: the destination or a router.
  var nextHop = IPAddress.any6
  // SAFETY: an interface's object, which is never freed.
  var interface: UnsafeRawPointer?
  // SAFETY: an entry of the neighbour cache; looked at under RCU, and only if the generation is right.
  var neighbour: UnsafeMutablePointer<Neighbour>?
  /// The largest IP packet that is known to pass, bytes.
  public internal(set) var mtu = 0
  /// What the interface does for who transmits.
  public internal(set) var offloads: PacketOffloads = []
  var flags: Flags = []

  /// No way yet.
  public init() {}

  /// Whether the destination is this machine.
  public var isLoopback: Bool { flags.contains(.loopback) }
  /// Whether it is everybody on a link.
  public var isBroadcast: Bool { flags.contains(.broadcast) }
  /// Whether it is a group.
  public var isMulticast: Bool { flags.contains(.multicast) }
}

extension NetworkStack {
  /// Routes at most: who may add them is trusted, but not to know what a linear search costs.
  static var routeLimit: Int { 1024 }

  /// A copy of the routing table: the longest prefixes first, then the smallest metrics.
  public var routes: [Route] { routeList.copy }

  /// Adds a route, in place of the same one if there is one.
  /// - Parameter replacing: false: EEXIST if there is one.
  /// - Throws: EEXIST; ENODEV: no such interface; ENETUNREACH: the router is no neighbour; ENOBUFS, ENOMEM.
  public func add(_ route: Route, replacing: Bool = true) throws(Errno) {
    guard interface(index: route.interfaceIndex) != nil || route.kind != .unicast else { throw .ENODEV }
    lock.lock()
    defer { lock.unlock() }
    var list: [Route] = []
    list.reserveCapacity(routeList.current.count &+ 1)
    var isIn = false
    for old in routeList.current {
      if old.isSame(route) {
        guard replacing else { throw .EEXIST }
        continue
      }
      if !isIn, comes(route, before: old) {
        list.append(route)
        isIn = true
      }
      list.append(old)
    }
    if !isIn { list.append(route) }
    guard list.count <= Self.routeLimit else { throw .ENOBUFS }
    try routeList.replace(list)
    changed(.routes)
  }

  private func comes(_ one: Route, before other: Route) -> Bool {
    one.prefixLength != other.prefixLength ? one.prefixLength > other.prefixLength : one.metric < other.metric
  }

  /// Takes a route out.
  /// - Throws: ESRCH: there is none; ENOMEM.
  public func remove(_ route: Route) throws(Errno) {
    guard try removeRoutes(where: { $0.isSame(route) }) > 0 else { throw .ESRCH }
  }

  /// Takes routes out; how many.
  @discardableResult func removeRoutes(where isGoing: (Route) -> Bool) throws(Errno) -> Int {
    lock.lock()
    defer { lock.unlock() }
    var list: [Route] = []
    let old = routeList.current
    for route in old where !isGoing(route) { list.append(route) }
    let count = old.count &- list.count
    if count == 0 { return 0 }
    try routeList.replace(list)
    changed(.routes)
    return count
  }

  /// What became of looking for a route.
  enum RouteFound {
    case found(Route)
    case failed(Errno)
  }

  /// The route to a destination, by an interface if it is not 0.
  func findRoute(_ destination: IPAddress, interface: UInt32) -> RouteFound {
    routeList.read { routes in
      for route in routes where destination.hasPrefix(route.destination, route.prefixLength.int) {
        if interface != 0 && route.interfaceIndex != interface { continue }
        switch route.kind {
        case .unicast:
          if isUp(route.interfaceIndex) { return .found(route) }
        case .blackhole: return .failed(.EINVAL)
        case .unreachable: return .failed(.EHOSTUNREACH)
        case .prohibited: return .failed(.EACCES)
        }
      }
      return .failed(.ENETUNREACH)
    }
  }

  /// Whether a route leads by that neighbour.
  func isGateway(_ address: IPAddress, on interface: UInt32) -> Bool {
    routeList.read { routes in
      for route in routes where route.interfaceIndex == interface && route.gateway == address { return true }
      return false
    }
  }

  /// Finds the way to a destination.
  /// - Parameters:
  ///   - destination: where to; a group and everybody, too.
  ///   - source: the source address, if it is chosen already.
  ///   - interface: the interface to go by, 0 for any. One that a link-local destination means.
  /// - Throws: ENETUNREACH, EHOSTUNREACH, EACCES; EADDRNOTAVAIL: there is no source address; ENODEV; EINVAL.
  public func route(to destination: IPAddress, source: IPAddress? = nil, interface: UInt32 = 0) throws(Errno)
    -> RouteCache
  {
    // Read first: what changes while we look makes the way out of date.
    var way = RouteCache()
    way.generation = generation.load(ordering: .acquiring)
    way.destination = destination
    way.nextHop = destination
    if destination.isUnspecified { throw .EINVAL }
    let kind = self.kind(of: destination)
    if kind == .local {
      way.flags = .loopback
      try go(&way, by: loopback)
      way.source = source ?? destination
      return way
    }
    if destination.isMulticast || destination == .broadcast4 || destination.isLinkLocal && !destination.isV4 {
      let link = try link(to: destination, source: source, interface: interface)
      way.flags = destination == .broadcast4 ? .broadcast : destination.isMulticast ? .multicast : []
      try go(&way, by: link)
    } else {
      let route: Route
      switch findRoute(destination, interface: interface) {
      case .found(let found): route = found
      case .failed(let error): throw error
      }
      guard let link = self.interface(index: route.interfaceIndex) else { throw .ENETUNREACH }
      if !route.gateway.isUnspecified { way.nextHop = route.gateway }
      if kind == .broadcast { way.flags = .broadcast }
      try go(&way, by: link)
      if route.mtu != 0 { way.mtu = min(way.mtu, route.mtu.int) }
      if !route.preferredSource.isUnspecified { way.source = route.preferredSource }
    }
    if let source {
      way.source = source
    } else if way.source == .any6 || way.source == .any4 {
      way.source = try chooseSource(for: way)
    }
    if way.flags.isEmpty { way.mtu = min(way.mtu, pathMTUs.find(destination, now: environment.now()) ?? .max) }
    return way
  }

  private func go(_ way: inout RouteCache, by link: NetworkInterface) throws(Errno) {
    guard link.isUp else { throw .ENETDOWN }
    guard way.destination.isV4 || link.carriesIPv6 else { throw .ENETUNREACH }
    way.interfaceIndex = link.index
    way.interface = UnsafeRawPointer(Unmanaged.passUnretained(link).toOpaque())
    way.mtu = link.mtu
    way.offloads = link.offloads
    if link.kind == .ethernet && way.flags.isEmpty {
      way.neighbour = neighbours.entry(way.nextHop, on: link.index)
      if way.neighbour == nil { throw .ENOBUFS }
    }
  }

  /// The interface for a destination that means something on a link only, or has no route of its own.
  private func link(to destination: IPAddress, source: IPAddress?, interface: UInt32) throws(Errno) -> NetworkInterface
  {
    if interface != 0 {
      guard let link = self.interface(index: interface) else { throw .ENODEV }
      return link
    }
    if let source, !source.isUnspecified, let index = interfaceIndex(of: source),
      let link = self.interface(index: index)
    {
      return link
    }
    if case .found(let route) = findRoute(destination, interface: 0),
      let link = self.interface(index: route.interfaceIndex)
    {
      return link
    }
    // As on a machine with one link: that one.
    for link in interfaces where link.kind != .loopback && link.isUp { return link }
    guard destination.isMulticast else { throw .ENETUNREACH }
    return loopback
  }

  /// A source address for a way (RFC 6724, 5, as far as one has choices).
  private func chooseSource(for way: RouteCache) throws(Errno) -> IPAddress {
    let target = way.nextHop.isV4 == way.destination.isV4 && way.destination.isV4 ? way.nextHop : way.destination
    let best = addressList.read { addresses -> InterfaceAddress? in
      var best: InterfaceAddress?
      for address in addresses where address.isUsable && address.address.isV4 == way.destination.isV4 {
        // Of another interface only what means something everywhere.
        if address.interfaceIndex != way.interfaceIndex && address.address.isLinkLocal { continue }
        guard let known = best else {
          best = address
          continue
        }
        if isBetter(address, than: known, for: way, target: target) { best = address }
      }
      return best
    }
    guard let best else { throw way.destination.isV4 ? .ENETUNREACH : .EADDRNOTAVAIL }
    return best.address
  }

  private func isBetter(
    _ one: InterfaceAddress, than other: InterfaceAddress, for way: RouteCache, target: IPAddress
  ) -> Bool {
    func scope(_ address: IPAddress) -> Int {
      address.isLoopback ? 0 : address.isLinkLocal || address.isLinkLocalMulticast ? 1 : 2
    }
    let wanted = scope(way.destination)
    let (first, second) = (scope(one.address), scope(other.address))
    if first != second {
      // The smallest scope that is large enough; if none is, the largest.
      return first < second ? first >= wanted : second < wanted
    }
    if (one.state == .preferred) != (other.state == .preferred) { return one.state == .preferred }
    let (isHere, isOtherHere) = (one.interfaceIndex == way.interfaceIndex, other.interfaceIndex == way.interfaceIndex)
    if isHere != isOtherHere { return isHere }
    if way.destination.isV4 {
      let (isNear, isOtherNear) = (
        target.hasPrefix(one.address, one.prefixLength.int), target.hasPrefix(other.address, other.prefixLength.int)
      )
      return isNear && !isOtherNear
    }
    return one.address.commonPrefixLength(way.destination) > other.address.commonPrefixLength(way.destination)
  }
}
