// Messages of netlink (netlink(7), RFC 3549): a header, a structure, attributes; all in the machine's byte order, all aligned to 4.
import Base

/// The header of a message (`struct nlmsghdr`).
struct NetlinkHeader: BitwiseCopyable {
  static let byteCount = 16

  /// Bytes of the message with its header.
  var messageByteCount: UInt32
  /// What it is.
  var type: UInt16
  /// NLM_F_*.
  var flags: UInt16
  /// Which request it is, or belongs to.
  var sequence: UInt32
  /// Who sends: a socket's number, or 0 for the kernel.
  var port: UInt32

  /// NLM_F_REQUEST.
  static let request: UInt16 = 1
  /// NLM_F_MULTI: a part of an answer that ends with `done`.
  static let multiple: UInt16 = 2
  /// NLM_F_ACK: the request wants to hear that it was done.
  static let acknowledged: UInt16 = 4
  /// NLM_F_ROOT and NLM_F_MATCH: all there is.
  static let dump: UInt16 = 0x300
  /// NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE.
  static let replace: UInt16 = 0x100
  static let exclusive: UInt16 = 0x200
  static let create: UInt16 = 0x400

  /// NLMSG_ERROR, NLMSG_DONE, and the first type that is not netlink's own.
  static let error: UInt16 = 2
  static let done: UInt16 = 3
  static let firstType: UInt16 = 16
}

/// A request of a program.
struct NetlinkRequest {
  let header: NetlinkHeader
  /// What follows the header.
  let body: UnsafeRawBufferPointer
  /// The number of the socket that asks.
  let port: UInt32
  /// Its user may change the network.
  let isPrivileged: Bool

  var type: UInt16 { header.type }
  var isDump: Bool { header.flags & NetlinkHeader.dump == NetlinkHeader.dump }

  /// The structure that the body begins with.
  /// - Throws: EINVAL: it is shorter.
  func structure<T: BitwiseCopyable>(_ type: T.Type) throws(Errno) -> T {
    guard body.count >= MemoryLayout<T>.size else { throw .EINVAL }
    return body.loadUnaligned(as: type)
  }

  /// The first byte of the body, which is the family in most messages; 0 if there is none.
  var family: UInt8 { body.isEmpty ? 0 : body[0] }

  /// The data of the attribute with that number behind a structure of so many bytes; nil if there is none.
  func attribute(_ wanted: UInt16, behind offset: Int) -> UnsafeRawBufferPointer? {
    var place = offset.alignedUp(to: 4)
    while place &+ 4 <= body.count {
      let byteCount = body.loadUnaligned(fromByteOffset: place, as: UInt16.self).int
      let type = body.loadUnaligned(fromByteOffset: place &+ 2, as: UInt16.self)
      guard byteCount >= 4, place &+ byteCount <= body.count else { return nil }
      // The two upper bits say how the data is nested and ordered.
      if type & 0x3fff == wanted { return UnsafeRawBufferPointer(rebasing: body[place &+ 4..<place &+ byteCount]) }
      place &+= byteCount.alignedUp(to: 4)
    }
    return nil
  }

  /// An attribute that is a number.
  func number(_ wanted: UInt16, behind offset: Int) -> UInt32? {
    guard let bytes = attribute(wanted, behind: offset), bytes.count >= 4 else { return nil }
    return bytes.loadUnaligned(as: UInt32.self)
  }

  /// An attribute that is an address of either family.
  func address(_ wanted: UInt16, behind offset: Int) -> IPAddress? {
    guard let bytes = attribute(wanted, behind: offset), let start = bytes.baseAddress else { return nil }
    switch bytes.count {
    case 4: return IPAddress(readingV4: start)
    case 16: return IPAddress(readingV6: start)
    default: return nil
    }
  }
}

/// Answers in the making: messages one behind the other, divided into as many datagrams as it takes.
struct NetlinkAnswer {
  /// Bytes of a datagram that nothing is added to any more.
  private static let fullByteCount = 3584

  private let request: NetlinkRequest
  /// Datagrams that are complete.
  private(set) var datagrams: [[UInt8]] = []
  private var bytes: [UInt8] = []
  private var start = 0
  private var flags: UInt16

  init(_ request: NetlinkRequest) {
    self.request = request
    flags = request.isDump ? NetlinkHeader.multiple : 0
  }

  /// Adds a message of a type with a structure; the body adds its attributes.
  mutating func add<T: BitwiseCopyable>(
    _ type: UInt16, _ structure: T, _ body: (inout NetlinkAnswer) -> Void = { _ in }
  ) {
    begin(type)
    put(structure)
    align()
    body(&self)
    end()
  }

  private mutating func begin(_ type: UInt16) {
    if bytes.count >= Self.fullByteCount { finishDatagram() }
    start = bytes.count
    put(
      NetlinkHeader(
        messageByteCount: 0, type: type, flags: flags, sequence: request.header.sequence, port: request.port))
  }

  private mutating func end() {
    var count = (bytes.count &- start).u32
    align()
    for index in 0..<4 {
      bytes[start &+ index] = count.u8
      count &>>= 8
    }
  }

  private mutating func finishDatagram() {
    if bytes.isEmpty { return }
    datagrams.append(bytes)
    bytes = []
  }

  private mutating func put<T: BitwiseCopyable>(_ value: T) {
    var copy = value
    withUnsafeBytes(of: &copy) { bytes.append(contentsOf: $0) }
  }

  private mutating func align() { while bytes.count & 3 != 0 { bytes.append(0) } }

  /// Adds an attribute: a number or a structure.
  mutating func attribute<T: BitwiseCopyable>(_ type: UInt16, _ value: T) {
    var copy = value
    withUnsafeBytes(of: &copy) { attribute(type, bytes: $0) }
  }

  /// Adds an attribute of bytes.
  mutating func attribute(_ type: UInt16, bytes data: UnsafeRawBufferPointer) {
    align()
    put((data.count &+ 4).u16)
    put(type)
    bytes.append(contentsOf: data)
    align()
  }

  /// Adds an attribute that is a text with a NUL behind.
  mutating func attribute(_ type: UInt16, text: [UInt8]) {
    (text + [0]).withUnsafeBufferPointer { attribute(type, bytes: UnsafeRawBufferPointer($0)) }
  }

  /// Adds an attribute that is an address.
  mutating func attribute(_ type: UInt16, _ address: IPAddress) {
    var words: [2 of UInt64] = .init(repeating: 0)
    withUnsafeMutableBytes(of: &words) { buffer in
      let start = buffer.baseAddress.unsafelyUnwrapped
      if address.isV4 { address.writeV4(to: start) } else { address.writeV6(to: start) }
      attribute(type, bytes: UnsafeRawBufferPointer(rebasing: buffer[..<(address.isV4 ? 4 : 16)]))
    }
  }

  /// Ends an answer of several messages.
  mutating func done() {
    add(NetlinkHeader.done, 0 as Int32)
    finishDatagram()
  }

  /// Ends an answer of one message, or of none.
  mutating func finish() { finishDatagram() }

  /// Says how a request has ended, with the request's header, and, of an error, the rest of it too.
  mutating func acknowledge(_ error: Errno?) {
    flags = 0
    begin(NetlinkHeader.error)
    put(-(error?.rawValue ?? 0) as Int32)
    put(request.header)
    if error != nil { bytes.append(contentsOf: request.body) }
    end()
    finishDatagram()
  }
}
