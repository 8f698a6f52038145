// A server that is not ours, in the manner of QEMU's virtiofsd in C: it works by handles only, and knows none of our extensions.
//
// Behind it is our own, told to serve opens; what the other one does otherwise is done here: its handles count from 0, files and
// directories apart, and its nodes from 1, and the number that was given back last is the next; it has no ACCESS, holes only if the test says so,
// extended attributes never, and of READ without a handle it says EBADF.
import Base
import Devices
import Glibc
import Pages
import Synchronization
import Testing
import VirtioABI
import VirtioFileSystem

@testable import VirtioFS

final class ForeignTransport: FUSETransport {
  let server: FUSEServer
  let honest: ServerTransport
  var maximumSegments = 256
  var maximumCalls = 16
  var queueSize = 64
  var hasReaddirplus = true
  var hasHoles = true
  /// Whether it serves opens; if not it says that none are needed, and does without.
  var servesOpens = true
  /// An error number for the next OPEN and OPENDIR, 0 for none.
  var openError: Int32 = 0
  /// Called before a request is served.
  var before: ((_ opcode: UInt32, _ node: UInt64) -> Void)?
  /// Changes a reply: its bytes (as many as there is room), and the length it claims.
  var lie: ((_ opcode: UInt32, _ reply: UnsafeMutableRawBufferPointer, _ count: inout Int) -> Void)?

  private struct Open {
    let node: UInt64
    let handle: UInt64
  }
  /// What is open, by number: files and directories.
  private var open: [[UInt64: Open]] = [[:], [:]]
  private(set) var opens = 0
  private(set) var releases = 0
  /// Uses of handles that are none, or another node's; and nodes forgotten that were open still.
  private(set) var strayUses = 0
  private(set) var forgottenOpen = 0
  var openCount: Int { open[0].count + open[1].count }

  private struct Known {
    let real: UInt64
    var lookups: UInt64
  }
  /// The nodes that the client knows, by the number it knows them by.
  private var nodes: [UInt64: Known] = [FUSE.rootNodeID: Known(real: FUSE.rootNodeID, lookups: 1)]
  private var numbers: [UInt64: UInt64] = [FUSE.rootNodeID: FUSE.rootNodeID]
  private var freeNumbers: [UInt64] = []

  init(_ path: String, cache: FUSEServer.CachePolicy = .automatic, clock: TestClock = TestClock()) throws {
    var configuration = FUSEServer.Configuration()
    configuration.zeroMessageOpens = false
    configuration.handleLimit = 100_000
    configuration.isWritable = true
    configuration.cache = cache
    configuration.clock = { clock.now }
    server = try FUSEServer(path: path, configuration: configuration)
    honest = ServerTransport(server)
  }

  func count(_ opcode: UInt32) -> Int { honest.count(opcode) }

  func post(_ request: DeviceSegment) {
    let head = request.address.loadUnaligned(as: FUSEInHeader.self)
    #expect(head.opcode == FUSEOpcode.batchForget)
    var bytes = Array(UnsafeRawBufferPointer(start: request.address, count: request.count))
    let count = bytes.withUnsafeBytes { Int($0.loadUnaligned(fromByteOffset: 40, as: UInt32.self)) }
    for index in 0..<count {
      let place = 48 + 16 * index
      var one = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: place, as: FUSEForgetOne.self) }
      one.nodeID = forget(one.nodeID, one.lookupCount)
      bytes.withUnsafeMutableBytes { $0.storeBytes(of: one, toByteOffset: place, as: FUSEForgetOne.self) }
    }
    bytes.withUnsafeMutableBytes {
      honest.post(DeviceSegment(address: $0.baseAddress!, count: $0.count))
    }
  }

  /// Takes lookups back: the real node.
  private func forget(_ number: UInt64, _ count: UInt64) -> UInt64 {
    guard let known = nodes[number], known.lookups >= count else {
      Issue.record("node \(number) forgotten more often than it was looked up")
      return 0
    }
    nodes[number]!.lookups -= count
    if known.lookups == count {
      if open.contains(where: { $0.values.contains { $0.node == number } }) { forgottenOpen += 1 }
      nodes[number] = nil
      numbers[known.real] = nil
      freeNumbers.append(number)
    }
    return known.real
  }

  /// Counts the lookup of the node in a reply, and gives its number.
  private func count(_ reply: inout [UInt8], at place: Int) {
    let real = reply.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: place, as: UInt64.self) }
    guard real != 0 else { return }
    let number = numbers[real] ?? freeNumbers.popLast() ?? UInt64(nodes.count + 1)
    numbers[real] = number
    nodes[number, default: Known(real: real, lookups: 0)].lookups += 1
    reply.withUnsafeMutableBytes { $0.storeBytes(of: number, toByteOffset: place, as: UInt64.self) }
  }

  /// A request of our own whose arguments are zeros.
  private func request(_ opcode: UInt32, _ node: UInt64, byteCount: Int) -> [UInt8] {
    var request = [UInt8](repeating: 0, count: byteCount)
    var head = FUSEInHeader()
    head.length = UInt32(byteCount)
    head.opcode = opcode
    head.nodeID = node
    request.withUnsafeMutableBytes { $0.storeBytes(of: head, as: FUSEInHeader.self) }
    return request
  }

  func perform(_ calls: UnsafeMutableBufferPointer<DeviceCall>) throws(Errno) {
    for index in calls.indices {
      // The standard: no chain is longer than the queue.
      #expect(calls[index].readable + calls[index].writable <= queueSize)
      var request: [UInt8] = []
      for piece in 0..<calls[index].readable {
        let segment = calls[index].segments[piece]
        request += UnsafeRawBufferPointer(start: segment.address, count: segment.count)
      }
      let head = request.withUnsafeBytes { $0.loadUnaligned(as: FUSEInHeader.self) }
      before?(head.opcode, head.nodeID)
      let places = (0..<calls[index].writable).map { calls[index].segments[calls[index].readable + $0] }
      var reply = [UInt8](repeating: 0, count: places.reduce(0) { $0 + $1.count })
      var count = serve(head, &request, &reply)
      if let lie { reply.withUnsafeMutableBytes { lie(head.opcode, $0, &count) } }
      var offset = 0
      for place in places {
        reply.withUnsafeBytes { place.address.copyMemory(from: $0.baseAddress! + offset, byteCount: place.count) }
        offset += place.count
      }
      calls[index].replyCount = count
    }
  }

  /// One request: the bytes of the reply that count.
  private func serve(_ head: FUSEInHeader, _ request: inout [UInt8], _ reply: inout [UInt8]) -> Int {
    let handlePlace = 40
    let real = nodes[head.nodeID]?.real ?? 0
    if head.opcode != FUSEOpcode.initialise {
      guard real != 0 else { return fail(EBADF, head, &reply) }
      request.withUnsafeMutableBytes { $0.storeBytes(of: real, toByteOffset: 16, as: UInt64.self) }
    }
    switch head.opcode {
    case FUSEOpcode.lookup:
      let count = pass(request, &reply)
      if count == 144 { self.count(&reply, at: 16) }
      return count
    case FUSEOpcode.initialise:
      let count = pass(request, &reply)
      // INIT's flags, and those of INIT_EXT, which is not spoken.
      let flags = reply.withUnsafeBytes { UInt64($0.loadUnaligned(fromByteOffset: 16 + 12, as: UInt32.self)) }
      var known = FUSEInit.asyncRead | FUSEInit.parallelDirops | FUSEInit.autoInvalData | FUSEInit.maxPages
      known |= FUSEInit.bigWrites | FUSEInit.handleKillPrivilegesV2
      if hasReaddirplus { known |= FUSEInit.doReaddirplus | FUSEInit.readdirplusAuto }
      reply.withUnsafeMutableBytes {
        $0.storeBytes(of: UInt32(truncatingIfNeeded: flags & known), toByteOffset: 16 + 12, as: UInt32.self)
        // Noise where there is nothing to be read.
        $0.storeBytes(of: UInt32.max, toByteOffset: 16 + 32, as: UInt32.self)
      }
      return count
    case FUSEOpcode.access, FUSEOpcode.getxattr, FUSEOpcode.listxattr: return fail(ENOSYS, head, &reply)
    case FUSEOpcode.readdirplus where !hasReaddirplus: return fail(ENOSYS, head, &reply)
    case FUSEOpcode.lseek where !hasHoles: return fail(ENOSYS, head, &reply)
    case FUSEOpcode.open, FUSEOpcode.opendir:
      if !servesOpens { return fail(ENOSYS, head, &reply) }
      if openError != 0 {
        defer { openError = 0 }
        return fail(openError, head, &reply)
      }
      let count = pass(request, &reply)
      guard count == 32 else { return count }
      opens += 1
      let table = head.opcode == FUSEOpcode.open ? 0 : 1
      let handle = reply.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 16, as: UInt64.self) }
      let number = (0...).first { open[table][UInt64($0)] == nil }.map(UInt64.init)!
      open[table][number] = Open(node: head.nodeID, handle: handle)
      reply.withUnsafeMutableBytes { $0.storeBytes(of: number, toByteOffset: 16, as: UInt64.self) }
      return count
    case FUSEOpcode.read, FUSEOpcode.lseek, FUSEOpcode.readdir, FUSEOpcode.readdirplus, FUSEOpcode.release,
      FUSEOpcode.releasedir:
      let ofFiles = [FUSEOpcode.read, FUSEOpcode.lseek, FUSEOpcode.release]
      let table = ofFiles.contains(head.opcode) ? 0 : 1
      let number = request.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: handlePlace, as: UInt64.self) }
      var known = open[table][number]
      if !servesOpens { known = anew(real, isDirectory: table == 1).map { Open(node: head.nodeID, handle: $0) } }
      guard let known, known.node == head.nodeID else {
        strayUses += 1
        return fail(EBADF, head, &reply)
      }
      if head.opcode == FUSEOpcode.release || head.opcode == FUSEOpcode.releasedir {
        releases += 1
        open[table][number] = nil
      }
      request.withUnsafeMutableBytes { $0.storeBytes(of: known.handle, toByteOffset: handlePlace, as: UInt64.self) }
      let count = pass(request, &reply)
      var place = 16
      while head.opcode == FUSEOpcode.readdirplus, place < count {
        self.count(&reply, at: place)
        let length = reply.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: place + 144, as: UInt32.self) }
        place += FUSE.align(152 + Int(length))
      }
      return count
    default: return pass(request, &reply)
    }
  }

  /// What a server does that opens for itself: a handle.
  private func anew(_ node: UInt64, isDirectory: Bool) -> UInt64? {
    let request = request(isDirectory ? FUSEOpcode.opendir : FUSEOpcode.open, node, byteCount: 48)
    var reply = [UInt8](repeating: 0, count: 32)
    guard pass(request, &reply) == 32 else { return nil }
    return reply.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 16, as: UInt64.self) }
  }

  private func pass(_ request: [UInt8], _ reply: inout [UInt8]) -> Int {
    var request = request
    return request.withUnsafeMutableBytes { request in
      reply.withUnsafeMutableBytes { reply in
        var segments = [
          DeviceSegment(address: request.baseAddress!, count: request.count),
          DeviceSegment(address: reply.baseAddress!, count: reply.count),
        ]
        return segments.withUnsafeMutableBufferPointer { segments in
          var call = DeviceCall(segments: segments.baseAddress!, readable: 1, writable: 1)
          return withUnsafeMutablePointer(to: &call) {
            try? honest.perform(UnsafeMutableBufferPointer(start: $0, count: 1))
            return $0.pointee.replyCount
          }
        }
      }
    }
  }

  private func fail(_ code: Int32, _ head: FUSEInHeader, _ reply: inout [UInt8]) -> Int {
    honest.log.append(head.opcode)
    var out = FUSEOutHeader()
    out.length = 16
    out.error = -code
    out.unique = head.unique
    reply.withUnsafeMutableBytes { $0.storeBytes(of: out, as: FUSEOutHeader.self) }
    return 16
  }
}

extension Mounted {
  /// A directory by way of such a server.
  static func foreign(
    _ path: String, nodeLimit: Int = 16_384, cache: FUSEServer.CachePolicy = .automatic,
    configure: (ForeignTransport) -> Void = { _ in }
  ) throws -> (Mounted, ForeignTransport) {
    HostedArena.prepare()
    let clock = TestClock()
    let transport = try ForeignTransport(path, cache: cache, clock: clock)
    configure(transport)
    let mounted = Mounted(
      fileSystem: try VirtioFileSystem(transport: transport, nodeLimit: nodeLimit, clock: { clock.now }),
      transport: transport.honest, server: transport.server, clock: clock)
    return (mounted, transport)
  }
}
