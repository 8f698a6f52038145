// InterfaceAddress: an address of an interface, and what it may be used for (RFC 4862, 2).
import Base
import Locks

/// An address that an interface has.
public struct InterfaceAddress: BitwiseCopyable, Equatable, Sendable {
  /// What it may be used for.
  public enum State: UInt8, BitwiseCopyable, Sendable {
    /// For nothing yet: somebody else may have it.
    case tentative
    /// For everything, though it is not yet known that nobody else has it (RFC 4429).
    case optimistic
    /// For everything.
    case preferred
    /// For what uses it already.
    case deprecated
    /// For nothing: somebody else has it.
    case duplicate
  }
  /// Where it comes from.
  public enum Origin: UInt8, BitwiseCopyable, Sendable {
    /// The administrator, or the monitor.
    case manual
    /// The kernel: loopback, link-local.
    case kernel
    /// DHCP.
    case dhcp
    /// Router advertisements.
    case autoconfigured
  }

  /// The address.
  public var address: IPAddress
  /// Bits of its network.
  public var prefixLength: UInt8
  /// What it may be used for.
  public var state = State.preferred
  /// Where it comes from.
  public var origin = Origin.manual
  /// Whose it is.
  public var interfaceIndex: UInt32 = 0
  /// Until when it is preferred and until when it is valid, ns; `.max`: for ever.
  public var preferredUntil: UInt64 = .max
  /// See `preferredUntil`.
  public var validUntil: UInt64 = .max

  /// An address with a network.
  public init(_ address: IPAddress, prefixLength: Int) {
    self.address = address
    self.prefixLength = prefixLength.u8
  }

  /// Whether packets may be sent from it, and to it.
  public var isUsable: Bool { state == .preferred || state == .optimistic || state == .deprecated }

  /// The broadcast address of its network; nil: there is none (RFC 3021: not in networks of two).
  public var broadcast: IPAddress? {
    address.isV4 && prefixLength < 31 && !address.isLoopback ? address.broadcast(prefixLength: prefixLength.int) : nil
  }
}

/// What an address is to this machine.
public enum AddressKind: Sendable {
  /// One of ours, or of 127.0.0.0/8.
  case local
  /// Everybody's on a link.
  case broadcast
  /// A group's.
  case multicast
  /// Somebody else's.
  case other
  /// 0.0.0.0 or ::.
  case unspecified
}

extension NetworkStack {
  /// Addresses of an interface at most.
  static var addressLimit: Int { 64 }

  /// A copy of all addresses.
  public var addresses: [InterfaceAddress] { addressList.copy }

  /// What an address is to this machine. Takes no lock; also with preemption off.
  @inline(__always) public func kind(of address: IPAddress) -> AddressKind {
    if address.isMulticast { return .multicast }
    if address.isUnspecified { return .unspecified }
    if address.isLoopback { return .local }
    if address == .broadcast4 { return .broadcast }
    return addressList.read { addresses in
      for own in addresses where own.isUsable {
        if own.address == address { return .local }
        if let broadcast = own.broadcast, broadcast == address { return .broadcast }
      }
      return .other
    }
  }

  /// The interface that has an address.
  func interfaceIndex(of address: IPAddress) -> UInt32? {
    if address.isLoopback { return loopback.index }
    return addressList.read { addresses in
      for own in addresses where own.address == address { return own.interfaceIndex }
      return nil
    }
  }

  /// What is known of an address of an interface.
  func find(_ address: IPAddress, on interface: UInt32) -> InterfaceAddress? {
    addressList.read { addresses in
      for own in addresses where own.address == address && own.interfaceIndex == interface { return own }
      return nil
    }
  }

  /// The first usable address of an interface of a family.
  func firstAddress(of interface: UInt32, isV4: Bool) -> IPAddress? {
    addressList.read { addresses in
      for own in addresses where own.interfaceIndex == interface && own.isUsable && own.address.isV4 == isV4 {
        return own.address
      }
      return nil
    }
  }

  /// Gives an interface an address, or changes what is known of it, and the route to its network.
  /// - Throws: ENOBUFS: too many; ENOMEM.
  func enter(_ address: InterfaceAddress) throws(Errno) {
    lock.lock()
    var list: [InterfaceAddress] = []
    list.reserveCapacity(addressList.current.count &+ 1)
    var (isNew, number) = (true, 0)
    for own in addressList.current {
      if own.interfaceIndex == address.interfaceIndex { number &+= 1 }
      if own.address == address.address && own.interfaceIndex == address.interfaceIndex {
        list.append(address)
        isNew = false
      } else {
        list.append(own)
      }
    }
    if isNew { list.append(address) }
    do throws(Errno) {
      if number >= Self.addressLimit && isNew { throw .ENOBUFS }
      try addressList.replace(list)
    } catch {
      lock.unlock()
      throw error
    }
    changed(.addresses)
    lock.unlock()
    guard address.isUsable else { return }
    if address.prefixLength.int < address.address.bitCount && !address.address.isLoopback {
      var route = Route(
        to: address.address, address.prefixLength.int, interfaceIndex: address.interfaceIndex)
      route.origin = 2
      if address.address.isV4 { route.preferredSource = address.address }
      // Of several addresses in a network the first one is its source.
      do throws(Errno) { try add(route, replacing: false) } catch { guard error == .EEXIST else { throw error } }
    }
  }

  /// Takes an address away, and the route to its network if no other address is in it.
  /// - Throws: EADDRNOTAVAIL; ENOMEM.
  func remove(_ address: IPAddress, of interface: UInt32) throws(Errno) {
    lock.lock()
    var list: [InterfaceAddress] = []
    var gone: InterfaceAddress?
    for own in addressList.current {
      if own.address == address && own.interfaceIndex == interface { gone = own } else { list.append(own) }
    }
    guard let gone else {
      lock.unlock()
      throw .EADDRNOTAVAIL
    }
    do throws(Errno) { try addressList.replace(list) } catch {
      lock.unlock()
      throw error
    }
    changed(.addresses)
    lock.unlock()
    let network = gone.address.prefix(gone.prefixLength.int)
    for own in list
    where own.interfaceIndex == interface && own.prefixLength == gone.prefixLength
      && own.address.prefix(own.prefixLength.int) == network
    {
      var route = Route(to: network, own.prefixLength.int, interfaceIndex: interface)
      route.origin = 2
      if own.address.isV4 { route.preferredSource = own.address }
      return try add(route)
    }
    try removeRoutes {
      $0.origin == 2 && $0.interfaceIndex == interface && $0.destination == network
        && $0.prefixLength == gone.prefixLength
    }
  }
}
