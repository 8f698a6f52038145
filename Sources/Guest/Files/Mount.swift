// Mounts: file systems (or parts of them) in the tree of names.
//
// A mount table is a list: there are few mounts, and a walk asks it only where a dentry says that something is mounted on
// it. The list changes under a lock that walks take for reading; a `Mount` itself never changes but for its flags.
import Base
import Locks

/// What a mount forbids; the numbers are MS_* and ST_*.
public struct MountFlags: OptionSet, Sendable {
  /// Linux's bits.
  public let rawValue: UInt32
  /// Flags from Linux's bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// Nothing is changed through it.
  public static var readOnly: MountFlags { MountFlags(rawValue: 1) }
  /// Set-user bits mean nothing.
  public static var noSetUser: MountFlags { MountFlags(rawValue: 2) }
  /// Device files cannot be opened.
  public static var noDevices: MountFlags { MountFlags(rawValue: 4) }
  /// Nothing is executed.
  public static var noExecute: MountFlags { MountFlags(rawValue: 8) }
}

/// One file system at one place.
public final class Mount {
  /// Its number in /proc/self/mountinfo.
  public let identifier: Int
  /// What is mounted.
  public let fileSystem: FileSystem
  /// The directory of it that is seen at the mount point.
  public let root: Dentry
  /// Where: the covered directory; nil for the root of all.
  public let point: Location?
  /// What it forbids.
  public let flags: MountFlags
  /// What /proc/mounts shows as its source.
  public let source: [UInt8]

  init(
    identifier: Int, fileSystem: FileSystem, root: Dentry, point: Location?, flags: MountFlags, source: [UInt8]
  ) {
    self.identifier = identifier
    self.fileSystem = fileSystem
    self.root = root
    self.point = point
    self.flags = flags
    self.source = source
  }

  /// The path of its mount point from `root`.
  public func path(from root: Location) -> [UInt8] {
    if root == rootLocation { return [slash] }
    return point?.path(from: root) ?? [slash]
  }

  /// The place where it begins.
  public var rootLocation: Location { Location(mount: self, dentry: root) }
}

/// A place in the tree of names: a directory entry as seen through a mount.
public struct Location {
  /// Through which mount.
  public let mount: Mount
  /// The entry. It names a file; entries for absent names are never in a location.
  public let dentry: Dentry

  /// The place.
  public init(mount: Mount, dentry: Dentry) {
    self.mount = mount
    self.dentry = dentry
  }
  /// The file there.
  @inline(__always) public var vnode: Vnode { dentry.vnode.unsafelyUnwrapped }
  /// Whether both are the same place.
  @inline(__always) public static func == (left: Location, right: Location) -> Bool {
    left.dentry === right.dentry && left.mount === right.mount
  }
  /// The root of the mount that the place is in.
  var isMountRoot: Bool { dentry === mount.root }
}

/// All mounts that a process sees.
public final class MountTable {
  private let lock = ReaderWriterLock()
  private var mounts: [Mount] = []
  private var lastIdentifier = 0

  /// A table with a root file system.
  public init(root: FileSystem, source: PathBytes = PathBytes("none"), flags: MountFlags = []) {
    mounts.append(
      Mount(identifier: 1, fileSystem: root, root: root.root, point: nil, flags: flags, source: source.copy))
    lastIdentifier = 1
  }

  /// The place "/", at the bottom of what is mounted there.
  public var root: Location { top(of: lock.withReadLock { mounts[0] }.rootLocation) }

  /// Mounts a file system on a directory.
  /// - Parameters:
  ///   - fileSystem: what.
  ///   - directory: a directory of it to show instead of its root.
  ///   - point: where; a directory.
  ///   - source: its name in /proc/mounts.
  ///   - flags: what to forbid.
  /// - Throws: ENOTDIR.
  @discardableResult
  public func mount(
    _ fileSystem: FileSystem, directory: Dentry? = nil, on point: Location, source: PathBytes = PathBytes("none"),
    flags: MountFlags = []
  ) throws(Errno) -> Mount {
    let shown = directory ?? fileSystem.root
    guard point.vnode.isDirectory == shown.vnode.unsafelyUnwrapped.isDirectory else { throw .ENOTDIR }
    let sourceName = source.copy
    return lock.withWriteLock {
      lastIdentifier &+= 1
      let mount = Mount(
        identifier: lastIdentifier, fileSystem: fileSystem, root: shown, point: point, flags: flags, source: sourceName)
      mounts.append(mount)
      point.dentry.mountCount.wrappingAdd(1, ordering: .releasing)
      return mount
    }
  }

  /// Takes away the mount whose root `location` is.
  /// - Throws: EINVAL if it is none, EBUSY if it is the root or something is mounted inside.
  public func unmount(_ location: Location) throws(Errno) {
    guard location.isMountRoot else { throw .EINVAL }
    lock.writeLock()
    defer { lock.writeUnlock() }
    guard let point = location.mount.point else { throw .EBUSY }
    for mount in mounts where mount.point?.mount === location.mount { throw .EBUSY }
    for index in 0..<mounts.count where mounts[index] === location.mount {
      mounts.remove(at: index)
      point.dentry.mountCount.wrappingSubtract(1, ordering: .releasing)
      return
    }
    throw .EINVAL
  }

  /// What is seen at a place: the root of the last mount on it, or the place itself.
  @inline(__always) func top(of location: Location) -> Location {
    location.dentry.mountCount.load(ordering: .acquiring) == 0 ? location : covering(location)
  }

  private func covering(_ location: Location) -> Location {
    lock.readLock()
    defer { lock.readUnlock() }
    var result = location
    var index = 0
    while index < mounts.count {
      if let point = mounts[index].point, point == result {
        result = mounts[index].rootLocation
        index = 0
      } else {
        index &+= 1
      }
    }
    return result
  }

  /// Calls the body with each mount, oldest first.
  public func forEach(_ body: (Mount) -> Void) {
    for mount in lock.withReadLock({ mounts }) { body(mount) }
  }
}
