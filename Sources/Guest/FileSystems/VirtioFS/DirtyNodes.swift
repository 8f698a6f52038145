// The files of one file system with dirty pages, and the thread that writes them in time.
//
// A file enters the list with its first dirty page, under its memory object's lock; so `lock` is innermost: nothing is taken under it.
// The list keeps its files. Whoever writes back takes them all out first: a page that becomes dirty meanwhile enters its file again.
// One at a time does (`passes`), and whoever writes a single file back shares `underWay`: the end of the machine waits for both, for pages that
// are on their way are not dirty any more.
import Base
import Files
import Locks
import Memory
import Platform
import Synchronization
import Threads

/// Files with dirty pages.
final class DirtyNodes {
  /// How long a page may stay dirty, ns.
  static let delay: UInt64 = 1_000_000_000

  let passes = Mutex()
  let underWay = ReaderWriterLock()
  private let lock = Mutex()
  private var nodes: [VirtioNode] = []
  private let work = Semaphore()
  private let haste = Semaphore()
  private let isAwake = Atomic<Bool>(false)

  /// Notes a file, and wakes the thread.
  func add(_ node: VirtioNode) {
    lock.withLock { nodes.append(node) }
    wake()
  }

  /// Takes all files out.
  func takeAll() -> [VirtioNode] {
    var taken: [VirtioNode] = []
    lock.withLock { swap(&taken, &nodes) }
    return taken
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
  /// - Returns: the first error; the pages it was about stay dirty.
  func writeBackDirty() -> Errno? {
    dirty.passes.lock()
    defer { dirty.passes.unlock() }
    var failure: Errno?
    for node in dirty.takeAll() {
      do throws(Errno) { try node.writeBackDirty() } catch {
        if failure == nil { failure = error }
        // Another attempt, as long as somebody may want the data.
        if error != .ESTALE { dirty.add(node) }
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
  Unmanaged<VirtioFileSystem>.fromOpaque(argument).takeUnretainedValue().writeBackForEver()
}
