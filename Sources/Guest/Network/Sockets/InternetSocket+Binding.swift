// How a socket of the Internet gets its local address and port: bind, and what is bound without being asked (RFC 6056 chooses).
import Base
import Files
import Locks

extension InternetSocket {
  /// Ports below this are for the privileged (net.ipv4.ip_unprivileged_port_start).
  private static var firstFreePort: UInt16 { 1024 }

  /// From which ports one is chosen. With the lock.
  public final var portRange: ClosedRange<UInt16> {
    let both = stack.sockets.portRange.load(ordering: .relaxed)
    let (first, last) = ((both &>> 16).u16, both.u16)
    var range = first...max(first, last)
    if options.firstPort != 0, options.firstPort <= range.upperBound { range = max(options.firstPort, first)...last }
    if options.lastPort != 0, options.lastPort >= range.lowerBound {
      range = range.lowerBound...min(options.lastPort, range.upperBound)
    }
    return range
  }

  /// What this socket would claim with an address and a port. With the lock.
  public final func wish(_ address: IPAddress, port: UInt16) -> PortWish {
    var result = PortWish(address, port: port)
    result.interfaceIndex = options.interfaceIndex
    result.user = user
    result.isIPv6Only = isIPv6 && options.has(.isIPv6Only)
    result.reusesAddress = isOn(SocketOption.reuseAddress)
    result.reusesPort = isOn(SocketOption.reusePort)
    return result
  }

  /// Whether one may bind to an address that is not ours.
  private final var bindsAnywhere: Bool { options.has(.bindsFreely) || options.has(.isTransparent) }

  /// Gives it an address and a port.
  /// - Throws: EINVAL: it has them, or the address is of no use; EADDRNOTAVAIL: it is nobody's here; EACCES; EADDRINUSE.
  public final func bindEndpoint(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    var wanted = try endpoint(address, for: .binding)
    try checkBindable(&wanted)
    if wanted.port != 0, wanted.port < Self.firstFreePort, hasPorts, !caller.rights.isPrivileged { throw .EACCES }
    try lock.withLock { () throws(Errno) in
      guard local.port == 0, remote == nil else { throw .EINVAL }
      if wanted.scope != 0, options.interfaceIndex == 0 {
        options.interfaceIndex = wanted.scope
        interfaceChanged()
      }
      let before = (local, isAddressNamed, isPortNamed)
      local.address = wanted.address
      local.scope = wanted.scope
      isAddressNamed = !wanted.address.isUnspecified
      isPortNamed = wanted.port != 0
      // Connecting will find a port that goes with the other end.
      if wanted.port == 0, options.has(.bindsAddressOnly), kind == .stream { return }
      do throws(Errno) { try claimPort(wanted.port) } catch {
        (local, isAddressNamed, isPortNamed) = before
        throw error
      }
    }
  }

  /// Whether ports are claimed at all.
  private final var hasPorts: Bool { ports != nil }

  private final func checkBindable(_ endpoint: inout InternetEndpoint) throws(Errno) {
    let address = endpoint.address
    if address.isUnspecified { return }
    if address.isMulticast {
      guard kind != .stream || !isIPv6 || address.isV4 else { throw .EINVAL }
    }
    if !address.isV4, address.isLinkLocal || address.isLinkLocalMulticast {
      if endpoint.scope == 0 { endpoint.scope = lock.withLock { options.interfaceIndex } }
      guard endpoint.scope != 0 else { throw .EINVAL }
      guard stack.interface(index: endpoint.scope) != nil else { throw .ENODEV }
    }
    if isOurs(address) { return }
    if lock.withLock({ bindsAnywhere }) { return }
    // It may be about to be ours.
    guard stack.isConfiguring(isV4: address.isV4) else { throw .EADDRNOTAVAIL }
    try stack.waitForConfiguration(isV4: address.isV4)
    guard isOurs(address) else { throw .EADDRNOTAVAIL }
  }

  /// Whether one can bind to an address.
  private final func isOurs(_ address: IPAddress) -> Bool {
    switch stack.kind(of: address) {
    case .local, .multicast, .unspecified: true
    case .broadcast: address.isV4
    case .other: false
    }
  }

  /// Claims a port with the local address, any for 0, and enters the socket there. With the lock.
  private final func claimPort(_ port: UInt16) throws(Errno) {
    guard let ports else {
      local.port = port
      return try hasBound()
    }
    let made = try ports.bind(wish(local.address, port: port), range: portRange)
    claim = made
    local.port = made.port
    do throws(Errno) { try hasBound() } catch {
      releasePort()
      throw error
    }
  }

  /// Binds to a free port if it has none: of the address that it is bound to, or of all. With the lock.
  /// - Throws: EAGAIN: there is none, as Linux has it.
  public final func bindAutomatically() throws(Errno) {
    guard local.port == 0, hasPorts else { return }
    do throws(Errno) { try claimPort(0) } catch { throw error == .EADDRINUSE ? .EAGAIN : error }
  }

  /// Gives the port back. With the lock.
  public final func releasePort() {
    if let claim { ports?.release(claim) }
    claim = nil
    local.port = 0
  }

  /// Tells a program once that this machine has no network, where that is why it fails.
  final func explain(_ error: Errno) {
    guard error == .ENETUNREACH, !stack.hasNetwork else { return }
    NetworkAbsence.tell()
  }
}
