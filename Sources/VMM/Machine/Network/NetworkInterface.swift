// A network interface that a machine is given: its backend is open, its addresses are decided.

import CSystemCalls
import VirtioABI
import VirtioNet

#if canImport(Glibc)
  import Glibc
#endif

/// An interface, ready for a machine.
public struct NetworkInterface {
  /// What carries its frames.
  public var backend: any NetworkBackend
  /// The guest's MAC address: six bytes.
  public var mac: [UInt8]
  /// Largest IP packet.
  public var mtu: Int
  /// Bits a second in each direction, 0 for no limit.
  public var rate: UInt64
  /// What the guest is told; the machine fills in the device.
  public var boot = BootNetwork()
  /// Name servers for the guest.
  public var nameServers: [InternetAddress] = []
  /// passt, if it is behind it.
  public var passt: Passt?
  /// The socket behind it, if there is one, which the jail leaves usable.
  public var socket: CInt?

  /// Opens what a request asks for.
  /// - Parameters:
  ///   - number: which interface it is, from 0 on.
  ///   - cpuCount: CPUs of the guest: so many queue pairs are worth having.
  public static func open(_ request: NetworkRequest, number: Int, cpuCount: Int) throws(Failure) -> NetworkInterface {
    var interface: NetworkInterface
    switch request.kind {
    case .user: interface = try user(request, number)
    case .tap(let name):
      interface = try TAPInterface.open(
        request, name: name, pairCount: min(cpuCount, VirtioNetworkABI.maximumPairCount))
    case .descriptor(let descriptor): interface = try passed(request, descriptor)
    }
    if let mac = request.mac { interface.mac = mac }
    if let mtu = request.mtu {
      guard mtu <= interface.mtu else {
        throw Failure(
          .network, "the network interface takes packets of \(interface.mtu) bytes at most, so mtu=\(mtu) cannot be had"
        )
      }
      interface.mtu = mtu
    }
    interface.rate = request.rate
    return interface
  }

  init(backend: any NetworkBackend, mac: [UInt8]) {
    self.backend = backend
    self.mac = mac
    mtu = backend.mtu
    rate = 0
  }

  /// Tells the guest its addresses; without any it is to ask for them.
  mutating func configure(_ addresses: [InternetPrefix], gateways: [InternetAddress]) {
    if addresses.isEmpty { boot.flags = BootNetwork.dhcp | BootNetwork.autoconfiguration }
    for prefix in addresses {
      if prefix.address.isV4 {
        for index in 0..<4 { boot.address4[index] = prefix.address.bytes[index] }
        boot.prefix4 = UInt32(prefix.length)
      } else {
        for index in 0..<16 { boot.address6[index] = prefix.address.bytes[index] }
        boot.prefix6 = UInt32(prefix.length)
      }
    }
    for gateway in gateways {
      if gateway.isV4 {
        for index in 0..<4 { boot.gateway4[index] = gateway.bytes[index] }
      } else {
        for index in 0..<16 { boot.gateway6[index] = gateway.bytes[index] }
      }
    }
  }

  /// The guest's addresses, as far as they are known beforehand.
  public var addresses: [InternetAddress] {
    var addresses: [InternetAddress] = []
    if boot.prefix4 > 0 { addresses.append(InternetAddress((0..<4).map { boot.address4[$0] })) }
    if boot.prefix6 > 0 { addresses.append(InternetAddress((0..<16).map { boot.address6[$0] })) }
    return addresses
  }

  // MARK: User mode

  private static func user(_ request: NetworkRequest, _ number: Int) throws(Failure) -> NetworkInterface {
    let host = HostNetwork()
    guard host.hasV4 || host.hasV6 else {
      throw Failure(
        .network,
        "the host has no default route, without which passt, which carries the user-mode network, does not start: use --net tap"
      )
    }
    var plan = Passt.Plan()
    plan.mtu = request.mtu
    plan.published = request.published
    plan.isV4Only = !host.hasV6
    plan.isV6Only = !host.hasV4
    let net = UInt8(2 + number)
    let own: [(InternetPrefix, router: InternetAddress)] = [
      (InternetPrefix(InternetAddress([10, 0, net, 15]), 24), InternetAddress([10, 0, net, 2])),
      (
        InternetPrefix(InternetAddress(Self.uniqueLocal(net, 0x15)), 64),
        InternetAddress(Self.uniqueLocal(net, 2))
      ),
    ]
    for (prefix, router) in own where prefix.address.isV4 ? host.hasV4 : host.hasV6 {
      let isV4 = prefix.address.isV4
      plan.addresses.append(request.guestAddresses.first { $0.address.isV4 == isV4 } ?? prefix)
      plan.gateways.append(request.gateways.first { $0.isV4 == isV4 } ?? router)
    }
    var servers = request.nameServers.isEmpty ? host.nameServers : request.nameServers
    if servers.contains(where: \.isLoopback) || servers.isEmpty {
      // The host's own resolver is reached by an address of the guest's network.
      let forwarded = InternetAddress([10, 0, net, 3])
      plan.forwardedNameServer = forwarded
      servers = servers.filter { !$0.isLoopback }
      if host.hasV4, request.nameServers.isEmpty { servers.insert(forwarded, at: 0) }
    }
    let passt = try Passt.start(plan)
    var interface = NetworkInterface(
      backend: StreamBackend(socket: passt.socket, mtu: Passt.mtu), mac: [2, 0x6f, 0x73, 0x76, 0, UInt8(number + 1)])
    interface.passt = passt
    interface.socket = passt.socket
    interface.configure(plan.addresses, gateways: plan.gateways)
    interface.nameServers = servers
    return interface
  }

  /// An address of the private network of user mode: fd6f:7376:0:NET::HOST.
  private static func uniqueLocal(_ net: UInt8, _ host: UInt8) -> [UInt8] {
    [0xfd, 0x6f, 0x73, 0x76, 0, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, host]
  }

  // MARK: A passed descriptor

  private static func passed(_ request: NetworkRequest, _ descriptor: CInt) throws(Failure) -> NetworkInterface {
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    _ = osv_set_nonblocking(descriptor)
    if osv_unix_socket_type(descriptor) == CInt(SOCK_STREAM.rawValue) {
      var interface = NetworkInterface(
        backend: StreamBackend(socket: descriptor, mtu: Passt.mtu), mac: Self.randomMAC())
      interface.socket = descriptor
      interface.configure(request.guestAddresses, gateways: request.gateways)
      interface.nameServers = request.nameServers
      return interface
    }
    return try TAPInterface.adopt(request, descriptor)
  }

  private static func randomMAC() -> [UInt8] {
    var generator = SystemRandomNumberGenerator()
    let word: UInt64 = generator.next()
    return [2] + (0..<5).map { UInt8(truncatingIfNeeded: word >> UInt64(8 * $0)) }
  }
}
