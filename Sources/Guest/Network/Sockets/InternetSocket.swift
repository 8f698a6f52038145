// InternetSocket: what sockets of AF_INET and AF_INET6 have in common, whatever their protocol: addresses of both ends, the claim to a
// local port, options, errors.
//
// `lock` is the one lock of socket and protocol. It guards what is said to be guarded here and whatever a subclass adds; program memory is not
// touched under it. Under it are taken: the table of ports, the table of flows, neighbours and devices (by sending), the lock of
// `errors`. Of two sockets' locks that of one that waits for connections comes first.
//
// An IPv6 socket may speak IPv4 too, with addresses in their mapped form (RFC 3493, 3.7); here such an address is the IPv4 address.
import Base
import Files
import Locks
import Memory

/// A socket of AF_INET or AF_INET6.
open class InternetSocket: Socket {
  /// The machine's network.
  public let stack: NetworkStack
  /// IP's number of the protocol.
  public let protocolNumber: UInt8
  /// What has gone wrong.
  public let errors: SocketErrors
  /// The ports of the protocol; nil: it has none.
  let ports: PortTable?
  /// The lock of socket and protocol.
  public let lock = Mutex()
  /// `options.flags`, for who looks without the lock.
  final let optionFlags: Atomic<UInt32>

  // MARK: Guarded by `lock`

  /// Our end; port 0: not bound yet; address unspecified: all.
  public final var local: InternetEndpoint
  /// The other end, if it is connected or connecting.
  public final var remote: InternetEndpoint?
  /// The right to the local port.
  public final var claim: PortClaim?
  /// Options of IP.
  public final var options = InternetOptions() {
    didSet {
      optionFlags.store(options.flags.rawValue, ordering: .relaxed)
      errors.wanted.store(
        (options.has(.tellsErrors4) ? 1 : 0) | (options.has(.tellsErrors6) ? 2 : 0), ordering: .relaxed)
    }
  }
  /// The way to the other end, or to where was last sent.
  public final var route = RouteCache()
  /// Where was last sent, if the route leads there.
  final var routeDestination: InternetEndpoint?
  /// The program has named the address, and the port: disconnecting leaves them.
  public final var (isAddressNamed, isPortNamed) = (false, false)
  /// Who has made it: its user's ports it shares.
  public final var user: UInt32 = 0
  /// Groups that it has joined.
  final var memberships = Memberships()

  /// A socket.
  /// - Parameters:
  ///   - family: AF_INET (2) or AF_INET6 (10).
  ///   - ports: where the protocol's ports are claimed.
  ///   - user: who makes it.
  ///   - errors: what its flow shares with it, with the same source; nil: it makes its own.
  public init(
    family: Int32, kind: SocketKind, protocolNumber: UInt8, flags: OpenFlags, stack: NetworkStack, ports: PortTable?,
    user: UInt32, source: PollSource = PollSource(), errors: SocketErrors? = nil
  ) {
    self.stack = stack
    self.protocolNumber = protocolNumber
    self.ports = ports
    self.user = user
    optionFlags = Atomic(options.flags.rawValue)
    local = InternetEndpoint(family == InternetEndpoint.family4.i32 ? .any4 : .any6)
    self.errors = errors ?? SocketErrors(source)
    super.init(family: family, kind: kind, flags: flags, source: source)
    stack.sockets.add(self)
  }

  // SAFETY: guarded by the lock of the list of all sockets, which keeps those that are in it.
  final var nextListed: InternetSocket?
  final var previousListed: Unmanaged<InternetSocket>?

  /// The last descriptor has gone, or the socket has never got one. Subclasses end what is theirs and call this.
  open override func closed() { stack.sockets.remove(self) }

  /// Takes over the options of another socket, whose lock is held.
  public final func inheritOptions(of other: InternetSocket) {
    options = other.options
    optionWords.inherit(other.optionWords)
    receiveTimeout.store(other.receiveTimeout.load(ordering: .relaxed), ordering: .relaxed)
    sendTimeout.store(other.sendTimeout.load(ordering: .relaxed), ordering: .relaxed)
    receiveBufferByteCount.store(other.receiveBufferByteCount.load(ordering: .relaxed), ordering: .relaxed)
  }

  /// Whether an option that is on or off is on; without the lock.
  @inline(__always) final func has(_ flag: InternetOptions.Flags) -> Bool {
    optionFlags.load(ordering: .relaxed) & flag.rawValue != 0
  }

  /// Whether its addresses are written as IPv6's.
  @inline(__always) public final var isIPv6: Bool { family == InternetEndpoint.family6.i32 }

  /// Internet protocols do not tell who sends.
  public final override var asksWhoSends: Bool { false }

  open override var protocolOption: Int32 { protocolNumber.i32 }

  open override func takeError() -> Errno? { errors.take() }

  // MARK: Names

  /// What an address is for.
  enum Purpose { case binding, connecting, sending }

  /// The end that a `sockaddr` means for this socket.
  /// - Throws: EINVAL: too short, or of no use; EAFNOSUPPORT: another family's; ENETUNREACH: IPv4, for a socket that speaks IPv6 only.
  final func endpoint(_ address: SocketAddress, for purpose: Purpose) throws(Errno) -> InternetEndpoint {
    guard isIPv6 else { return try endpoint4(address, for: purpose) }
    if purpose != .binding, protocolNumber == 17, address.family == InternetEndpoint.family4 {
      // Datagrams may go to an IPv4 address that is written as one.
      return try mapped(try endpoint4(address, for: purpose), for: purpose)
    }
    guard address.byteCount >= InternetEndpoint.oldByteCount6 else { throw .EINVAL }
    guard address.family == InternetEndpoint.family6 else { throw .EAFNOSUPPORT }
    let result = InternetEndpoint(sockaddr6: address)
    return result.address.isV4 ? try mapped(result, for: purpose) : result
  }

  private final func endpoint4(_ address: SocketAddress, for purpose: Purpose) throws(Errno) -> InternetEndpoint {
    guard address.byteCount >= InternetEndpoint.byteCount4 else { throw .EINVAL }
    let result = InternetEndpoint(sockaddr4: address)
    if address.family != InternetEndpoint.family4 {
      let isFine = address.family == 0 && (purpose == .sending || purpose == .binding && result.address == .any4)
      guard isFine else { throw .EAFNOSUPPORT }
    }
    return result
  }

  private final func mapped(_ endpoint: InternetEndpoint, for purpose: Purpose) throws(Errno) -> InternetEndpoint {
    guard !has(.isIPv6Only) else { throw purpose == .binding ? .EINVAL : .ENETUNREACH }
    return endpoint
  }

  /// How programs see an end.
  public final func socketAddress(_ endpoint: InternetEndpoint) -> SocketAddress {
    isIPv6 ? endpoint.sockaddr6 : endpoint.sockaddr4
  }

  open override func address() throws(Errno) -> SocketAddress {
    var endpoint = lock.withLock { local }
    endpoint.flowInformation = 0
    return socketAddress(endpoint)
  }

  open override func peerAddress() throws(Errno) -> SocketAddress {
    guard let remote = lock.withLock({ remote }) else { throw .ENOTCONN }
    return socketAddress(remote)
  }

  // MARK: Options and control messages

  open override func setOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller)
    throws(Errno)
  { try setInternetOption(level, name, value, caller) }

  open override func getOption(_ level: Int32, _ name: Int32, _ result: inout OptionResult) throws(Errno) {
    try getInternetOption(level, name, &result)
  }

  open override func readControl(
    _ level: Int32, _ type: Int32, _ bytes: UnsafeRawBufferPointer, into message: inout OutgoingMessage
  ) throws(Errno) { try readInternetControl(level, type, bytes, into: &message.control) }

  open override func writeControl(_ message: IncomingMessage, _ writer: inout ControlWriter) throws(Errno) {
    try writeInternetControl(message.control, &writer)
  }

  open override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    guard let result = try InterfaceControl(stack).run(request, argument) else { throw .ENOTTY }
    return result
  }

  // MARK: What protocols add

  /// The socket has got its address and port: what packets are for it is entered. With the lock.
  /// - Throws: whatever bind is to fail with: the port is given back then.
  open func hasBound() throws(Errno) {}

  /// An option has changed that the protocol may have to follow. With the lock.
  open func optionChanged(_ level: Int32, _ name: Int32) {}

  /// The interface that it is bound to has changed. With the lock.
  open func interfaceChanged() {}

  /// Which groups it listens to, or how, has changed.
  func groupsChanged() {}

  /// What /proc/net and `ss` show of it.
  open var status: InternetSocketStatus {
    lock.withLock {
      InternetSocketStatus(
        isIPv6: isIPv6, local: local, remote: remote, state: remote == nil ? .closed : .established,
        inode: vnode.inode, user: user)
    }
  }
}

/// What others are shown of a socket or connection.
public struct InternetSocketStatus: BitwiseCopyable, Sendable {
  /// TCP's states by their numbers (`include/net/tcp_states.h`).
  public enum State: UInt8, BitwiseCopyable, Sendable {
    case established = 1, synSent, synReceived, finWait1, finWait2, timeWait, closed, closeWait, lastAck, listening,
      closing
  }

  /// Its addresses are written as IPv6's.
  public var isIPv6: Bool
  /// Our end.
  public var local: InternetEndpoint
  /// The other one, if there is one.
  public var remote: InternetEndpoint?
  /// In which state.
  public var state: State
  /// Bytes that have not been acknowledged, or sent.
  public var sendQueueByteCount = 0
  /// Bytes that have not been read; connections that have not been accepted.
  public var receiveQueueByteCount = 0
  /// What timer runs: 0 none, 1 retransmission, 2 another, 3 TIME_WAIT, 4 window probes.
  public var timer: UInt8 = 0
  /// In how many ns it expires.
  public var timerLeft: UInt64 = 0
  /// How many times the oldest segment has been sent again.
  public var retransmissionCount: UInt32 = 0
  /// Messages that have been dropped.
  public var droppedCount: UInt64 = 0
  /// The socket's inode; 0: it has none (any more).
  public var inode: UInt64
  /// Whose it is.
  public var user: UInt32

  /// A status.
  public init(
    isIPv6: Bool, local: InternetEndpoint, remote: InternetEndpoint?, state: State, inode: UInt64, user: UInt32
  ) {
    self.isIPv6 = isIPv6
    (self.local, self.remote, self.state, self.inode, self.user) = (local, remote, state, inode, user)
  }
}
