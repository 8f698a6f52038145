// The path of a place: what getcwd, /proc/self/exe and /proc/self/maps show.
import Base
import Locks

extension Location {
  /// The path from `root` (nil: from the root of all mounts) to here.
  ///
  /// A place whose name has been removed ends in " (deleted)"; one that is not below `root` starts with "(unreachable)".
  public func path(from root: Location?) -> [UInt8] {
    var parts: [[UInt8]] = []
    var place = self
    let isDeleted = dentry.isUnlinked
    var isReachable = true
    while true {
      if let root, place == root { break }
      if place.isMountRoot {
        guard let point = place.mount.point else {
          isReachable = root == nil || root.unsafelyUnwrapped == place
          break
        }
        place = point
        continue
      }
      let cache = place.mount.fileSystem.names
      cache.topology.readLock()
      let (parent, name) = (place.dentry.parent, place.dentry.name)
      cache.topology.readUnlock()
      guard let parent else { return name }  // In no directory: a pipe and its like.
      parts.append(name)
      place = Location(mount: place.mount, dentry: parent)
    }
    var result: [UInt8] = []
    if !isReachable { result.append(contentsOf: PathBytes("(unreachable)").copy) }
    var index = parts.count
    while index > 0 {
      index &-= 1
      result.append(slash)
      result.append(contentsOf: parts[index])
    }
    if parts.isEmpty { result.append(slash) }
    if isDeleted { result.append(contentsOf: PathBytes(" (deleted)").copy) }
    return result
  }

  /// Whether the name has been removed.
  public var isDeleted: Bool { dentry.isUnlinked }
}
