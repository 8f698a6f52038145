// The files of one file system with dirty pages, and the thread that writes them in time.
//
// A file enters the list with its first dirty page, under its memory object's lock; so `lock` is innermost: nothing is taken under it.
// The list keeps its files, each at most once. A pass takes one out before it looks at its pages, and whoever has written a file back, in a pass
// or not, enters it again if there is something dirty (`VirtioNode.writeBackDirty`): pages that became so behind the ones being sent, while
// others still were, told nobody. So a file with a dirty page is listed, or somebody is writing it back. One pass at a time is under
// way (`passes`), and whoever writes a single file back shares `underWay`: the end of the machine waits for both, for pages that are
// on their way are not dirty any more.
import Base
import Files
import Locks
import Memory
import Platform
import Synchronization
import Threads

/// Files with dirty pages.
final class DirtyNodes {
  /// How long a page may stay dirty, ns: others see within a second what was written.
  static let delay: UInt64 = 500_000_000

  let passes = Mutex()
  let underWay = ReaderWriterLock()
  private let lock = Mutex()
  /// Files that have come since the pass began, the newest first, and those of the pass.
  private var incoming: VirtioNode?
  private var batch: VirtioNode?
  private let work = Semaphore()
  private let haste = Semaphore()
  private let isAwake = Atomic<Bool>(false)
  /// What was dirty of some file could not be written, and never will be.
  let isLost = Atomic<Bool>(false)

  deinit {
    // One after the other: a chain of any length would otherwise end in as many calls.
    beginPass()
    while next() != nil {}
  }

  /// Notes a file, and wakes the thread.
  func add(_ node: VirtioNode) {
    lock.withLock {
      guard !node.isListedDirty else { return }
      node.isListedDirty = true
      node.nextDirty = incoming
      incoming = node
    }
    wake()
  }

  /// A pass is about all files that are there now.
  func beginPass() {
    lock.withLock {
      guard batch == nil else { return }
      batch = incoming
      incoming = nil
    }
  }

  /// Whether there is no file.
  var isEmpty: Bool { lock.withLock { incoming == nil && batch == nil } }

  /// Takes the next file of the pass out.
  func next() -> VirtioNode? {
    lock.withLock {
      guard let node = batch else { return nil }
      batch = node.nextDirty
      node.nextDirty = nil
      node.isListedDirty = false
      return node
    }
  }

  /// Wakes the thread, once for all that happens until it looks.
  func wake() {
    if !isAwake.exchange(true, ordering: .acquiringAndReleasing) { work.post() }
  }

  /// Waits until there is something to do, and then for as long as it may wait.
  func waitForWork() {
    _ = work.wait()
    _ = haste.wait(until: .after(DirtyNodes.delay, from: Clock.now()))
    while haste.tryWait() {}
    isAwake.store(false, ordering: .releasing)
  }

  /// Memory is short: what is dirty is to be written now.
  func hurry() {
    guard isAwake.load(ordering: .acquiring) else { return }
    haste.post()
  }
}

extension VirtioFileSystem {
  /// Writes what is dirty.
  /// - Returns: the first error about a file that has a name; the pages of all errors stay dirty.
  func writeBackDirty() -> Errno? {
    dirty.passes.lock()
    defer { dirty.passes.unlock() }
    var failure: Errno?
    dirty.beginPass()
    while let node = dirty.next() {
      do throws(Errno) { try node.writeBackDirty() } catch {
        if failure == nil, !node.isNameless { failure = error }
        // Another attempt is made in time, as long as there may be a file to write.
        if error == .ESTALE { node.giveUp() }
      }
    }
    return failure
  }

  /// Starts the thread that writes dirty pages and tells the server what is not needed any more. It keeps the file system.
  /// - Throws: ENOMEM, EAGAIN.
  public func startWritingBack() throws(Errno) {
    try Thread.spawn(
      name: "write-back", entry: writeBackMain, argument: Unmanaged.passRetained(self).toOpaque()
    ).detach()
  }

  fileprivate func writeBackForEver() -> Never {
    while true {
      dirty.waitForWork()
      _ = writeBackDirty()
      settle(always: true)
    }
  }
}

/// The thread's life. `argument` is the file system, whose reference was given away.
private func writeBackMain(_ argument: UnsafeMutableRawPointer?) {
  guard let argument else { return }
  // SAFETY: `startWritingBack` counted a reference for this thread, which never ends.
  Unmanaged<VirtioFileSystem>.fromOpaque(argument).takeUnretainedValue().writeBackForEver()
}
