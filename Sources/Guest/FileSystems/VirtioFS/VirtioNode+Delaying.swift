// Small writes wait in the cache for others to go with, where what is known of a file may be believed for a while (cache=auto and
// always): they are dirty pages like those that were stored to. They are written by close, fsync and stat, by the writer when there are many,
// by a thread half a second later, and at the end of the machine.
//
// `attributes` are the server's all the time. What programs see is ahead of them while `isDelayed`: the object's size, and the time of the
// last write, which the server is told if it would otherwise take a much later one. The flag is raised before the size moves, with the size
// lock held, and taken away with that held alone, when the server has everything.
//
// Errors are told as by Linux, and not lost: what the server refuses stays dirty, close and fsync try again and say why they failed, and
// from the first refusal on writes do not wait any more.
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

  /// Whether a write may wait. Those may not that have to be at the host when the call returns, that take set-user bits away, or that would
  /// find no room.
  func mayDelay(_ byteCount: Int, _ flags: OpenFlags) -> Bool {
    guard tree.delaysWrites, byteCount < VirtioNode.delayedByteCount,
      flags.isDisjoint(with: [.direct, .dataSynchronous, .synchronous]), Frames.hasRoom, !MemoryObject.isMuchDirty
    else { return false }
    return tree.lock.withLock { !isRefused && attributes.mode & 0o6000 == 0 }
  }

  /// A write is about to wait. Under the size lock, without which nobody takes the flag away.
  func delayBegins() {
    if !isDelayed { tree.lock.withLock { isDelayed = true } }
  }

  /// Something has been written while the server has yet to get some. Under the size lock, with which it was.
  /// - Parameter isNew: it waits, too; else the server has it, and a time that it is to be told must not be before.
  func delayGoesOn(isNew: Bool) {
    let now = FileTime.now
    tree.lock.withLock { if isNew || delayedTime != nil { delayedTime = now } }
  }

  /// What is written and the server does not know, for whoever asks.
  func addDelayed(_ result: inout StatInformation) {
    guard isDelayed, let object = knownContents?.object else { return }
    result.byteCount = object.byteCount
    if let time = tree.lock.withLock({ delayedTime }) {
      result.modificationTime = time
      result.changeTime = time
    }
  }

  /// Dirty pages have been written back, perhaps all.
  func delayEnds(_ contents: VirtioContents) {
    guard isDelayed else { return }
    var time: FileTime?
    var size: UInt64?
    contents.sizeLock.writeLock()
    // Somebody else may have taken the last pages and not sent them yet: the flag is for them to take away.
    if !contents.object.isAheadOfSource {
      tree.lock.withLock {
        isDelayed = false
        time = delayedTime
        delayedTime = nil
        if attributes.size != contents.object.byteCount { size = attributes.size }
      }
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
