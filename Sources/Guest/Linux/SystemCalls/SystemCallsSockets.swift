// System calls about sockets: making, naming, connecting. Their messages are in SystemCallsMessages, options in SystemCallsSocketOptions.
import Base
import Files
import Locks
import Memory
import Network

extension SystemCall {
  /// The socket of the first argument.
  /// - Throws: EBADF, ENOTSOCK.
  func socketFile() throws(Errno) -> Socket {
    guard let socket = try file() as? Socket else { throw .ENOTSOCK }
    return socket
  }

  var socketCaller: SocketCaller {
    SocketCaller(context: context, rights: credentials, process: process.identifier)
  }

  /// An address that the program gives.
  func socketAddress(at address: VirtualAddress, byteCount: UInt64) throws(Errno) -> SocketAddress {
    guard byteCount.i32 >= 0, byteCount.i32 <= SocketAddress.maximumByteCount else { throw .EINVAL }
    let count = byteCount.i32.int
    let span = try UserSpan(address, count: count)
    if count <= SocketAddress.inlineByteCount {
      var words: [4 of UInt64] = .init(repeating: 0)
      return try withUnsafeMutableBytes(of: &words) { (buffer) throws(Errno) in
        try span.read(into: buffer)
        return SocketAddress(short: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
      }
    }
    var bytes = [UInt8](repeating: 0, count: count)
    try bytes.withUnsafeMutableBytesThrowing { (buffer) throws(Errno) in try span.read(into: buffer) }
    return SocketAddress(bytes)
  }

  /// Gives the program an address, as much as fits, and its whole length.
  func store(_ socketAddress: SocketAddress, at address: VirtualAddress, countAt place: VirtualAddress) throws(Errno) {
    let room = try UserSpan.read(Int32.self, at: place)
    guard room >= 0 else { throw .EINVAL }
    try store(socketAddress, at: address, room: room.int)
    try UserSpan.write(socketAddress.byteCount.i32, at: place)
  }

  /// Gives the program as much of an address as there is room for.
  func store(_ socketAddress: SocketAddress, at address: VirtualAddress, room: Int) throws(Errno) {
    let count = min(room, socketAddress.byteCount)
    try socketAddress.withBytes { (bytes) throws(Errno) in
      try UserSpan(address, count: count).write(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
    }
  }

  // MARK: Making

  private func socketFlags() throws(Errno) -> OpenFlags {
    let flags = OpenFlags(rawValue: argument1.u32 & ~0xf)
    guard flags.subtracting([.closeOnExec, .nonBlocking]).isEmpty else { throw .EINVAL }
    return flags
  }

  private func install(_ socket: Socket, _ flags: OpenFlags) throws(Errno) -> Int {
    do throws(Errno) {
      return try process.descriptors.install(socket, closeOnExec: flags.contains(.closeOnExec))
    } catch {
      // Nobody else will: whoever has connected to it learns that nobody is there.
      socket.closed()
      throw error
    }
  }

  func socket() throws(Errno) -> Int {
    let flags = try socketFlags()
    let wish = SocketWish(family: argument0.i32, type: argument1.i32 & 0xf, protocolNumber: argument2.i32)
    return try install(try wish.make(flags: flags, socketCaller, .main), flags)
  }

  func socketpair() throws(Errno) -> Int {
    let flags = try socketFlags()
    let wish = SocketWish(family: argument0.i32, type: argument1.i32 & 0xf, protocolNumber: argument2.i32)
    let (one, two) = try wish.makePair(flags: flags, socketCaller, .main)
    let first: Int
    do throws(Errno) { first = try install(one, flags) } catch {
      two.closed()
      throw error
    }
    do throws(Errno) {
      let second = try install(two, flags)
      do throws(Errno) {
        let both: [2 of Int32] = [first.i32, second.i32]
        try UserSpan.write(both, at: address3)
      } catch {
        try? process.descriptors.close(second)
        throw error
      }
    } catch {
      try? process.descriptors.close(first)
      throw error
    }
    return 0
  }

  // MARK: Names and connections

  func bind() throws(Errno) -> Int {
    try socketFile().bind(try socketAddress(at: address1, byteCount: argument2), socketCaller)
    return 0
  }

  func listen() throws(Errno) -> Int {
    // A negative number is a large one.
    let backlog = argument1.i32 < 0 ? Int(Int32.max) : argument1.i32.int
    try socketFile().listen(backlog: backlog, socketCaller)
    return 0
  }

  func connect() throws(Errno) -> Int {
    try socketFile().connect(try socketAddress(at: address1, byteCount: argument2), socketCaller)
    return 0
  }

  func accept() throws(Errno) -> Int { try accept([]) }
  func accept4() throws(Errno) -> Int {
    let flags = OpenFlags(rawValue: argument3.u32)
    guard flags.subtracting([.closeOnExec, .nonBlocking]).isEmpty else { throw .EINVAL }
    return try accept(flags)
  }

  private func accept(_ flags: OpenFlags) throws(Errno) -> Int {
    let listener = try socketFile()
    // A connection that finds no number waits for one.
    try process.descriptors.checkRoom()
    let accepted = try listener.accept(flags: flags)
    let descriptor = try install(accepted, flags)
    if !address1.isNull {
      do throws(Errno) {
        try store(accepted.acceptedAddress, at: address1, countAt: address2)
      } catch {
        try? process.descriptors.close(descriptor)
        throw error
      }
    }
    return descriptor
  }

  func shutdown() throws(Errno) -> Int {
    let socket = try socketFile()
    guard argument1.i32 >= 0, argument1.i32 <= 2 else { throw .EINVAL }
    try socket.shutdown(receiving: argument1.i32 != 1, sending: argument1.i32 != 0)
    return 0
  }

  func getsockname() throws(Errno) -> Int {
    try store(try socketFile().address(), at: address1, countAt: address2)
    return 0
  }

  func getpeername() throws(Errno) -> Int {
    try store(try socketFile().peerAddress(), at: address1, countAt: address2)
    return 0
  }
}

extension Array where Element == UInt8 {
  // SAFETY: the array's own elements, for as long as the body runs.
  /// The array's bytes, for a body that fills them and throws an `Errno`.
  mutating func withUnsafeMutableBytesThrowing<R>(_ body: (UnsafeMutableRawBufferPointer) throws(Errno) -> R)
    throws(Errno) -> R
  {
    try withUnsafeMutableBufferPointer { (buffer) throws(Errno) in try body(UnsafeMutableRawBufferPointer(buffer)) }
  }
}
