// Options of SOL_SOCKET, values on their way, and addresses as values.
import Base
import Files
import Memory
import RamFS
import Testing

@testable import Network

@Suite struct SocketOptionTests {
  let socket = UnixSocket(kind: .stream, flags: [])
  let root = SocketCaller(
    context: FileSystemContext(mounts: MountTable(root: RamFileSystem()), umask: 0), rights: Credentials(), process: 7)
  let user = SocketCaller(
    context: FileSystemContext(mounts: MountTable(root: RamFileSystem()), umask: 0),
    rights: Credentials(userID: 5, groupID: 5), process: 7)

  func set(_ name: Int32, _ numbers: [Int32], _ caller: SocketCaller? = nil) throws(Errno) {
    try numbers.withUnsafeBufferPointer { (buffer) throws(Errno) in
      try socket.setOption(OptionLevel.socket, name, OptionValue(UnsafeRawBufferPointer(buffer)), caller ?? root)
    }
  }

  func get(_ name: Int32, room: Int = 64) throws(Errno) -> [Int32] {
    var buffer = [64 of UInt64](repeating: 0)
    return try withUnsafeMutableBytes(of: &buffer) { (bytes) throws(Errno) in
      var result = OptionResult(room: room, buffer: bytes)
      try socket.getOption(OptionLevel.socket, name, &result)
      return result.bytes.count < 4 ? [Int32(result.bytes.count)] : Array(result.bytes.bindMemory(to: Int32.self))
    }
  }

  /// What a program says of its room may be any number.
  @Test(arguments: [UInt64.max, 1 << 63, 1 << 32]) func controlMessagesHaveRoom(_ room: UInt64) throws {
    let next = try #require(ControlWriter(at: VirtualAddress(0x1000), room: room).next)
    #expect(next.room > 1 << 20)
  }

  @Test func numbers() throws {
    #expect(try get(SocketOption.type) == [1])
    #expect(try get(SocketOption.domain) == [1])
    for name in [SocketOption.reuseAddress, SocketOption.keepAlive, SocketOption.reusePort] {
      #expect(try get(name) == [0])
      try set(name, [7])
      #expect(try get(name) == [1])
    }
    #expect(try get(SocketOption.reuseAddress, room: 2) == [2])  // Cut off.
    #expect(throws: Errno.ENOPROTOOPT) { try set(999, [1]) }
    #expect(throws: Errno.ENOPROTOOPT) { try get(999) }
    #expect(throws: Errno.EINVAL) { try set(SocketOption.reuseAddress, []) }
    #expect(throws: Errno.ENOPROTOOPT) { try set(SocketOption.sendLowMark, [1]) }
    try set(SocketOption.receiveLowMark, [0])
    #expect(try get(SocketOption.receiveLowMark) == [1])
  }

  @Test func buffers() throws {
    try set(SocketOption.sendBuffer, [20_000])
    #expect(try get(SocketOption.sendBuffer) == [40_000])
    try set(SocketOption.sendBuffer, [1])
    #expect(try get(SocketOption.sendBuffer) == [4608])
    try set(SocketOption.receiveBuffer, [-1])
    #expect(try get(SocketOption.receiveBuffer) == [425_984])
    try set(SocketOption.receiveBufferForced, [1_000_000])
    #expect(try get(SocketOption.receiveBuffer) == [2_000_000])
    #expect(throws: Errno.EPERM) { try set(SocketOption.receiveBufferForced, [1_000_000], user) }
  }

  @Test func structures() throws {
    #expect(try get(SocketOption.linger) == [0, 0])
    try set(SocketOption.linger, [1, 30])
    #expect(try get(SocketOption.linger) == [1, 30])
    #expect(throws: Errno.EINVAL) { try set(SocketOption.linger, [1]) }
    try set(SocketOption.receiveTimeout, [2, 0, 500_000, 0])
    #expect(try get(SocketOption.receiveTimeout) == [2, 0, 500_000, 0])
    #expect(throws: Errno.EDOM) { try set(SocketOption.sendTimeout, [2, 0, 1_000_000, 0]) }
    #expect(throws: Errno.EINVAL) { try set(SocketOption.sendTimeout, [2, 0]) }
    let cookie = try get(SocketOption.cookie)
    #expect(try get(SocketOption.cookie) == cookie)
  }

  /// Each as Linux 6.18 answers: SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW, SO_TIMESTAMPING, SO_TIMESTAMPING_NEW.
  @Test(
    arguments: [
      ([(29, 1)], [1, 0, 0, 0, 0, 0]), ([(35, 1)], [0, 1, 0, 0, 0, 0]), ([(63, 1)], [0, 0, 1, 0, 0, 0]),
      ([(64, 1)], [0, 0, 1, 1, 0, 0]), ([(37, 8)], [0, 0, 0, 0, 8, 0]), ([(65, 8)], [0, 0, 0, 0, 8, 8]),
      ([(29, 1), (63, 1)], [0, 0, 1, 0, 0, 0]), ([(64, 1), (29, 1)], [1, 0, 0, 0, 0, 0]),
      ([(64, 1), (35, 0)], [0, 0, 0, 0, 0, 0]), ([(35, 1), (63, 0)], [0, 0, 0, 0, 0, 0]),
      ([(29, 1), (65, 8)], [0, 0, 1, 0, 8, 8]), ([(65, 8), (29, 1)], [1, 0, 0, 0, 8, 0]),
      ([(63, 1), (37, 8)], [1, 0, 0, 0, 8, 0]), ([(65, 8), (29, 0)], [0, 0, 0, 0, 8, 8]),
      ([(37, 8), (65, 0)], [0, 0, 0, 0, 0, 0]),
    ] as [([(Int32, Int32)], [Int32])]) func times(_ settings: [(Int32, Int32)], _ answers: [Int32]) throws
  {
    for (name, value) in settings { try set(name, [value]) }
    let names = [
      SocketOption.timestamp, SocketOption.timestampNanoseconds, SocketOption.timestampNew,
      SocketOption.timestampNanosecondsNew, SocketOption.timestamping, SocketOption.timestampingNew,
    ]
    for (name, answer) in zip(names, answers) { #expect(try get(name) == [answer], "\(name)") }
  }

  @Test func rights() throws {
    try set(SocketOption.priority, [6], user)
    #expect(throws: Errno.EPERM) { try set(SocketOption.priority, [7], user) }
    #expect(throws: Errno.EPERM) { try set(SocketOption.mark, [1], user) }
    try set(SocketOption.mark, [1])
    #expect(try get(SocketOption.mark) == [1])
  }

  @Test(arguments: [0, 1, 2, 16, 28, 32, 33, 110, 128]) func addresses(count: Int) {
    let bytes = (0..<count).map { UInt8($0 + 1) }
    let address = SocketAddress(bytes)
    #expect(address.byteCount == count && address.bytes == bytes)
    #expect(address.withBytes { Array($0) } == bytes)
    #expect(address == SocketAddress(bytes))
    #expect(address.family == (count >= 2 ? 0x201 : 0))
    guard count > 0 else { return }
    var other = bytes
    other[count - 1] ^= 1
    #expect(address != SocketAddress(other))
    #expect(address != SocketAddress(Array(bytes.dropLast())))
  }
}
