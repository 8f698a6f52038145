// Joining and leaving groups: the options of both families and those that are the same for both (RFC 3376, RFC 3678).
import Base
import Files
import Locks

/// What a program asks about a group.
private struct GroupWish {
  var group: IPAddress
  var interfaceIndex: UInt32
  var source: IPAddress?
}

extension InternetSocket {
  /// Numbers of the options.
  private enum GroupOption {
    static let join4: Int32 = 35
    static let leave4: Int32 = 36
    static let unblock4: Int32 = 37
    static let block4: Int32 = 38
    static let joinSource4: Int32 = 39
    static let leaveSource4: Int32 = 40
    static let join6: Int32 = 20
    static let leave6: Int32 = 21
    // The same for both families.
    static let join: Int32 = 42
    static let block: Int32 = 43
    static let unblock: Int32 = 44
    static let leave: Int32 = 45
    static let joinSource: Int32 = 46
    static let leaveSource: Int32 = 47
  }

  /// Sets an option that is about a group.
  /// - Returns: false: it is not.
  final func setGroupOption(_ name: Int32, _ value: OptionValue, isV4: Bool) throws(Errno) -> Bool {
    switch (name, isV4) {
    case (GroupOption.join4, true): try join(try wish4(value))
    case (GroupOption.leave4, true): try leave(try wish4(value))
    case (GroupOption.joinSource4, true): try join(try sourceWish4(value))
    case (GroupOption.leaveSource4, true): try change(try sourceWish4(value), excludes: false, adds: false)
    case (GroupOption.block4, true): try change(try sourceWish4(value), excludes: true, adds: true)
    case (GroupOption.unblock4, true): try change(try sourceWish4(value), excludes: true, adds: false)
    case (GroupOption.join6, false): try join(try wish6(value))
    case (GroupOption.leave6, false): try leave(try wish6(value))
    case (GroupOption.join, _): try join(try wish(value, isV4: isV4, hasSource: false))
    case (GroupOption.leave, _): try leave(try wish(value, isV4: isV4, hasSource: false))
    case (GroupOption.joinSource, _): try join(try wish(value, isV4: isV4, hasSource: true))
    case (GroupOption.leaveSource, _):
      try change(try wish(value, isV4: isV4, hasSource: true), excludes: false, adds: false)
    case (GroupOption.block, _): try change(try wish(value, isV4: isV4, hasSource: true), excludes: true, adds: true)
    case (GroupOption.unblock, _): try change(try wish(value, isV4: isV4, hasSource: true), excludes: true, adds: false)
    default: return false
    }
    return true
  }

  // MARK: What the program writes

  /// struct ip_mreq, or ip_mreqn.
  private final func wish4(_ value: OptionValue) throws(Errno) -> GroupWish {
    guard kind != .stream else { throw .EPROTO }
    let group = IPAddress(v4: try value.load(as: UInt32.self).byteSwapped)
    let address = IPAddress(v4: try value.load(from: 4, as: UInt32.self).byteSwapped)
    let index = value.bytes.count >= 12 ? try value.load(from: 8, as: UInt32.self) : 0
    return GroupWish(group: group, interfaceIndex: try interface(index, address, for: group), source: nil)
  }

  /// struct ip_mreq_source.
  private final func sourceWish4(_ value: OptionValue) throws(Errno) -> GroupWish {
    guard kind != .stream else { throw .EPROTO }
    let group = IPAddress(v4: try value.load(as: UInt32.self).byteSwapped)
    let address = IPAddress(v4: try value.load(from: 4, as: UInt32.self).byteSwapped)
    let source = IPAddress(v4: try value.load(from: 8, as: UInt32.self).byteSwapped)
    return GroupWish(group: group, interfaceIndex: try interface(0, address, for: group), source: source)
  }

  /// struct ipv6_mreq.
  private final func wish6(_ value: OptionValue) throws(Errno) -> GroupWish {
    guard kind != .stream else { throw .EPROTO }
    let words = try value.load(as: [2 of UInt64].self)
    let group = IPAddress(high: words[0].byteSwapped, low: words[1].byteSwapped)
    let index = try value.load(from: 16, as: UInt32.self)
    return GroupWish(group: group, interfaceIndex: try interface(index, .any6, for: group), source: nil)
  }

  /// struct group_req, or group_source_req.
  private final func wish(_ value: OptionValue, isV4: Bool, hasSource: Bool) throws(Errno) -> GroupWish {
    guard kind != .stream else { throw .EPROTO }
    guard value.bytes.count >= (hasSource ? 264 : 136) else { throw .EINVAL }
    let group = try address(value, at: 8, isV4: isV4)
    let index = try value.load(as: UInt32.self)
    return GroupWish(
      group: group, interfaceIndex: try interface(index, .any6, for: group),
      source: hasSource ? try address(value, at: 136, isV4: isV4) : nil)
  }

  private final func address(_ value: OptionValue, at offset: Int, isV4: Bool) throws(Errno) -> IPAddress {
    let rest = UnsafeRawBufferPointer(rebasing: value.bytes[offset...])
    let address = SocketAddress(short: rest)
    guard address.family == (isV4 ? InternetEndpoint.family4 : InternetEndpoint.family6) else { throw .EADDRNOTAVAIL }
    return isV4 ? InternetEndpoint(sockaddr4: address).address : InternetEndpoint(sockaddr6: address).address
  }

  /// The interface that is meant: by number, by address, or the one by which the group is reached.
  private final func interface(_ index: UInt32, _ address: IPAddress, for group: IPAddress) throws(Errno) -> UInt32 {
    guard group.isMulticast else { throw .EINVAL }
    if index != 0 {
      guard stack.interface(index: index) != nil else { throw .ENODEV }
      return index
    }
    if !address.isUnspecified {
      guard let found = stack.interface(with: address) else { throw .ENODEV }
      return found.index
    }
    if stack.isConfiguring(isV4: group.isV4) { try stack.waitForConfiguration(isV4: group.isV4) }
    guard let route = try? stack.route(to: group, source: nil, interface: 0) else { throw .ENODEV }
    return route.interfaceIndex
  }

  // MARK: Doing it

  private final func join(_ wish: GroupWish) throws(Errno) {
    guard let interface = stack.interface(index: wish.interfaceIndex) else { throw .ENODEV }
    // A second source of a group that is heard from few.
    if let source = wish.source, lock.withLock({ memberships.contains(wish.group, wish.interfaceIndex) }) {
      return try change(
        GroupWish(group: wish.group, interfaceIndex: wish.interfaceIndex, source: source), excludes: false, adds: true)
    }
    try lock.withLock { () throws(Errno) in
      try memberships.join(wish.group, wish.interfaceIndex, only: wish.source)
    }
    do throws(Errno) { try interface.join(wish.group) } catch {
      lock.withLock { _ = memberships.leave(wish.group, wish.interfaceIndex) }
      throw error
    }
    groupsChanged()
  }

  private final func leave(_ wish: GroupWish) throws(Errno) {
    guard let index = lock.withLock({ memberships.leave(wish.group, wish.interfaceIndex) }) else {
      throw .EADDRNOTAVAIL
    }
    stack.interface(index: index)?.leave(wish.group)
  }

  private final func change(_ wish: GroupWish, excludes: Bool, adds: Bool) throws(Errno) {
    guard let source = wish.source else { throw .EINVAL }
    let isSilent = try lock.withLock { () throws(Errno) in
      try memberships.change(wish.group, wish.interfaceIndex, source: source, excludes: excludes, adds: adds)
      return memberships.isSilent(wish.group, wish.interfaceIndex)
    }
    if isSilent { try leave(wish) }
    groupsChanged()
  }

  /// Leaves all groups.
  final func leaveGroups() {
    while let (group, index) = lock.withLock({ memberships.leaveAny() }) {
      stack.interface(index: index)?.leave(group)
    }
  }
}
