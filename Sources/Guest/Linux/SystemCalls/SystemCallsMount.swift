// System calls that change what is mounted where: mount, umount2, pivot_root.
import Base
import Files
import Memory
import Platform
import RamFS

extension SystemCall {
  private enum MountRequest {
    static let remount: UInt64 = 32
    static let bind: UInt64 = 4096
    static let move: UInt64 = 8192
    static let recursive: UInt64 = 16384
    static let unbindable: UInt64 = 1 << 17
    static let own: UInt64 = 1 << 18
    static let slave: UInt64 = 1 << 19
    static let shared: UInt64 = 1 << 20
    /// MS_RDONLY, NOSUID, NODEV, NOEXEC; the others say how times are kept.
    static let kept: UInt64 = 15
  }

  /// mount(source, target, kind, flags, options).
  func mount() throws(Errno) -> Int {
    var flags = argument3
    // Very old programs say that they know flags.
    if flags & 0xffff_0000 == 0xc0ed_0000 { flags &= 0xffff }
    let target = try find(workingDirectoryDescriptor.u64, address1, [])
    guard credentials.isPrivileged else { throw .EPERM }
    let kept = MountFlags(rawValue: (flags & MountRequest.kept).u32)
    let types = MountRequest.unbindable | MountRequest.own | MountRequest.slave | MountRequest.shared
    if flags & MountRequest.remount != 0 {
      try context.mounts.remount(target, flags: kept)
    } else if flags & MountRequest.bind != 0 {
      let source = try find(workingDirectoryDescriptor.u64, address0, [])
      try context.mounts.bind(source, on: target, isRecursive: flags & MountRequest.recursive != 0)
    } else if flags & types != 0 {
      // Nothing that is mounted shows anywhere else by itself: every mount is private already, and none can be shared.
      guard target.isMountRoot, flags & types & (MountRequest.own | MountRequest.slave) == flags & types else {
        throw .EINVAL
      }
    } else if flags & MountRequest.move != 0 {
      try context.mounts.move(try find(workingDirectoryDescriptor.u64, address0, []), to: target)
    } else {
      try mountNew(on: target, kept)
    }
    return 0
  }

  private func mountNew(on target: Location, _ flags: MountFlags) throws(Errno) {
    guard !address2.isNull else { throw .EINVAL }
    guard target.vnode.isDirectory else { throw .ENOTDIR }
    let fileSystem = try withPath(address2) { (kind) throws(Errno) -> FileSystem in
      if kind == PathBytes("tmpfs") || kind == PathBytes("ramfs") {
        return try memoryFileSystem(isLimited: kind == PathBytes("tmpfs"))
      }
      guard let known = context.mounts.fileSystem(kind: kind) else { throw .ENODEV }
      return known
    }
    if address0.isNull {
      try context.mounts.mount(fileSystem, on: target, flags: flags)
      return
    }
    try withPath(address0) { (source) throws(Errno) in
      _ = try context.mounts.mount(fileSystem, on: target, source: source, flags: flags)
    }
  }

  /// A new file system in memory, as the options want it. tmpfs has half of the memory unless it is told otherwise.
  private func memoryFileSystem(isLimited: Bool) throws(Errno) -> FileSystem {
    var options = MemoryFileSystemOptions()
    options.userID = credentials.effectiveUserID
    options.groupID = credentials.effectiveGroupID
    if !address4.isNull {
      try withPath(address4, place: 1) { (text) throws(Errno) in
        do throws(Errno) { try options.parse(text) } catch {
          // ramfs knows one option, and does not mind others.
          if isLimited { throw error }
        }
      }
    }
    return RamFileSystem(
      mode: options.mode, userID: options.userID, groupID: options.groupID,
      byteLimit: isLimited ? options.byteLimit : nil)
  }

  /// umount2(target, flags).
  func umount2() throws(Errno) -> Int {
    let (force, detach, expire, noFollow): (UInt32, UInt32, UInt32, UInt32) = (1, 2, 4, 8)
    let flags = argument1.u32
    guard flags & ~(force | detach | expire | noFollow) == 0 else { throw .EINVAL }
    let target = try find(workingDirectoryDescriptor.u64, address0, flags & noFollow != 0 ? .noFollow : [])
    guard credentials.isPrivileged else { throw .EPERM }
    if flags & expire != 0 {
      guard flags & (force | detach) == 0 else { throw .EINVAL }
      throw .EBUSY  // Nothing expires here: it is always in use a little.
    }
    try context.mounts.unmount(target, isLazy: flags & detach != 0)
    return 0
  }

  /// pivot_root(new root, where to put the old one).
  func pivot_root() throws(Errno) -> Int {
    let new = try find(workingDirectoryDescriptor.u64, address0, [])
    let place = try find(workingDirectoryDescriptor.u64, address1, [])
    try context.exchangeRoot(new, puttingOldAt: place, credentials)
    return 0
  }
}
