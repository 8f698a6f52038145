// What a program does with sockets, for tests.
import Base
import Files
import Locks
import Memory
import RamFS

@testable import Network

/// A program.
struct SocketClient {
  let caller: SocketCaller

  init(user: UInt32 = 0) {
    let context = FileSystemContext(mounts: MountTable(root: RamFileSystem()), umask: 0)
    caller = SocketCaller(context: context, rights: Credentials(userID: user, groupID: user), process: 7)
  }

  /// A socket that does not wait.
  func socket(_ family: Int32, _ type: Int32, _ number: Int32 = 0, _ stack: NetworkStack) throws(Errno) -> Socket {
    try SocketWish(family: family, type: type, protocolNumber: number).make(flags: .nonBlocking, caller, stack)
  }

  /// A socket of UDP.
  func udp(_ stack: NetworkStack, isV4: Bool = true) throws(Errno) -> UDPSocket {
    guard let result = try socket(isV4 ? 2 : 10, 2, 0, stack) as? UDPSocket else { throw .EPROTO }
    return result
  }

  /// A socket of UDP that is bound.
  func udp(_ stack: NetworkStack, _ address: IPAddress, _ port: UInt16, family: Int32? = nil) throws(Errno) -> UDPSocket
  {
    let result = try udp(stack, isV4: family == nil ? address.isV4 : family == 2)
    do throws(Errno) { try bind(result, address, port) } catch {
      result.closed()
      throw error
    }
    return result
  }

  /// As the family of the socket writes it.
  func name(_ socket: Socket, _ address: IPAddress, _ port: UInt16, scope: UInt32 = 0) -> SocketAddress {
    let end = InternetEndpoint(address, port: port, scope: scope)
    return socket.family == 2 ? end.sockaddr4 : end.sockaddr6
  }

  func bind(_ socket: Socket, _ address: IPAddress, _ port: UInt16) throws(Errno) {
    try socket.bind(name(socket, address, port), caller)
  }

  func connect(_ socket: Socket, _ address: IPAddress, _ port: UInt16) throws(Errno) {
    try socket.connect(name(socket, address, port), caller)
  }

  @discardableResult
  func send(
    _ socket: Socket, _ bytes: [UInt8], to end: (IPAddress, UInt16)? = nil, flags: MessageFlags = [],
    control: OutgoingControl = OutgoingControl(), address: SocketAddress? = nil
  ) throws(Errno) -> Int {
    var message = OutgoingMessage(by: caller.credentials)
    message.flags = flags
    message.control = control
    message.address = address
    if let end { message.address = name(socket, end.0, end.1) }
    return try bytes.withUnsafeBufferPointer { (buffer) throws(Errno) in
      var transfer = Transfer(kernelSource: UnsafeRawBufferPointer(buffer))
      return try socket.send(&transfer, message, caller)
    }
  }

  /// Receives.
  func receive(_ socket: Socket, _ count: Int = 70_000, _ flags: MessageFlags = []) throws(Errno) -> (
    bytes: [UInt8], message: IncomingMessage
  ) {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 1), alignment: 8)
    defer { buffer.deallocate() }
    var transfer = Transfer(kernel: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]))
    let message = try socket.receive(&transfer, flags)
    return (Array(buffer[..<min(message.count, count)]), message)
  }

  /// Everything that is there.
  func receiveAll(_ socket: Socket) -> [[UInt8]] {
    var result: [[UInt8]] = []
    while let got = try? receive(socket) { result.append(got.bytes) }
    return result
  }

  func set(_ socket: Socket, _ level: Int32, _ name: Int32, _ numbers: Int32...) throws(Errno) {
    try numbers.withUnsafeBufferPointer { (buffer) throws(Errno) in
      try socket.setOption(level, name, OptionValue(UnsafeRawBufferPointer(buffer)), caller)
    }
  }

  func set(_ socket: Socket, _ level: Int32, _ name: Int32, bytes: [UInt8]) throws(Errno) {
    try bytes.withUnsafeBufferPointer { (buffer) throws(Errno) in
      try socket.setOption(level, name, OptionValue(UnsafeRawBufferPointer(buffer)), caller)
    }
  }

  func get(_ socket: Socket, _ level: Int32, _ name: Int32) throws(Errno) -> Int32 {
    var buffer = [64 of UInt64](repeating: 0)
    return try withUnsafeMutableBytes(of: &buffer) { (bytes) throws(Errno) in
      var result = OptionResult(room: 512, buffer: bytes)
      try socket.getOption(level, name, &result)
      return bytes.load(as: Int32.self)
    }
  }
}

extension Socket {
  /// Its port.
  var port: UInt16 {
    guard let address = try? address() else { return 0 }
    return (family == 2 ? InternetEndpoint(sockaddr4: address) : InternetEndpoint(sockaddr6: address)).port
  }
}

extension IncomingMessage {
  /// Who has sent it.
  var sender: InternetEndpoint? {
    address.map { $0.family == 2 ? InternetEndpoint(sockaddr4: $0) : InternetEndpoint(sockaddr6: $0) }
  }
}
