// MountView: what is mounted where, at one moment. It never changes: each change of the mounts publishes another one.
//
// A walk under RCU takes the view once and goes by it to its end, so it never sees half of a change. The view counts the mounts and the
// places where they lie; its own count, the table's, is given up when no reader can have it any more.
import Base
import Locks

/// A place by the addresses of its mount and its entry, not counted: for a reader under RCU.
struct WalkPlace: Equatable {
  var mount: UInt
  var entry: UInt
}

/// The mounts at one moment.
final class MountView {
  private struct Line {
    let mount: UInt
    let root: UInt
    let point: WalkPlace
  }

  // Counted.
  private let mounts: [Mount]
  private let points: [Location?]
  private let lines: UnsafeMutablePointer<Line>
  private let count: Int

  /// A view of these mounts, as they lie now; with the lock of their table.
  init(_ mounts: [Mount]) {
    self.mounts = mounts
    count = mounts.count
    lines = .allocate(capacity: max(count, 1))
    var points: [Location?] = []
    points.reserveCapacity(count)
    for index in 0..<count {
      let (mount, point) = (mounts[index], mounts[index].point)
      points.append(point)
      let place = point.map { WalkPlace(mount: $0.mount.address, entry: $0.dentry.address) }
      (lines + index).initialize(
        to: Line(mount: mount.address, root: mount.root.address, point: place ?? WalkPlace(mount: 0, entry: 0)))
    }
    self.points = points
  }

  deinit { lines.deallocate() }

  /// The root of the mount on a place; nil if there is none.
  func mounted(on place: WalkPlace) -> WalkPlace? {
    for index in 0..<count where lines[index].point == place {
      return WalkPlace(mount: lines[index].mount, entry: lines[index].root)
    }
    return nil
  }

  /// Where a mount lies; nil if it is not in the view, or nowhere.
  func point(of mount: UInt) -> WalkPlace? {
    for index in 0..<count where lines[index].mount == mount {
      return lines[index].point.mount == 0 ? nil : lines[index].point
    }
    return nil
  }
}

// SAFETY of all: addresses are those of objects that the view counts, and are followed by readers while it is.
extension Mount {
  /// Its address, by which readers under RCU know it.
  var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

  /// The mount at an address that a reader, or whoever counts it, has.
  @inline(__always) static func at(_ address: UInt) -> Unmanaged<Mount> {
    Unmanaged.fromOpaque(UnsafeRawPointer(bitPattern: address).unsafelyUnwrapped)
  }
}

extension Location {
  /// The place for readers under RCU, of whoever counts it.
  @inline(__always) var walkPlace: WalkPlace { WalkPlace(mount: mount.address, entry: dentry.address) }
}

extension WalkPlace {
  /// The place, counted; for a reader, or whoever counts it already. For entries that do not leave: roots, points and starting places.
  @inline(__always) var counted: Location {
    Location(mount: Mount.at(mount).takeUnretainedValue(), dentry: Dentry.at(entry).takeUnretainedValue())
  }
}
