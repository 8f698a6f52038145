// The file server's requests about single files: attributes, data, open and close, access, extended attributes, sizes.
import CSystemCalls
import Glibc
import VirtioABI

extension FUSEServer {
  /// The file of a handle where there is one, for a request about a node.
  func handle(_ handle: UInt64, _ node: UInt64) throws(HostError) -> HandleTable.Handle {
    try locked { (state) throws(HostError) in try state.handles.find(handle, node: node) }
  }

  private func attributes(_ node: UInt64, flags: UInt32, handle: UInt64) throws(HostError) -> osv_attributes {
    if flags & FUSEGetattrFlags.handle != 0, handle != 0 {
      return try self.handle(handle, node).descriptor.attributes()
    }
    return try attributes(of: node)
  }

  func getattr(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEGetattrIn.self)
    let node = request.header.nodeID
    var answer = FUSEAttributesOut()
    answer.valid = configuration.cache.seconds
    answer.attributes = protocolAttributes(try attributes(node, flags: arguments.flags, handle: arguments.handle))
    try reply.append(answer)
  }

  func statx(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEStatXIn.self)
    let node = request.header.nodeID
    let host = try attributes(node, flags: arguments.flags, handle: arguments.handle)
    var answer = FUSEStatXOut()
    answer.valid = configuration.cache.seconds
    answer.mask = host.mask
    answer.blockSize = host.block_size
    answer.attributes = host.attributes
    answer.attributesMask = host.attributes_mask
    answer.linkCount = host.links
    answer.uid = host.uid
    answer.gid = host.gid
    answer.mode = UInt16(truncatingIfNeeded: host.mode)
    answer.ino = inodeNumbers.number(device: host.device, inode: host.inode)
    answer.size = host.size
    answer.blocks = host.blocks
    answer.atime = Self.time(host.atime, host.atime_ns)
    answer.btime = Self.time(host.btime, host.btime_ns)
    answer.ctime = Self.time(host.ctime, host.ctime_ns)
    answer.mtime = Self.time(host.mtime, host.mtime_ns)
    answer.rdevMajor = host.rdev_major
    answer.rdevMinor = host.rdev_minor
    try reply.append(answer)
  }

  private static func time(_ seconds: Int64, _ nanoseconds: UInt32) -> FUSEStatXTime {
    var time = FUSEStatXTime()
    time.seconds = seconds
    time.nanoseconds = nanoseconds
    return time
  }

  func open(_ request: inout FUSERequest, _ reply: inout FUSEReply, directory isDirectory: Bool) throws(HostError) {
    let arguments = try request.take(FUSEOpenIn.self)
    let node = request.header.nodeID
    let access = Int32(truncatingIfNeeded: arguments.flags) & O_ACCMODE
    let truncates = arguments.flags & UInt32(O_TRUNC) != 0
    if access != O_RDONLY || truncates {
      try checkWritable()
      if isDirectory { throw HostError(code: EISDIR) }
    }
    guard reply.room >= MemoryLayout<FUSEOpenOut>.size else { throw .invalid }
    let needless = isDirectory ? FUSEInit.noOpendirSupport : FUSEInit.noOpenSupport
    let features = state.withLock { $0.features ?? 0 }
    if features & needless != 0, isDirectory || features & FUSEInit.changeReports == 0 {
      throw HostError(code: ENOSYS)
    }
    let descriptor: OpenDescriptor
    if isDirectory {
      descriptor = try self.directory(node).reopenDirectory()
    } else if truncates {
      // O_TRUNC takes effect whatever the access.
      descriptor = try openContents(node, access == O_RDONLY ? O_RDWR : access)
      _ = try HostError.check(Int(osv_ftruncate(descriptor.raw, 0)))
    } else {
      descriptor = try openContents(node, access)
    }
    var answer = FUSEOpenOut()
    answer.openFlags = isDirectory ? 0 : FUSEOpenFlags.noFlush
    if configuration.cache == .always {
      answer.openFlags |= isDirectory ? FUSEOpenFlags.cacheDirectory : FUSEOpenFlags.keepCache
    }
    answer.handle = try locked { (state) throws(HostError) in
      try state.handles.insert(node, descriptor, isDirectory: isDirectory)
    }
    try reply.append(answer)
  }

  func release(_ request: inout FUSERequest) throws(HostError) {
    let arguments = try request.take(FUSEReleaseIn.self)
    let node = request.header.nodeID
    try locked { (state) throws(HostError) in try state.handles.remove(arguments.handle, node: node) }
  }

  /// Nothing is ever pending here. Without a handle, "no such call" saves the client from asking again.
  func flush(_ request: inout FUSERequest) throws(HostError) {
    let handle = try request.take(UInt64.self)
    if handle == 0 { throw HostError(code: ENOSYS) }
    _ = try self.handle(handle, request.header.nodeID)
  }

  func read(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEReadIn.self)
    let node = request.header.nodeID
    let file: OpenDescriptor
    if arguments.handle != 0 {
      let found = try handle(arguments.handle, node)
      if found.isDirectory { throw HostError(code: EISDIR) }
      file = found.descriptor
    } else {
      file = try data(node)
    }
    try reply.read(file, limit: Int(arguments.size), position: arguments.offset)
  }

  func lseek(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSESeekIn.self)
    let whence = Int32(truncatingIfNeeded: arguments.whence)
    guard whence == osv_seek_data || whence == osv_seek_hole, arguments.offset <= UInt64(Int64.max) else {
      throw .invalid
    }
    let node = request.header.nodeID
    let file = arguments.handle != 0 ? try handle(arguments.handle, node).descriptor : try data(node)
    var answer = FUSESeekOut()
    // The descriptor's position is nobody's: data is read by preadv.
    answer.offset = UInt64(try HostError.check(Int(osv_lseek(file.raw, Int64(arguments.offset), whence))))
    try reply.append(answer)
  }

  /// What the server itself may do with the file: the rest the guest decides by the mode.
  func access(_ request: inout FUSERequest) throws(HostError) {
    let arguments = try request.take(FUSEAccessIn.self)
    guard arguments.mask & ~7 == 0 else { throw .invalid }
    let (descriptor, _) = try look(at: request.header.nodeID)
    if arguments.mask & UInt32(W_OK) != 0 { try checkWritable() }
    _ = try HostError.check(Int(osv_access(descriptor.raw, Int32(arguments.mask))))
  }

  func statfs(_ request: FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let (descriptor, _) = try look(at: request.header.nodeID)
    var host = osv_sizes()
    _ = try HostError.check(Int(osv_fstatfs(descriptor.raw, &host)))
    var answer = FUSEStatFSOut()
    answer.blocks = host.blocks
    answer.blocksFree = host.blocks_free
    answer.blocksAvailable = host.blocks_available
    answer.files = host.files
    answer.filesFree = host.files_free
    answer.blockSize = host.block_size
    answer.nameMax = min(UInt32(FUSE.nameMax), host.name_max)
    answer.fragmentSize = host.fragment_size
    try reply.append(answer)
  }

  // MARK: Extended attributes

  func getxattr(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEXattrSize.self)
    let name = try request.takeString()
    guard name.count > 0 else { throw .invalid }
    guard name.count <= 255 else { throw HostError(code: ERANGE) }
    let file = try attributed(request.header.nodeID)
    let text = name.assumingMemoryBound(to: CChar.self).baseAddress  // SAFETY: `takeString` saw the NUL behind it.
    try passXattr(arguments.size, &reply) { buffer, count in osv_fgetxattr(file.raw, text, buffer, count) }
  }

  func listxattr(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEXattrSize.self)
    let file: OpenDescriptor
    do throws(HostError) { file = try attributed(request.header.nodeID) } catch {
      guard error.code == ENODATA else { throw error }
      if arguments.size == 0 { try reply.append(FUSEXattrSize()) }
      return
    }
    try passXattr(arguments.size, &reply) { buffer, count in osv_flistxattr(file.raw, buffer, count) }
  }

  /// A descriptor that extended attributes can be read from: files and directories have some, everything else has none for us.
  func attributed(_ node: UInt64) throws(HostError) -> OpenDescriptor {
    let (descriptor, attributes) = try look(at: node)
    switch attributes.type {
    case UInt32(S_IFREG): return try door.open(descriptor, owner: attributes.uid)
    case UInt32(S_IFDIR): return try descriptor.reopenDirectory()
    default: throw HostError(code: ENODATA)
    }
  }

  /// Passes a value (or, for size 0, its length) on. The kernel bounds both at 64 KiB.
  private func passXattr(
    _ size: UInt32, _ reply: inout FUSEReply, _ call: (UnsafeMutableRawPointer?, Int) -> Int
  ) throws(HostError) {
    if size == 0 {
      var answer = FUSEXattrSize()
      answer.size = UInt32(try HostError.check(call(nil, 0)))
      return try reply.append(answer)
    }
    guard Int(size) <= reply.room else { throw .invalid }
    let count = min(Int(size), 65_536)
    try withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { (buffer) throws(HostError) in
      let length = try HostError.check(call(buffer.baseAddress, buffer.count))
      reply.append(UnsafeRawBufferPointer(rebasing: buffer[..<length]))
    }
  }
}

/// The fuzzers' entry: one request of arbitrary bytes, the first of which choose the room for the reply.
/// Never crashes, never touches anything but the reply's room. `server` may be in any state.
public func fuzzFUSE(_ bytes: UnsafeRawBufferPointer, server: FUSEServer) {
  let room = bytes.count >= 2 ? Int(bytes.loadUnaligned(as: UInt16.self)) : 0
  let request = UnsafeRawBufferPointer(rebasing: bytes.dropFirst(2))
  withUnsafeTemporaryAllocation(byteCount: room + 1, alignment: 8) { buffer in
    let half = room / 2
    let vectors = [
      iovec(iov_base: buffer.baseAddress, iov_len: half),
      iovec(iov_base: buffer.baseAddress! + half, iov_len: room - half),
    ]
    vectors.withUnsafeBufferPointer {
      let length = server.handle(request: request, reply: $0)
      precondition(length <= room)
    }
  }
}
