// System calls that lock files or parts of them: flock, and fcntl's record locks of processes and of open files.
import Base
import Files
import Memory

extension SystemCall {
  /// struct flock.
  private struct RecordLock {
    static let (read, write, unlocked): (Int16, Int16, Int16) = (0, 1, 2)
    var type: Int16 = 0
    var origin: Int16 = 0
    var padding: Int32 = 0
    var start: Int64 = 0
    var count: Int64 = 0
    var process: Int32 = 0
    var padding2: Int32 = 0
  }

  /// F_GETLK, F_SETLK, F_SETLKW (5, 6, 7) and their kin for open files (36, 37, 38).
  func lockRecords(_ file: OpenFile, _ command: Int32) throws(Errno) -> Int {
    let isOfOpenFile = command >= 36
    let (asks, waits) = (command == 5 || command == 36, command == 7 || command == 38)
    var request = try UserSpan.read(RecordLock.self, at: address2)
    if asks {
      guard request.type == RecordLock.read || request.type == RecordLock.write else { throw .EINVAL }
    }
    var wanted = try range(of: request, in: file)
    if isOfOpenFile {
      guard request.process == 0 else { throw .EINVAL }
      wanted.owner = file.lockOwner
    } else {
      wanted.owner = process.descriptors.lockOwner
      wanted.process = process.identifier
    }
    if asks {
      guard let held = file.vnode.fileLocks?.conflict(with: wanted) else {
        request.type = RecordLock.unlocked
        try UserSpan.write(request, at: address2)
        return 0
      }
      request.type = held.isExclusive ? RecordLock.write : RecordLock.read
      request.origin = 0
      request.start = held.start.i64
      request.count = held.last == .max ? 0 : (held.last &- held.start &+ 1).i64
      request.process = held.process
      try UserSpan.write(request, at: address2)
      return 0
    }
    switch request.type {
    case RecordLock.unlocked:
      try file.vnode.fileLocks?.remove(wanted)
      return 0
    case RecordLock.read: guard file.isReadable else { throw .EBADF }
    default: guard file.isWritable else { throw .EBADF }
    }
    let locks = file.vnode.makeFileLocks()
    try locks.set(wanted, waits: waits)
    // A close on another thread may have come before: then nobody would give the lock back.
    if !isOfOpenFile, (try? process.descriptors.file(descriptor)) !== file {
      try locks.remove(wanted)
      throw .EBADF
    }
    return 0
  }

  /// The bytes that a request means.
  private func range(of request: RecordLock, in file: OpenFile) throws(Errno) -> RangeLock {
    guard request.type >= RecordLock.read, request.type <= RecordLock.unlocked else { throw .EINVAL }
    let base: Int64
    switch request.origin {
    case 0: base = 0
    case 1: base = file.vnode.isSeekable ? try file.seek(0, from: .current).i64 : 0
    case 2: base = try file.getAttributes().byteCount.i64
    default: throw .EINVAL
    }
    let (start, overflow) = base.addingReportingOverflow(request.start)
    guard !overflow else { throw .EOVERFLOW }
    guard start >= 0 else { throw .EINVAL }
    var result = RangeLock(
      owner: 0, isExclusive: request.type == RecordLock.write, start: start.u64, last: .max)
    if request.count > 0 {
      let (last, overflow) = start.addingReportingOverflow(request.count &- 1)
      guard !overflow else { throw .EOVERFLOW }
      if last != .max { result.last = last.u64 }
    } else if request.count < 0 {
      let (first, overflow) = start.addingReportingOverflow(request.count)
      guard !overflow, first >= 0 else { throw .EINVAL }
      result.start = first.u64
      result.last = start.u64 &- 1
    }
    return result
  }

  func flock() throws(Errno) -> Int {
    let file = try file()
    let waits = argument1 & 4 == 0
    switch argument1.u32 & ~4 {
    case 1, 2:
      let wanted = RangeLock(owner: file.lockOwner, isExclusive: argument1 & 2 != 0)
      try file.vnode.makeFileLocks().setWhole(wanted, waits: waits)
    case 8: file.vnode.fileLocks?.removeWhole(of: file.lockOwner)
    default: throw .EINVAL
    }
    return 0
  }
}
