// getsockopt and setsockopt: the options of level SOL_SOCKET.
import Base
import Files
import Memory
import Network

extension SystemCall {
  private enum Option {
    static let level: Int32 = 1
    static let reuseAddress: Int32 = 2
    static let type: Int32 = 3
    static let error: Int32 = 4
    static let dontRoute: Int32 = 5
    static let broadcast: Int32 = 6
    static let sendBuffer: Int32 = 7
    static let receiveBuffer: Int32 = 8
    static let keepAlive: Int32 = 9
    static let priority: Int32 = 12
    static let linger: Int32 = 13
    static let reusePort: Int32 = 15
    static let passCredentials: Int32 = 16
    static let peerCredentials: Int32 = 17
    static let receiveLowMark: Int32 = 18
    static let sendLowMark: Int32 = 19
    static let receiveTimeout: Int32 = 20
    static let sendTimeout: Int32 = 21
    static let acceptsConnections: Int32 = 30
    static let sendBufferForced: Int32 = 32
    static let receiveBufferForced: Int32 = 33
    static let protocolNumber: Int32 = 38
    static let domain: Int32 = 39
    /// The largest that a program gets, before it is doubled (net.core.wmem_max, rmem_max).
    static let mostBuffer: Int32 = 212_992
  }

  func setsockopt() throws(Errno) -> Int {
    let socket = try socketFile()
    guard argument4.i32 >= 0 else { throw .EINVAL }
    guard argument1.i32 == Option.level else { throw .EOPNOTSUPP }
    let option = argument2.i32
    switch option {
    case Option.receiveTimeout, Option.sendTimeout:
      guard argument4.i32 >= 16 else { throw .EINVAL }
      let time = try UserSpan.read(TimeValue.self, at: address3)
      guard time.microseconds >= 0, time.microseconds < 1_000_000 else { throw .EDOM }
      let total = time.seconds < 0 ? 0 : time.seconds.u64 &* 1_000_000_000 &+ time.microseconds.u64 &* 1000
      if option == Option.receiveTimeout {
        socket.receiveTimeout.store(total, ordering: .relaxed)
      } else {
        socket.sendTimeout.store(total, ordering: .relaxed)
      }
      return 0
    default: break
    }
    guard argument4.i32 >= 4 else { throw .EINVAL }
    let value = try UserSpan.read(Int32.self, at: address3)
    switch option {
    case Option.sendBuffer: socket.sendBufferByteCount = max(min(value, Option.mostBuffer) &* 2, 4608).int
    case Option.receiveBuffer:
      socket.receiveBufferByteCount.store(max(min(value, Option.mostBuffer) &* 2, 2304), ordering: .relaxed)
    case Option.sendBufferForced, Option.receiveBufferForced:
      guard credentials.isPrivileged else { throw .EPERM }
      let size = max(value, 0) < Int32.max / 2 ? max(value &* 2, 4608) : Int32.max
      if option == Option.sendBufferForced {
        socket.sendBufferByteCount = size.int
      } else {
        socket.receiveBufferByteCount.store(size, ordering: .relaxed)
      }
    case Option.passCredentials: socket.wantsCredentials.store(value != 0, ordering: .relaxed)
    case Option.linger:
      guard argument4.i32 >= 8 else { throw .EINVAL }
      socket.set(option: option.u64, value != 0)
    case Option.reuseAddress, Option.dontRoute, Option.broadcast, Option.keepAlive, Option.reusePort, Option.priority,
      Option.receiveLowMark:
      socket.set(option: option.u64, value != 0)
    default: throw .ENOPROTOOPT
    }
    return 0
  }

  func getsockopt() throws(Errno) -> Int {
    let socket = try socketFile()
    let room = try UserSpan.read(Int32.self, at: address4)
    guard room >= 0 else { throw .EINVAL }
    guard argument1.i32 == Option.level else { throw .EOPNOTSUPP }
    let option = argument2.i32
    let value: Int32
    switch option {
    case Option.type: value = socket.kind.rawValue
    case Option.error: value = socket.takeError()?.rawValue.i32 ?? 0
    case Option.sendBuffer: value = socket.sendBufferByteCount.i32
    case Option.receiveBuffer: value = socket.receiveBufferByteCount.load(ordering: .relaxed)
    case Option.passCredentials: value = socket.wantsCredentials.load(ordering: .relaxed) ? 1 : 0
    case Option.acceptsConnections: value = socket.isListening ? 1 : 0
    case Option.protocolNumber: value = 0
    case Option.domain: value = socket.family
    case Option.receiveLowMark, Option.sendLowMark: value = 1
    case Option.reuseAddress, Option.dontRoute, Option.broadcast, Option.keepAlive, Option.reusePort, Option.priority:
      value = socket.isOn(option: option.u64) ? 1 : 0
    case Option.peerCredentials: return try give(socket.peerCredentials, room)
    case Option.linger:
      let both: [2 of Int32] = [socket.isOn(option: option.u64) ? 1 : 0, 0]
      return try give(both, room)
    case Option.receiveTimeout: return try give(TimeValue(socket.receiveTimeout.load(ordering: .relaxed)), room)
    case Option.sendTimeout: return try give(TimeValue(socket.sendTimeout.load(ordering: .relaxed)), room)
    default: throw .ENOPROTOOPT
    }
    return try give(value, room)
  }

  /// Gives as much of an option's value as there is room for.
  private func give<T: BitwiseCopyable>(_ value: T, _ room: Int32) throws(Errno) -> Int {
    let count = min(room.int, MemoryLayout<T>.size)
    let span = try UserSpan(address3, count: count)
    var value = value
    try withUnsafeBytesThrowing(of: &value) { (bytes) throws(Errno) in
      try span.write(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
    }
    try UserSpan.write(count.i32, at: address4)
    return 0
  }
}
