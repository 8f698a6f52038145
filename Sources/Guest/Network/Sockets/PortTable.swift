// PortTable: who has which local port of a protocol, and who may have it besides.
//
// A claim is the right to a port with an address, an interface, a user and the options that allow sharing (SO_REUSEADDR, SO_REUSEPORT).
// Claims that are equal in all of that are one object with a count, so that a hundred thousand accepted connections on a port cost one.
// Which claims go together is Linux's rule (bind(2), socket(7)); it is not the same for streams and datagrams.
//
// Ports that nobody asked for by number: for connections by double hashing (RFC 6056, algorithm 4), which tells an observer
// nothing about other connections and brings a port back as late as it can; otherwise from a random place on. As in Linux even
// numbers go to connections first and odd ones to those who bind, so that neither soon finds the range full of the other's.
//
// One lock, under which only that of the table of flows is taken.
import Base
import Locks

/// What somebody wants to bind to, or has.
public struct PortWish: Equatable, BitwiseCopyable, Sendable {
  /// The address; unspecified: all of the family, for :: of IPv4 too unless `isIPv6Only`.
  public var address: IPAddress
  /// The port; 0: any that is free.
  public var port: UInt16
  /// The interface (SO_BINDTODEVICE); 0: all.
  public var interfaceIndex: UInt32 = 0
  /// Who binds: a port is shared by SO_REUSEPORT with sockets of the same user only.
  public var user: UInt32 = 0
  /// IPV6_V6ONLY.
  public var isIPv6Only = false
  /// SO_REUSEADDR.
  public var reusesAddress = false
  /// SO_REUSEPORT.
  public var reusesPort = false

  /// A wish for an address and a port.
  public init(_ address: IPAddress, port: UInt16) {
    self.address = address
    self.port = port
  }

  /// Whether a packet could be for both.
  func overlaps(_ other: PortWish) -> Bool {
    if interfaceIndex != 0, other.interfaceIndex != 0, interfaceIndex != other.interfaceIndex { return false }
    if address == other.address { return true }
    if address.isV4 && other.address.isV4 { return address == .any4 || other.address == .any4 }
    if address == .any6 { return !(isIPv6Only && other.address.isV4) }
    if other.address == .any6 { return !(other.isIPv6Only && address.isV4) }
    return false
  }
}

/// A right to a local port. Belongs to a table, which counts how many have it.
public final class PortClaim {
  /// What is claimed.
  public let wish: PortWish
  /// Others cannot have it by SO_REUSEADDR: somebody waits for connections there.
  let isListening: Bool
  /// Chosen by `connect`: other connections may leave from the same port.
  let isConnecting: Bool
  // Guarded by the table's lock.
  fileprivate var count = 1
  fileprivate var next: PortClaim?

  /// The port.
  public var port: UInt16 { wish.port }
  /// The address.
  public var address: IPAddress { wish.address }

  fileprivate init(_ wish: PortWish, isListening: Bool, isConnecting: Bool) {
    self.wish = wish
    self.isListening = isListening
    self.isConnecting = isConnecting
  }
}

/// The ports of a protocol.
public final class PortTable {
  /// Whether connections or datagrams share ports.
  public enum Rule: Sendable {
    /// TCP's: with SO_REUSEADDR, all that wait for no connections.
    case connections
    /// UDP's: with SO_REUSEADDR, all.
    case datagrams
  }

  private static var chainCount: Int { 1024 }
  private static var counterCount: Int { 256 }

  private let rule: Rule
  private let key: SipKey
  private let random: () -> UInt64
  private let lock = Mutex()
  // Guarded by `lock`.
  private var chains: [PortClaim?]
  private var counters: [UInt16]

  /// A table of nothing.
  /// - Parameters:
  ///   - key: what nobody outside knows.
  ///   - random: a source of random numbers.
  public init(_ rule: Rule, key: SipKey, random: @escaping () -> UInt64) {
    self.rule = rule
    self.key = key
    self.random = random
    chains = Array(repeating: nil, count: Self.chainCount)
    counters = Array(repeating: 0, count: Self.counterCount)
    for index in 0..<Self.counterCount { counters[index] = random().u16 }
  }

  // MARK: Claims

  /// Claims what is wished for (bind).
  /// - Parameter range: from which a port is chosen if none is named.
  /// - Throws: EADDRINUSE.
  public func bind(_ wish: PortWish, range: ClosedRange<UInt16>) throws(Errno) -> PortClaim {
    try lock.withLock { () throws(Errno) in
      guard wish.port == 0 else {
        guard !conflicts(wish, isListening: false, isChosen: false) else { throw .EADDRINUSE }
        return add(wish, isListening: false, isConnecting: false)
      }
      var found: PortWish?
      search(range, from: random(), firstParity: 1) { port in
        var candidate = wish
        candidate.port = port
        if conflicts(candidate, isListening: false, isChosen: true) { return false }
        found = candidate
        return true
      }
      guard let found else { throw .EADDRINUSE }
      return add(found, isListening: false, isConnecting: false)
    }
  }

  /// Turns a claim into one of somebody who waits for connections (listen).
  /// - Throws: EADDRINUSE: somebody else does; the claim stays as it was.
  public func listen(_ claim: inout PortClaim) throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    guard !claim.isListening else { return }
    let old = claim
    // Its own claim must not be in the way, unless others have the same.
    remove(old)
    guard !conflicts(old.wish, isListening: true, isChosen: false) else {
      claim = add(old.wish, isListening: false, isConnecting: old.isConnecting)
      throw .EADDRINUSE
    }
    claim = add(old.wish, isListening: true, isConnecting: false)
  }

  /// Claims the same port for a connection that somebody who waits for connections has accepted, or that leaves from a bound socket.
  /// - Parameter local: the connection's own address.
  public func share(_ claim: PortClaim, local: IPAddress) -> PortClaim {
    var wish = claim.wish
    wish.address = local
    return lock.withLock { add(wish, isListening: false, isConnecting: claim.isConnecting) }
  }

  /// One more who has the claim.
  public func retain(_ claim: PortClaim) { lock.withLock { claim.count &+= 1 } }

  /// One less who has it; when nobody is left the port is free.
  public func release(_ claim: PortClaim) { lock.withLock { remove(claim) } }

  /// Claims a port for a connection to be (connect).
  /// - Parameters:
  ///   - wish: the local address and options; its port does not count.
  ///   - remote: where to.
  ///   - remotePort: where to.
  ///   - range: from which ports are chosen.
  ///   - isFree: enters the connection with this local port where it is to be found; false if there is one between the same ends.
  ///     It is called with the table's lock held.
  /// - Throws: EADDRNOTAVAIL: no port is left; what `isFree` throws.
  public func connect(
    _ wish: PortWish, remote: IPAddress, remotePort: UInt16, range: ClosedRange<UInt16>,
    isFree: (UInt16) throws(Errno) -> Bool
  ) throws(Errno) -> PortClaim {
    try lock.withLock { () throws(Errno) in
      var hasher = SipHasher(key)
      hasher.combine(wish.address.high)
      hasher.combine(wish.address.low)
      hasher.combine(remote.high)
      hasher.combine(remote.low)
      hasher.combine(remotePort.u64)
      let hash = hasher.finish()
      let index = (hash &>> 48).int % Self.counterCount
      var (found, failure): (PortClaim?, Errno?) = (nil, nil)
      let tried = search(range, from: hash & 0xffff_ffff &+ counters[index].u64, firstParity: 0) { port in
        guard !hasBinding(port) else { return false }
        var candidate = wish
        candidate.port = port
        do throws(Errno) {
          guard try isFree(port) else { return false }
          found = add(candidate, isListening: false, isConnecting: true)
        } catch { failure = error }
        return true
      }
      counters[index] &+= (tried &* 2).u16
      if let failure { throw failure }
      guard let found else { throw .EADDRNOTAVAIL }
      return found
    }
  }

  /// Tries the ports of a range, those of one parity first, from a place on, until the body is content.
  /// - Returns: how many were tried.
  @discardableResult
  private func search(_ range: ClosedRange<UInt16>, from start: UInt64, firstParity: UInt64, _ body: (UInt16) -> Bool)
    -> Int
  {
    let count = range.upperBound.u64 &- range.lowerBound.u64 &+ 1
    var tried = 0
    for parity in [firstParity, firstParity ^ 1] {
      // Those of the parity, counted from the first one.
      let first = (range.lowerBound.u64 & 1 == parity) ? 0 : 1 as UInt64
      guard count > first else { continue }
      let number = (count &- first &+ 1) / 2
      for step in 0..<number {
        tried &+= 1
        let place = first &+ (start / 2 &+ step) % number &* 2
        if body((range.lowerBound.u64 &+ place).u16) { return tried }
      }
    }
    return tried
  }

  // MARK: With the lock

  private func hasBinding(_ port: UInt16) -> Bool {
    var next = chains[port.int % Self.chainCount]
    while let claim = next {
      if claim.wish.port == port, !claim.isConnecting { return true }
      next = claim.next
    }
    return false
  }

  /// Whether somebody has what does not go with a wish.
  /// - Parameters:
  ///   - isListening: the wish is one to wait for connections.
  ///   - isChosen: nobody has named the port, so it should not be one that is shared by SO_REUSEADDR.
  private func conflicts(_ wish: PortWish, isListening: Bool, isChosen: Bool) -> Bool {
    var next = chains[wish.port.int % Self.chainCount]
    while let claim = next {
      next = claim.next
      guard claim.wish.port == wish.port, wish.overlaps(claim.wish) else { continue }
      if wish.reusesPort, claim.wish.reusesPort, wish.user == claim.wish.user { continue }
      if wish.reusesAddress, claim.wish.reusesAddress {
        switch rule {
        case .datagrams: continue
        case .connections: if !claim.isListening, !isChosen { continue }
        }
      }
      return true
    }
    return false
  }

  private func add(_ wish: PortWish, isListening: Bool, isConnecting: Bool) -> PortClaim {
    let chain = wish.port.int % Self.chainCount
    var next = chains[chain]
    while let claim = next {
      if claim.wish == wish, claim.isListening == isListening, claim.isConnecting == isConnecting {
        claim.count &+= 1
        return claim
      }
      next = claim.next
    }
    let made = PortClaim(wish, isListening: isListening, isConnecting: isConnecting)
    made.next = chains[chain]
    chains[chain] = made
    return made
  }

  private func remove(_ claim: PortClaim) {
    claim.count &-= 1
    guard claim.count == 0 else { return }
    let chain = claim.port.int % Self.chainCount
    var before: PortClaim?
    var next = chains[chain]
    while let other = next, other !== claim {
      before = other
      next = other.next
    }
    if let before { before.next = claim.next } else { chains[chain] = claim.next }
    claim.next = nil
  }
}
