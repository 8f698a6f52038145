// The FUSE client: one method a request, over a transport. Stateless but for what INIT agreed on.
//
// Rules: the server is not trusted. Every reply's header, length and structure is checked, and what is wrong becomes EIO; names,
// sizes and counts that come back are checked by whoever uses them (`FUSEDirectoryReader` for entries).
import Base
import Devices
import Locks
import Platform
import Synchronization
import VirtioABI

/// A FUSE session.
public final class FUSEClient {
  let transport: any FUSETransport
  private let lock = Mutex()
  private var pool: FUSEMessage?
  private var pooled = 0
  private let unique = Atomic<UInt64>(0)
  /// `FUSEInit` features both sides have.
  public private(set) var features: UInt64 = 0
  /// Whether the server takes changes from us: it does if it reports what they do, and works by node.
  public private(set) var isWritable = false
  /// Whether files have to be opened to be read (FUSEClient+Opening.swift).
  let opensFiles = Atomic<Bool>(false)
  /// The same for directories.
  let opensDirectories = Atomic<Bool>(false)
  /// Most bytes of one READ.
  public private(set) var maximumRead = 32 * 4096
  /// Most bytes of one WRITE.
  public private(set) var maximumWrite = 4096
  /// Requests sent, those without a reply included: for tests, benchmarks and /proc.
  public let messageCount = Atomic<Int>(0)
  /// Notifications sent (a batch is one).
  public let batchCount = Atomic<Int>(0)

  /// A session over a transport; `initialise` comes first.
  public init(transport: any FUSETransport) { self.transport = transport }

  /// INIT.
  /// - Throws: EPROTO if the server speaks another version, EIO, ENOMEM.
  public func initialise() throws(Errno) {
    let wanted =
      FUSEInit.asyncRead | FUSEInit.autoInvalData | FUSEInit.doReaddirplus | FUSEInit.noOpenSupport
      | FUSEInit.parallelDirops | FUSEInit.maxPages | FUSEInit.cacheSymlinks | FUSEInit.noOpendirSupport
      | FUSEInit.initExt | FUSEInit.directoryEnd | FUSEInit.changeReports | FUSEInit.bigWrites
      | FUSEInit.handleKillPrivilegesV2
    let answer = try request(FUSEOpcode.initialise, 0, FUSEInitOut.self) { (message) throws(Errno) in
      var hello = FUSEInitIn()
      hello.major = FUSE.majorVersion
      hello.minor = FUSE.minorVersion
      hello.maxReadahead = FUSE.maxData.u32
      hello.flags = wanted.u32
      hello.flags2 = (wanted &>> 32).u32
      message.append(hello)
    }
    guard answer.major == FUSE.majorVersion, answer.minor >= FUSE.oldestMinorVersion else { throw .EPROTO }
    features = answer.flags.u64 & wanted
    if features & FUSEInit.initExt != 0 { features |= answer.flags2.u64 &<< 32 & wanted }
    opensFiles.store(features & FUSEInit.noOpenSupport == 0, ordering: .relaxed)
    opensDirectories.store(features & FUSEInit.noOpendirSupport == 0, ordering: .relaxed)
    let changing = FUSEInit.changeReports | FUSEInit.noOpenSupport | FUSEInit.noOpendirSupport
    isWritable = features & changing == changing
    let pages = features & FUSEInit.maxPages != 0 ? max(1, min(answer.maxPages, FUSE.maxPages)).int : 32
    maximumRead = pages &* 4096
    maximumWrite = max(4096, min(maximumRead, answer.maxWrite.int & ~4095))
  }

  /// Whether the server is osv-run's.
  var isOurs: Bool { features & FUSEInit.directoryEnd != 0 }

  /// Most pieces of one request. Only osv-run's server is known to take a chain that is longer than its queue, which no driver may make.
  var maximumSegments: Int {
    isOurs ? transport.maximumSegments : min(transport.maximumSegments, transport.queueSize)
  }

  /// LOOKUP of a name. A node id of 0 says that there is none, and for how long that holds.
  func lookup(_ parent: UInt64, _ name: UnsafeRawBufferPointer) throws(Errno) -> FUSEEntryOut {
    do throws(Errno) {
      return try request(FUSEOpcode.lookup, parent, FUSEEntryOut.self) { (message) throws(Errno) in
        try message.append(name: name)
      }
    } catch {
      if error == .ENOENT { return FUSEEntryOut() }
      throw error
    }
  }

  /// GETATTR.
  func getattr(_ node: UInt64) throws(Errno) -> FUSEAttributesOut {
    try request(FUSEOpcode.getattr, node, FUSEAttributesOut.self) { $0.append(FUSEGetattrIn()) }
  }

  /// ACCESS: whether the server itself may use the file that way (4 read, 2 write, 1 execute). One that cannot tell finds out when it does.
  func access(_ node: UInt64, mask: UInt32) throws(Errno) {
    do throws(Errno) {
      try request(FUSEOpcode.access, node) { message in
        var arguments = FUSEAccessIn()
        arguments.mask = mask
        message.append(arguments)
      }
    } catch { if error != .ENOSYS { throw error } }
  }

  /// STATFS.
  func statfs(_ node: UInt64) throws(Errno) -> FUSEStatFSOut {
    try request(FUSEOpcode.statfs, node, FUSEStatFSOut.self) { _ in }
  }

  /// LSEEK: next data (3) or hole (4) at or behind an offset.
  func seek(_ node: UInt64, handle: UInt64, offset: UInt64, whence: UInt32) throws(Errno) -> UInt64 {
    try request(FUSEOpcode.lseek, node, FUSESeekOut.self) { message in
      var arguments = FUSESeekIn()
      arguments.handle = handle
      arguments.offset = offset
      arguments.whence = whence
      message.append(arguments)
    }.offset
  }

  /// READLINK into a buffer.
  /// - Returns: Bytes of the target, 1 to 4,095.
  func readlink(_ node: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
    let count = try transfer(FUSEOpcode.readlink, node, buffer) { _ in }
    guard count > 0, count <= FUSE.symlinkMax else { throw .EIO }
    return count
  }

  /// Whether directories tell nodes and attributes with the names.
  var listsNodes: Bool { features & FUSEInit.doReaddirplus != 0 }

  /// READDIRPLUS into a buffer, or READDIR where there is no other.
  /// - Returns: Bytes of entries, and whether they are the last ones.
  func readDirectory(
    _ node: UInt64, handle: UInt64 = 0, offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
  ) throws(Errno) -> (count: Int, isLast: Bool) {
    let count = try transfer(listsNodes ? FUSEOpcode.readdirplus : FUSEOpcode.readdir, node, buffer) { message in
      var arguments = FUSEReadIn()
      arguments.handle = handle
      arguments.offset = offset
      arguments.size = buffer.count.u32
      message.append(arguments)
    }
    let spare = features & FUSEInit.directoryEnd != 0 && buffer.count &- count >= FUSE.directoryEntryMax
    return (count, count == 0 || spare)
  }

  /// GETXATTR into a buffer; an empty one asks for the size.
  func getxattr(_ node: UInt64, _ name: UnsafeRawBufferPointer, into buffer: UnsafeMutableRawBufferPointer)
    throws(Errno) -> Int
  {
    try xattr(FUSEOpcode.getxattr, node, name, buffer)
  }

  /// LISTXATTR likewise.
  func listxattr(_ node: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
    try xattr(FUSEOpcode.listxattr, node, nil, buffer)
  }

  private func xattr(
    _ opcode: UInt32, _ node: UInt64, _ name: UnsafeRawBufferPointer?, _ buffer: UnsafeMutableRawBufferPointer
  ) throws(Errno) -> Int {
    let fill: (FUSEMessage) throws(Errno) -> Void = { (message) throws(Errno) in
      var arguments = FUSEXattrSize()
      arguments.size = buffer.count.u32
      message.append(arguments)
      if let name { try message.append(name: name) }
    }
    do throws(Errno) {
      if buffer.count == 0 { return try request(opcode, node, FUSEXattrSize.self, fill).size.int }
      return try transfer(opcode, node, buffer, fill)
    } catch {
      // The server has no such request: its files have no such attributes.
      throw error == .ENOSYS ? .EOPNOTSUPP : error
    }
  }

  /// DESTROY.
  func destroy() throws(Errno) { try request(FUSEOpcode.destroy, 0) { _ in } }

  /// FORGET of up to 120 nodes at once.
  func forget(_ nodes: UnsafeBufferPointer<FUSEForgetOne>) {
    guard nodes.count > 0, let message = try? take() else { return }
    message.begin(FUSEOpcode.batchForget, node: 0, unique: nextUnique())
    var head = FUSEBatchForgetIn()
    head.count = nodes.count.u32
    message.append(head)
    for one in nodes { message.append(one) }
    message.end(replyBody: 0)
    count(messages: 1)
    transport.post(message.segments[0])
    give(message)
  }

  /// READ straight into page frames, in as many requests as the transport's pieces and the server's limit ask for.
  /// - Returns: Bytes read: fewer than the frames hold only at the end of the file.
  func read(
    _ node: UInt64, handle: UInt64 = 0, offset: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>
  ) throws(Errno) -> Int {
    var done = 0
    var next = 0
    while next < frames.count {
      let message = try take()
      defer { give(message) }
      let first = next
      let most = min(frames.count, first &+ maximumRead &>> 12)
      prepareRead(message, node, handle: handle, offset: offset &+ done.u64)
      while next < most, message.addReply(LinearMap.pointer(frames[next]), 4096, limit: maximumSegments) {
        next &+= 1
      }
      let wanted = (next &- first) &* 4096
      guard wanted > 0 else { throw .EIO }
      message.setReadSize(wanted.u32)
      try perform(message)
      done &+= message.bodyCount
      if message.bodyCount < wanted { break }
    }
    return done
  }

  /// READ into a buffer.
  func read(
    _ node: UInt64, handle: UInt64, offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
  ) throws(Errno) -> Int {
    try transfer(FUSEOpcode.read, node, buffer) { message in
      var arguments = FUSEReadIn()
      arguments.handle = handle
      arguments.offset = offset
      arguments.size = buffer.count.u32
      message.append(arguments)
    }
  }

  /// READ of the first pages of a file into frames, and with the same notification of other files, whole, into buffers.
  ///
  /// Costs one exit however many files there are. What goes wrong with the others is theirs: their `count` is then -1.
  /// - Returns: Bytes read of the first file.
  func read(_ node: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>, ahead: inout [FUSEReadAhead])
    throws(Errno) -> Int
  {
    let most = min(ahead.count &+ 1, transport.maximumCalls)
    var messages: [FUSEMessage] = []
    messages.reserveCapacity(most)
    defer { for message in messages { give(message) } }
    let first = try take()
    messages.append(first)
    prepareRead(first, node, offset: 0)
    for frame in frames {
      guard first.addReply(LinearMap.pointer(frame), 4096, limit: maximumSegments) else { throw .EIO }
    }
    first.setReadSize((frames.count &* 4096).u32)
    while messages.count < most, let message = try? take() {
      let place = messages.count &- 1
      messages.append(message)
      prepareRead(message, ahead[place].node, offset: 0)
      _ = message.addReply(ahead[place].buffer, ahead[place].capacity, limit: maximumSegments)
      message.setReadSize(ahead[place].capacity.u32)
    }
    var calls: [DeviceCall] = []
    calls.reserveCapacity(messages.count)
    for message in messages { calls.append(message.call) }
    count(messages: messages.count)
    try calls.withUnsafeMutableBufferPointer { (calls) throws(Errno) in try transport.perform(calls) }
    for place in 1..<max(messages.count, 1) {
      do throws(Errno) {
        try messages[place].check(replyCount: calls[place].replyCount)
        ahead[place &- 1].count = messages[place].bodyCount
      } catch { continue }
    }
    try first.check(replyCount: calls[0].replyCount)
    return first.bodyCount
  }

  /// Whether a READ of so many frames fits one request.
  func fits(_ frames: Int) -> Bool {
    frames &+ 2 <= maximumSegments && frames &* 4096 <= maximumRead
      && frames &+ 2 <= FUSEMessage.segmentCapacity
  }

  /// Requests that may go with one notification.
  var maximumCalls: Int { transport.maximumCalls }

  private func prepareRead(_ message: FUSEMessage, _ node: UInt64, handle: UInt64 = 0, offset: UInt64) {
    message.begin(FUSEOpcode.read, node: node, unique: nextUnique())
    var arguments = FUSEReadIn()
    arguments.handle = handle
    arguments.offset = offset
    message.append(arguments)
    message.end(replyBody: 0)
  }

  // MARK: Calls

  /// Most nodes of one `forget`.
  static let forgetLimit = 120

  func nextUnique() -> UInt64 { unique.add(2, ordering: .relaxed).newValue }

  private func count(messages: Int) {
    messageCount.add(messages, ordering: .relaxed)
    batchCount.add(1, ordering: .relaxed)
  }

  /// A request with a structure as its result.
  func request<Value: BitwiseCopyable>(
    _ opcode: UInt32, _ node: UInt64, _ type: Value.Type, _ fill: (FUSEMessage) throws(Errno) -> Void
  ) throws(Errno) -> Value {
    let message = try take()
    defer { give(message) }
    message.begin(opcode, node: node, unique: nextUnique())
    try fill(message)
    message.end(replyBody: MemoryLayout<Value>.size)
    try perform(message)
    return try message.result(type)
  }

  /// A request whose result is only that there was no error.
  func request(_ opcode: UInt32, _ node: UInt64, _ fill: (FUSEMessage) throws(Errno) -> Void) throws(Errno) {
    let message = try take()
    defer { give(message) }
    message.begin(opcode, node: node, unique: nextUnique())
    try fill(message)
    message.end(replyBody: 0)
    try perform(message)
  }

  /// A request whose result goes to a buffer.
  private func transfer(
    _ opcode: UInt32, _ node: UInt64, _ buffer: UnsafeMutableRawBufferPointer,
    _ fill: (FUSEMessage) throws(Errno) -> Void
  ) throws(Errno) -> Int {
    guard let base = buffer.baseAddress else { throw .EINVAL }
    let message = try take()
    defer { give(message) }
    message.begin(opcode, node: node, unique: nextUnique())
    try fill(message)
    message.end(replyBody: 0)
    guard message.addReply(base, buffer.count, limit: maximumSegments) else { throw .EIO }
    try perform(message)
    return message.bodyCount
  }

  func perform(_ message: FUSEMessage) throws(Errno) {
    count(messages: 1)
    var call = message.call
    // SAFETY: one call on this stack; the transport is done with it when `perform` returns.
    try withUnsafeMutablePointer(to: &call) { (call) throws(Errno) in
      try transport.perform(UnsafeMutableBufferPointer(start: call, count: 1))
    }
    try message.check(replyCount: call.replyCount)
  }

  // MARK: Messages are used again: the pool keeps as many as were ever in use together, up to 32.

  func take() throws(Errno) -> FUSEMessage {
    let message = lock.withLock { () -> FUSEMessage? in
      guard let first = pool else { return nil }
      pool = first.next
      first.next = nil
      pooled &-= 1
      return first
    }
    if let message { return message }
    guard let fresh = FUSEMessage() else { throw .ENOMEM }
    return fresh
  }

  func give(_ message: FUSEMessage) {
    lock.withLock {
      guard pooled < 32 else { return }
      message.next = pool
      pool = message
      pooled &+= 1
    }
  }
}

/// A file to read beside another one.
struct FUSEReadAhead {
  /// The file.
  let node: UInt64
  /// Where to; at least `capacity` bytes.
  let buffer: UnsafeMutableRawPointer
  let capacity: Int
  /// Bytes read, -1 if none were.
  var count = -1
}
