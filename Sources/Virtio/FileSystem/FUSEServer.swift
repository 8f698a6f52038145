// The file server: answers FUSE requests about one directory of the host and everything beneath it.
//
// It knows nothing of queues: `handle` takes the bytes of a request and the places for its reply, and may be called from several
// threads at a time. Rules:
// * The guest names nodes and single names, never paths. A node is reopened beneath the root without following a symbolic link
//   and must be the file it was (NodeTable), else ESTALE. What was verified is believed for `Configuration.trustNanoseconds`.
// * Descriptors are bounded (`descriptorLimit`, `handleLimit`, `pinLimit`), whatever the size of the tree.
// * A file that loses its name while the guest knows it is pinned: an O_PATH descriptor keeps it until the guest forgets it or finds
//   it by another name. Where no more can be pinned, taking names away is refused (ENFILE).
// * One lock guards the tables; it is never held over a system call.
// * Every length and number of a request is checked here; a malformed one gets an error reply.
import CSystemCalls
import Glibc
import Synchronization
import VirtioABI
import VirtioQueue

/// A FUSE server for one shared directory.
public final class FUSEServer: Sendable {
  /// How long the guest may believe names and attributes.
  public enum CachePolicy: Sendable {
    /// Never: every use asks.
    case none
    /// One second: changes made on the host are seen by then.
    case automatic
    /// For ever: nobody else changes the directory.
    case always

    var seconds: UInt64 {
      switch self {
      case .none: 0
      case .automatic: 1
      case .always: 86_400
      }
    }
  }

  /// What can be chosen. The defaults serve a tree of any size within 1,024 descriptors.
  public struct Configuration: Sendable {
    /// How long the guest may cache.
    public var cache = CachePolicy.automatic
    /// Most cached descriptors.
    public var descriptorLimit = 128
    /// Most files and directories that the guest holds open by handle at a time (only clients without zero-message opens).
    public var handleLimit = 256
    /// Most files without a name that the guest still knows at a time.
    public var pinLimit = 256
    /// Whether the guest may change anything; otherwise every change is EROFS.
    public var isWritable = false
    /// Most nodes that the guest holds at a time, about 100 bytes each.
    public var nodeLimit = 4 << 20
    /// How long a descriptor is used before its place beneath the root is verified again.
    public var trustNanoseconds: UInt64 = 1_000_000_000
    /// Whether OPEN and OPENDIR are answered by "needless" to clients that understand it.
    public var zeroMessageOpens = true
    /// Time in nanoseconds that never goes back.
    public var clock: @Sendable () -> UInt64 = { MonotonicClock.now }
    /// The defaults.
    public init() {}
  }

  /// Why a directory cannot be served; `code` is a Linux error number.
  public struct OpenFailure: Error {
    /// What failed.
    public let code: Int32
    /// True: it is /proc/self/fd, not the directory.
    public let processDirectory: Bool
  }

  /// What the guest was promised in INIT, and the tables.
  struct State: ~Copyable {
    var nodes: NodeTable
    var cache: DescriptorCache
    var handles: HandleTable
    /// Files that have no name any more, by node.
    var pins: [UInt64: OpenDescriptor] = [:]
    /// Devices on which process file systems were found.
    var processDevices: Set<UInt64> = []
    /// `FUSEInit` features both sides have; nil before INIT.
    var features: UInt64?

    /// Takes what is kept for nodes that the guest has forgotten: to be let go without the lock, for a close can take long.
    mutating func takeUnused() -> [OpenDescriptor] {
      var unused: [OpenDescriptor] = []
      for node in nodes.takeFreed() {
        if let pin = pins.removeValue(forKey: node) { unused.append(pin) }
        for use in DescriptorUse.allCases {
          if let cached = cache.remove(node, use) { unused.append(cached.descriptor) }
        }
      }
      return unused
    }
  }

  let root: OpenDescriptor
  let rootAttributes: osv_attributes
  /// Whether the root lies in a process file system.
  private let isRootOfProcesses: Bool
  let door: ReopenDoor
  let configuration: Configuration
  let inodeNumbers: InodeNumbers
  let state: Mutex<State>

  /// Serves the directory at `path`, which is resolved now (symbolic links in it included) and held: what is put in its place later is not seen.
  public init(path: String, configuration: Configuration = Configuration()) throws(OpenFailure) {
    do throws(HostError) {
      let raw = try HostError.check(Int(osv_openat(AT_FDCWD, path, osv_o_path | osv_o_directory)))
      root = OpenDescriptor(owning: Int32(truncatingIfNeeded: raw))
      rootAttributes = try root.attributes()
      isRootOfProcesses = try root.isProcessFile(rootAttributes)
      if isRootOfProcesses, try root.isWithinOwnProcess() { throw HostError(code: EACCES) }
    } catch { throw OpenFailure(code: error.code, processDirectory: false) }
    do throws(HostError) { door = try ReopenDoor() } catch {
      throw OpenFailure(code: error.code, processDirectory: true)
    }
    self.configuration = configuration
    inodeNumbers = InodeNumbers(rootDevice: rootAttributes.device)
    state = Mutex(Self.freshState(rootAttributes, isRootOfProcesses, configuration))
    if configuration.isWritable { osv_prepare_writing() }
  }

  private static func freshState(
    _ root: osv_attributes, _ isRootOfProcesses: Bool, _ configuration: Configuration
  ) -> State {
    State(
      nodes: NodeTable(root: root, limit: configuration.nodeLimit),
      cache: DescriptorCache(capacity: configuration.descriptorLimit),
      handles: HandleTable(limit: configuration.handleLimit),
      processDevices: isRootOfProcesses ? [root.device] : [], features: nil)
  }

  /// Forgets the guest: nodes, handles and features, as after a reset of the device.
  public func reset() {
    state.withLock { $0 = Self.freshState(rootAttributes, isRootOfProcesses, configuration) }
  }

  /// Nodes, cached descriptors, open handles and pinned files: for tests and metrics.
  public var statistics: (nodes: Int, descriptors: Int, handles: Int, pins: Int) {
    state.withLock { ($0.nodes.count, $0.cache.count, $0.handles.count, $0.pins.count) }
  }

  /// Serves one request.
  ///
  /// - Parameters:
  ///   - request: The request's bytes; a private copy, for the guest could change its own while they are checked. Of a WRITE only
  ///     the first `headByteCount`.
  ///   - payload: What follows them: the data of a WRITE.
  ///   - reply: Where the reply goes; every range must be writable for its whole length and stay so.
  /// - Returns: The reply's length in bytes, 0 if the request has none (FORGET, or no room even for a header).
  public func handle(
    request bytes: UnsafeRawBufferPointer, payload: FUSEPayload, reply vectors: UnsafeBufferPointer<iovec>
  ) -> Int {
    var reply = FUSEReply(vectors)
    guard var request = FUSERequest(bytes, payload) else {
      return reply.finish(unique: Self.unique(of: bytes), error: EINVAL)
    }
    let opcode = request.header.opcode
    if opcode == FUSEOpcode.forget || opcode == FUSEOpcode.batchForget || opcode == FUSEOpcode.interrupt {
      // A malformed one is as good as none: there is no place for a complaint. Nothing here waits, so an interrupt finds its request answered.
      if opcode != FUSEOpcode.interrupt { try? forget(&request) }
      return 0
    }
    do throws(HostError) {
      try dispatch(&request, &reply)
      return reply.finish(unique: request.header.unique, error: 0)
    } catch {
      return reply.finish(unique: request.header.unique, error: error.code)
    }
  }

  /// Bytes of a WRITE without its data.
  public static let headByteCount = MemoryLayout<FUSEInHeader>.size + MemoryLayout<FUSEWriteIn>.size

  /// Whether the bytes are those of a request with a payload.
  public static func hasPayload(_ bytes: UnsafeRawBufferPointer) -> Bool {
    bytes.count >= headByteCount && bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self) == FUSEOpcode.write
  }

  /// Serves one request all of whose bytes lie together.
  public func handle(request bytes: UnsafeRawBufferPointer, reply vectors: UnsafeBufferPointer<iovec>) -> Int {
    guard Self.hasPayload(bytes) else { return handle(request: bytes, payload: .none, reply: vectors) }
    let head = UnsafeRawBufferPointer(rebasing: bytes[..<Self.headByteCount])
    // SAFETY: a range that is only read.
    var range = iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
    return withUnsafePointer(to: &range) { range in
      let payload = FUSEPayload(
        UnsafeBufferPointer(start: range, count: 1), skip: head.count, count: bytes.count - head.count)
      return handle(request: head, payload: payload, reply: vectors)
    }
  }

  /// The `unique` of a request too short or too wrong to be read: whatever is in its place.
  private static func unique(of bytes: UnsafeRawBufferPointer) -> UInt64 {
    bytes.count >= 16 ? bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self) : 0
  }

  private func dispatch(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let opcode = request.header.opcode
    if opcode == FUSEOpcode.initialise { return try initialise(&request, &reply) }
    guard state.withLock({ $0.features != nil }) else { throw .invalid }
    switch opcode {
    case FUSEOpcode.lookup: try lookup(&request, &reply)
    case FUSEOpcode.getattr: try getattr(&request, &reply)
    case FUSEOpcode.statx: try statx(&request, &reply)
    case FUSEOpcode.readlink: try readlink(request, &reply)
    case FUSEOpcode.open: try open(&request, &reply, directory: false)
    case FUSEOpcode.opendir: try open(&request, &reply, directory: true)
    case FUSEOpcode.read: try read(&request, &reply)
    case FUSEOpcode.readdir: try readDirectory(&request, &reply, plus: false)
    case FUSEOpcode.readdirplus: try readDirectory(&request, &reply, plus: true)
    case FUSEOpcode.release, FUSEOpcode.releasedir: try release(&request)
    case FUSEOpcode.flush: try flush(&request)
    case FUSEOpcode.access: try access(&request)
    case FUSEOpcode.statfs: try statfs(request, &reply)
    case FUSEOpcode.getxattr: try getxattr(&request, &reply)
    case FUSEOpcode.listxattr: try listxattr(&request, &reply)
    case FUSEOpcode.lseek: try lseek(&request, &reply)
    case FUSEOpcode.fsync: try fsync(&request)
    case FUSEOpcode.fsyncdir: try fsyncDirectory(&request)
    case FUSEOpcode.syncfs: try syncFileSystem()
    case FUSEOpcode.destroy: reset()
    default: try dispatchChange(&request, &reply)
    }
  }

  private func dispatchChange(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let opcode = request.header.opcode
    switch opcode {
    case FUSEOpcode.setattr, FUSEOpcode.symlink, FUSEOpcode.mknod, FUSEOpcode.mkdir, FUSEOpcode.unlink,
      FUSEOpcode.rmdir, FUSEOpcode.rename, FUSEOpcode.rename2, FUSEOpcode.link, FUSEOpcode.write,
      FUSEOpcode.setxattr, FUSEOpcode.removexattr, FUSEOpcode.create, FUSEOpcode.tmpfile, FUSEOpcode.fallocate,
      FUSEOpcode.copyFileRange:
      try checkWritable()
    default: throw HostError(code: ENOSYS)
    }
    switch opcode {
    case FUSEOpcode.write: try write(&request, &reply)
    case FUSEOpcode.setattr: try setattr(&request, &reply)
    case FUSEOpcode.create: try create(&request, &reply)
    case FUSEOpcode.tmpfile: try makeTemporary(&request, &reply)
    case FUSEOpcode.mknod: try makeNode(&request, &reply)
    case FUSEOpcode.mkdir: try makeDirectory(&request, &reply)
    case FUSEOpcode.symlink: try makeSymbolicLink(&request, &reply)
    case FUSEOpcode.link: try link(&request, &reply)
    case FUSEOpcode.unlink: try unlink(&request, &reply, directory: false)
    case FUSEOpcode.rmdir: try unlink(&request, &reply, directory: true)
    case FUSEOpcode.rename, FUSEOpcode.rename2: try rename(&request, &reply)
    case FUSEOpcode.fallocate: try fallocate(&request, &reply)
    case FUSEOpcode.setxattr: try setxattr(&request)
    case FUSEOpcode.removexattr: try removexattr(&request)
    default: try copyFileRange(&request, &reply)
    }
  }

  /// - Throws: EROFS.
  func checkWritable() throws(HostError) {
    if !configuration.isWritable { throw HostError(code: EROFS) }
  }

  /// INIT: agrees on a version and features. A second one starts afresh, as after a guest that went away without DESTROY.
  private func initialise(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    var hello = FUSEInitIn()
    if request.count >= MemoryLayout<FUSEInitIn>.size {
      hello = try request.take(FUSEInitIn.self)
    } else {
      hello.major = try request.take(UInt32.self)
      hello.minor = try request.take(UInt32.self)
      hello.maxReadahead = try request.take(UInt32.self)
      hello.flags = try request.take(UInt32.self)
    }
    var answer = FUSEInitOut()
    answer.major = FUSE.majorVersion
    answer.minor = FUSE.minorVersion
    // A newer client comes back with our version; an older one cannot be served.
    if hello.major > FUSE.majorVersion { return try reply.append(answer) }
    guard hello.major == FUSE.majorVersion, hello.minor >= FUSE.oldestMinorVersion else {
      throw HostError(code: EPROTO)
    }
    var offered = UInt64(hello.flags)
    if offered & FUSEInit.initExt != 0 { offered |= UInt64(hello.flags2) << 32 }
    var features =
      FUSEInit.asyncRead | FUSEInit.doReaddirplus | FUSEInit.parallelDirops | FUSEInit.maxPages
      | FUSEInit.initExt | FUSEInit.directoryEnd | FUSEInit.cacheSymlinks
    if configuration.cache != .always { features |= FUSEInit.autoInvalData }
    if configuration.zeroMessageOpens { features |= FUSEInit.noOpenSupport | FUSEInit.noOpendirSupport }
    if configuration.isWritable {
      features |=
        FUSEInit.atomicTruncate | FUSEInit.bigWrites | FUSEInit.handleKillPrivilegesV2 | FUSEInit.changeReports
    }
    features &= offered
    answer.maxReadahead = min(hello.maxReadahead, UInt32(FUSE.maxData))
    answer.flags = UInt32(truncatingIfNeeded: features)
    answer.flags2 = UInt32(truncatingIfNeeded: features >> 32)
    answer.maxBackground = 64
    answer.congestionThreshold = 48
    answer.maxWrite = UInt32(FUSE.maxData)
    answer.timeGranularity = 1
    answer.maxPages = features & FUSEInit.maxPages != 0 ? FUSE.maxPages : 0
    try reply.append(answer)
    reset()
    state.withLock { $0.features = features }
  }
}
