// CachedGround: what the file systems that are mounted have in their caches, as the ground of an uncounted walk.
//
// SAFETY of all: a reader under RCU follows addresses that it has from the ground itself or from where its walk starts; what is at
// them is counted until its section ends (Dentry).
import Base
import Locks

/// The ground of the running kernel; for a reader, within its section.
struct CachedGround: WalkGround {
  private let view: Unmanaged<MountView>
  private let credentials: Credentials

  /// The mounts of this moment, for somebody with these credentials.
  @inline(__always) init(_ view: Unmanaged<MountView>, _ credentials: Credentials) {
    self.view = view
    self.credentials = credentials
  }

  @inline(__always) func names(of mount: UInt) -> UInt {
    Mount.at(mount)._withUnsafeGuaranteedRef { mount in
      UInt(bitPattern: Unmanaged.passUnretained(mount.fileSystem.names).toOpaque())
    }
  }

  @inline(__always) func child(_ name: PathBytes, in directory: UInt, _ names: UInt) -> UInt {
    let cache = Unmanaged<DentryCache>.fromOpaque(UnsafeRawPointer(bitPattern: names).unsafelyUnwrapped)
    let found = cache._withUnsafeGuaranteedRef { $0.glance(name, in: directory) }
    return found.map { UInt(bitPattern: $0.toOpaque()) } ?? 0
  }

  @inline(__always) func directory(of entry: UInt) -> UInt {
    Dentry.at(entry)._withUnsafeGuaranteedRef { $0.record.pointee.directory }
  }

  @inline(__always) func kind(of entry: UInt) -> WalkKind {
    Dentry.at(entry)._withUnsafeGuaranteedRef { $0.kind }
  }

  @inline(__always) func maySearch(_ entry: UInt) -> WalkAnswer {
    if credentials.isPrivileged { return .yes }
    return Dentry.at(entry)._withUnsafeGuaranteedRef { entry in
      entry.vnode.unsafelyUnwrapped.glanceRights(.execute, credentials)
    }
  }

  @inline(__always) func isPoint(_ entry: UInt) -> Bool {
    Dentry.at(entry)._withUnsafeGuaranteedRef { $0.mountCount.load(ordering: .acquiring) != 0 }
  }

  func mounted(on place: WalkPlace) -> WalkPlace? { view._withUnsafeGuaranteedRef { $0.mounted(on: place) } }

  func point(of mount: UInt) -> WalkPlace? { view._withUnsafeGuaranteedRef { $0.point(of: mount) } }

  @inline(__always) func root(of mount: UInt) -> UInt {
    Mount.at(mount)._withUnsafeGuaranteedRef { $0.root.address }
  }
}

extension WalkPlace {
  /// The file there; for a reader.
  @inline(__always) func withVnode<R>(_ body: (Vnode) -> R) -> R {
    Dentry.at(entry)._withUnsafeGuaranteedRef { body($0.vnode.unsafelyUnwrapped) }
  }

  /// Whether the file there may be read, written or executed, by its mode and its mount's flags; for a reader.
  @inline(__always) func glanceRights(_ rights: AccessRights, _ credentials: Credentials) -> WalkAnswer {
    let flags = Mount.at(mount)._withUnsafeGuaranteedRef { $0.flags }
    // What is forbidden is said by the counted way, which knows what for.
    if rights.contains(.write), flags.contains(.readOnly) { return .unknown }
    if rights.contains(.execute), flags.contains(.noExecute) { return .unknown }
    if rights.rawValue == 0 { return .yes }
    return withVnode { $0.glanceRights(rights, credentials) }
  }

  /// The place, counted to be kept; nil if its entry is leaving. For a reader.
  @inline(__always) var kept: Location? {
    guard let entry = Dentry.keep(Dentry.at(entry)) else { return nil }
    return Location(mount: Mount.at(mount).takeUnretainedValue(), dentry: entry)
  }
}
