// System calls about descriptors and open files that need no path.
import Base
import DevFS
import Files
import Locks
import Memory
import Platform

extension SystemCall {
  func close() throws(Errno) -> Int {
    try process.descriptors.close(descriptor)
    return 0
  }

  func close_range() throws(Errno) -> Int {
    let first = argument0.u32
    let last = argument1.u32
    let flags = argument2.u32
    guard first <= last, flags & ~6 == 0 else { throw .EINVAL }
    process.descriptors.closeRange(first.int, last.int, onExecOnly: flags & 4 != 0)
    return 0
  }

  func dup() throws(Errno) -> Int { try process.descriptors.duplicate(descriptor) }

  func dup2() throws(Errno) -> Int {
    try process.descriptors.duplicate(descriptor, onto: argument1.i32.int)
    return argument1.i32.int
  }

  func dup3() throws(Errno) -> Int {
    let flags = OpenFlags(rawValue: argument2.u32)
    guard argument0.i32 != argument1.i32, flags.subtracting(.closeOnExec).isEmpty else { throw .EINVAL }
    try process.descriptors.duplicate(
      descriptor, onto: argument1.i32.int, closeOnExec: flags.contains(.closeOnExec))
    return argument1.i32.int
  }

  func fcntl() throws(Errno) -> Int {
    let descriptors = process.descriptors
    let file = try fileOrPlace()
    switch argument1.i32 {
    case 0: return try descriptors.duplicate(descriptor, atLeast: argument2.i32.int)
    case 1030: return try descriptors.duplicate(descriptor, atLeast: argument2.i32.int, closeOnExec: true)
    case 1: return try descriptors.closesOnExec(descriptor) ? 1 : 0
    case 2: try descriptors.setClosesOnExec(descriptor, argument2 & 1 != 0)
    // F_GETFL: O_LARGEFILE is always on for 64-bit programs' files and Linux shows it.
    case 3: return (file.isPathOnly ? file.flags : file.flags.union(.largeFile)).rawValue.int
    case let command where file.isPathOnly && command > 3: throw .EBADF
    case 4: file.setFlags(OpenFlags(rawValue: argument2.u32))
    case 5, 6, 7, 36, 37, 38: return try lockRecords(file, argument1.i32)
    case 1024: throw .EINVAL  // F_SETLEASE: no file system here breaks leases
    case 1025: return 2  // F_GETLEASE: F_UNLCK
    case 1031: return try Splice.resize(file, to: argument2.u32.int, isPrivileged: credentials.isPrivileged)
    case 1032: return try Splice.capacity(of: file)  // F_GETPIPE_SZ
    case 1033: try addSeals(to: file)  // F_ADD_SEALS
    case 1034: return try seals(of: file)  // F_GET_SEALS
    default: throw .EINVAL
    }
    return 0
  }

  func ioctl() throws(Errno) -> Int {
    let file = try file()
    switch argument1.u32 {
    case 0x5450: try process.descriptors.setClosesOnExec(descriptor, false)  // FIONCLEX
    case 0x5451: try process.descriptors.setClosesOnExec(descriptor, true)  // FIOCLEX
    case 0x5421:  // FIONBIO
      let isOn = try UserSpan.read(Int32.self, at: address2) != 0
      file.setFlags(isOn ? file.flags.union(.nonBlocking) : file.flags.subtracting(.nonBlocking))
    default:
      do throws(Errno) { return try file.control(argument1.u32, argument2) } catch {
        guard error == .ERESTART, let terminal = file.vnode as? Terminal else { throw error }
        return try controlFromBackground(terminal)
      }
    }
    return 0
  }

  /// A terminal does not let a program in the background change it, unless that ignores or blocks the signal that stops it.
  private func controlFromBackground(_ terminal: Terminal) throws(Errno) -> Int {
    if task.blocksOrIgnores(.backgroundOutput) {
      return try terminal.control(argument1.u32, argument2, isForced: true)
    }
    process.send(fromKernel: .backgroundOutput)
    throw .EINTR
  }

  func fsync() throws(Errno) -> Int {
    try file().synchronise(dataOnly: frame.pointee.error == 75)
    return 0
  }

  func ftruncate() throws(Errno) -> Int {
    guard argument1.i64 >= 0 else { throw .EINVAL }
    try file().truncate(to: argument1)
    return 0
  }

  func fallocate() throws(Errno) -> Int {
    let file = try file()
    guard argument2.i64 >= 0, argument3.i64 > 0 else { throw .EINVAL }
    try file.allocate(mode: argument1.u32, offset: argument2, byteCount: argument3)
    return 0
  }

  // MARK: Directories

  func getdents64() throws(Errno) -> Int { try listDirectory { _ in } }

  /// The older layout: the type behind the name instead of before it. A record is as long as in the newer one.
  func getdents() throws(Errno) -> Int {
    try listDirectory { records in
      var start = 0
      while start < records.count {
        let length = records.loadUnaligned(fromByteOffset: start &+ 16, as: UInt16.self).int
        let type = records[start &+ 18]
        for index in start &+ 18..<start &+ length &- 1 { records[index] = records[index &+ 1] }
        records[start &+ length &- 1] = type
        start &+= length
      }
    }
  }

  private func listDirectory(_ convert: (UnsafeMutableRawBufferPointer) -> Void) throws(Errno) -> Int {
    let file = try file()
    guard let buffer = CopyBuffer(byteCount: Self.byteCount(argument2)) else { throw .ENOMEM }
    let used = try file.readDirectory(into: buffer.bytes)
    guard used > 0 else { return 0 }
    let records = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<used])
    convert(records)
    try UserSpan(address1, count: used).write(from: UnsafeRawBufferPointer(records))
    return used
  }

  // MARK: Pipes

  func pipe() throws(Errno) -> Int { try makePipe([]) }
  func pipe2() throws(Errno) -> Int { try makePipe(OpenFlags(rawValue: argument1.u32)) }

  private func makePipe(_ flags: OpenFlags) throws(Errno) -> Int {
    guard flags.subtracting([.closeOnExec, .nonBlocking, .direct]).isEmpty else { throw .EINVAL }
    let ends = try Pipe.make(flags: flags)
    let closes = flags.contains(.closeOnExec)
    let reading = try process.descriptors.install(ends.reader, closeOnExec: closes)
    do throws(Errno) {
      let writing = try process.descriptors.install(ends.writer, closeOnExec: closes)
      do throws(Errno) {
        let both: [2 of Int32] = [reading.i32, writing.i32]
        try UserSpan.write(both, at: address0)
      } catch {
        try? process.descriptors.close(writing)
        throw error
      }
    } catch {
      try? process.descriptors.close(reading)
      throw error
    }
    return 0
  }
}
