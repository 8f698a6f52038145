// The file server's requests that change names: CREATE, TMPFILE, MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR, RENAME.
//
// A name is used in one system call beneath its directory, which was opened and verified as for a lookup; nothing follows a
// link. What the call has made is looked at afterwards like any other file, so whoever swaps names on the host meanwhile changes what the
// guest is told, never where it is. The guest's umask has been applied; the process has none (`osv_prepare_writing`).
import CSystemCalls
import Glibc
import VirtioABI

extension FUSEServer {
  /// A directory whose names change, and its attributes before, for clients that want a report.
  struct ChangingDirectory {
    let node: UInt64
    let descriptor: OpenDescriptor
    fileprivate let before: osv_attributes?
  }

  /// Whether the client wants to know what changes have done to attributes.
  var wantsReports: Bool { state.withLock { ($0.features ?? 0) & FUSEInit.changeReports != 0 } }

  private func changing(_ node: UInt64) throws(HostError) -> ChangingDirectory {
    let descriptor = try directory(node)
    return ChangingDirectory(
      node: node, descriptor: descriptor, before: wantsReports ? try descriptor.attributes() : nil)
  }

  private func report(_ directory: ChangingDirectory, _ reply: inout FUSEReply) throws(HostError) {
    try report(directory.before, directory.descriptor, &reply)
  }

  /// Appends what became of a file's attributes, if the client wants to know (`before` is there).
  func report(_ before: osv_attributes?, _ file: OpenDescriptor, _ reply: inout FUSEReply) throws(HostError) {
    guard let before else { return }
    var report = FUSEChangeReport()
    report.sizeBefore = before.size
    report.mtimeBefore = UInt64(bitPattern: before.mtime)
    report.mtimeBeforeNanoseconds = before.mtime_ns
    report.after.valid = configuration.cache.seconds
    // The change has been made: without attributes the client has to ask, which a validity of 0 makes it do.
    do throws(HostError) { report.after.attributes = protocolAttributes(try file.attributes()) } catch {
      report.after.valid = 0
      report.after.attributes = protocolAttributes(before)
    }
    try reply.append(report)
  }

  /// Room for an entry and a report, checked before anything is changed.
  private func checkRoom(_ reply: FUSEReply, _ byteCount: Int, reports: Int) throws(HostError) {
    let needed = byteCount + (wantsReports ? reports * MemoryLayout<FUSEChangeReport>.size : 0)
    guard reply.room >= needed else { throw .invalid }
  }

  /// Counts a lookup of a name that has just been made. `type`: what it must be.
  private func enterNew(_ name: HostName, in parent: ChangingDirectory, type: UInt32) throws(HostError) -> FUSEEntryOut
  {
    let attributes = try parent.descriptor.attributes(of: name.bytes)
    guard attributes.type == type else { throw .stale }
    return try enterNew(attributes, name, in: parent)
  }

  private func enterNew(_ attributes: osv_attributes, _ name: HostName, in parent: ChangingDirectory) throws(HostError)
    -> FUSEEntryOut
  {
    let node = try name.bytes.withUnsafeBufferPointer { (bytes) throws(HostError) in
      try enter(attributes, UnsafeBufferPointer(rebasing: bytes.dropLast()), parent: parent.node)
    }
    return protocolEntry(node, attributes)
  }

  // MARK: New files

  /// CREATE: makes a file, or opens the one there is (unless O_EXCL), and answers with its entry and, where one is needed, a handle.
  func create(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSECreateIn.self)
    let name = try HostName(try request.takeString())
    try checkRoom(reply, MemoryLayout<FUSEEntryOut>.size + MemoryLayout<FUSEOpenOut>.size, reports: 1)
    let parent = try changing(request.header.nodeID)
    // Always O_EXCL: what is there already may be something that must not be opened.
    let result = name.withCString { name in
      osv_create(
        parent.descriptor.raw, name, O_RDWR | O_EXCL | O_NONBLOCK | osv_o_nofollow, arguments.mode & 0o7777,
        osv_resolve_beneath)
    }
    if result == 0 &- EEXIST, arguments.flags & UInt32(O_EXCL) == 0 {
      return try openExisting(name, in: parent, arguments, &reply)
    }
    let file = OpenDescriptor(owning: Int32(truncatingIfNeeded: try HostError.check(Int(result))))
    let entry: FUSEEntryOut
    do throws(HostError) { entry = try enterNew(try file.attributes(), name, in: parent) } catch {
      _ = name.withCString { osv_unlinkat(parent.descriptor.raw, $0, 0) }
      throw error
    }
    try answer(entry, file, access: Int32(truncatingIfNeeded: arguments.flags) & O_ACCMODE, &reply)
    try report(parent, &reply)
  }

  private func openExisting(
    _ name: HostName, in parent: ChangingDirectory, _ arguments: FUSECreateIn, _ reply: inout FUSEReply
  ) throws(HostError) {
    let entry = try enterNew(name, in: parent, type: UInt32(S_IFREG))
    do throws(HostError) {
      let access = Int32(truncatingIfNeeded: arguments.flags) & O_ACCMODE
      let truncates = arguments.flags & UInt32(O_TRUNC) != 0
      let file = try openContents(entry.nodeID, truncates && access == O_RDONLY ? O_RDWR : access)
      var answered = entry
      if truncates {
        _ = try HostError.check(Int(osv_ftruncate(file.raw, 0)))
        answered.attributes = protocolAttributes(try file.attributes())
      }
      try answer(answered, file, access: access, &reply)
      try report(parent, &reply)
    } catch {
      forget(entry.nodeID, 1)
      throw error
    }
  }

  /// Appends an entry and an open file. A client that needs no handles gets one only if the mode would keep us from opening the
  /// file again; the descriptor is then its handle's, and otherwise the cache's.
  private func answer(_ entry: FUSEEntryOut, _ file: OpenDescriptor, access: Int32, _ reply: inout FUSEReply)
    throws(HostError)
  {
    var opened = FUSEOpenOut()
    let features = state.withLock { $0.features ?? 0 }
    let isNeedless = features & FUSEInit.noOpenSupport != 0
    let canReopen = entry.attributes.mode & 0o600 == 0o600
    opened.openFlags = FUSEOpenFlags.noFlush
    if isNeedless, canReopen || features & FUSEInit.changeReports == 0 {
      keep(file, for: entry.nodeID, .writing, verified: configuration.clock())
    } else {
      do throws(HostError) {
        opened.handle = try locked { (state) throws(HostError) in
          try state.handles.insert(entry.nodeID, file, isDirectory: false)
        }
      } catch {
        // The file stays, like one whose open failed; the guest hears of the handle only.
        forget(entry.nodeID, 1)
        throw error
      }
    }
    try reply.append(entry)
    try reply.append(opened)
  }

  /// TMPFILE: a file without a name, pinned from the start.
  func makeTemporary(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSECreateIn.self)
    try checkRoom(reply, MemoryLayout<FUSEEntryOut>.size + MemoryLayout<FUSEOpenOut>.size, reports: 0)
    let parent = request.header.nodeID
    let exclusive = Int32(truncatingIfNeeded: arguments.flags) & O_EXCL
    let directory = try directory(parent)
    let result = osv_tmpfile(directory.raw, O_RDWR | O_NONBLOCK | exclusive, arguments.mode & 0o7777)
    let file = OpenDescriptor(owning: Int32(truncatingIfNeeded: try HostError.check(Int(result))))
    let attributes = try file.attributes()
    let node = try enter(attributes, UnsafeBufferPointer(start: nil, count: 0), parent: parent)
    do throws(HostError) { try pin(file, as: node) } catch {
      forget(node, 1)
      throw error
    }
    try answer(protocolEntry(node, attributes), file, access: O_RDWR, &reply)
  }

  /// MKNOD: regular files, FIFOs and sockets, of which the last two are names only and never opened here.
  func makeNode(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEMknodIn.self)
    let type = arguments.mode & UInt32(S_IFMT)
    let name = try HostName(try request.takeString())
    switch type {
    case UInt32(S_IFREG), UInt32(S_IFIFO), UInt32(S_IFSOCK): break
    case UInt32(S_IFCHR), UInt32(S_IFBLK): throw HostError(code: EPERM)
    default: throw .invalid
    }
    try makeName(name, type: type, request, &reply) { directory, name in
      osv_mknodat(directory, name, type | arguments.mode & 0o7777)
    }
  }

  func makeDirectory(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSEMkdirIn.self)
    let name = try HostName(try request.takeString())
    try makeName(name, type: UInt32(S_IFDIR), request, &reply) { directory, name in
      osv_mkdirat(directory, name, arguments.mode & 0o7777)
    }
  }

  /// The target is data: 1 to 4,095 bytes.
  func makeSymbolicLink(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let name = try HostName(try request.takeString())
    let target = try request.takeString()
    guard target.count > 0 else { throw .noEntry }
    guard target.count <= FUSE.symlinkMax else { throw HostError(code: ENAMETOOLONG) }
    // SAFETY: `takeString` saw the NUL behind it.
    let text = target.assumingMemoryBound(to: CChar.self).baseAddress
    try makeName(name, type: UInt32(S_IFLNK), request, &reply) { directory, name in
      osv_symlinkat(text, directory, name)
    }
  }

  private func makeName(
    _ name: HostName, type: UInt32, _ request: FUSERequest, _ reply: inout FUSEReply,
    _ make: (Int32, UnsafePointer<CChar>?) -> Int32
  ) throws(HostError) {
    try checkRoom(reply, MemoryLayout<FUSEEntryOut>.size, reports: 1)
    let parent = try changing(request.header.nodeID)
    _ = try HostError.check(Int(name.withCString { make(parent.descriptor.raw, $0) }))
    try reply.append(try enterNew(name, in: parent, type: type))
    try report(parent, &reply)
  }

  /// LINK: by the file itself, not by one of its names.
  func link(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    let arguments = try request.take(FUSELinkIn.self)
    let name = try HostName(try request.takeString())
    try checkRoom(reply, MemoryLayout<FUSEEntryOut>.size, reports: 1)
    let (file, attributes) = try look(at: arguments.oldNode)
    if attributes.type == UInt32(S_IFDIR) { throw HostError(code: EPERM) }
    let parent = try changing(request.header.nodeID)
    try door.link(file, in: parent.descriptor, name)
    let linked = try parent.descriptor.attributes(of: name.bytes)
    guard FileIdentity(linked) == FileIdentity(attributes) else { throw .stale }
    try reply.append(try enterNew(linked, name, in: parent))
    try report(parent, &reply)
  }

  // MARK: Removing

  func unlink(_ request: inout FUSERequest, _ reply: inout FUSEReply, directory isDirectory: Bool) throws(HostError) {
    let name = try HostName(try request.takeString())
    try checkRoom(reply, 0, reports: 1)
    let parent = try changing(request.header.nodeID)
    let pinned = try pinVictim(name, in: parent)
    let result = name.withCString { osv_unlinkat(parent.descriptor.raw, $0, isDirectory ? 1 : 0) }
    if result < 0 {
      unpin(pinned)
      throw HostError(code: 0 &- result)
    }
    try report(parent, &reply)
  }

  /// Pins what is about to lose its name, if the guest knows it by that name.
  /// - Returns: The node; nil if there was nothing to do.
  private func pinVictim(_ name: HostName, in parent: ChangingDirectory) throws(HostError) -> UInt64? {
    let attributes = try parent.descriptor.attributes(of: name.bytes)
    return try pinVictim(attributes, name, in: parent)
  }

  private func pinVictim(_ attributes: osv_attributes, _ name: HostName, in parent: ChangingDirectory)
    throws(HostError) -> UInt64?
  {
    let node = try locked { (state) throws(HostError) -> UInt64? in
      guard let place = state.nodes.known(attributes),
        state.nodes.isAt(place, name.bytes, parent: try state.nodes.place(of: parent.node))
      else { return nil }
      let node = state.nodes.id(of: place)
      return state.pins[node] == nil ? node : nil
    }
    guard let node else { return nil }
    let file = try parent.descriptor.open(beneath: name.bytes, flags: osv_o_path | osv_o_nofollow)
    // Somebody else has put another file there: the one that the guest knows has lost its name before.
    guard FileIdentity(try file.attributes()) == FileIdentity(attributes) else { return nil }
    try pin(file, as: node)
    return node
  }

  private func pin(_ file: OpenDescriptor, as node: UInt64) throws(HostError) {
    try locked { (state) throws(HostError) in
      guard state.pins.count < configuration.pinLimit else { throw HostError(code: ENFILE) }
      // Forgotten meanwhile: nothing to keep.
      guard (try? state.nodes.place(of: node)) != nil else { return }
      state.pins[node] = file
    }
  }

  private func unpin(_ node: UInt64?) {
    guard let node else { return }
    _ = state.withLock { $0.pins.removeValue(forKey: node) }
  }

  // MARK: Renaming

  func rename(_ request: inout FUSERequest, _ reply: inout FUSEReply) throws(HostError) {
    var arguments = FUSERename2In()
    if request.header.opcode == FUSEOpcode.rename2 {
      arguments = try request.take(FUSERename2In.self)
    } else {
      arguments.newDirectory = try request.take(FUSERenameIn.self).newDirectory
    }
    let name = try HostName(try request.takeString())
    let newName = try HostName(try request.takeString())
    let isExchange = arguments.flags == osv_rename_exchange
    guard arguments.flags == 0 || arguments.flags == osv_rename_noreplace || isExchange else { throw .invalid }
    try checkRoom(reply, 0, reports: 2)
    let from = try changing(request.header.nodeID)
    let to = try changing(arguments.newDirectory)
    let moved = try from.descriptor.attributes(of: name.bytes)
    var replaced: osv_attributes?
    do throws(HostError) { replaced = try to.descriptor.attributes(of: newName.bytes) } catch {
      guard error == .noEntry else { throw error }
    }
    var pinned: UInt64?
    if let replaced, arguments.flags == 0, FileIdentity(replaced) != FileIdentity(moved) {
      pinned = try pinVictim(replaced, newName, in: to)
    }
    let result = name.withCString { old in
      newName.withCString { osv_renameat2(from.descriptor.raw, old, to.descriptor.raw, $0, arguments.flags) }
    }
    if result < 0 {
      unpin(pinned)
      throw HostError(code: 0 &- result)
    }
    _ = state.withLock { state -> [OpenDescriptor] in
      // Directories that were forgotten meanwhile take the news with them.
      if let place = try? state.nodes.place(of: to.node) { state.nodes.moved(moved, to: newName.bytes, parent: place) }
      if isExchange, let replaced, let place = try? state.nodes.place(of: from.node) {
        state.nodes.moved(replaced, to: name.bytes, parent: place)
      }
      return state.takeUnused()
    }
    try report(from, &reply)
    try report(to, &reply)
  }
}
