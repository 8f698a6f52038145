// Configuration: how interfaces come by addresses, from the monitor's word, by DHCP, by routers; and who waits for that.
//
// None of it delays the program: it goes on beside it. Whoever wants the network (connects, binds to an address that is not there, sends) waits then,
// for a few seconds at most.
import Base
import Devices
import Locks
import Platform
import Threads

/// What is going on. Guarded by its lock, but for what is atomic.
final class ConfigurationState {
  /// An interface on its way to addresses.
  struct Entry {
    var interfaceIndex: UInt32
    var dhcp: DHCPClient?
    /// Nobody has answered yet.
    var isPending4: Bool
    var isPending6: Bool
    /// The router and name servers of the lease.
    var lease: DHCPClient.Lease?
  }

  /// How long somebody waits for configuration at most, ns.
  static var patience: UInt64 { 10_000_000_000 }

  let lock = Mutex()
  var entries: [Entry] = []
  /// Name servers that were heard of, the first few.
  var servers: [IPAddress] = []
  /// How many families of interfaces are pending; looked at by everybody.
  let pending4 = Atomic<Int>(0)
  let pending6 = Atomic<Int>(0)
  let source = WaitQueue()
  /// Until when to wait.
  let until = Atomic<UInt64>(0)

  func learn(servers: [IPAddress]) {
    lock.withLock {
      for server in servers where !self.servers.contains(server) && self.servers.count < 8 {
        self.servers.append(server)
      }
    }
  }

  /// Somebody has answered, or nobody will.
  func isDone(_ link: NetworkInterface, isV4: Bool) {
    let isNews = lock.withLock { () -> Bool in
      for index in 0..<entries.count where entries[index].interfaceIndex == link.index {
        let wasPending = isV4 ? entries[index].isPending4 : entries[index].isPending6
        if isV4 { entries[index].isPending4 = false } else { entries[index].isPending6 = false }
        return wasPending
      }
      return false
    }
    guard isNews else { return }
    if isV4 {
      pending4.wrappingSubtract(1, ordering: .sequentiallyConsistent)
    } else {
      pending6.wrappingSubtract(1, ordering: .sequentiallyConsistent)
    }
    source.wakeAll()
  }
}

/// How an interface comes by its addresses.
public struct InterfaceSetup: Sendable {
  /// IPv4 by DHCP.
  public var usesDHCP = false
  /// IPv6 from router advertisements.
  public var autoconfigures = false
  /// Addresses that it has from the start, with their prefix lengths.
  public var addresses: [(address: IPAddress, prefixLength: Int)] = []
  /// Routers to everywhere.
  public var gateways: [IPAddress] = []
  /// Nothing.
  public init() {}
}

extension NetworkStack {
  /// Begins to give an interface its addresses. What is known is there when this returns; the rest comes later. Where packets are too small
  /// for IPv6, that is left out.
  /// - Throws: EINVAL: an address is none; ENOBUFS, ENOMEM.
  public func configure(_ link: NetworkInterface, _ setup: InterfaceSetup) throws(Errno) {
    let hasIPv6 = link.carriesIPv6
    for address in setup.addresses where hasIPv6 || address.address.isV4 {
      try link.add(InterfaceAddress(address.address, prefixLength: address.prefixLength))
    }
    for gateway in setup.gateways where hasIPv6 || gateway.isV4 {
      try add(Route(to: gateway.isV4 ? .any4 : .any6, 0, gateway: gateway, interfaceIndex: link.index))
    }
    let autoconfigures = setup.autoconfigures && hasIPv6
    if !setup.usesDHCP && !autoconfigures { return }
    var entry = ConfigurationState.Entry(
      interfaceIndex: link.index, dhcp: nil, isPending4: setup.usesDHCP, isPending6: autoconfigures)
    if setup.usesDHCP { entry.dhcp = DHCPClient(link.linkAddress) }
    configuration.lock.withLock { configuration.entries.append(entry) }
    if setup.usesDHCP { configuration.pending4.wrappingAdd(1, ordering: .sequentiallyConsistent) }
    if autoconfigures { configuration.pending6.wrappingAdd(1, ordering: .sequentiallyConsistent) }
    configuration.until.store(environment.now() &+ ConfigurationState.patience, ordering: .releasing)
  }

  /// The interface can transmit: what `configure` was told to ask for is asked for. Thread context.
  public func begin(_ link: NetworkInterface) {
    let setup = configuration.lock.withLock { () -> (isDHCP: Bool, autoconfigures: Bool) in
      for entry in configuration.entries where entry.interfaceIndex == link.index {
        return (entry.dhcp != nil, entry.isPending6)
      }
      return (false, false)
    }
    do throws(Errno) { try beginIPv6(on: link, autoconfigure: setup.autoconfigures) } catch {
      configuration.isDone(link, isV4: false)
    }
    for own in link.addresses where own.address.isV4 { announce(own.address, on: link) }
    if setup.isDHCP {
      let (now, random) = (environment.now(), environment.random())
      updateDHCP(link) { $0.start(now: now, random: random) }
    }
    wake(by: configuration.until.load(ordering: .acquiring))
  }

  /// The interface cannot be used: nobody waits for it.
  public func giveUp(_ link: NetworkInterface) {
    link.set(.running, false)
    configuration.isDone(link, isV4: true)
    configuration.isDone(link, isV4: false)
  }

  /// Whether addresses of a family are still being asked for.
  public func isConfiguring(isV4: Bool) -> Bool {
    isV4
      ? configuration.pending4.load(ordering: .acquiring) > 0 : configuration.pending6.load(ordering: .acquiring) > 0
  }

  /// Sleeps until all interfaces have their addresses of a family, or nobody answers, for some seconds at most. Returns at once, mostly.
  /// - Throws: EINTR.
  public func waitForConfiguration(isV4: Bool) throws(Errno) {
    if !isConfiguring(isV4: isV4) { return }
    let deadline = Deadline(nanoseconds: configuration.until.load(ordering: .acquiring))
    let result = configuration.source.wait(until: deadline, interruptible: true) { isConfiguring(isV4: isV4) }
    if result == .interrupted { throw .EINTR }
  }

  /// Name servers that DHCP and routers have told of.
  public var nameServers: [IPAddress] { configuration.lock.withLock { configuration.servers } }

  // MARK: DHCP

  /// Whether a packet for an address that is none of ours may be for the interface: it waits for one.
  func mayBeConfigured(_ address: IPAddress, on link: NetworkInterface) -> Bool {
    guard address.isV4, configuration.pending4.load(ordering: .relaxed) > 0 else { return false }
    return configuration.lock.withLock {
      for entry in configuration.entries where entry.interfaceIndex == link.index { return entry.isPending4 }
      return false
    }
  }

  /// A datagram for the port of DHCP clients, which begins with IP's header.
  /// - Returns: false: it is none of the kernel's.
  func dhcpArrived(_ packet: borrowing Packet, _ start: Int, _ link: NetworkInterface) -> Bool {
    let isOurs = configuration.lock.withLock { () -> Bool in
      for entry in configuration.entries where entry.interfaceIndex == link.index { return entry.dhcp != nil }
      return false
    }
    guard isOurs, var datagram = packet.clone() else { return isOurs }
    let header = datagram.internetHeader
    datagram.dropFirst(start)
    guard UDP.check(&datagram, header), datagram.byteCount <= 4096 else { return true }
    datagram.dropFirst(UDP.headerByteCount)
    guard datagram.pull(datagram.byteCount), let message = DHCPMessage(datagram.head, for: link.linkAddress) else {
      return true
    }
    let (now, random) = (environment.now(), environment.random())
    updateDHCP(link) { $0.received(message, now: now, random: random) }
    return true
  }

  /// Has the client of an interface do something, and does what it says.
  private func updateDHCP(_ link: NetworkInterface, _ body: (inout DHCPClient) -> DHCPClient.Outcome) {
    var deadline: UInt64 = .max
    var old: DHCPClient.Lease?
    let outcome = configuration.lock.withLock { () -> DHCPClient.Outcome? in
      for index in 0..<configuration.entries.count
      where configuration.entries[index].interfaceIndex == link.index && configuration.entries[index].dhcp != nil {
        old = configuration.entries[index].lease
        guard var client = configuration.entries[index].dhcp else { return nil }
        let outcome = body(&client)
        configuration.entries[index].dhcp = client
        deadline = client.deadline
        if outcome.isLost { configuration.entries[index].lease = nil }
        if let bound = outcome.bound { configuration.entries[index].lease = bound }
        return outcome
      }
      return nil
    }
    wake(by: deadline)
    guard let outcome else { return }
    if outcome.isLost, let old { lose(old, link) }
    if let lease = outcome.bound { use(lease, old, link) }
    if let message = outcome.message { send(message, to: outcome.destination, link) }
  }

  private func use(_ lease: DHCPClient.Lease, _ old: DHCPClient.Lease?, _ link: NetworkInterface) {
    var own = InterfaceAddress(lease.address, prefixLength: lease.prefixLength)
    own.origin = .dhcp
    (own.validUntil, own.preferredUntil) = (lease.validUntil, lease.validUntil)
    do throws(Errno) {
      try link.add(own)
      if !lease.router.isUnspecified {
        var route = Route(to: .any4, 0, gateway: lease.router, interfaceIndex: link.index)
        route.origin = 16
        route.preferredSource = lease.address
        if let old, old.router != lease.router {
          try removeRoutes { $0.origin == 16 && $0.interfaceIndex == link.index }
        }
        try add(route)
      }
      // A server that knows of IPv4 alone does not take IPv6 away.
      let mtu = link.carriesIPv6 ? max(lease.mtu, NetworkInterface.leastMTU6) : lease.mtu
      if lease.mtu != 0 && mtu < link.mtu { try link.setMTU(mtu) }
    } catch {
      // What there is no room for is left out.
    }
    configuration.learn(servers: lease.servers)
    configuration.isDone(link, isV4: true)
  }

  private func lose(_ lease: DHCPClient.Lease, _ link: NetworkInterface) {
    do throws(Errno) {
      try removeRoutes { $0.origin == 16 && $0.interfaceIndex == link.index }
      try link.remove(lease.address)
    } catch { return }
  }

  private func send(_ message: DHCPMessage.Request, to server: IPAddress, _ link: NetworkInterface) {
    let byteCount = UDP.headerByteCount &+ DHCPMessage.byteCount
    guard var packet = Packet(headroom: Packet.headroom, capacity: byteCount), let start = packet.extend(byteCount)
    else {
      return
    }
    message.write(to: start + UDP.headerByteCount)
    start.storeBytes(of: DHCPMessage.clientPort.bigEndian, as: UInt16.self)
    start.storeBytes(of: DHCPMessage.serverPort.bigEndian, toByteOffset: 2, as: UInt16.self)
    start.storeBytes(of: byteCount.u16.bigEndian, toByteOffset: 4, as: UInt16.self)
    let destination = server.isUnspecified ? IPAddress.broadcast4 : server
    var header = OutgoingHeader(source: message.current, destination: destination, protocolNumber: InternetProtocol.udp)
    header.flags = [.mayBroadcast, .exactSource, .noLoop]
    header.hopLimit = 64
    header.interfaceIndex = link.index
    var checksum = InternetChecksum()
    checksum.addPseudoHeader(
      message.current, destination, protocol: InternetProtocol.udp, byteCount: byteCount)
    start.storeBytes(of: checksum.partial.bigEndian, toByteOffset: 6, as: UInt16.self)
    packet.checksum = .partial(start: 0, offset: 6)
    // Not to the device: servers and relays exist that read raw frames and check them.
    guard InternetChecksum.complete(&packet) else { return }
    var way = RouteCache()
    do throws(Errno) { try send(packet, header, &way) } catch { return }
  }

  // MARK: Time

  func runConfigurationTimers(now: UInt64) -> UInt64 {
    var next: UInt64 = .max
    for link in interfaces where link.kind == .ethernet {
      let deadline = configuration.lock.withLock { () -> UInt64 in
        for entry in configuration.entries where entry.interfaceIndex == link.index {
          return entry.dhcp?.deadline ?? .max
        }
        return .max
      }
      if deadline <= now {
        let random = environment.random()
        updateDHCP(link) { $0.timerFired(now: now, random: random) }
      } else {
        next = min(next, deadline)
      }
      next = min(next, runAutoconfiguration(link, now: now))
    }
    let until = configuration.until.load(ordering: .acquiring)
    if isConfiguring(isV4: true) || isConfiguring(isV4: false) {
      if until <= now {
        for link in interfaces {
          configuration.isDone(link, isV4: true)
          configuration.isDone(link, isV4: false)
        }
      } else {
        next = min(next, until)
      }
    }
    return next
  }
}
