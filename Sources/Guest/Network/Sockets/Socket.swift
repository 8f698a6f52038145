// Socket: an open file with the operations of sockets. A family of protocols is a subclass; the calls of the layer above know only this.
//
// What all families have lives here and beside it: kinds, time-outs, options that mean the same everywhere (SocketOptions). Operations
// default to what a socket says that cannot do them.
import Base
import Files
import Locks
import Memory
import Platform

/// How a socket delivers; the numbers are SOCK_*.
public enum SocketKind: Int32, Sendable {
  /// A stream of bytes.
  case stream = 1
  /// Single messages.
  case datagram = 2
  /// Packets with the headers of the network.
  case raw = 3
  /// Messages in order over a connection.
  case sequenced = 5
}

/// A socket.
open class Socket: OpenFile {
  /// AF_*.
  public let family: Int32
  /// How it delivers.
  public let kind: SocketKind
  /// Tells when something can be done.
  public let source: PollSource
  /// How long receiving and sending wait at most, ns; 0: for ever (SO_RCVTIMEO, SO_SNDTIMEO).
  public let receiveTimeout = Atomic<UInt64>(0)
  /// See `receiveTimeout`.
  public let sendTimeout = Atomic<UInt64>(0)
  /// SO_PASSCRED.
  public let wantsCredentials = Atomic<Bool>(false)
  /// SO_RCVBUF.
  public let receiveBufferByteCount = Atomic<Int32>(212_992)
  /// Other options of SOL_SOCKET.
  public let optionWords = SocketOptionWords()

  /// A socket of a family.
  public init(family: Int32, kind: SocketKind, flags: OpenFlags, source: PollSource = PollSource()) {
    self.source = source
    self.family = family
    self.kind = kind
    let vnode = AnonymousVnode(type: .socket, mode: 0o777)
    super.init(
      vnode: vnode, location: AnonymousFileSystem.location(of: vnode, prefix: "socket:["),
      flags: flags.intersection(.nonBlocking).union(.readWrite))
  }

  // MARK: Operations

  /// Gives it an address.
  open func bind(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) { throw .EOPNOTSUPP }
  /// Connects it.
  open func connect(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) { throw .EOPNOTSUPP }
  /// Lets others connect to it.
  open func listen(backlog: Int, _ caller: SocketCaller) throws(Errno) { throw .EOPNOTSUPP }
  /// The next who has connected, as a socket with these flags.
  open func accept(flags: OpenFlags) throws(Errno) -> Socket { throw .EOPNOTSUPP }
  /// Sends.
  /// - Returns: bytes sent.
  open func send(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno) -> Int {
    throw .EOPNOTSUPP
  }
  /// Whether `send` looks at who sends: then it is told by which caller, else that is spared.
  open var asksWhoSends: Bool { true }
  /// Receives.
  open func receive(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    throw .EOPNOTSUPP
  }
  /// Ends one direction, or both.
  open func shutdown(receiving: Bool, sending: Bool) throws(Errno) { throw .EOPNOTSUPP }
  /// Its address.
  open func address() throws(Errno) -> SocketAddress { throw .EOPNOTSUPP }
  /// The other end's address.
  open func peerAddress() throws(Errno) -> SocketAddress { throw .EOPNOTSUPP }
  /// Who has connected to a socket that `accept` has returned, though the connection may have ended since; nobody's name if there is none.
  open var acceptedAddress: SocketAddress { (try? peerAddress()) ?? SocketAddress([1, 0]) }
  /// Who is at the other end (SO_PEERCRED).
  open var peerCredentials: SocketCredentials { SocketCredentials(process: 0, user: .max, group: .max) }
  /// Takes the error that is waiting to be told (SO_ERROR).
  open func takeError() -> Errno? { nil }
  /// Whether it listens (SO_ACCEPTCONN).
  open var isListening: Bool { false }
  /// Bytes that may be on their way (SO_SNDBUF).
  open var sendBufferByteCount: Int { 212_992 }
  /// SO_PROTOCOL.
  open var protocolOption: Int32 { 0 }

  // MARK: Options and control messages

  /// Whether it has SO_PEEK_OFF.
  open var hasPeekOffset: Bool { false }

  /// The program sets SO_SNDBUF; twice the size it has named.
  open func setSendBuffer(_ byteCount: Int32) {}
  /// The program sets SO_RCVBUF; twice the size it has named.
  open func setReceiveBuffer(_ byteCount: Int32) { receiveBufferByteCount.store(byteCount, ordering: .relaxed) }

  /// Sets an option (setsockopt).
  /// - Throws: ENOPROTOOPT: there is none of that name; EOPNOTSUPP: none of that level; EINVAL, EPERM, EDOM…
  open func setOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    guard level == OptionLevel.socket else { throw .EOPNOTSUPP }
    try setCommonOption(name, value, caller)
  }

  /// Answers about an option (getsockopt).
  /// - Throws: ENOPROTOOPT, EOPNOTSUPP…
  open func getOption(_ level: Int32, _ name: Int32, _ result: inout OptionResult) throws(Errno) {
    guard level == OptionLevel.socket else { throw .EOPNOTSUPP }
    try getCommonOption(name, &result)
  }

  /// Takes a control message of the socket's protocols that goes with a message to be sent.
  /// - Throws: EINVAL: it means nothing here.
  open func readControl(
    _ level: Int32, _ type: Int32, _ bytes: UnsafeRawBufferPointer, into message: inout OutgoingMessage
  ) throws(Errno) {
    guard level == OptionLevel.socket else { return }
    throw .EINVAL
  }

  /// Writes control messages about a message that has been received, but for open files and credentials.
  open func writeControl(_ message: IncomingMessage, _ writer: inout ControlWriter) throws(Errno) {}

  // MARK: What is the same for all

  /// Whether who sends where nobody receives any more gets SIGPIPE.
  public final var tellsBrokenPipes: Bool { kind == .stream || kind == .sequenced }

  /// Until when a call may wait.
  public final func deadline(_ timeout: borrowing Atomic<UInt64>, _ flags: MessageFlags) -> Deadline {
    if flags.contains(.noWait) || isNonBlocking { return .now }
    let time = timeout.load(ordering: .relaxed)
    return time == 0 ? .never : .after(time, from: Clock.now())
  }

  // SAFETY: set once at boot, before the first program; a closure that captures nothing.
  /// Who calls, where only bytes are given (write(2)). Set once, at boot.
  nonisolated(unsafe) public static var credentialsOfCaller: (() -> SocketCredentials)? = nil

  private static var currentCredentials: SocketCredentials {
    credentialsOfCaller?() ?? SocketCredentials(process: 0, user: 0, group: 0)
  }

  /// Whether who calls may change the network.
  static var isCallerPrivileged: Bool { currentCredentials.user == 0 }

  open override func writeData(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    try send(&transfer, OutgoingMessage(by: Self.currentCredentials), nil)
  }

  open override func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    try receive(&transfer, []).count
  }
  open override var pollSource: PollSource? { source }
}
