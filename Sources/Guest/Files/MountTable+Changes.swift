// Changes to what is mounted: bind mounts, other flags, other places, and the end of mounts. Mounts lie in one another as deep as a
// program likes, so nothing here goes down or up among them by calling itself.
import Base
import Locks

extension MountTable {
  /// Shows a directory (or a file) at another place too (MS_BIND).
  /// - Parameter isRecursive: with all that is mounted below it.
  /// - Throws: ENOTDIR (a file on a directory, or the other way round), ENOENT (its name is gone).
  public func bind(_ source: Location, on point: Location, isRecursive: Bool) throws(Errno) {
    guard source.vnode.isDirectory == point.vnode.isDirectory else { throw .ENOTDIR }
    guard !source.isDeleted, !point.isDeleted else { throw .ENOENT }
    try change { () throws(Errno) in
      let before = mounts
      let made = addLocked(
        source.mount.fileSystem, source.dentry, on: point, source.mount.source, source.mount.flags)
      guard isRecursive else { return }
      var rest = copies(of: source.mount, to: made, within: source.dentry, before)
      while let next = rest.popLast() {
        let mount = next.mount
        let made = addLocked(mount.fileSystem, mount.root, on: next.point, mount.source, mount.flags)
        rest.append(contentsOf: copies(of: mount, to: made, within: mount.root, before))
      }
    }
  }

  /// What is to be mounted on `copy`, and where, because it is mounted on `original`, at `top` or below; the first one last. With `lock`.
  private func copies(of original: Mount, to copy: Mount, within top: Dentry, _ all: [Mount]) -> [(
    mount: Mount, point: Location
  )] {
    var result: [(mount: Mount, point: Location)] = []
    for mount in all.reversed() {
      guard let point = mount.point, point.mount === original,
        original.fileSystem.names.isAncestor(top, of: point.dentry)
      else { continue }
      result.append((mount, Location(mount: copy, dentry: point.dentry)))
    }
    return result
  }

  /// Changes what a mount forbids (MS_REMOUNT).
  /// - Throws: EINVAL (no mount begins there), EBUSY (read-only, and somebody writes).
  public func remount(_ location: Location, flags: MountFlags) throws(Errno) {
    guard location.isMountRoot else { throw .EINVAL }
    let mount = location.mount
    if flags.contains(.readOnly), !mount.flags.contains(.readOnly), mount.writers.load(ordering: .acquiring) > 0 {
      throw .EBUSY
    }
    mount.flags = flags
  }

  /// Puts a mount elsewhere (MS_MOVE).
  /// - Throws: EINVAL (no mount begins there, or it is the root, or it has been taken out), ELOOP (into itself), ENOTDIR.
  public func move(_ location: Location, to target: Location) throws(Errno) {
    guard location.isMountRoot else { throw .EINVAL }
    guard location.vnode.isDirectory == target.vnode.isDirectory else { throw .ENOTDIR }
    let mount = location.mount
    try change { () throws(Errno) in
      guard let old = mount.point, isThere(target.mount) else { throw .EINVAL }
      guard !isBelow(target.mount, mount) else { throw .ELOOP }
      relocate(mount, from: old, to: target)
    }
  }

  /// Whether a mount is `ancestor` or lies in it. With `lock`, or the answer may be wrong by the time it comes.
  private func isBelow(_ mount: Mount, _ ancestor: Mount) -> Bool {
    var above: Mount? = mount
    while let current = above {
      if current === ancestor { return true }
      above = current.point?.mount
    }
    return false
  }

  /// Whether a mount has not been taken out. With `lock`.
  private func isThere(_ mount: Mount) -> Bool { mounts.contains { $0 === mount } }

  /// With `lock`.
  private func relocate(_ mount: Mount, from old: Location?, to new: Location?) {
    new?.dentry.mountCount.wrappingAdd(1, ordering: .releasing)
    mount.point = new
    old?.dentry.mountCount.wrappingSubtract(1, ordering: .releasing)
    // Of two mounts on one place the later one is seen.
    mounts.removeAll { $0 === mount }
    mounts.append(mount)
  }

  /// Takes away the mount whose root `location` is.
  /// - Parameter isLazy: though it is in use: it and what is mounted in it are not found any more, and end with their last user
  ///   (MNT_DETACH).
  /// - Throws: EINVAL if it is none, EBUSY if it is the root, in use, or something is mounted inside.
  public func unmount(_ location: Location, isLazy: Bool = false) throws(Errno) {
    guard location.isMountRoot else { throw .EINVAL }
    let mount = location.mount
    try change { () throws(Errno) in
      var isThere = false
      var isInUse = mount.users.load(ordering: .acquiring) > 0
      for other in mounts {
        if other === mount { isThere = true }
        if other.point?.mount === mount { isInUse = true }
      }
      guard isThere else { throw .EINVAL }
      guard mount.point != nil, isLazy || !isInUse else { throw .EBUSY }
      takeOut(mount)
    }
  }

  /// Takes a mount out, and those in it. They lie nowhere any more: nobody who still is in one gets out by "..", or puts it
  /// elsewhere. With `lock`.
  private func takeOut(_ mount: Mount) {
    var out = [mount]
    var index = 0
    while index < out.count {
      for other in mounts where other.point?.mount === out[index] { out.append(other) }
      index &+= 1
    }
    for mount in out {
      mount.point?.dentry.mountCount.wrappingSubtract(1, ordering: .releasing)
      mount.point = nil
    }
    // Of those that stay only the first root lies nowhere.
    mounts.removeAll { $0.point == nil && $0 !== rootMount }
  }

  /// Makes a mount the root of all and puts the one that was at a place below it (pivot_root).
  /// - Parameters:
  ///   - new: where the mount begins.
  ///   - old: the present root, where a mount begins too.
  ///   - place: where the present root goes.
  /// - Throws: EINVAL (no mount begins there, the new root is not below the old one, the place is not below it), EBUSY (both are the
  ///   same), ENOTDIR.
  public func exchangeRoot(_ new: Location, _ old: Location, puttingOldAt place: Location) throws(Errno) {
    guard new.vnode.isDirectory, place.vnode.isDirectory else { throw .ENOTDIR }
    try change { () throws(Errno) in
      guard isThere(new.mount), isThere(old.mount) else { throw .EINVAL }
      guard new.mount !== old.mount, place.mount !== old.mount else { throw .EBUSY }
      guard new.isMountRoot, old.isMountRoot, let point = new.mount.point else { throw .EINVAL }
      // Or the mounts would come to lie in a circle, which a walk upwards would never leave.
      guard isBelow(new.mount, old.mount), isBelow(place.mount, new.mount) else { throw .EINVAL }
      let oldPoint = old.mount.point
      relocate(new.mount, from: point, to: oldPoint)
      relocate(old.mount, from: oldPoint, to: place)
      if rootMount === old.mount { rootMount = new.mount }
    }
  }
}

extension Location {
  /// Somebody uses the mount from now on, or no more: it is busy meanwhile.
  func use(_ difference: Int, writes: Bool = false) {
    mount.users.wrappingAdd(difference, ordering: .acquiringAndReleasing)
    if writes { mount.writers.wrappingAdd(difference, ordering: .acquiringAndReleasing) }
  }
}
