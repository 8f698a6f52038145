// Groups: of which an interface's machine is a member, and what routers are told of that: IGMP (RFC 3376, 2236, 1112) and MLD (RFC 3810, 2710).
//
// Sources are not told apart: a member takes from all. Changes are reported twice, a random moment apart; queries are answered within the time that
// they give. Where an older router asks, it is answered in its own version for a while. Time is passed in.
import Base
import Devices
import Locks

/// The groups of an interface. Guarded by the stack's `groupLock`.
struct GroupList {
  struct Group {
    var address: IPAddress
    /// How many have joined.
    var count: Int
    /// Reports of the change that are still to be sent; afterwards 0.
    var changes = 0
    /// When the next report is due; `.max`: none is.
    var reportAt: UInt64 = .max
  }

  /// Groups of an interface at most.
  static var limit: Int { 256 }
  /// Reports of a change.
  static var robustness: Int { 2 }
  /// How far apart they are at most, ns.
  static var changeInterval: UInt64 { 1_000_000_000 }
  /// How long an older router is remembered, ns.
  static var olderRouterTime: UInt64 { 400_000_000_000 }

  var groups: [Group] = []
  /// Until when routers of IGMP version 1 and 2, and of MLD version 1, are to be obliged.
  var olderUntil: (igmp1: UInt64, igmp2: UInt64, mld1: UInt64) = (0, 0, 0)

  func index(_ address: IPAddress) -> Int? {
    for index in 0..<groups.count where groups[index].address == address { return index }
    return nil
  }
}

/// Groups of which every machine is a member and that nobody reports.
private func isEverybody(_ address: IPAddress) -> Bool {
  address == IPAddress(v4: 0xe000_0001) || address == .allNodes6 || address.high == 0xff01 &<< 48 && address.low == 1
}

extension NetworkStack {
  /// Whether this machine is a member of a group on a link.
  func isMember(of group: IPAddress, on link: NetworkInterface) -> Bool {
    isEverybody(group) || groupLock.withLock { link.groups.index(group) != nil }
  }

  /// Joins a group on a link; counted.
  /// - Throws: EINVAL: it is no group; ENOBUFS: too many.
  func join(_ group: IPAddress, on link: NetworkInterface) throws(Errno) {
    guard group.isMulticast else { throw .EINVAL }
    let now = environment.now()
    let random = environment.random(upTo: GroupList.changeInterval / 8)
    try groupLock.withLock { () throws(Errno) in
      if let index = link.groups.index(group) {
        link.groups.groups[index].count &+= 1
        return
      }
      guard link.groups.groups.count < GroupList.limit else { throw .ENOBUFS }
      var fresh = GroupList.Group(address: group, count: 1)
      if !isEverybody(group) && link.kind == .ethernet {
        fresh.changes = GroupList.robustness
        fresh.reportAt = now &+ random
      }
      link.groups.groups.append(fresh)
    }
    if link.kind == .ethernet { wake(by: now &+ random) }
  }

  /// Leaves a group on a link, with the last who has joined it.
  func leave(_ group: IPAddress, on link: NetworkInterface) {
    let isLast = groupLock.withLock { () -> Bool in
      guard let index = link.groups.index(group) else { return false }
      link.groups.groups[index].count &-= 1
      if link.groups.groups[index].count > 0 { return false }
      link.groups.groups.remove(at: index)
      return true
    }
    if isLast && link.kind == .ethernet && !isEverybody(group) { sendReport(group, on: link, .left) }
  }

  /// Sends reports that are due.
  func runGroupTimers(now: UInt64) -> UInt64 {
    var next: UInt64 = .max
    for link in interfaces where link.kind == .ethernet {
      while true {
        let gap = environment.random(upTo: GroupList.changeInterval)
        let due = groupLock.withLock { () -> (group: IPAddress, isChange: Bool)? in
          for index in 0..<link.groups.groups.count where link.groups.groups[index].reportAt <= now {
            let isChange = link.groups.groups[index].changes > 0
            if isChange { link.groups.groups[index].changes &-= 1 }
            link.groups.groups[index].reportAt = link.groups.groups[index].changes > 0 ? now &+ gap : .max
            return (link.groups.groups[index].address, isChange)
          }
          for group in link.groups.groups { next = min(next, group.reportAt) }
          return nil
        }
        guard let due else { break }
        sendReport(due.group, on: link, due.isChange ? .joined : .present)
      }
    }
    return next
  }

  private enum Report: UInt8 {
    /// MODE_IS_EXCLUDE: in answer to a query.
    case present = 2
    /// CHANGE_TO_INCLUDE_MODE.
    case left = 3
    /// CHANGE_TO_EXCLUDE_MODE.
    case joined = 4
  }

  // MARK: Queries

  /// An IGMP message, which begins with its header.
  func igmpArrived(_ packet: consuming Packet, _ header: InternetHeader, _ link: NetworkInterface) {
    guard packet.byteCount >= 8, packet.pull(8) else { return }
    var checksum = InternetChecksum()
    checksum.add(packet, from: 0, count: packet.byteCount)
    guard packet.head[0] == 0x11, checksum.isValid else { return }  // Others' reports do not matter since version 3.
    let code = packet.head[1].u64
    let group = IPAddress(readingV4: packet.head.baseAddress.unsafelyUnwrapped + 4)
    let now = environment.now()
    if packet.byteCount >= 12 {
      // Version 3: the time is a floating number from 128 on (RFC 3376, 4.1.1), in tenths of a second.
      let tenths = code < 128 ? code : (code & 15 | 16) &<< ((code &>> 4 & 7) &+ 3)
      return query(group, within: tenths &* 100_000_000, link, now: now)
    }
    groupLock.withLock {
      if code == 0 {
        link.groups.olderUntil.igmp1 = now &+ GroupList.olderRouterTime
      } else {
        link.groups.olderUntil.igmp2 = now &+ GroupList.olderRouterTime
      }
    }
    query(group, within: code == 0 ? 10_000_000_000 : code &* 100_000_000, link, now: now)
  }

  /// An MLD query (ICMPv6 type 130), which begins with its header; the checksum is right.
  func mldArrived(_ packet: consuming Packet, _ header: InternetHeader, _ link: NetworkInterface) {
    guard header.source.isLinkLocal, header.hopLimit == 1, packet.byteCount >= 24, packet.pull(24) else { return }
    let bytes = packet.head
    let code = UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self)).u64
    let group = IPAddress(readingV6: bytes.baseAddress.unsafelyUnwrapped + 8)
    guard !group.isV4 else { return }
    let now = environment.now()
    var milliseconds = code
    if packet.byteCount >= 28 {
      milliseconds = code < 0x8000 ? code : (code & 0xfff | 0x1000) &<< ((code &>> 12 & 7) &+ 3)
    } else {
      groupLock.withLock { link.groups.olderUntil.mld1 = now &+ GroupList.olderRouterTime }
    }
    query(group, within: milliseconds &* 1_000_000, link, now: now)
  }

  /// Answers a query about a group, or about all of a family (unspecified), some time within that time.
  private func query(_ group: IPAddress, within time: UInt64, _ link: NetworkInterface, now: UInt64) {
    // What others can have us put off is bounded.
    let limit = min(time, 60_000_000_000)
    var first: UInt64 = .max
    let seed = environment.random()
    groupLock.withLock {
      var number: UInt64 = 0
      for index in 0..<link.groups.groups.count {
        let own = link.groups.groups[index].address
        guard own.isV4 == group.isV4, group.isUnspecified || own == group, !isEverybody(own) else { continue }
        number &+= 1
        let at = now &+ SipKey(seed, number).hash(number) % (limit &+ 1)
        link.groups.groups[index].reportAt = min(link.groups.groups[index].reportAt, at)
        first = min(first, link.groups.groups[index].reportAt)
      }
    }
    wake(by: first)
  }

  // MARK: Reports

  private func sendReport(_ group: IPAddress, on link: NetworkInterface, _ report: Report) {
    let now = environment.now()
    let older = groupLock.withLock { link.groups.olderUntil }
    if group.isV4 {
      if older.igmp1 > now || older.igmp2 > now {
        if report == .left && older.igmp1 > now { return }
        let type: UInt8 = report == .left ? 0x17 : older.igmp1 > now ? 0x12 : 0x16
        let destination = report == .left ? IPAddress(v4: 0xe000_0002) : group
        return sendGroupMessage(to: destination, on: link, count: 8) {
          $0.storeBytes(of: type, as: UInt8.self)
          group.writeV4(to: $0 + 4)
        }
      }
      sendGroupMessage(to: IPAddress(v4: 0xe000_0016), on: link, count: 16) {
        $0.storeBytes(of: 0x22, as: UInt8.self)
        $0.storeBytes(of: 1, toByteOffset: 7, as: UInt8.self)
        $0.storeBytes(of: report.rawValue, toByteOffset: 8, as: UInt8.self)
        group.writeV4(to: $0 + 12)
      }
    } else if older.mld1 > now {
      sendGroupMessage(to: report == .left ? .allRouters6 : group, on: link, count: 24) {
        $0.storeBytes(of: report == .left ? 132 : 131, as: UInt8.self)
        group.writeV6(to: $0 + 8)
      }
    } else {
      sendGroupMessage(to: IPAddress(high: 0xff02 &<< 48, low: 0x16), on: link, count: 28) {
        $0.storeBytes(of: 143, as: UInt8.self)
        $0.storeBytes(of: 1, toByteOffset: 7, as: UInt8.self)
        $0.storeBytes(of: report.rawValue, toByteOffset: 8, as: UInt8.self)
        group.writeV6(to: $0 + 12)
      }
    }
  }

  /// Sends a message of IGMP or MLD: of `count` bytes, zero but for what the body writes; the checksum lies at byte 2.
  private func sendGroupMessage(
    to destination: IPAddress, on link: NetworkInterface, count: Int, _ body: (UnsafeMutableRawPointer) -> Void
  ) {
    guard var packet = Packet(headroom: Packet.headroom, capacity: count), let start = packet.extend(count) else {
      return
    }
    start.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    body(start)
    let isV4 = destination.isV4
    let number = isV4 ? InternetProtocol.igmp : InternetProtocol.icmp6
    // Of IPv6 only from the link-local address, or none while there is none (RFC 3590).
    let source =
      isV4 ? firstAddress(of: link.index, isV4: true) ?? .any4 : linkLocalAddress(of: link) ?? .any6
    var checksum = InternetChecksum()
    if !isV4 { checksum.addPseudoHeader(source, destination, protocol: number, byteCount: count) }
    checksum.add(packet, from: 0, count: count)
    start.storeBytes(of: checksum.value.bigEndian, toByteOffset: 2, as: UInt16.self)
    var header = OutgoingHeader(source: source, destination: destination, protocolNumber: number)
    header.hopLimit = 1
    header.trafficClass = isV4 ? 0xc0 : 0
    header.flags = [.routerAlert, .noLoop, .exactSource]
    header.interfaceIndex = link.index
    var way = RouteCache()
    do throws(Errno) { try send(packet, header, &way) } catch { return }
  }

  /// The link-local IPv6 address of an interface, if it may be used.
  func linkLocalAddress(of link: NetworkInterface) -> IPAddress? {
    addressList.read { addresses in
      for own in addresses
      where own.interfaceIndex == link.index && own.isUsable && !own.address.isV4 && own.address.isLinkLocal {
        return own.address
      }
      return nil
    }
  }
}

extension NetworkInterface {
  /// Joins a group; counted.
  /// - Throws: EINVAL: it is no group; ENOBUFS: too many.
  public final func join(_ group: IPAddress) throws(Errno) { try stack.join(group, on: self) }
  /// Leaves a group, with the last who has joined it.
  public final func leave(_ group: IPAddress) { stack.leave(group, on: self) }
  /// Its groups, and how many have joined each.
  public final var memberships: [(group: IPAddress, count: Int)] {
    var result: [(group: IPAddress, count: Int)] = []
    stack.groupLock.lock()
    for group in groups.groups { result.append((group.address, group.count)) }
    stack.groupLock.unlock()
    return result
  }
}
