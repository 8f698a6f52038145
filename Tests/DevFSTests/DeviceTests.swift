// Devices: what reads and writes of each do, what the standard streams look like.
import Base
import DevFS
import Files
import Locks
import Memory
import Testing

/// An endpoint in memory.
final class FakeEndpoint: ConsoleEndpoint {
  var input: [UInt8] = []
  var output: [UInt8] = []
  let isTerminal: Bool
  let pollSource = PollSource()
  var state = TerminalState()
  var isBackground = false
  /// What a write has failed with that nobody has been told of.
  var failure: Errno?

  init(isTerminal: Bool) {
    self.isTerminal = isTerminal
    state.size = WindowSize(columns: 80, rows: 25)
    state.modes.local = TerminalModes.isCanonical
  }

  func terminal(_ request: TerminalRequest, isForced: Bool) throws(Errno) -> TerminalState {
    guard isTerminal else { throw .ENOTTY }
    switch request {
    case .ask: break
    default: if isBackground && !isForced { throw .ERESTART }
    }
    switch request {
    case .ask: break
    case .set(let modes): state.modes = modes
    case .discardAndSet(let modes):
      state.modes = modes
      input = []
    case .discard: input = []
    }
    // As the host does.
    state.modes.characters[TerminalModes.minimum] = 1
    state.modes.characters[TerminalModes.time] = 0
    state.readableByteCount = input.count
    return state
  }

  func finishWriting() throws(Errno) {
    guard let failure else { return }
    self.failure = nil
    throw failure
  }

  var readyMask: ReadyMask { input.isEmpty ? .writable : [.readable, .writable] }
  var readableByteCount: Int { input.count }

  func read(into transfer: inout Transfer, nonBlocking: Bool, until deadline: Deadline) throws(Errno) -> Int {
    if isTerminal, input.isEmpty { if nonBlocking || deadline != .never { throw .EAGAIN } }
    // A terminal without lines gives what has come so far.
    let taken = Array(input.prefix(isTerminal ? min(2, transfer.remaining) : transfer.remaining))
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

  func read(_ count: Int, nonBlocking: Bool = false) throws(Errno) -> [UInt8] {
    setFlags(nonBlocking ? flags.union(.nonBlocking) : flags.subtracting(.nonBlocking))
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

  @Test(arguments: [false, true]) func closingTellsOfAWriteThatFailedLater(isTerminal: Bool) throws {
    let endpoint = FakeEndpoint(isTerminal: isTerminal)
    let table = DescriptorTable()
    let stream = devices.standardStream(endpoint, isInput: false, mount: context.root.mount)
    let first = try table.install(stream)
    let second = try table.install(stream)
    endpoint.failure = .ENOSPC
    #expect(throws: Errno.ENOSPC) { try table.close(first) }
    #expect(throws: Never.self) { try table.close(second) }
  }

  /// TCGETS, as a program has it.
  func modes(_ file: OpenFile) throws(Errno) -> TerminalModes {
    var modes = TerminalModes()
    _ = try withUnsafeMutablePointer(to: &modes) { (modes) throws(Errno) in
      try file.control(0x5401, UInt64(UInt(bitPattern: modes)))
    }
    return modes
  }

  func set(_ file: OpenFile, _ modes: TerminalModes, _ request: UInt32 = 0x5402) throws(Errno) {
    var modes = modes
    _ = try withUnsafeMutablePointer(to: &modes) { (modes) throws(Errno) in
      try file.control(request, UInt64(UInt(bitPattern: modes)))
    }
  }

  @Test func modesAreTheHostsButForHowReadsWait() throws {
    let tty = try open("tty")
    var modes = try modes(tty)
    #expect(modes.local == TerminalModes.isCanonical)
    modes.local = 0
    modes.characters[TerminalModes.minimum] = 7
    modes.characters[TerminalModes.time] = 3
    terminal.input = [1, 2]
    try set(tty, modes)
    #expect(terminal.state.modes.local == 0)
    #expect(terminal.state.modes.characters[TerminalModes.minimum] == 1)
    // Every name of the terminal knows.
    let again = try self.modes(devices.standardStream(terminal, isInput: true, mount: context.root.mount))
    #expect(again.characters[TerminalModes.minimum] == 7 && again.characters[TerminalModes.time] == 3)
    #expect(terminal.input == [1, 2])
    try set(tty, modes, 0x5404)
    #expect(terminal.input == [])
    terminal.input = [3]
    #expect(throws: Errno.EINVAL) { _ = try tty.control(0x540b, 3) }
    #expect(try tty.control(0x540b, 1) == 0)
    #expect(terminal.input == [3])
    #expect(try tty.control(0x540b, 0) == 0)
    #expect(terminal.input == [])
  }

  @Test func whoIsInTheBackgroundIsTold() throws {
    let tty = try open("tty")
    terminal.isBackground = true
    let modes = try modes(tty)
    #expect(throws: Errno.ERESTART) { try set(tty, modes) }
    let node = try #require(tty.vnode as? Terminal)
    var copy = modes
    try withUnsafeMutablePointer(to: &copy) { (modes) throws(Errno) in
      #expect(try node.control(0x5402, UInt64(UInt(bitPattern: modes)), isForced: true) == 0)
    }
  }

  /// termios(3), the four ways of non-canonical reads.
  @Test func readsWithoutLinesWaitForBytesAndTime() throws {
    let tty = try open("tty")
    func wait(_ minimum: UInt8, _ time: UInt8) throws {
      var modes = try modes(tty)
      modes.local = 0
      modes.characters[TerminalModes.minimum] = minimum
      modes.characters[TerminalModes.time] = time
      try set(tty, modes)
    }
    for time: UInt8 in [0, 2] {
      try wait(0, time)
      #expect(try tty.read(5) == [])
      terminal.input = [1, 2, 3]
      #expect(try tty.read(5) == [1, 2])
      #expect(try tty.read(5) == [3])
    }
    #expect(throws: Errno.EAGAIN) { _ = try tty.read(5, nonBlocking: true) }
    try wait(0, 0)
    #expect(try tty.read(5, nonBlocking: true) == [])
    try wait(3, 0)
    terminal.input = [1, 2, 3, 4, 5, 6]
    #expect(try tty.read(1) == [1])
    // Two bytes come at a time: three are waited for, the fourth comes along.
    #expect(try tty.read(8) == [2, 3, 4, 5])
    #expect(try tty.read(8, nonBlocking: true) == [6])
    #expect(throws: Errno.EAGAIN) { _ = try tty.read(5, nonBlocking: true) }
    // Behind the first byte the time runs.
    try wait(9, 1)
    terminal.input = [1, 2, 3]
    #expect(try tty.read(9) == [1, 2, 3])
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
