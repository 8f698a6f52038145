// Small writes wait in the cache for others to go with, where what is known of a file may be believed for a while (cache=auto and
// always): they are dirty pages like those that were stored to, and are written at the latest a second later, or when there are many.
//
// `attributes` are the server's all the time. What programs see is ahead of them while `isDelayed`: the object's size, and the time of the
// last write, which the server is told if it would otherwise take a much later one. The flag is raised before the size moves, and
// taken away with the size lock held alone, when nothing is dirty.
import Base
import Files
import Locks
import Memory
import Pages
import Platform
import VirtioABI

extension VirtioNode {
  /// Dirty pages of a file at which its writer writes them back: a request is at most 64.
  static let delayedPages = 256
  /// Larger writes are requests of their own.
  static let delayedByteCount = 65_536
  /// How much later than a write the server's own time may be, ns: a tick of most clocks.
  static let delayedTimeSlack: UInt64 = 10_000_000

  func mayDelay(_ byteCount: Int) -> Bool {
    tree.delaysWrites && byteCount < VirtioNode.delayedByteCount && Frames.hasRoom
  }

  func delayBegins() {
    let now = FileTime.now
    tree.lock.withLock {
      isDelayed = true
      delayedTime = now
    }
  }

  /// What is written and the server does not know, for whoever asks.
  func addDelayed(_ result: inout StatInformation) {
    guard type == .regular, tree.lock.withLock({ isDelayed }), let object = knownContents?.object else { return }
    result.byteCount = object.byteCount
    if let time = tree.lock.withLock({ delayedTime }) {
      result.modificationTime = time
      result.changeTime = time
    }
  }

  /// Everything has been written back.
  func delayEnds(_ contents: VirtioContents) {
    guard tree.lock.withLock({ isDelayed }) else { return }
    var time: FileTime?
    var size: UInt64?
    contents.sizeLock.writeLock()
    tree.lock.withLock {
      guard contents.object.dirtyPages == 0 else { return }
      isDelayed = false
      time = delayedTime
      delayedTime = nil
      if attributes.size != contents.object.byteCount { size = attributes.size }
    }
    // Somebody else has cut the file, or made it longer.
    if let size { sizeChanged(contents.object, size) }
    contents.sizeLock.writeUnlock()
    guard let time, VirtioNode.isLate(time) else { return }
    var change = FUSESetattrIn()
    change.valid = FUSESetattrFlags.mtime
    change.mtime = UInt64(bitPattern: time.seconds)
    change.mtimeNanoseconds = time.nanoseconds
    // Whoever may write a file need not own it.
    try? ask(change)
  }

  private static func isLate(_ time: FileTime) -> Bool {
    let now = FileTime.now
    let span = (now.seconds &- time.seconds) &* 1_000_000_000 &+ now.nanoseconds.i64 &- time.nanoseconds.i64
    return span > delayedTimeSlack.i64
  }
}
