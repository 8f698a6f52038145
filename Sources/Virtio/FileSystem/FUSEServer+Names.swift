// The file server's requests about names: LOOKUP, FORGET, READDIR, READDIRPLUS, READLINK.
import CSystemCalls
import Glibc
import VirtioABI

extension FUSEServer {
  func lookup(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let name = try HostName(try request.takeString())
    guard reply.room >= MemoryLayout<FUSEEntryOut>.size else { throw .invalid }
    let parent = request.header.nodeID
    let directory = try directory(parent)
    let attributes: osv_attributes
    do throws(HostError) { attributes = try directory.attributes(of: name.bytes) } catch {
      guard error == .noEntry else { throw error }
      // That there is nothing may be cached as well.
      return try reply.append(negativeEntry())
    }
    let node = try name.bytes.withUnsafeBufferPointer { (bytes) throws(HostError) in
      // SAFETY: NUL-terminated, and outlives the call.
      try bytes.withMemoryRebound(to: CChar.self) { (text) throws(HostError) in
        try checkEntry(text.baseAddress, in: directory, parent: parent, attributes)
      }
      return try enter(attributes, UnsafeBufferPointer(rebasing: bytes.dropLast()), parent: parent)
    }
    try reply.append(protocolEntry(node, attributes))
  }

  func forget(_ request: inout FUSERequest) throws(HostError) {
    if request.header.opcode == FUSEOpcode.forget {
      let one = try request.take(FUSEForgetIn.self)
      return forget(request.header.nodeID, one.lookupCount)
    }
    let batch = try request.take(FUSEBatchForgetIn.self)
    // The count is a claim; the bytes decide.
    for _ in 0..<min(Int(batch.count), request.count / MemoryLayout<FUSEForgetOne>.size) {
      let one = try request.take(FUSEForgetOne.self)
      forget(one.nodeID, one.lookupCount)
    }
  }

  func readlink(_ request: FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let (link, attributes) = try look(at: request.header.nodeID)
    guard attributes.type == UInt32(S_IFLNK) else { throw .invalid }
    let room = min(reply.room, FUSE.symlinkMax)
    try withUnsafeTemporaryAllocation(byteCount: FUSE.symlinkMax + 1, alignment: 1) { (buffer) throws(HostError) in
      let length = try HostError.check(osv_readlink(link.raw, buffer.baseAddress, buffer.count))
      guard length <= room else { throw HostError(code: ENAMETOOLONG) }
      reply.append(UnsafeRawBufferPointer(rebasing: buffer[..<length]))
    }
  }

  /// READDIR and READDIRPLUS. The offsets are the host's own d_off, so they hold across calls and handles; the attributes
  /// come by statx beneath the directory, and nothing is opened.
  func readDirectory(_ request: inout FUSERequest, _ reply: inout FUSEReply, plus: Bool) throws(HostError) {
    let arguments = try request.take(FUSEReadIn.self)
    let node = request.header.nodeID
    let limit = Int(arguments.size)
    guard limit <= reply.room else { throw .invalid }
    let (stream, cached) = try entries(node, handle: arguments.handle)
    defer { if cached { keep(node, stream) } }
    _ = try HostError.check(Int(osv_lseek(stream.raw, Int64(bitPattern: arguments.offset), SEEK_SET)))
    // A record of getdents64 is several times smaller than the guest's entry: read no more than can be passed on.
    let buffer = max(2048, min(32_768, limit / (plus ? 4 : 1)))
    var lookups: [UInt64] = []
    do throws(HostError) {
      try withUnsafeTemporaryAllocation(byteCount: buffer, alignment: 8) { (buffer) throws(HostError) in
        let end = reply.count + limit
        var more = true
        while more {
          let length = try HostError.check(osv_getdents64(stream.raw, buffer.baseAddress, buffer.count))
          if length == 0 { return }
          var records = UnsafeRawBufferPointer(rebasing: buffer[..<length])
          while more, let entry = HostEntry(&records) {
            more = try add(entry, of: node, stream, plus: plus, &reply, end: end, &lookups)
          }
        }
      }
    } catch {
      // The reply is thrown away, and with it what the guest would have known.
      for node in lookups { forget(node, 1) }
      throw error
    }
  }

  /// Appends one entry; false where it does not fit any more.
  private func add(
    _ entry: HostEntry, of parent: UInt64, _ directory: OpenDescriptor, plus: Bool, _ reply: inout FUSEReply,
    end: Int, _ lookups: inout [UInt64]
  ) throws(HostError) -> Bool {
    guard entry.name.count <= FUSE.nameMax else { return true }
    var head = FUSEDirectoryEntry()
    let fixed = MemoryLayout<FUSEDirectoryEntry>.size + (plus ? MemoryLayout<FUSEEntryOut>.size : 0)
    let length = FUSE.align(fixed + entry.name.count)
    guard reply.count + length <= end else { return false }
    head.offset = entry.offset
    head.nameLength = UInt32(truncatingIfNeeded: entry.name.count)
    head.type = UInt32(entry.type)
    head.ino = inodeNumber(of: entry, in: parent)
    if plus {
      var full = FUSEEntryOut()
      if !entry.isDots {
        do throws(HostError) {
          let attributes = try directory.attributes(ofNameAt: entry.terminatedName)
          try checkEntry(entry.terminatedName, in: directory, parent: parent, attributes)
          full = protocolEntry(try enter(attributes, entry.name, parent: parent), attributes)
          lookups.append(full.nodeID)
          head.ino = full.attributes.ino
          head.type = attributes.type >> 12
        } catch {
          // Gone since the directory was read. Otherwise the name is all that can be said.
          if error == .noEntry { return true }
        }
      }
      try reply.append(full)
    }
    try reply.append(head)
    reply.append(UnsafeRawBufferPointer(entry.name))
    reply.pad(by: length - fixed - entry.name.count)
    return true
  }

  /// The number of an entry without looking at the file: right but for roots of other mounts, as with Linux's own readdir.
  private func inodeNumber(of entry: HostEntry, in directory: UInt64) -> UInt64 {
    let isRoot = directory == FUSE.rootNodeID
    // The parent of the root is the root: what lies above is none of the guest's business.
    if isRoot, entry.isDots {
      return inodeNumbers.number(device: rootAttributes.device, inode: rootAttributes.inode)
    }
    let device = state.withLock { state -> UInt64 in
      guard let place = try? state.nodes.place(of: directory) else { return rootAttributes.device }
      return state.nodes.identity(of: place).device
    }
    return inodeNumbers.number(device: device, inode: entry.inode)
  }

  /// A directory opened for reading: the guest's handle, or one from the cache, taken out for as long as it is in use.
  private func entries(_ node: UInt64, handle: UInt64) throws(HostError) -> (OpenDescriptor, cached: Bool) {
    if handle != 0 {
      let found = try locked { (state) throws(HostError) in try state.handles.find(handle, node: node) }
      guard found.isDirectory else { throw HostError(code: ENOTDIR) }
      // An open directory that was moved out of the shared tree shows nothing of what it holds by now.
      _ = try directory(node)
      // Two reads by one handle at a time must not share its position.
      return (try found.descriptor.reopenDirectory(), false)
    }
    let directory = try directory(node)
    let trust = configuration.trustNanoseconds
    let now = configuration.clock()
    if let cached = state.withLock({ $0.cache.remove(node, .entries) }), now &- cached.verified < trust {
      return (cached.descriptor, true)
    }
    return (try directory.reopenDirectory(), true)
  }

  private func keep(_ node: UInt64, _ stream: OpenDescriptor) {
    keep(stream, for: node, .entries, verified: configuration.clock())
  }

  /// Counts a lookup of what `name` in `parent` turned out to be, and gives its node. A pinned file that is found by a name is
  /// pinned no more.
  func enter(_ attributes: osv_attributes, _ name: UnsafeBufferPointer<UInt8>, parent: UInt64)
    throws(HostError) -> UInt64
  {
    try locked { (state) throws(HostError) -> (UInt64, [OpenDescriptor]) in
      let place = try state.nodes.enter(attributes, name: name, parent: try state.nodes.place(of: parent))
      let node = state.nodes.id(of: place)
      var unused = state.takeUnused()
      if !name.isEmpty, let pin = state.pins.removeValue(forKey: node) { unused.append(pin) }
      return (node, unused)
    }.0
  }

  func forget(_ node: UInt64, _ count: UInt64) {
    _ = state.withLock { state -> [OpenDescriptor] in
      state.nodes.forget(node, count: count)
      return state.takeUnused()
    }
  }

  private func negativeEntry() -> FUSEEntryOut {
    var entry = FUSEEntryOut()
    entry.entryValid = configuration.cache.seconds
    return entry
  }
}

/// One record of getdents64.
struct HostEntry {
  let inode: UInt64
  let offset: UInt64
  let type: UInt8
  /// Without the NUL, which follows it.
  let name: UnsafeBufferPointer<UInt8>

  /// Takes a record off; nil at the end.
  init?(_ records: inout UnsafeRawBufferPointer) {
    guard records.count >= 24 else { return nil }
    let length = Int(records.loadUnaligned(fromByteOffset: 16, as: UInt16.self))
    guard length >= 24, length <= records.count else { return nil }
    inode = records.loadUnaligned(as: UInt64.self)
    offset = records.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
    type = records[18]
    // SAFETY: within the record; the kernel ends the name with a NUL, and it is looked for no further than the record goes.
    let text = UnsafeRawBufferPointer(rebasing: records[19..<length])
    guard let end = text.firstIndex(of: 0) else { return nil }
    name = UnsafeRawBufferPointer(rebasing: text[..<end]).assumingMemoryBound(to: UInt8.self)
    records = UnsafeRawBufferPointer(rebasing: records[length...])
  }

  /// Whether it is "." or "..".
  var isDots: Bool { name[0] == 0x2e && (name.count == 1 || (name.count == 2 && name[1] == 0x2e)) }

  /// The name as C sees it.
  var terminatedName: UnsafePointer<CChar>? {
    UnsafeRawPointer(name.baseAddress)?.assumingMemoryBound(to: CChar.self)
  }
}
