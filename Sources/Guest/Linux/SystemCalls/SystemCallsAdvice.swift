// System calls that tell the kernel what a program is about to do with a file, and reads and writes with flags.
import Base
import Files
import Memory

extension SystemCall {
  /// posix_fadvise: checked as Linux checks it. Readahead follows what is read and the cache gives way under pressure, so the advice
  /// itself changes nothing.
  func fadvise64() throws(Errno) -> Int {
    let file = try file()
    guard file.vnode.type != .fifo else { throw .ESPIPE }
    guard argument2.i64 >= 0, argument3 <= 5 else { throw .EINVAL }
    return 0
  }

  /// readahead: what can be read ahead is a regular file that is open for reading.
  func readahead() throws(Errno) -> Int {
    let file = try file()
    guard file.isReadable else { throw .EBADF }
    guard file.vnode.type == .regular else { throw .EINVAL }
    return 0
  }

  /// sync_file_range: more than was asked for, all of the file's data.
  func sync_file_range() throws(Errno) -> Int {
    let file = try file()
    guard argument1.i64 >= 0, argument2.i64 >= 0, argument3 & ~7 == 0,
      !argument1.addingReportingOverflow(argument2).overflow
    else { throw .EINVAL }
    guard file.vnode.type == .regular || file.vnode.type == .directory || file.vnode.type == .blockDevice else {
      throw .ESPIPE
    }
    if argument3 != 0 { try file.synchronise(dataOnly: true) }
    return 0
  }

  /// syncfs.
  func syncfs() throws(Errno) -> Int {
    let file = try file()
    try file.vnode.fileSystem.synchronise()
    return 0
  }

  /// preadv2 and pwritev2: offset -1 means the position. RWF_HIPRI is a hint; RWF_DSYNC and RWF_SYNC write through.
  func preadv2() throws(Errno) -> Int {
    let flags = try readWriteFlags()
    guard flags & ~ReadWriteFlags.highPriority == 0 else { throw .EOPNOTSUPP }
    return try argument3.i64 == -1 ? readv() : preadv()
  }

  func pwritev2() throws(Errno) -> Int {
    let flags = try readWriteFlags()
    guard flags & (ReadWriteFlags.noWait | ReadWriteFlags.append) == 0 else { throw .EOPNOTSUPP }
    let count = try argument3.i64 == -1 ? writev() : pwritev()
    if flags & (ReadWriteFlags.synchronous | ReadWriteFlags.dataSynchronous) != 0 {
      try file().synchronise(dataOnly: flags & ReadWriteFlags.synchronous == 0)
    }
    return count
  }

  private enum ReadWriteFlags {
    static let highPriority: UInt32 = 1
    static let dataSynchronous: UInt32 = 2
    static let synchronous: UInt32 = 4
    static let noWait: UInt32 = 8
    static let append: UInt32 = 16
  }

  private func readWriteFlags() throws(Errno) -> UInt32 {
    // The fifth argument is the offset's high half, which 64-bit Linux does not look at.
    let flags = argument5.u32
    guard flags & ~31 == 0 else { throw .EOPNOTSUPP }
    return flags
  }
}
