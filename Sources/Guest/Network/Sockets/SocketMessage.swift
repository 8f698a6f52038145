// What goes with the bytes that sockets send and receive: flags, addresses, open files, who sends, and control data of the protocols.
import Base
import Files
import Memory

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
  /// MSG_DONTROUTE: only to who is on the same link.
  public static var dontRoute: MessageFlags { MessageFlags(rawValue: 0x4) }
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
  /// MSG_CONFIRM: the neighbour has just answered.
  public static var confirm: MessageFlags { MessageFlags(rawValue: 0x800) }
  /// MSG_ERRQUEUE: what went wrong, not what was received.
  public static var errorQueue: MessageFlags { MessageFlags(rawValue: 0x2000) }
  /// MSG_NOSIGNAL.
  public static var noSignal: MessageFlags { MessageFlags(rawValue: 0x4000) }
  /// MSG_MORE: more will follow.
  public static var more: MessageFlags { MessageFlags(rawValue: 0x8000) }
  /// MSG_ZEROCOPY: send from the program's own pages.
  public static var zeroCopy: MessageFlags { MessageFlags(rawValue: 0x400_0000) }
  /// MSG_FASTOPEN: connect by sending.
  public static var fastOpen: MessageFlags { MessageFlags(rawValue: 0x2000_0000) }
  /// MSG_CMSG_CLOEXEC.
  public static var closeOnExec: MessageFlags { MessageFlags(rawValue: 0x4000_0000) }
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
  /// What control messages ask of Internet protocols.
  public var control = OutgoingControl()
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
  /// What the socket wants to tell in control messages.
  public var control = IncomingControl()
  /// Nothing.
  public init() {}
}

/// Control messages (`cmsghdr`) on their way to the program, one after another as long as there is room.
public struct ControlWriter {
  private let place: VirtualAddress
  private let room: UInt64
  /// Bytes written.
  public private(set) var used: UInt64 = 0
  /// Some did not fit (MSG_CTRUNC).
  public private(set) var isTruncated = false
  /// Bytes of a header.
  public static var headerByteCount: Int { 16 }

  /// A writer to program memory, which is not looked at before something is put there.
  /// - Parameter room: bytes that the program says there are, any number; no more than 2 GiB count.
  public init(at place: VirtualAddress, room: UInt64) {
    self.place = place
    self.room = place.rawValue == 0 ? 0 : min(room, 1 << 31)
  }

  /// Where the data of the next message would lie, and how many bytes of it fit; nil: none at all.
  public var next: (data: VirtualAddress, room: Int)? {
    room >= used &+ Self.headerByteCount.u64
      ? (place + (used.int &+ Self.headerByteCount), (room &- used).int &- Self.headerByteCount) : nil
  }

  /// Writes the header of a message whose data are there already.
  public mutating func finish(_ level: Int32, _ type: Int32, byteCount: Int) throws(Errno) {
    let start = place + used.int
    try UserSpan.write((Self.headerByteCount &+ byteCount).u64, at: start)
    try UserSpan.write(level, at: start + 8)
    try UserSpan.write(type, at: start + 12)
    used = min(used &+ (Self.headerByteCount &+ byteCount).u64.alignedUp(to: 8), room)
  }

  /// Writes a message, cut off where the room ends.
  /// - Throws: EFAULT.
  public mutating func put<T: BitwiseCopyable>(_ level: Int32, _ type: Int32, _ value: T) throws(Errno) {
    var copy = value
    try withUnsafeBytes(of: &copy) { (bytes) throws(Errno) in try put(level, type, bytes: bytes) }
  }

  /// Writes a message, cut off where the room ends.
  /// - Throws: EFAULT.
  public mutating func put(_ level: Int32, _ type: Int32, bytes: UnsafeRawBufferPointer) throws(Errno) {
    guard let next else {
      isTruncated = true
      return
    }
    let count = min(bytes.count, next.room)
    if count < bytes.count { isTruncated = true }
    try UserSpan(next.data, count: count).write(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
    try finish(level, type, byteCount: count)
  }

  /// Something did not fit.
  public mutating func truncate() { isTruncated = true }
}
