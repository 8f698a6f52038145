// The file server's requests that change single files: WRITE, SETATTR, FALLOCATE, COPY_FILE_RANGE, extended attributes; and those that
// make changes durable.
//
// What takes rights takes them from the host's own checks, for the process has no capabilities: a write or a change of owner takes set-user bits
// away there, and an owner that is not ours to give is EPERM.
import CSystemCalls
import Glibc
import VirtioABI

extension FUSEServer {
  /// A descriptor to write to: the handle's if there is one.
  private func target(_ handle: UInt64, _ node: UInt64) throws(HostError) -> OpenDescriptor {
    guard handle != 0 else { return try writing(node) }
    let found = try self.handle(handle, node)
    if found.isDirectory { throw HostError(code: EISDIR) }
    return found.descriptor
  }

  // MARK: Contents

  func write(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEWriteIn.self)
    let size = Int(arguments.size)
    guard request.count == 0, size <= request.payload.count, size <= FUSE.maxData else { throw .invalid }
    guard arguments.offset <= UInt64(Int64.max) - UInt64(size) else { throw HostError(code: EFBIG) }
    let wantsReports = wantsReports
    let answerCount = MemoryLayout<FUSEWriteOut>.size + (wantsReports ? MemoryLayout<FUSEChangeReport>.size : 0)
    guard reply.room >= answerCount else { throw .invalid }
    let file = try target(arguments.handle, request.header.nodeID)
    let killsSetUser = arguments.writeFlags & FUSEWriteFlags.killSetUser != 0
    let before = wantsReports || killsSetUser ? try file.attributes() : nil
    if killsSetUser, let before { try killSetUser(file, before) }
    var answer = FUSEWriteOut()
    answer.size = UInt32(try request.payload.write(to: file, limit: size, position: arguments.offset))
    try reply.append(answer)
    if wantsReports { try report(before, file, &reply) }
  }

  /// Takes set-user and set-group bits away as a write by an ordinary user does.
  private func killSetUser(_ file: OpenDescriptor, _ attributes: osv_attributes) throws(HostError) {
    var mode = attributes.mode & 0o7777 & ~UInt32(S_ISUID)
    if mode & 0o010 != 0 { mode &= ~UInt32(S_ISGID) }
    if mode != attributes.mode & 0o7777 { try door.setMode(file, mode) }
  }

  func fallocate(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEFallocateIn.self)
    let (keepsSize, punches, zeroes): (UInt32, UInt32, UInt32) = (1, 2, 16)
    // What moves the rest of the file is left to nobody: the guest's cache goes by places.
    switch arguments.mode {
    case 0, keepsSize, keepsSize | punches, zeroes, zeroes | keepsSize: break
    default: throw HostError(code: EOPNOTSUPP)
    }
    guard arguments.length > 0, arguments.offset <= UInt64(Int64.max) else { throw .invalid }
    guard arguments.length <= UInt64(Int64.max) - arguments.offset else { throw HostError(code: EFBIG) }
    let wantsReports = wantsReports
    guard reply.room >= (wantsReports ? MemoryLayout<FUSEChangeReport>.size : 0) else { throw .invalid }
    let file = try target(arguments.handle, request.header.nodeID)
    let before = wantsReports ? try file.attributes() : nil
    _ = try HostError.check(
      Int(osv_fallocate(file.raw, Int32(arguments.mode), Int64(arguments.offset), Int64(arguments.length))))
    try report(before, file, &reply)
  }

  func copyFileRange(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSECopyIn.self)
    guard arguments.flags == 0, arguments.offset <= UInt64(Int64.max), arguments.toOffset <= UInt64(Int64.max) else {
      throw .invalid
    }
    let wantsReports = wantsReports
    let answerCount = MemoryLayout<FUSEWriteOut>.size + (wantsReports ? MemoryLayout<FUSEChangeReport>.size : 0)
    guard reply.room >= answerCount else { throw .invalid }
    let node = request.header.nodeID
    let source = arguments.handle != 0 ? try handle(arguments.handle, node).descriptor : try data(node)
    let target = try target(arguments.toHandle, arguments.toNode)
    let before = wantsReports ? try target.attributes() : nil
    // The count comes back in 32 bits, and a guest may not keep us busy for long.
    let limit = Int(min(arguments.length, 64 << 20))
    let copied = try HostError.check(
      osv_copy_file_range(source.raw, Int64(arguments.offset), target.raw, Int64(arguments.toOffset), limit))
    var answer = FUSEWriteOut()
    answer.size = UInt32(copied)
    try reply.append(answer)
    try report(before, target, &reply)
  }

  // MARK: Attributes

  func setattr(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSESetattrIn.self)
    guard reply.room >= MemoryLayout<FUSEAttributesOut>.size else { throw .invalid }
    let node = request.header.nodeID
    let valid = arguments.valid
    let hasHandle = valid & FUSESetattrFlags.handle != 0 && arguments.handle != 0
    let file: OpenDescriptor
    let before: osv_attributes
    if hasHandle {
      file = try handle(arguments.handle, node).descriptor
      before = try file.attributes()
    } else {
      (file, before) = try look(at: node)
    }
    try checkChangeable(file, before)
    let times = try Self.times(arguments)
    if valid & (FUSESetattrFlags.uid | FUSESetattrFlags.gid) != 0 { try setOwner(file, before, arguments) }
    if valid & FUSESetattrFlags.size != 0 {
      guard arguments.size <= UInt64(Int64.max) else { throw HostError(code: EFBIG) }
      let contents = try target(hasHandle ? arguments.handle : 0, node)
      if valid & FUSESetattrFlags.killSetUser != 0 { try killSetUser(contents, before) }
      _ = try HostError.check(Int(osv_ftruncate(contents.raw, Int64(arguments.size))))
    }
    if valid & FUSESetattrFlags.mode != 0 {
      if before.type == UInt32(S_IFLNK) { throw HostError(code: EOPNOTSUPP) }
      try door.setMode(file, arguments.mode & 0o7777)
    }
    if let times {
      var list = times
      let result = withUnsafePointer(to: &list) { pair in
        pair.withMemoryRebound(to: timespec.self, capacity: 2) { osv_utimens(file.raw, $0) }
      }
      _ = try HostError.check(Int(result))
    }
    var answer = FUSEAttributesOut()
    answer.valid = configuration.cache.seconds
    answer.attributes = protocolAttributes(try file.attributes())
    try reply.append(answer)
  }

  /// An owner that is the file's already may be set by anybody who could have set it to something else.
  private func setOwner(_ file: OpenDescriptor, _ before: osv_attributes, _ arguments: FUSESetattrIn) throws(HostError)
  {
    let uid = arguments.valid & FUSESetattrFlags.uid != 0 ? arguments.uid : UInt32.max
    let gid = arguments.valid & FUSESetattrFlags.gid != 0 ? arguments.gid : UInt32.max
    let result = osv_chown(file.raw, uid, gid)
    let isSame = (uid == UInt32.max || uid == before.uid) && (gid == UInt32.max || gid == before.gid)
    if result == 0 &- EPERM, isSame { return }
    _ = try HostError.check(Int(result))
  }

  /// Access and modification time for utimensat, nil where neither changes.
  private static func times(_ arguments: FUSESetattrIn) throws(HostError) -> (timespec, timespec)? {
    func time(_ given: UInt32, _ present: UInt32, _ seconds: UInt64, _ nanoseconds: UInt32) throws(HostError)
      -> timespec
    {
      let (utimeNow, utimeOmit) = (0x3fff_ffff, 0x3fff_fffe)
      if arguments.valid & present != 0 { return timespec(tv_sec: 0, tv_nsec: utimeNow) }
      if arguments.valid & given == 0 { return timespec(tv_sec: 0, tv_nsec: utimeOmit) }
      guard nanoseconds < 1_000_000_000 else { throw .invalid }
      return timespec(tv_sec: Int(Int64(bitPattern: seconds)), tv_nsec: Int(nanoseconds))
    }
    let any =
      FUSESetattrFlags.atime | FUSESetattrFlags.mtime | FUSESetattrFlags.atimeNow | FUSESetattrFlags.mtimeNow
    guard arguments.valid & any != 0 else { return nil }
    return (
      try time(FUSESetattrFlags.atime, FUSESetattrFlags.atimeNow, arguments.atime, arguments.atimeNanoseconds),
      try time(FUSESetattrFlags.mtime, FUSESetattrFlags.mtimeNow, arguments.mtime, arguments.mtimeNanoseconds)
    )
  }

  // MARK: Extended attributes: those of users, which are all that a process without capabilities may set.

  func setxattr(_ request: inout FUSERequest) throws(HostError) {
    let arguments = try request.take(FUSESetxattrIn.self)
    let name = try userAttribute(try request.takeString())
    let value = try request.takeBytes(Int(arguments.size))
    guard arguments.flags & ~3 == 0 else { throw .invalid }
    let file = try changeableAttributes(request.header.nodeID)
    _ = try HostError.check(
      Int(osv_fsetxattr(file.raw, name, value.baseAddress, value.count, Int32(arguments.flags))))
  }

  func removexattr(_ request: inout FUSERequest) throws(HostError) {
    let name = try userAttribute(try request.takeString())
    let file = try changeableAttributes(request.header.nodeID)
    _ = try HostError.check(Int(osv_fremovexattr(file.raw, name)))
  }

  /// A descriptor for a file that may have attributes of users: regular files and directories.
  private func changeableAttributes(_ node: UInt64) throws(HostError) -> OpenDescriptor {
    do throws(HostError) { return try attributed(node) } catch {
      throw error.code == ENODATA ? HostError(code: EPERM) : error
    }
  }

  /// Checks a name; what it gives is NUL-terminated.
  private func userAttribute(_ name: UnsafeRawBufferPointer) throws(HostError) -> UnsafePointer<CChar>? {
    guard name.count > 0 else { throw .invalid }
    guard name.count <= 255 else { throw HostError(code: ERANGE) }
    guard name.count > 5, name[..<5].elementsEqual("user.".utf8) else {
      // What takes capabilities that nobody has here is refused as to anybody without them.
      let isPrivileged = name.starts(with: "trusted.".utf8) || name.starts(with: "security.".utf8)
      throw HostError(code: isPrivileged ? EPERM : EOPNOTSUPP)
    }
    // SAFETY: `takeString` saw the NUL behind it.
    return name.assumingMemoryBound(to: CChar.self).baseAddress
  }

  // MARK: Making changes durable. Where nothing can be changed there is nothing to do.

  func fsync(_ request: inout FUSERequest) throws(HostError) {
    let arguments = try request.take(FUSEFsyncIn.self)
    let node = request.header.nodeID
    try checkKnown(node)
    guard configuration.isWritable else { return }
    let file: OpenDescriptor
    if arguments.handle != 0 {
      file = try handle(arguments.handle, node).descriptor
    } else if let cached = state.withLock({ $0.cache.find(node, .writing) }) {
      file = cached.descriptor
    } else {
      // A file that may be written only is as good.
      do throws(HostError) { file = try data(node) } catch {
        guard error.code == EACCES else { throw error }
        file = try writing(node)
      }
    }
    _ = try HostError.check(Int(osv_fsync(file.raw, Int32(arguments.flags & 1))))
  }

  func fsyncDirectory(_ request: inout FUSERequest) throws(HostError) {
    let arguments = try request.take(FUSEFsyncIn.self)
    try checkKnown(request.header.nodeID)
    guard configuration.isWritable else { return }
    let directory = try directory(request.header.nodeID).reopenDirectory()
    _ = try HostError.check(Int(osv_fsync(directory.raw, Int32(arguments.flags & 1))))
  }

  private func checkKnown(_ node: UInt64) throws(HostError) {
    _ = try locked { (state) throws(HostError) in try state.nodes.place(of: node) }
  }

  func syncFileSystem() throws(HostError) {
    guard configuration.isWritable else { return }
    let directory = try root.reopenDirectory()
    _ = try HostError.check(Int(osv_syncfs(directory.raw)))
  }
}
