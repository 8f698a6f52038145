// The file server: answers FUSE requests about one directory of the host and everything beneath it, read-only.
//
// It knows nothing of queues: `handle` takes the bytes of a request and the places for its reply, and may be called from several
// threads at a time. Rules:
// * The guest names nodes and single names, never paths. A node is reopened beneath the root without following a symbolic link
//   and must be the file it was (NodeTable), else ESTALE. What was verified is believed for `Configuration.trustNanoseconds`.
// * Descriptors are bounded (`descriptorLimit`, `handleLimit`), whatever the size of the tree.
// * One lock guards the tables; it is never held over a system call.
// * Every length and number of a request is checked here; a malformed one gets an error reply.
import CSystemCalls
import Glibc
import Synchronization
import VirtioABI

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
    /// Most nodes that the guest holds at a time, about 100 bytes each.
    public var nodeLimit = 4 << 20
    /// How long a descriptor is used before its place beneath the root is verified again.
    public var trustNanoseconds: UInt64 = 1_000_000_000
    /// Whether OPEN and OPENDIR are answered by "needless" to clients that understand it.
    public var zeroMessageOpens = true
    /// Time in nanoseconds that never goes back.
    public var clock: @Sendable () -> UInt64 = {
      var now = timespec()
      clock_gettime(CLOCK_MONOTONIC, &now)
      return UInt64(now.tv_sec) &* 1_000_000_000 &+ UInt64(now.tv_nsec)
    }
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
    /// `FUSEInit` features both sides have; nil before INIT.
    var features: UInt64?
  }

  let root: OpenDescriptor
  let rootAttributes: osv_attributes
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
    } catch { throw OpenFailure(code: error.code, processDirectory: false) }
    do throws(HostError) { door = try ReopenDoor() } catch {
      throw OpenFailure(code: error.code, processDirectory: true)
    }
    self.configuration = configuration
    inodeNumbers = InodeNumbers(rootDevice: rootAttributes.device)
    state = Mutex(Self.freshState(rootAttributes, configuration))
  }

  private static func freshState(_ root: osv_attributes, _ configuration: Configuration) -> State {
    State(
      nodes: NodeTable(root: root, limit: configuration.nodeLimit),
      cache: DescriptorCache(capacity: configuration.descriptorLimit),
      handles: HandleTable(limit: configuration.handleLimit), features: nil)
  }

  /// Forgets the guest: nodes, handles and features, as after a reset of the device.
  public func reset() {
    state.withLock { $0 = Self.freshState(rootAttributes, configuration) }
  }

  /// Nodes, cached descriptors and open handles: for tests and metrics.
  public var statistics: (nodes: Int, descriptors: Int, handles: Int) {
    state.withLock { ($0.nodes.count, $0.cache.count, $0.handles.count) }
  }

  /// Serves one request.
  ///
  /// - Parameters:
  ///   - request: The request's bytes; a private copy, for the guest could change its own while they are checked.
  ///   - reply: Where the reply goes; every range must be writable for its whole length and stay so.
  /// - Returns: The reply's length in bytes, 0 if the request has none (FORGET, or no room even for a header).
  public func handle(request bytes: UnsafeRawBufferPointer, reply vectors: UnsafeBufferPointer<iovec>) -> Int {
    var reply = FUSEReply(vectors)
    guard var request = FUSERequest(bytes) else {
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
    case FUSEOpcode.destroy: reset()
    case FUSEOpcode.setattr, FUSEOpcode.symlink, FUSEOpcode.mknod, FUSEOpcode.mkdir, FUSEOpcode.unlink,
      FUSEOpcode.rmdir, FUSEOpcode.rename, FUSEOpcode.rename2, FUSEOpcode.link, FUSEOpcode.write,
      FUSEOpcode.setxattr, FUSEOpcode.removexattr, FUSEOpcode.create, FUSEOpcode.tmpfile, FUSEOpcode.fallocate,
      FUSEOpcode.copyFileRange:
      throw HostError(code: EROFS)
    default: throw HostError(code: ENOSYS)
    }
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
