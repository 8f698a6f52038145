// Autoconfiguration of IPv6 (RFC 4862): a link-local address, routers, prefixes and addresses from them, and when each of these ends.
//
// Addresses are formed from the link address and used at once, while it is asked whether somebody else has them (RFC 4429): who made the link
// address unique has made these unique. What a router says is bounded: so many prefixes and routers, none with lifetimes that others could use to
// take an address away at once (RFC 4862, 5.5.3 e). Time is passed in.
import Base
import Devices
import Locks

/// What is going on at an interface. Guarded by the stack's `lock`.
struct AutoconfigurationState {
  /// Whether it forms addresses at all.
  var isWanted = false
  /// An address that is being asked for, and when that is over.
  struct Trial {
    var address: IPAddress
    var endsAt: UInt64
  }
  var trials: [Trial] = []
  /// Router solicitations that are still to be sent, and when.
  var solicitations = 0
  var solicitAt: UInt64 = .max
  /// When the first address or route ends.
  var expiresAt: UInt64 = .max
}

/// A router advertisement (RFC 4861, 4.2). Pure.
struct RouterAdvertisement {
  /// A prefix (4.6.2).
  struct Prefix: Equatable {
    var prefix: IPAddress
    var length: Int
    var isOnLink: Bool
    var isAutonomous: Bool
    /// Seconds; `.max`: for ever.
    var validTime: UInt32
    var preferredTime: UInt32
  }

  var hopLimit: UInt8 = 0
  /// Addresses, and other things, are to be had by DHCP.
  var isManaged = false
  var hasOther = false
  /// Seconds that it routes; 0: it does not.
  var routerTime: UInt16 = 0
  var link: LinkAddress?
  var mtu: UInt32 = 0
  /// Prefixes, the first few.
  var prefixes: [Prefix] = []
  /// Name servers, the first few (RFC 8106).
  var servers: [IPAddress] = []

  static var prefixLimit: Int { 8 }

  /// Reads an advertisement, which begins with ICMPv6's header; nil: it makes no sense.
  init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= 16 else { return nil }
    hopLimit = bytes[4]
    isManaged = bytes[5] & 0x80 != 0
    hasOther = bytes[5] & 0x40 != 0
    routerTime = UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
    var result = self
    let isGood = DiscoveryOptions.forEach(bytes, from: 16) { kind, option in result.read(kind, option) }
    guard isGood else { return nil }
    self = result
  }

  private mutating func read(_ kind: UInt8, _ option: UnsafeRawBufferPointer) {
    guard let start = option.baseAddress else { return }
    switch (kind, option.count) {
    case (1, 8):
      let address = LinkAddress(reading: start + 2)
      if !address.isGroup && address != .zero { link = address }
    case (5, 8): mtu = UInt32(bigEndian: option.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
    case (3, 32):
      guard prefixes.count < Self.prefixLimit, option[2] <= 128 else { return }
      let prefix = IPAddress(readingV6: start + 16)
      guard !prefix.isMulticast, !prefix.isLinkLocal, !prefix.isV4 else { return }
      prefixes.append(
        Prefix(
          prefix: prefix.prefix(option[2].int), length: option[2].int, isOnLink: option[3] & 0x80 != 0,
          isAutonomous: option[3] & 0x40 != 0,
          validTime: UInt32(bigEndian: option.loadUnaligned(fromByteOffset: 4, as: UInt32.self)),
          preferredTime: UInt32(bigEndian: option.loadUnaligned(fromByteOffset: 8, as: UInt32.self))))
    case (25, let count):
      var at = 8
      while at &+ 16 <= count && servers.count < 4 {
        let server = IPAddress(readingV6: start + at)
        // No router says that of an IPv4 address in disguise (RFC 4942, 2.2), of a group, or of nobody.
        if !server.isV4, !server.isMulticast, !server.isUnspecified { servers.append(server) }
        at &+= 16
      }
    default: return
    }
  }
}

extension NetworkStack {
  private static var trialTime: UInt64 { 1_000_000_000 }
  private static var solicitationInterval: UInt64 { 4_000_000_000 }
  private static var solicitationCount: Int { 3 }
  private static var second: UInt64 { 1_000_000_000 }
  private static var twoHours: UInt64 { 7200 &* second }

  /// Gives an interface its link-local address, and has it listen to routers if that is wanted. Thread context.
  /// - Throws: EINVAL: its packets are too small; ENOBUFS, ENOMEM.
  func beginIPv6(on link: NetworkInterface, autoconfigure: Bool) throws(Errno) {
    guard link.carriesIPv6 else { throw .EINVAL }
    let now = environment.now()
    let local = IPAddress(high: 0xfe80 &<< 48, low: link.linkAddress.interfaceIdentifier)
    try form(local, 64, .kernel, validUntil: .max, preferredUntil: .max, link, now: now)
    guard autoconfigure else { return }
    lock.withLock {
      link.autoconfiguration.isWanted = true
      link.autoconfiguration.solicitations = Self.solicitationCount &- 1
      link.autoconfiguration.solicitAt = now &+ Self.solicitationInterval
    }
    solicitRouters(link)
    wake(by: now &+ Self.solicitationInterval)
  }

  /// The interface's packets have become too small for IPv6.
  func endIPv6(on link: NetworkInterface) {
    lock.withLock {
      let isWanted = link.autoconfiguration.isWanted
      link.autoconfiguration = AutoconfigurationState()
      link.autoconfiguration.isWanted = isWanted
    }
    do throws(Errno) {
      for own in link.addresses where !own.address.isV4 { try link.remove(own.address) }
      try removeRoutes { !$0.destination.isV4 && $0.interfaceIndex == link.index }
    } catch {
      // What could not be taken out for lack of memory is of no use either: nothing is sent or taken.
    }
    configuration.isDone(link, isV4: false)
  }

  /// They are large enough again.
  func resumeIPv6(on link: NetworkInterface) {
    do throws(Errno) {
      if link.kind == .loopback {
        var own = InterfaceAddress(.loopback6, prefixLength: 128)
        own.origin = .kernel
        return try link.add(own)
      }
      try beginIPv6(on: link, autoconfigure: lock.withLock { link.autoconfiguration.isWanted })
    } catch {
      return
    }
  }

  /// Takes an address into use, and asks whether somebody has it.
  private func form(
    _ address: IPAddress, _ prefixLength: Int, _ origin: InterfaceAddress.Origin, validUntil: UInt64,
    preferredUntil: UInt64, _ link: NetworkInterface, now: UInt64
  ) throws(Errno) {
    var own = InterfaceAddress(address, prefixLength: prefixLength)
    own.state = .optimistic
    own.origin = origin
    own.interfaceIndex = link.index
    (own.validUntil, own.preferredUntil) = (validUntil, preferredUntil)
    try join(address.solicitedNodeGroup, on: link)
    try enter(own)
    lock.withLock {
      link.autoconfiguration.trials.append(
        AutoconfigurationState.Trial(address: address, endsAt: now &+ Self.trialTime))
    }
    probe(address, link)
    wake(by: now &+ Self.trialTime)
  }

  /// Somebody else has, or wants, an address that was being tried.
  func duplicateFound(_ address: InterfaceAddress, _ link: NetworkInterface) {
    lock.withLock { link.autoconfiguration.trials.removeAll { $0.address == address.address } }
    var own = address
    own.state = .duplicate
    do throws(Errno) { try enter(own) } catch { return }
  }

  /// What a router says.
  /// - Returns: false: it makes no sense.
  func routerAdvertised(_ bytes: UnsafeRawBufferPointer, _ header: InternetHeader, _ link: NetworkInterface) -> Bool {
    guard header.source.isLinkLocal, let advertisement = RouterAdvertisement(bytes) else { return false }
    guard lock.withLock({ link.autoconfiguration.isWanted }) else { return true }
    let now = environment.now()
    if let address = advertisement.link {
      neighbours.learn(
        header.source, on: link, address,
        NeighbourNews(isSolicited: false, isOverride: true, isNew: true, isRouter: true))
    }
    lock.withLock {
      link.autoconfiguration.solicitations = 0
      link.autoconfiguration.solicitAt = .max
    }
    do throws(Errno) {
      try useRouter(header.source, seconds: advertisement.routerTime.u32, link, now: now)
      for prefix in advertisement.prefixes { try use(prefix, link, now: now) }
    } catch {
      // What there is no room for is left out.
    }
    if advertisement.mtu >= NetworkInterface.leastMTU6, advertisement.mtu.int < link.mtu {
      try? link.setMTU(advertisement.mtu.int)
    }
    if !advertisement.servers.isEmpty { configuration.learn(servers: advertisement.servers) }
    setExpiry(link, now: now)
    configuration.isDone(link, isV4: false)
    return true
  }

  private static func end(of seconds: UInt32, _ now: UInt64) -> UInt64 {
    seconds == .max ? .max : now &+ seconds.u64 &* second
  }

  private func useRouter(_ router: IPAddress, seconds: UInt32, _ link: NetworkInterface, now: UInt64) throws(Errno) {
    var route = Route(to: .any6, 0, gateway: router, interfaceIndex: link.index)
    route.origin = 9
    route.metric = 1024
    route.validUntil = Self.end(of: seconds, now)
    if seconds == 0 {
      try removeRoutes { $0.isSame(route) && $0.origin == 9 }
      return
    }
    // Few routers are of use.
    let number = count(routes, where: { $0.origin == 9 && $0.prefixLength == 0 && !$0.isSame(route) })
    if number < 8 { try refresh(route) }
  }

  private func count<Element>(_ list: [Element], where isCounted: (Element) -> Bool) -> Int {
    var number = 0
    for element in list where isCounted(element) { number &+= 1 }
    return number
  }

  /// Enters a route, or only when it ends if it is there: ways that lead along it stay as they are.
  private func refresh(_ route: Route) throws(Errno) {
    let isThere = routeList.read { routes in
      for old in routes where old.isSame(route) && old.validUntil == route.validUntil { return true }
      return false
    }
    if !isThere { try add(route) }
  }

  /// Prefixes of a link that routers' word is taken for, and addresses that are formed from them, at most (Linux: max_addresses).
  static var prefixLimit: Int { 16 }

  private func use(_ prefix: RouterAdvertisement.Prefix, _ link: NetworkInterface, now: UInt64) throws(Errno) {
    if prefix.isOnLink {
      var route = Route(to: prefix.prefix, prefix.length, interfaceIndex: link.index)
      route.origin = 9
      route.metric = 256
      route.validUntil = Self.end(of: prefix.validTime, now)
      let others = count(
        routes,
        where: { $0.origin == 9 && $0.prefixLength != 0 && $0.interfaceIndex == link.index && !$0.isSame(route) })
      if prefix.validTime == 0 {
        try removeRoutes { $0.isSame(route) && $0.origin == 9 }
      } else if others < Self.prefixLimit {
        try refresh(route)
      }
    }
    guard prefix.isAutonomous, prefix.length == 64, prefix.preferredTime <= prefix.validTime else { return }
    let address = IPAddress(high: prefix.prefix.high, low: link.linkAddress.interfaceIdentifier)
    var validUntil = Self.end(of: prefix.validTime, now)
    let preferredUntil = Self.end(of: prefix.preferredTime, now)
    guard var own = find(address, on: link.index) else {
      let number = count(link.addresses, where: { $0.origin == .autoconfigured })
      if prefix.validTime == 0 || number >= Self.prefixLimit { return }
      return try form(
        address, 64, .autoconfigured, validUntil: validUntil, preferredUntil: preferredUntil, link, now: now)
    }
    guard own.origin == .autoconfigured else { return }
    // Nobody shortens a life to less than two hours (5.5.3 e).
    let left = own.validUntil == .max ? .max : own.validUntil &- now
    if validUntil != .max, validUntil &- now < Self.twoHours, validUntil &- now < left {
      validUntil = left <= Self.twoHours ? own.validUntil : now &+ Self.twoHours
    }
    (own.validUntil, own.preferredUntil) = (validUntil, preferredUntil)
    if own.state == .deprecated && preferredUntil > now { own.state = .preferred }
    try enter(own)
  }

  private func setExpiry(_ link: NetworkInterface, now: UInt64) {
    var first: UInt64 = .max
    for own in addresses where own.interfaceIndex == link.index {
      first = min(first, own.validUntil)
      if own.preferredUntil > now { first = min(first, own.preferredUntil) }
    }
    for route in routes where route.interfaceIndex == link.index { first = min(first, route.validUntil) }
    lock.withLock { link.autoconfiguration.expiresAt = first }
    wake(by: first)
  }

  /// Does what is due at an interface.
  func runAutoconfiguration(_ link: NetworkInterface, now: UInt64) -> UInt64 {
    while let address = lock.withLock({ takeTrial(link, now: now) }) {
      guard var own = find(address, on: link.index), own.state == .optimistic || own.state == .tentative else {
        continue
      }
      own.state = own.preferredUntil > now ? .preferred : .deprecated
      do throws(Errno) { try enter(own) } catch { continue }
    }
    let isSoliciting = lock.withLock { () -> Bool in
      guard link.autoconfiguration.solicitAt <= now else { return false }
      link.autoconfiguration.solicitAt = .max
      guard link.autoconfiguration.solicitations > 0 else { return false }
      link.autoconfiguration.solicitations &-= 1
      link.autoconfiguration.solicitAt = now &+ Self.solicitationInterval
      return true
    }
    if isSoliciting {
      solicitRouters(link)
    } else if lock.withLock({ link.autoconfiguration.isWanted && link.autoconfiguration.solicitAt == .max }) {
      // No router answers: nobody waits for one any longer.
      configuration.isDone(link, isV4: false)
    }
    if lock.withLock({ link.autoconfiguration.expiresAt }) <= now { expire(link, now: now) }
    return lock.withLock {
      var next = min(link.autoconfiguration.solicitAt, link.autoconfiguration.expiresAt)
      for trial in link.autoconfiguration.trials { next = min(next, trial.endsAt) }
      return next
    }
  }

  private func takeTrial(_ link: NetworkInterface, now: UInt64) -> IPAddress? {
    for index in 0..<link.autoconfiguration.trials.count where link.autoconfiguration.trials[index].endsAt <= now {
      return link.autoconfiguration.trials.remove(at: index).address
    }
    return nil
  }

  /// Ends what has outlived itself.
  private func expire(_ link: NetworkInterface, now: UInt64) {
    for own in addresses where own.interfaceIndex == link.index {
      if own.validUntil <= now {
        do throws(Errno) { try link.remove(own.address) } catch { continue }
      } else if own.preferredUntil <= now && own.state == .preferred {
        var old = own
        old.state = .deprecated
        do throws(Errno) { try enter(old) } catch { continue }
      }
    }
    do throws(Errno) { try removeRoutes { $0.interfaceIndex == link.index && $0.validUntil <= now } } catch { return }
    setExpiry(link, now: now)
  }
}
