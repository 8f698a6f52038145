// System calls that name files by paths: names, attributes, directories.
import Base
import Files
import Locks
import Memory

extension Process {
  /// The place that a path names, from the working directory, with the process' rights.
  func find(_ path: PathBytes) throws(Errno) -> Location {
    try context.find(path, from: nil, credentials)
  }
}

extension SystemCall {
  var context: FileSystemContext { process.context }

  /// The caller's view of the tree, for a body. Nothing is counted.
  @inline(__always) private func withContext<R>(_ body: (FileSystemContext) throws(Errno) -> R) throws(Errno) -> R {
    try withProcess { $0.contextReference }.use(body)
  }

  /// Where a path starts: at the place of directory descriptor `directory`, or (nil) at the working directory. A path that starts at the
  /// root, or is none at all, starts at neither: the descriptor may be anything.
  /// - Parameter isRoot: even an absolute path starts there (RESOLVE_IN_ROOT).
  @inline(__always) func base(
    _ directory: UInt64, _ path: PathBytes, _ flags: AtFlags = [], isRoot: Bool = false
  ) throws(Errno) -> Location? {
    guard directory.i32 != workingDirectoryDescriptor, !path.isAbsolute || isRoot,
      !path.isEmpty || flags.contains(.emptyPath)
    else { return nil }
    return try place(of: directory)
  }

  @inline(never) private func place(of directory: UInt64) throws(Errno) -> Location {
    try withFileOrPlace(directory.i32.int) { (file) throws(Errno) in file.location }
  }

  /// Flags of an *at call; those that are not `allowed` are refused.
  private func atFlags(_ argument: UInt64, allowed: AtFlags) throws(Errno) -> AtFlags {
    let flags = AtFlags(rawValue: argument.u32)
    guard flags.subtracting(allowed).isEmpty else { throw .EINVAL }
    return flags
  }

  // MARK: Opening

  func open() throws(Errno) -> Int {
    try open(from: workingDirectory, address0, flags: argument1, mode: argument2)
  }
  func creat() throws(Errno) -> Int {
    try open(from: workingDirectory, address0, flags: 0o1101, mode: argument1)
  }
  func openat() throws(Errno) -> Int {
    try open(from: argument0, address1, flags: argument2, mode: argument3)
  }

  private func open(
    from directory: UInt64, _ path: VirtualAddress, flags: UInt64, mode: UInt64, resolve: ResolveFlags = []
  ) throws(Errno) -> Int {
    let flags = OpenFlags(rawValue: flags.u32)
    let file = try withPath(path) { (path) throws(Errno) in
      let base = try base(directory, path, isRoot: resolve.contains(.inRoot))
      return try withContext { (context) throws(Errno) in
        try withCredentials { (credentials) throws(Errno) in
          try context.open(path, from: base, flags, mode: mode.u32, credentials, resolve: resolve)
        }
      }
    }
    return try withProcess { $0.descriptorsReference }.use { (descriptors) throws(Errno) in
      try descriptors.install(file, closeOnExec: flags.contains(.closeOnExec))
    }
  }

  /// openat2(directory, path, struct open_how, its size): nothing that is not known is ignored.
  func openat2() throws(Errno) -> Int {
    guard argument3 >= 24 else { throw .EINVAL }
    guard argument3 <= 4096 else { throw .E2BIG }
    let how = try UserSpan.read([3 of UInt64].self, at: address2)
    // What a newer program says must be nothing.
    for index in 24..<max(argument3.int, 24) where try UserSpan.read(UInt8.self, at: address2 + index) != 0 {
      throw .E2BIG
    }
    let (mode, resolve) = (how[1], ResolveFlags(rawValue: how[2]))
    let flags = OpenFlags(rawValue: how[0].u32)
    guard how[0] & ~OpenFlags.known.rawValue.u64 == 0, resolve.subtracting(.all).isEmpty,
      !resolve.contains([.beneath, .inRoot])
    else { throw .EINVAL }
    if flags.isDisjoint(with: [.create, .temporary]) {
      guard mode == 0 else { throw .EINVAL }
    } else {
      guard mode & ~FileMode.permissionMask.u64 == 0 else { throw .EINVAL }
    }
    if flags.contains(.pathOnly), !flags.subtracting([.pathOnly, .directory, .noFollow, .closeOnExec]).isEmpty {
      throw .EINVAL
    }
    if resolve.contains(.cached), !flags.isDisjoint(with: [.create, .truncate, .temporary]) { throw .EAGAIN }
    return try open(from: argument0, address1, flags: how[0], mode: mode, resolve: resolve)
  }

  // MARK: Attributes

  private func write(_ information: borrowing StatInformation, at address: VirtualAddress) throws(Errno) -> Int {
    try UserSpan.write(FileStatus(information), at: address)
    return 0
  }

  func stat() throws(Errno) -> Int { try attributes([], workingDirectory, address0, to: address1) }
  func lstat() throws(Errno) -> Int { try attributes(.noFollow, workingDirectory, address0, to: address1) }
  func fstat() throws(Errno) -> Int {
    var information = StatInformation()
    try withFileOrPlace(descriptor) { (file) throws(Errno) in try file.getAttributes(into: &information) }
    return try write(information, at: address1)
  }

  func newfstatat() throws(Errno) -> Int {
    let flags = try atFlags(argument3, allowed: [.noFollow, .noAutomount, .emptyPath])
    return try attributes(flags, argument0, address1, to: address2)
  }

  private func attributes(
    _ flags: AtFlags, _ directory: UInt64, _ path: VirtualAddress, to result: VirtualAddress
  ) throws(Errno) -> Int {
    var information = StatInformation()
    try getAttributes(flags, directory, path, into: &information)
    return try write(information, at: result)
  }

  /// Attributes by directory and path; with an empty path, those of the open file itself.
  @inline(__always) private func getAttributes(
    _ flags: AtFlags, _ directory: UInt64, _ path: VirtualAddress, into information: inout StatInformation
  ) throws(Errno) {
    try withPath(path) { (path) throws(Errno) in
      if path.isEmpty, flags.contains(.emptyPath), directory.i32 != workingDirectoryDescriptor {
        return try withFileOrPlace(directory.i32.int) { (file) throws(Errno) in
          try file.getAttributes(into: &information)
        }
      }
      let base = try base(directory, path, flags)
      try withContext { (context) throws(Errno) in
        try withCredentials { (credentials) throws(Errno) in
          try context.getAttributes(path, from: base, flags: flags, credentials, into: &information)
        }
      }
    }
  }

  func statx() throws(Errno) -> Int {
    // AT_STATX_SYNC_TYPE says how fresh the answer must be; here it always is.
    let flags = try atFlags(argument2 & ~0x6000, allowed: [.noFollow, .noAutomount, .emptyPath])
    var information = StatInformation()
    try getAttributes(flags, argument0, address1, into: &information)
    try UserSpan.write(ExtendedFileStatus(information), at: address4)
    return 0
  }

  func access() throws(Errno) -> Int { try checkAccess(workingDirectory, address0, argument1, []) }
  func faccessat() throws(Errno) -> Int { try checkAccess(argument0, address1, argument2, []) }
  func faccessat2() throws(Errno) -> Int {
    let flags = try atFlags(argument3, allowed: [.noFollow, .effectiveAccess, .emptyPath])
    return try checkAccess(argument0, address1, argument2, flags)
  }

  /// AT_FDCWD as an argument.
  private var workingDirectory: UInt64 { workingDirectoryDescriptor.u64 }

  private func checkAccess(
    _ directory: UInt64, _ path: VirtualAddress, _ mode: UInt64, _ flags: AtFlags
  ) throws(Errno) -> Int {
    guard mode.u32 & ~7 == 0 else { throw .EINVAL }
    try withPath(path) { (path) throws(Errno) in
      let base = try base(directory, path, flags)
      try withContext { (context) throws(Errno) in
        try withCredentials { (credentials) throws(Errno) in
          try context.checkAccess(path, from: base, AccessRights(rawValue: mode.u32), flags: flags, credentials)
        }
      }
    }
    return 0
  }

  func chmod() throws(Errno) -> Int { try changeMode(workingDirectory, address0, argument1) }
  func fchmodat() throws(Errno) -> Int { try changeMode(argument0, address1, argument2) }
  func fchmodat2() throws(Errno) -> Int {
    let flags = try atFlags(argument3, allowed: [.noFollow, .emptyPath])
    try context.changeMode(try find(argument0, address1, flags), argument2.u32, credentials)
    return 0
  }
  func fchmod() throws(Errno) -> Int {
    try context.changeMode(try place(), argument1.u32, credentials)
    return 0
  }

  private func changeMode(_ directory: UInt64, _ path: VirtualAddress, _ mode: UInt64) throws(Errno) -> Int {
    try context.changeMode(try find(directory, path, []), mode.u32, credentials)
    return 0
  }

  func chown() throws(Errno) -> Int { try changeOwner(try find(workingDirectory, address0, []), argument1, argument2) }
  func lchown() throws(Errno) -> Int {
    try changeOwner(try find(workingDirectory, address0, .noFollow), argument1, argument2)
  }
  func fchown() throws(Errno) -> Int { try changeOwner(try place(), argument1, argument2) }
  func fchownat() throws(Errno) -> Int {
    let flags = try atFlags(argument4, allowed: [.noFollow, .emptyPath])
    return try changeOwner(try find(argument0, address1, flags), argument2, argument3)
  }

  private func changeOwner(_ place: Location, _ user: UInt64, _ group: UInt64) throws(Errno) -> Int {
    try context.changeOwner(
      place, userID: user.u32 == .max ? nil : user.u32, groupID: group.u32 == .max ? nil : group.u32, credentials)
    return 0
  }

  /// The place that directory and path name.
  func find(_ directory: UInt64, _ path: VirtualAddress, _ flags: AtFlags) throws(Errno) -> Location {
    try withPath(path) { (path) throws(Errno) in
      try context.find(path, from: try base(directory, path, flags), flags: flags, credentials)
    }
  }

  /// The place of the open file of the first argument.
  private func place() throws(Errno) -> Location { try file().location }

  // MARK: Times

  func utimensat() throws(Errno) -> Int {
    var changes: (TimeChange?, TimeChange?) = (.now, .now)
    if !address2.isNull {
      let times = try UserSpan.read([2 of TimeSpecification].self, at: address2)
      let omitted: Int64 = 0x3fff_fffe
      // Then not even the path is looked at.
      if times[0].nanoseconds == omitted, times[1].nanoseconds == omitted { return 0 }
      changes = (try timeChange(times[0]), try timeChange(times[1]))
    }
    if address1.isNull, argument0.i32 != workingDirectoryDescriptor {
      guard argument3.u32 == 0 else { throw .EINVAL }
      return try setTimes(try place(), changes.0, changes.1)
    }
    let flags = try atFlags(argument3, allowed: [.noFollow, .emptyPath])
    return try setTimes(try find(argument0, address1, flags), changes.0, changes.1)
  }

  func futimesat() throws(Errno) -> Int {
    let place =
      address1.isNull && argument0.i32 != workingDirectoryDescriptor
      ? try place() : try find(argument0, address1, [])
    return try setTimes(place, timeValuesAt: address2)
  }

  private func timeChange(_ time: TimeSpecification) throws(Errno) -> TimeChange? {
    switch time.nanoseconds {
    case 0x3fff_ffff: return .now
    case 0x3fff_fffe: return nil
    case 0..<1_000_000_000: return .to(FileTime(seconds: time.seconds, nanoseconds: time.nanoseconds.u32))
    default: throw .EINVAL
    }
  }

  private func setTimes(_ place: Location, _ access: TimeChange?, _ modification: TimeChange?) throws(Errno) -> Int {
    try context.changeTimes(place, access: access, modification: modification, credentials)
    return 0
  }

  func utime() throws(Errno) -> Int {
    let place = try find(workingDirectory, address0, [])
    guard !address1.isNull else { return try setTimes(place, .now, .now) }
    let times = try UserSpan.read([2 of Int64].self, at: address1)
    return try setTimes(place, .to(FileTime(seconds: times[0])), .to(FileTime(seconds: times[1])))
  }

  func utimes() throws(Errno) -> Int {
    try setTimes(try find(workingDirectory, address0, []), timeValuesAt: address1)
  }

  private func setTimes(_ place: Location, timeValuesAt address: VirtualAddress) throws(Errno) -> Int {
    guard !address.isNull else { return try setTimes(place, .now, .now) }
    let times = try UserSpan.read([2 of TimeValue].self, at: address)
    var changes: [2 of TimeChange?] = .init(repeating: nil)
    for index in 0..<2 {
      guard times[index].microseconds >= 0, times[index].microseconds < 1_000_000 else { throw .EINVAL }
      changes[index] = .to(
        FileTime(seconds: times[index].seconds, nanoseconds: (times[index].microseconds &* 1000).u32))
    }
    return try setTimes(place, changes[0], changes[1])
  }

  // MARK: Sizes and file systems

  func truncate() throws(Errno) -> Int {
    guard argument1.i64 >= 0 else { throw .EINVAL }
    try withPath(address0) { (path) throws(Errno) in
      try context.truncate(path, from: nil, to: argument1, credentials)
    }
    return 0
  }

  func statfs() throws(Errno) -> Int { try fileSystemStatus(of: try find(workingDirectory, address0, []).mount) }
  func fstatfs() throws(Errno) -> Int { try fileSystemStatus(of: try fileOrPlace().location.mount) }

  private func fileSystemStatus(of mount: Mount) throws(Errno) -> Int {
    let status = FileSystemStatus(try mount.fileSystem.statistics(), of: mount.fileSystem, flags: mount.flags)
    try UserSpan.write(status, at: address1)
    return 0
  }

  func sync() -> Int {
    context.mounts.forEach { try? $0.fileSystem.synchronise() }
    return 0
  }

  // MARK: Directories

  func chdir() throws(Errno) -> Int {
    try context.changeDirectory(to: try find(workingDirectory, address0, []), credentials)
    return 0
  }

  func fchdir() throws(Errno) -> Int {
    try context.changeDirectory(to: try fileOrPlace().location, credentials)
    return 0
  }

  func chroot() throws(Errno) -> Int {
    try context.changeRoot(to: try find(workingDirectory, address0, []), credentials)
    return 0
  }

  /// Returns the length with the NUL, unlike the C function.
  func getcwd() throws(Errno) -> Int {
    var path = try context.workingDirectoryPath()
    path.append(0)
    guard argument1 >= path.count.u64 else { throw .ERANGE }
    try path.withPath { (path) throws(Errno) in
      try UserSpan(address0, count: path.count).write(from: path.bytes)
    }
    return path.count
  }
}
