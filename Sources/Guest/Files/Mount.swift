// Mounts: file systems (or parts of them) in the tree of names.
//
// A mount table is a list: there are few mounts, and a walk asks it only where a dentry says that something is mounted on
// it. The list changes under a lock, and each change publishes a view of it (MountView) that readers under RCU go by; of a `Mount`
// itself only its flags change, and where it is when it is moved.
import Base
import Locks
import Threads

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
  /// What /proc/mounts shows as its source.
  public let source: [UInt8]
  private let flagBits: Atomic<UInt32>
  private let pointLock = Mutex()
  private var place: Location?
  /// Open files and working directories in it; it is busy as long as there are any.
  let users = Atomic<Int>(0)
  /// Those of them that may write.
  let writers = Atomic<Int>(0)

  init(
    identifier: Int, fileSystem: FileSystem, root: Dentry, point: Location?, flags: MountFlags, source: [UInt8]
  ) {
    self.identifier = identifier
    self.fileSystem = fileSystem
    self.root = root
    place = point
    flagBits = Atomic(flags.rawValue)
    self.source = source
  }

  /// What it forbids.
  public internal(set) var flags: MountFlags {
    get { MountFlags(rawValue: flagBits.load(ordering: .relaxed)) }
    set { flagBits.store(newValue.rawValue, ordering: .relaxed) }
  }

  /// Where: the covered directory; nil for the root of all. Changed by `MountTable` alone.
  public internal(set) var point: Location? {
    get { pointLock.withLock { place } }
    set {
      let old = pointLock.withLock { () -> Location? in
        let old = place
        place = newValue
        return old
      }
      withExtendedLifetime(old) {}  // Given up without the lock.
    }
  }

  /// The path of its mount point from `root`.
  public func path(from root: Location) -> [UInt8] {
    if root == rootLocation { return [slash] }
    return point?.path(from: root) ?? [slash]
  }

  /// Whether it can be reached from `root`: it is that, or lies below.
  public func isReachable(from root: Location) -> Bool {
    var place = rootLocation
    while !(place == root) {
      if place.isMountRoot {
        guard let point = place.mount.point else { return false }
        place = point
      } else {
        guard let parent = place.mount.fileSystem.names.parent(of: place.dentry) else { return false }
        place = Location(mount: place.mount, dentry: parent)
      }
    }
    return true
  }

  /// The path of the directory that it shows, in its file system.
  public var rootPath: [UInt8] {
    let whole = Mount(identifier: 0, fileSystem: fileSystem, root: fileSystem.root, point: nil, flags: [], source: [])
    return Location(mount: whole, dentry: root).path(from: whole.rootLocation)
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
  public var isMountRoot: Bool { dentry === mount.root }
}

/// All mounts that a process sees.
public final class MountTable {
  let lock = ReaderWriterLock()
  // Guarded by `lock`.
  var mounts: [Mount] = []
  /// The one whose root is "/".
  var rootMount: Mount
  private var lastIdentifier = 0
  /// File systems there is one of, for whoever mounts them by their kind; added at boot.
  private var single: [FileSystem] = []
  /// The view of the list as it is, counted.
  private let viewWord: LiveWord

  /// A table with a root file system.
  public init(root: FileSystem, source: PathBytes = PathBytes("none"), flags: MountFlags = []) {
    rootMount = Mount(identifier: 1, fileSystem: root, root: root.root, point: nil, flags: flags, source: source.copy)
    mounts.append(rootMount)
    lastIdentifier = 1
    viewWord = LiveWord(UInt(bitPattern: Unmanaged.passRetained(MountView([rootMount])).toOpaque()))
  }

  deinit { view.release() }

  // SAFETY: the word is always the address of a view that is counted until a grace period after another one has taken its place.
  /// The mounts at this moment; for a reader.
  @inline(__always) var view: Unmanaged<MountView> {
    Unmanaged.fromOpaque(UnsafeRawPointer(bitPattern: viewWord.load()).unsafelyUnwrapped)
  }

  /// Changes what is mounted: runs a body with the lock, then lets walks see what has become of the list.
  func change<R>(_ body: () throws(Errno) -> R) throws(Errno) -> R {
    lock.writeLock()
    let result: R
    do throws(Errno) { result = try body() } catch {
      lock.writeUnlock()
      throw error
    }
    let fresh = Unmanaged.passRetained(MountView(mounts))
    let old = viewWord.exchange(UInt(bitPattern: fresh.toOpaque()))
    lock.writeUnlock()
    RCU.release(Unmanaged<MountView>.fromOpaque(UnsafeRawPointer(bitPattern: old).unsafelyUnwrapped))
    return result
  }

  /// The place "/", at the bottom of what is mounted there.
  public var root: Location { top(of: lock.withReadLock { rootMount }.rootLocation) }

  /// Lets a file system be mounted by its kind.
  public func register(_ fileSystem: FileSystem) { single.append(fileSystem) }

  /// The registered file system of a kind.
  public func fileSystem(kind: PathBytes) -> FileSystem? {
    for fileSystem in single where PathBytes(fileSystem.kind) == kind { return fileSystem }
    return nil
  }

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
    return try change { () throws(Errno) in addLocked(fileSystem, shown, on: point, sourceName, flags) }
  }

  /// The same with `lock`, for who has checked the types.
  func addLocked(
    _ fileSystem: FileSystem, _ root: Dentry, on point: Location, _ source: [UInt8], _ flags: MountFlags
  ) -> Mount {
    lastIdentifier &+= 1
    let mount = Mount(
      identifier: lastIdentifier, fileSystem: fileSystem, root: root, point: point, flags: flags, source: source)
    mounts.append(mount)
    point.dentry.mountCount.wrappingAdd(1, ordering: .releasing)
    return mount
  }

  /// What is seen at a place: the root of the last mount on it, or the place itself.
  @inline(__always) func top(of location: Location) -> Location {
    location.dentry.mountCount.load(ordering: .acquiring) == 0 ? location : covering(location)
  }

  private func covering(_ location: Location) -> Location {
    RCU.read {
      var place = location.walkPlace
      view._withUnsafeGuaranteedRef { view in while let above = view.mounted(on: place) { place = above } }
      return place.counted
    }
  }

  /// Calls the body with each mount, oldest first.
  public func forEach(_ body: (Mount) -> Void) {
    for mount in lock.withReadLock({ mounts }) { body(mount) }
  }
}
