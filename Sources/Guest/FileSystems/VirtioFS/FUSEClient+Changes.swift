// The FUSE client's requests that change something. The server must report what they do to attributes (`FUSEInit.changeReports`);
// without that none is sent.
import Base
import Devices
import Platform
import VirtioABI

extension FUSEClient {
  /// What CREATE and TMPFILE answer.
  struct Created {
    let entry: FUSEEntryOut
    /// 0 unless the file's own mode makes one necessary.
    let handle: UInt64
  }

  /// A request whose result is read by `read`, out of at most `body` bytes.
  private func change<R>(
    _ opcode: UInt32, _ node: UInt64, body: Int, _ fill: (FUSEMessage) throws(Errno) -> Void,
    _ read: (FUSEMessage) throws(Errno) -> R
  ) throws(Errno) -> R {
    guard isWritable else { throw .EROFS }
    let message = try take()
    defer { give(message) }
    message.begin(opcode, node: node, unique: nextUnique())
    try fill(message)
    message.end(replyBody: body)
    try perform(message)
    return try read(message)
  }

  private static var reportCount: Int { MemoryLayout<FUSEChangeReport>.size }
  private static var entryCount: Int { MemoryLayout<FUSEEntryOut>.size }

  // MARK: Names

  /// CREATE of a file that must not be there yet.
  func create(_ parent: UInt64, _ name: UnsafeRawBufferPointer, mode: UInt32) throws(Errno) -> (
    Created, FUSEChangeReport
  ) {
    let openCount = MemoryLayout<FUSEOpenOut>.size
    return try change(FUSEOpcode.create, parent, body: Self.entryCount &+ openCount &+ Self.reportCount) {
      (message) throws(Errno) in
      var arguments = FUSECreateIn()
      arguments.flags = 0o302  // O_CREAT | O_EXCL | O_RDWR
      arguments.mode = mode
      message.append(arguments)
      try message.append(name: name)
    } _: { (message) throws(Errno) in
      let opened = try message.result(FUSEOpenOut.self, at: Self.entryCount)
      let created = Created(entry: try message.result(FUSEEntryOut.self, at: 0), handle: opened.handle)
      return (created, try message.result(FUSEChangeReport.self, at: Self.entryCount &+ openCount))
    }
  }

  /// TMPFILE: a file without a name; with `exclusive` it never gets one.
  func createTemporary(_ parent: UInt64, mode: UInt32, exclusive: Bool) throws(Errno) -> Created {
    try change(FUSEOpcode.tmpfile, parent, body: Self.entryCount &+ MemoryLayout<FUSEOpenOut>.size) {
      (message) throws(Errno) in
      var arguments = FUSECreateIn()
      arguments.flags = exclusive ? 0o202 : 0o2  // O_RDWR, O_EXCL
      arguments.mode = mode
      message.append(arguments)
      // The protocol has a name here, which says nothing.
      try message.append(name: UnsafeRawBufferPointer(start: nil, count: 0))
    } _: { (message) throws(Errno) in
      let opened = try message.result(FUSEOpenOut.self, at: Self.entryCount)
      return Created(entry: try message.result(FUSEEntryOut.self, at: 0), handle: opened.handle)
    }
  }

  /// MKNOD of a FIFO or a socket.
  func mknod(_ parent: UInt64, _ name: UnsafeRawBufferPointer, mode: UInt32) throws(Errno) -> (
    FUSEEntryOut, FUSEChangeReport
  ) {
    try make(FUSEOpcode.mknod, parent) { (message) throws(Errno) in
      var arguments = FUSEMknodIn()
      arguments.mode = mode
      message.append(arguments)
      try message.append(name: name)
    }
  }

  /// MKDIR.
  func mkdir(_ parent: UInt64, _ name: UnsafeRawBufferPointer, mode: UInt32) throws(Errno) -> (
    FUSEEntryOut, FUSEChangeReport
  ) {
    try make(FUSEOpcode.mkdir, parent) { (message) throws(Errno) in
      var arguments = FUSEMkdirIn()
      arguments.mode = mode
      message.append(arguments)
      try message.append(name: name)
    }
  }

  /// SYMLINK; the target's bytes are sent from `target`, NUL-terminated, of at most 4,096 bytes with that.
  func symlink(_ parent: UInt64, _ name: UnsafeRawBufferPointer, target: UnsafeMutableRawBufferPointer) throws(Errno)
    -> (FUSEEntryOut, FUSEChangeReport)
  {
    try make(FUSEOpcode.symlink, parent) { (message) throws(Errno) in
      try message.append(name: name)
      guard let base = target.baseAddress, message.addPayload(base, target.count, limit: maximumSegments)
      else { throw .EIO }
    }
  }

  /// LINK.
  func link(_ node: UInt64, _ parent: UInt64, _ name: UnsafeRawBufferPointer) throws(Errno) -> (
    FUSEEntryOut, FUSEChangeReport
  ) {
    try make(FUSEOpcode.link, parent) { (message) throws(Errno) in
      var arguments = FUSELinkIn()
      arguments.oldNode = node
      message.append(arguments)
      try message.append(name: name)
    }
  }

  private func make(_ opcode: UInt32, _ parent: UInt64, _ fill: (FUSEMessage) throws(Errno) -> Void) throws(Errno)
    -> (FUSEEntryOut, FUSEChangeReport)
  {
    try change(opcode, parent, body: Self.entryCount &+ Self.reportCount, fill) { (message) throws(Errno) in
      let entry = try message.result(FUSEEntryOut.self, at: 0)
      return (entry, try message.result(FUSEChangeReport.self, at: Self.entryCount))
    }
  }

  /// UNLINK, or RMDIR.
  func unlink(_ parent: UInt64, _ name: UnsafeRawBufferPointer, directory: Bool) throws(Errno) -> FUSEChangeReport {
    try change(directory ? FUSEOpcode.rmdir : FUSEOpcode.unlink, parent, body: Self.reportCount) {
      (message) throws(Errno) in
      try message.append(name: name)
    } _: { (message) throws(Errno) in
      try message.result(FUSEChangeReport.self)
    }
  }

  /// RENAME2.
  func rename(
    _ parent: UInt64, _ name: UnsafeRawBufferPointer, to newParent: UInt64, _ newName: UnsafeRawBufferPointer,
    flags: UInt32
  ) throws(Errno) -> (FUSEChangeReport, FUSEChangeReport) {
    try change(FUSEOpcode.rename2, parent, body: 2 &* Self.reportCount) { (message) throws(Errno) in
      var arguments = FUSERename2In()
      arguments.newDirectory = newParent
      arguments.flags = flags
      message.append(arguments)
      try message.append(name: name)
      try message.append(name: newName)
    } _: { (message) throws(Errno) in
      let first = try message.result(FUSEChangeReport.self, at: 0)
      return (first, try message.result(FUSEChangeReport.self, at: Self.reportCount))
    }
  }

  // MARK: Files

  /// WRITE of `byteCount` bytes that begin `start` bytes into the first frame: as much of it as one request takes.
  /// - Returns: Bytes written, at least 1, and what became of the file.
  func write(
    _ node: UInt64, handle: UInt64, offset: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>, start: Int,
    byteCount: Int, flags: UInt32
  ) throws(Errno) -> (Int, FUSEChangeReport) {
    let writeCount = MemoryLayout<FUSEWriteOut>.size
    let most = min(byteCount, maximumWrite)
    var sent = 0
    return try change(FUSEOpcode.write, node, body: writeCount &+ Self.reportCount) { (message) throws(Errno) in
      var arguments = FUSEWriteIn()
      arguments.handle = handle
      arguments.offset = offset
      arguments.writeFlags = flags
      message.append(arguments)
      var index = 0
      var from = start
      while sent < most, index < frames.count {
        let count = min(4096 &- from, most &- sent)
        // SAFETY: a frame of the caller's, whose 4096 bytes lie in the linear map.
        let piece = LinearMap.pointer(frames[index]) + from
        guard message.addPayload(piece, count, limit: maximumSegments) else { break }
        sent &+= count
        from = 0
        index &+= 1
      }
      guard sent > 0 else { throw .EIO }
      message.setWriteSize(sent.u32)
    } _: { (message) throws(Errno) in
      let count = try message.result(FUSEWriteOut.self, at: 0).size.int
      guard count > 0, count <= sent else { throw .EIO }
      return (count, try message.result(FUSEChangeReport.self, at: writeCount))
    }
  }

  /// SETATTR.
  func setattr(_ node: UInt64, _ arguments: FUSESetattrIn) throws(Errno) -> FUSEAttributesOut {
    guard isWritable else { throw .EROFS }
    return try request(FUSEOpcode.setattr, node, FUSEAttributesOut.self) { $0.append(arguments) }
  }

  /// FALLOCATE.
  func fallocate(_ node: UInt64, handle: UInt64, mode: UInt32, offset: UInt64, byteCount: UInt64) throws(Errno)
    -> FUSEChangeReport
  {
    try change(FUSEOpcode.fallocate, node, body: Self.reportCount) { (message) throws(Errno) in
      var arguments = FUSEFallocateIn()
      arguments.handle = handle
      arguments.mode = mode
      arguments.offset = offset
      arguments.length = byteCount
      message.append(arguments)
    } _: { (message) throws(Errno) in
      try message.result(FUSEChangeReport.self)
    }
  }

  /// FSYNC, or FSYNCDIR.
  func fsync(_ node: UInt64, handle: UInt64, dataOnly: Bool, directory: Bool) throws(Errno) {
    try request(directory ? FUSEOpcode.fsyncdir : FUSEOpcode.fsync, node) { message in
      var arguments = FUSEFsyncIn()
      arguments.handle = handle
      arguments.flags = dataOnly ? 1 : 0
      message.append(arguments)
    }
  }

  /// SYNCFS.
  func syncFileSystem() throws(Errno) {
    try request(FUSEOpcode.syncfs, FUSE.rootNodeID) { $0.append(UInt64(0)) }
  }

  /// OPEN for reading and writing, as far as the file's mode allows: for files whose mode is about to allow less.
  func open(_ node: UInt64, flags: UInt32) throws(Errno) -> UInt64 {
    try request(FUSEOpcode.open, node, FUSEOpenOut.self) { message in
      var arguments = FUSEOpenIn()
      arguments.flags = flags
      message.append(arguments)
    }.handle
  }

  // MARK: Extended attributes

  /// SETXATTR; the value's bytes are sent from where they are.
  func setxattr(
    _ node: UInt64, _ name: UnsafeRawBufferPointer, value: UnsafeMutableRawBufferPointer, flags: UInt32
  ) throws(Errno) {
    guard isWritable else { throw .EROFS }
    try request(FUSEOpcode.setxattr, node) { (message) throws(Errno) in
      var arguments = FUSESetxattrIn()
      arguments.size = value.count.u32
      arguments.flags = flags
      message.append(arguments)
      try message.append(name: name)
      if let base = value.baseAddress, value.count > 0 {
        guard message.addPayload(base, value.count, limit: maximumSegments) else { throw .EIO }
      }
    }
  }

  /// REMOVEXATTR.
  func removexattr(_ node: UInt64, _ name: UnsafeRawBufferPointer) throws(Errno) {
    guard isWritable else { throw .EROFS }
    try request(FUSEOpcode.removexattr, node) { (message) throws(Errno) in try message.append(name: name) }
  }
}
