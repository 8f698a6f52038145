// Devices: what reads and writes of each do, what the standard streams look like.
import Base
import DevFS
import Files
import Memory
import Testing

/// An endpoint in memory.
final class FakeEndpoint: ConsoleEndpoint {
  var input: [UInt8] = []
  var output: [UInt8] = []
  let isTerminal: Bool
  let pollSource = PollSource()
  let windowSize = WindowSize(columns: 80, rows: 25)

  init(isTerminal: Bool) { self.isTerminal = isTerminal }

  var readyMask: ReadyMask { input.isEmpty ? .writable : [.readable, .writable] }
  var readableByteCount: Int { input.count }

  func read(into transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
    let taken = Array(input.prefix(transfer.remaining))
    input.removeFirst(taken.count)
    return try taken.withUnsafeBufferPointer { (bytes) throws(Errno) in
      try transfer.copyOut(from: UnsafeRawBufferPointer(bytes))
    }
  }

  func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
    var bytes = [UInt8](repeating: 0, count: transfer.remaining)
    let count = bytes.count
    _ = try bytes.withUnsafeMutableBufferPointer { (buffer) throws(Errno) in
      try transfer.copyIn(into: UnsafeMutableRawBufferPointer(buffer))
    }
    output += bytes
    return count
  }
}

extension OpenFile {
  func write(_ bytes: [UInt8]) throws(Errno) -> Int {
    try bytes.withUnsafeBufferPointer { (buffer) throws(Errno) in
      var transfer = Transfer(kernelSource: UnsafeRawBufferPointer(buffer))
      return try write(from: &transfer)
    }
  }

  func read(_ count: Int) throws(Errno) -> [UInt8] {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 8)
    buffer.initializeMemory(as: UInt8.self, repeating: 0x55)
    defer { buffer.deallocate() }
    var transfer = Transfer(kernel: buffer)
    return Array(buffer[..<(try read(into: &transfer))])
  }
}

@Suite struct DeviceTests {
  let terminal = FakeEndpoint(isTerminal: true)
  let pipe = FakeEndpoint(isTerminal: false)
  let devices: DeviceFileSystem
  let context: FileSystemContext

  init() {
    devices = DeviceFileSystem(
      random: { bytes in for index in bytes.indices { bytes[index] = UInt8(truncatingIfNeeded: index) } },
      input: terminal, output: terminal)
    context = FileSystemContext(mounts: MountTable(root: devices))
  }

  func open(_ name: StaticString, _ flags: OpenFlags = .readWrite) throws(Errno) -> OpenFile {
    try context.open(PathBytes(name), from: context.root, flags, Credentials(userID: 5, groupID: 5))
  }

  @Test func withoutHardware() throws {
    #expect(try open("null").read(10) == [])
    #expect(try open("null", [.writeOnly, .truncate, .create]).write([1, 2]) == 2)
    #expect(try open("zero").read(5) == [0, 0, 0, 0, 0])
    #expect(try open("full").read(2) == [0, 0])
    #expect(throws: Errno.ENOSPC) { _ = try open("full").write([1]) }
    #expect(try open("urandom").read(300) == (0..<300).map { UInt8(truncatingIfNeeded: $0 % 256) })
    #expect(try open("random").write([1]) == 1)
    let attributes = try open("null").getAttributes()
    #expect(attributes.mode == 0o20666)
    #expect(DeviceNumber.major(attributes.specialDevice) == 1)
    #expect(DeviceNumber.minor(attributes.specialDevice) == 3)
    #expect(throws: Errno.ENOTTY) { _ = try open("null").control(0x5401, 0) }
    #expect(
      try context.readLink(PathBytes("stdin"), from: context.root, Credentials()) == Array("/proc/self/fd/0".utf8))
    #expect(throws: Errno.EROFS) {
      try context.makeDirectory(PathBytes("x"), from: context.root, mode: 0, Credentials())
    }
  }

  @Test func terminals() throws {
    let mount = context.root.mount
    let stream = devices.standardStream(terminal, isInput: true, mount: mount)
    #expect(try stream.getAttributes().type == .characterDevice)
    #expect(stream.location.path(from: nil) == Array("/console".utf8))
    terminal.input = [1, 2, 3]
    #expect(stream.readyMask.contains(.readable))
    #expect(try stream.read(2) == [1, 2])
    #expect(try stream.write([7]) == 1)
    #expect(terminal.output == [7])
    #expect(throws: Errno.ESPIPE) { try stream.seek(0, from: .start) }
    var size: [UInt16] = [0, 0, 0, 0]
    #expect(try stream.control(0x5413, size.withUnsafeMutableBytes { UInt64(UInt(bitPattern: $0.baseAddress!)) }) == 0)
    #expect(size == [25, 80, 0, 0])
    var modes = [UInt8](repeating: 0xee, count: 40)
    let address = modes.withUnsafeMutableBytes { UInt64(UInt(bitPattern: $0.baseAddress!)) }
    #expect(try stream.control(0x5401, address) == 0)
    #expect(modes[36] == 0xee && modes[35] == 0)
    #expect(try stream.control(0x5402, address) == 0)
    let error = FakeEndpoint(isTerminal: true)
    let second = devices.standardStream(error, isInput: false, mount: mount)
    _ = try second.write([9])
    #expect(error.output == [9])
    #expect(try second.getAttributes().inode == stream.getAttributes().inode)
    #expect(try open("tty").write([8]) == 1)
  }

  @Test func streamsThatAreNoTerminals() throws {
    let stream = devices.standardStream(pipe, isInput: false, mount: context.root.mount)
    #expect(try stream.getAttributes().type == .fifo)
    #expect(throws: Errno.ENOTTY) { _ = try stream.control(0x5401, 0) }
    #expect(throws: Errno.EBADF) { _ = try stream.read(1) }
    #expect(try stream.write([1, 2]) == 2)
    #expect(pipe.output == [1, 2])
    let other = DeviceFileSystem(random: { _ in }, input: pipe, output: pipe)
    let context = FileSystemContext(mounts: MountTable(root: other))
    #expect(throws: Errno.ENXIO) {
      _ = try context.open(PathBytes("tty"), from: context.root, .readWrite, Credentials())
    }
    #expect(throws: Errno.ENOTTY) {
      _ = try context.open(PathBytes("console"), from: context.root, .readWrite, Credentials()).control(0x5413, 0)
    }
  }
}
