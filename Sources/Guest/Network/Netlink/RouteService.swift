// RouteService: rtnetlink (rtnetlink(7)): interfaces, addresses, routes, neighbours, as `ip`, getifaddrs, Go and the JVM ask for them.
//
// Requests for changes are in RouteService+Changes.
import Base

/// Answers rtnetlink.
struct RouteService {
  let stack: NetworkStack

  init(_ stack: NetworkStack) { self.stack = stack }

  /// Numbers of messages (RTM_*).
  enum Message {
    static let newLink: UInt16 = 16
    static let deleteLink: UInt16 = 17
    static let getLink: UInt16 = 18
    static let setLink: UInt16 = 19
    static let newAddress: UInt16 = 20
    static let deleteAddress: UInt16 = 21
    static let getAddress: UInt16 = 22
    static let newRoute: UInt16 = 24
    static let deleteRoute: UInt16 = 25
    static let getRoute: UInt16 = 26
    static let newNeighbour: UInt16 = 28
    static let getNeighbour: UInt16 = 30
    static let newRule: UInt16 = 32
    static let getRule: UInt16 = 34
    static let getDiscipline: UInt16 = 38
    static let getMulticast: UInt16 = 58
    static let getConfiguration: UInt16 = 82
    static let getLabels: UInt16 = 74
    static let getNamespace: UInt16 = 90
    static let getStatistics: UInt16 = 94
  }

  /// struct ifinfomsg.
  struct LinkMessage: BitwiseCopyable {
    var family: UInt8 = 0
    var padding: UInt8 = 0
    var hardwareType: UInt16 = 0
    var index: Int32 = 0
    var flags: UInt32 = 0
    var change: UInt32 = 0
  }

  /// struct ifaddrmsg.
  struct AddressMessage: BitwiseCopyable {
    var family: UInt8 = 0
    var prefixLength: UInt8 = 0
    var flags: UInt8 = 0
    var scope: UInt8 = 0
    var index: UInt32 = 0
  }

  /// struct rtmsg.
  struct RouteMessage: BitwiseCopyable {
    var family: UInt8 = 0
    var destinationLength: UInt8 = 0
    var sourceLength: UInt8 = 0
    var typeOfService: UInt8 = 0
    var table: UInt8 = 0
    var origin: UInt8 = 0
    var scope: UInt8 = 0
    var type: UInt8 = 0
    var flags: UInt32 = 0
  }

  /// struct ndmsg.
  struct NeighbourMessage: BitwiseCopyable {
    var family: UInt8 = 0
    var padding: UInt8 = 0
    var padding2: UInt16 = 0
    var index: Int32 = 0
    var state: UInt16 = 0
    var flags: UInt8 = 0
    var type: UInt8 = 0
  }

  /// RT_TABLE_MAIN, RT_TABLE_LOCAL, RT_TABLE_DEFAULT.
  private static var mainTable: UInt8 { 254 }
  static var family4: UInt8 { InternetEndpoint.family4.u8 }
  static var family6: UInt8 { InternetEndpoint.family6.u8 }

  /// Answers a request.
  /// - Throws: EOPNOTSUPP: there is no such thing here; EPERM, EINVAL, ENODEV…
  func serve(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) throws(Errno) {
    switch request.type {
    case Message.getLink: try links(request, &answer)
    case Message.getAddress: try addresses(request, &answer)
    case Message.getRoute: if request.isDump { routes(request, &answer) } else { try route(request, &answer) }
    case Message.getNeighbour: neighbours(request, &answer)
    case Message.getRule: if request.isDump { rules(request, &answer) } else { throw .EOPNOTSUPP }
    // None of these.
    case Message.getDiscipline, Message.getMulticast, Message.getConfiguration, Message.getLabels, Message.getNamespace,
      Message.getStatistics:
      guard request.isDump else { throw .EOPNOTSUPP }
    default:
      // Everything else would change something.
      guard request.isPrivileged else { throw .EPERM }
      try change(request)
    }
  }

  // MARK: Interfaces

  private enum LinkAttribute {
    static let address: UInt16 = 1
    static let broadcast: UInt16 = 2
    static let name: UInt16 = 3
    static let mtu: UInt16 = 4
    static let discipline: UInt16 = 6
    static let statistics: UInt16 = 7
    static let queueLength: UInt16 = 13
    static let state: UInt16 = 16
    static let mode: UInt16 = 17
    static let statistics64: UInt16 = 23
    static let group: UInt16 = 27
    static let promiscuity: UInt16 = 30
    static let sendQueues: UInt16 = 31
    static let receiveQueues: UInt16 = 32
    static let carrier: UInt16 = 33
  }

  private func links(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) throws(Errno) {
    if request.isDump {
      for link in stack.links { add(link, &answer) }
      return
    }
    let wanted = try request.structure(LinkMessage.self)
    let name = request.attribute(LinkAttribute.name, behind: 16).map { [UInt8]($0.prefix { $0 != 0 }) }
    for link in stack.links where wanted.index > 0 ? link.index == wanted.index.u32 : link.name == name {
      return add(link, &answer)
    }
    throw .ENODEV
  }

  private func add(_ link: LinkStatus, _ answer: inout NetlinkAnswer) {
    let message = LinkMessage(hardwareType: link.hardwareType, index: link.index.i32, flags: link.flags)
    answer.add(Message.newLink, message) { answer in
      answer.attribute(LinkAttribute.name, text: link.name)
      answer.attribute(LinkAttribute.queueLength, link.queueLength)
      // IF_OPER_UNKNOWN, as loopback has it, IF_OPER_UP and IF_OPER_DOWN.
      let isRunning = link.flags & 0x40 != 0
      answer.attribute(LinkAttribute.state, (link.isLoopback ? 0 : isRunning ? 6 : 2) as UInt8)
      answer.attribute(LinkAttribute.mode, 0 as UInt8)
      answer.attribute(LinkAttribute.mtu, link.mtu)
      answer.attribute(LinkAttribute.group, 0 as UInt32)
      answer.attribute(LinkAttribute.promiscuity, 0 as UInt32)
      answer.attribute(LinkAttribute.sendQueues, 1 as UInt32)
      answer.attribute(LinkAttribute.receiveQueues, 1 as UInt32)
      answer.attribute(LinkAttribute.carrier, (isRunning ? 1 : 0) as UInt8)
      answer.attribute(LinkAttribute.discipline, text: Array("noqueue".utf8))
      answer.attribute(LinkAttribute.address, bytes: link.address)
      answer.attribute(LinkAttribute.broadcast, bytes: link.broadcast)
      let counts = link.counts
      let numbers: [9 of UInt64] = [
        counts.receivedPackets, counts.sentPackets, counts.receivedBytes, counts.sentBytes, counts.receivedErrors,
        counts.sentErrors, counts.receivedDropped, counts.sentDropped, counts.multicast,
      ]
      var wide: [25 of UInt64] = .init(repeating: 0)
      var narrow: [24 of UInt32] = .init(repeating: 0)
      for index in 0..<9 {
        wide[index] = numbers[index]
        narrow[index] = numbers[index].u32
      }
      answer.attribute(LinkAttribute.statistics64, wide)
      answer.attribute(LinkAttribute.statistics, narrow)
    }
  }

  // MARK: Addresses

  enum AddressAttribute {
    static let address: UInt16 = 1
    static let local: UInt16 = 2
    static let label: UInt16 = 3
    static let broadcast: UInt16 = 4
    static let lifetimes: UInt16 = 6
    static let flags: UInt16 = 8
  }

  private func addresses(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) throws(Errno) {
    guard request.isDump else { throw .EOPNOTSUPP }
    let links = stack.links
    let wanted = try? request.structure(AddressMessage.self)
    for address in stack.addressStatuses where matches(request.family, address.address) {
      if let wanted, wanted.index != 0, wanted.index != address.interfaceIndex { continue }
      let message = AddressMessage(
        family: family(of: address.address), prefixLength: address.prefixLength, flags: address.flags.u8,
        scope: address.scope, index: address.interfaceIndex)
      answer.add(Message.newAddress, message) { answer in
        answer.attribute(AddressAttribute.address, address.address)
        if address.address.isV4 {
          answer.attribute(AddressAttribute.local, address.address)
          if let broadcast = address.broadcast { answer.attribute(AddressAttribute.broadcast, broadcast) }
          for link in links where link.index == address.interfaceIndex {
            answer.attribute(AddressAttribute.label, text: link.name)
          }
        }
        let lifetimes: [4 of UInt32] = [address.preferredSeconds, address.validSeconds, 0, 0]
        answer.attribute(AddressAttribute.lifetimes, lifetimes)
        answer.attribute(AddressAttribute.flags, address.flags)
      }
    }
  }

  func family(of address: IPAddress) -> UInt8 { address.isV4 ? Self.family4 : Self.family6 }

  private func matches(_ family: UInt8, _ address: IPAddress) -> Bool {
    family == 0 || family == self.family(of: address)
  }

  // MARK: Routes

  enum RouteAttribute {
    static let destination: UInt16 = 1
    static let interface: UInt16 = 4
    static let gateway: UInt16 = 5
    static let priority: UInt16 = 6
    static let source: UInt16 = 7
    static let cacheInformation: UInt16 = 12
    static let table: UInt16 = 15
    static let preference: UInt16 = 20
  }

  private func routes(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) {
    for route in stack.routeStatuses where matches(request.family, route.destination) { add(route, &answer) }
  }

  private func add(_ route: RouteStatus, _ answer: inout NetlinkAnswer) {
    let isV4 = route.destination.isV4
    // RT_SCOPE_LINK for what is on the link, of IPv4; RTN_UNICAST.
    let message = RouteMessage(
      family: family(of: route.destination), destinationLength: route.prefixLength, table: Self.mainTable,
      origin: route.origin, scope: isV4 && route.gateway == nil ? 253 : 0, type: 1)
    answer.add(Message.newRoute, message) { answer in
      answer.attribute(RouteAttribute.table, Self.mainTable.u32)
      if route.prefixLength > 0 { answer.attribute(RouteAttribute.destination, route.destination) }
      if route.metric != 0 || !isV4 { answer.attribute(RouteAttribute.priority, route.metric) }
      if let source = route.source { answer.attribute(RouteAttribute.source, source) }
      if let gateway = route.gateway { answer.attribute(RouteAttribute.gateway, gateway) }
      answer.attribute(RouteAttribute.interface, route.interfaceIndex)
      if !isV4 {
        answer.attribute(RouteAttribute.cacheInformation, [8 of UInt32](repeating: 0))
        answer.attribute(RouteAttribute.preference, 0 as UInt8)
      }
    }
  }

  /// Which way a packet would go (`ip route get`).
  private func route(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) throws(Errno) {
    _ = try request.structure(RouteMessage.self)
    guard let destination = request.address(RouteAttribute.destination, behind: 12) else { throw .EINVAL }
    let found = try stack.route(
      to: destination, source: request.address(RouteAttribute.source, behind: 12),
      interface: request.number(RouteAttribute.interface, behind: 12) ?? 0)
    let isLocal = stack.kind(of: destination) == .local
    // RTM_F_CLONED; RTN_LOCAL or RTN_UNICAST; RT_TABLE_LOCAL or RT_TABLE_MAIN.
    let message = RouteMessage(
      family: family(of: destination), destinationLength: destination.bitCount.u8,
      table: isLocal ? 255 : Self.mainTable,
      type: isLocal ? 2 : 1, flags: 0x200)
    answer.add(Message.newRoute, message) { answer in
      answer.attribute(RouteAttribute.table, (isLocal ? 255 : Self.mainTable).u32)
      answer.attribute(RouteAttribute.destination, destination)
      if found.nextHop != destination, !isLocal { answer.attribute(RouteAttribute.gateway, found.nextHop) }
      answer.attribute(RouteAttribute.interface, found.interfaceIndex)
      answer.attribute(RouteAttribute.source, found.source)
    }
  }

  // MARK: Neighbours and rules

  enum NeighbourAttribute {
    static let address: UInt16 = 1
    static let linkAddress: UInt16 = 2
  }

  private func neighbours(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) {
    for neighbour in stack.neighbourStatuses where matches(request.family, neighbour.address) {
      let message = NeighbourMessage(
        family: family(of: neighbour.address), index: neighbour.interfaceIndex.i32, state: neighbour.state, type: 1)
      answer.add(Message.newNeighbour, message) { answer in
        answer.attribute(NeighbourAttribute.address, neighbour.address)
        if let address = neighbour.linkAddress {
          answer.attribute(NeighbourAttribute.linkAddress, bytes: address)
        }
      }
    }
  }

  /// The tables of IPv4 and IPv6 in their order: our own addresses, the main one, and one that is empty.
  private func rules(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) {
    let rules: [3 of (priority: UInt32, table: UInt8)] = [(0, 255), (32_766, 254), (32_767, 253)]
    for family in [Self.family4, Self.family6] where request.family == 0 || request.family == family {
      for index in 0..<(family == Self.family4 ? 3 : 2) {
        // FR_ACT_TO_TBL.
        let message = RouteMessage(family: family, table: rules[index].table, type: 1)
        answer.add(Message.newRule, message) { answer in
          answer.attribute(RouteAttribute.table, rules[index].table.u32)
          answer.attribute(14, 0xffff_ffff as UInt32)  // FRA_SUPPRESS_PREFIXLEN: none.
          if rules[index].priority != 0 { answer.attribute(RouteAttribute.priority, rules[index].priority) }
        }
      }
    }
  }
}

extension NetlinkAnswer {
  /// Adds an attribute of bytes.
  mutating func attribute(_ type: UInt16, bytes: [UInt8]) {
    bytes.withUnsafeBufferPointer { attribute(type, bytes: UnsafeRawBufferPointer($0)) }
  }
}
