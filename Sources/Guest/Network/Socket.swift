// Socket: an open file with the operations of sockets. A family of protocols is a subclass; the calls of the layer above know only this.
//
// What all families have lives here: kinds, options that mean the same everywhere, time-outs. Operations default to what a socket
// says that cannot do them.
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
  /// Messages in order over a connection.
  case sequenced = 5
}

/// Modifiers of sending and receiving; the numbers are MSG_*.
public struct MessageFlags: OptionSet, Sendable {
  /// Linux's bits.
  public let rawValue: UInt32
  /// Flags from Linux's bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// MSG_OOB.
  public static var outOfBand: MessageFlags { MessageFlags(rawValue: 0x1) }
  /// MSG_PEEK: leave it there.
  public static var peek: MessageFlags { MessageFlags(rawValue: 0x2) }
  /// MSG_CTRUNC: control data did not fit.
  public static var controlTruncated: MessageFlags { MessageFlags(rawValue: 0x8) }
  /// MSG_TRUNC: the message did not fit; or say how long it is.
  public static var truncated: MessageFlags { MessageFlags(rawValue: 0x20) }
  /// MSG_DONTWAIT.
  public static var noWait: MessageFlags { MessageFlags(rawValue: 0x40) }
  /// MSG_EOR.
  public static var endOfRecord: MessageFlags { MessageFlags(rawValue: 0x80) }
  /// MSG_WAITALL: as much as was asked for.
  public static var all: MessageFlags { MessageFlags(rawValue: 0x100) }
  /// MSG_NOSIGNAL.
  public static var noSignal: MessageFlags { MessageFlags(rawValue: 0x4000) }
  /// MSG_CMSG_CLOEXEC.
  public static var closeOnExec: MessageFlags { MessageFlags(rawValue: 0x4000_0000) }
}

/// An address as programs give and get it: `sockaddr`, the family first.
public final class SocketAddress: Sendable {
  /// The longest (`sockaddr_storage`).
  public static let maximumByteCount = 128
  /// All its bytes.
  public let bytes: [UInt8]
  /// The address with these bytes.
  public init(_ bytes: [UInt8]) { self.bytes = bytes }
  /// AF_*; 0 if it is too short to say.
  public var family: UInt16 { bytes.count >= 2 ? bytes[0].u16 | bytes[1].u16 &<< 8 : 0 }
}

/// Who sends (`struct ucred`).
public struct SocketCredentials: BitwiseCopyable, Sendable {
  /// Process.
  public var process: Int32
  /// User.
  public var user: UInt32
  /// Group.
  public var group: UInt32
  /// These.
  public init(process: Int32, user: UInt32, group: UInt32) {
    (self.process, self.user, self.group) = (process, user, group)
  }
}

/// Open files on their way from one process to another: each counts as a descriptor of its file.
public final class FilesInFlight {
  /// The files.
  public let files: [OpenFile]

  /// Takes them along.
  public init(_ files: [OpenFile]) {
    self.files = files
    for file in files { file.descriptorAdded() }
  }

  deinit { for file in files { try? file.descriptorRemoved() } }
}

/// Who calls, as far as sockets need it.
public struct SocketCaller {
  /// From where it sees names.
  public let context: FileSystemContext
  /// Its rights.
  public let rights: Credentials
  /// Its process.
  public let process: Int32

  /// A caller.
  public init(context: FileSystemContext, rights: Credentials, process: Int32) {
    (self.context, self.rights, self.process) = (context, rights, process)
  }

  /// What others are told of it.
  public var credentials: SocketCredentials {
    SocketCredentials(process: process, user: rights.effectiveUserID, group: rights.effectiveGroupID)
  }
}

/// What goes with the bytes of a message that is sent.
public struct OutgoingMessage {
  /// Where to; nil: to whom the socket is connected.
  public var address: SocketAddress?
  /// How.
  public var flags: MessageFlags = []
  /// Open files to give along.
  public var files: FilesInFlight?
  /// Who sends.
  public var credentials: SocketCredentials
  /// A message by somebody.
  public init(by credentials: SocketCredentials) { self.credentials = credentials }
}

/// What comes with the bytes of a message.
public struct IncomingMessage {
  /// What the call returns: bytes, or with `MessageFlags.truncated` asked for, how many there were.
  public var count = 0
  /// What is to be said of it.
  public var flags: MessageFlags = []
  /// From where, if the sender has an address.
  public var address: SocketAddress?
  /// Open files.
  public var files: FilesInFlight?
  /// Who has sent it, if the socket wants to know.
  public var credentials: SocketCredentials?
  /// Nothing.
  public init() {}
}

/// A socket.
open class Socket: OpenFile {
  /// AF_*.
  public let family: Int32
  /// How it delivers.
  public let kind: SocketKind
  /// Tells when something can be done.
  public let source = PollSource()
  /// How long receiving and sending wait at most, ns; 0: for ever (SO_RCVTIMEO, SO_SNDTIMEO).
  public let receiveTimeout = Atomic<UInt64>(0)
  /// See `receiveTimeout`.
  public let sendTimeout = Atomic<UInt64>(0)
  /// SO_PASSCRED.
  public let wantsCredentials = Atomic<Bool>(false)
  /// SO_RCVBUF and options that are only remembered, by their numbers.
  public let receiveBufferByteCount = Atomic<Int32>(212_992)
  private let remembered = Atomic<UInt64>(0)

  /// A socket of a family.
  public init(family: Int32, kind: SocketKind, flags: OpenFlags) {
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
  /// Who is at the other end (SO_PEERCRED).
  open var peerCredentials: SocketCredentials { SocketCredentials(process: 0, user: .max, group: .max) }
  /// Takes the error that is waiting to be told (SO_ERROR).
  open func takeError() -> Errno? { nil }
  /// Whether it listens (SO_ACCEPTCONN).
  open var isListening: Bool { false }
  /// Bytes that may be on their way (SO_SNDBUF).
  open var sendBufferByteCount: Int {
    get { 212_992 }
    set {}
  }

  // MARK: What is the same for all

  /// Until when a call may wait.
  public final func deadline(_ timeout: borrowing Atomic<UInt64>, _ flags: MessageFlags) -> Deadline {
    if flags.contains(.noWait) || isNonBlocking { return .now }
    let time = timeout.load(ordering: .relaxed)
    return time == 0 ? .never : .after(time, from: Clock.now())
  }

  /// Whether an option with this number, below 64, is on.
  public final func isOn(option: UInt64) -> Bool { remembered.load(ordering: .relaxed) &>> option & 1 != 0 }
  /// Remembers an option.
  public final func set(option: UInt64, _ isOn: Bool) {
    if isOn {
      remembered.bitwiseOr(1 &<< option, ordering: .relaxed)
    } else {
      remembered.bitwiseAnd(~(1 &<< option), ordering: .relaxed)
    }
  }

  // SAFETY: set once at boot, before the first program; a closure that captures nothing.
  /// Who calls, where only bytes are given (write(2)). Set once, at boot.
  nonisolated(unsafe) public static var credentialsOfCaller: (() -> SocketCredentials)? = nil

  private static var currentCredentials: SocketCredentials {
    credentialsOfCaller?() ?? SocketCredentials(process: 0, user: 0, group: 0)
  }

  open override func writeData(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    try send(&transfer, OutgoingMessage(by: Self.currentCredentials), nil)
  }

  open override func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    try receive(&transfer, []).count
  }
  open override var pollSource: PollSource? { source }
}
