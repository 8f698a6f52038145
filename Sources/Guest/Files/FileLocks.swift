// FileLocks: the advisory locks that programs hold on a file: ranges of bytes (fcntl's, of a process or of an open file) and whole
// files (flock). The two kinds know nothing of each other.
//
// Most files have none: a vnode makes the object when the first lock is asked for. Owners are numbers: that of a descriptor table (what
// all threads of a process share) or that of an open file. A table's locks on a file go with the first of its descriptors of that
// file, an open file's with itself.
//
// Locks: `lock` guards both tables. `LockWaits.lock` is taken under it and guards who waits for whom, for all files: what an owner
// gives back takes those who waited for this file out of the graph at once, so that an edge never tells of a lock that is gone.
// Nothing else is taken under either.
import Base
import Locks

/// Locks on one file.
public final class FileLocks {
  private let lock = Mutex()
  private let changes = WaitQueue()
  /// How often something has been given back.
  private let generation = Atomic<UInt64>(0)
  // Guarded by `lock`.
  private var ranges = LockTable()
  private var wholes = LockTable()

  init() {}

  private var identity: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

  // MARK: Ranges

  /// The first lock that stands against one (F_GETLK).
  public func conflict(with wanted: RangeLock) -> RangeLock? { lock.withLock { ranges.conflict(with: wanted) } }

  /// Gets a lock on a range, in the place of what its owner has there.
  /// - Parameter waits: whether to sleep while another owner's stands against it.
  /// - Throws: EAGAIN; EDEADLK (a process that waits for this one would be waited for), EINTR, ENOMEM.
  public func set(_ wanted: RangeLock, waits: Bool) throws(Errno) {
    while true {
      lock.lock()
      guard let blocker = ranges.conflict(with: wanted) else {
        defer { lock.unlock() }
        if try ranges.set(wanted) { givenBack() }
        return
      }
      try wait(wanted, for: blocker, waits, isInGraph: wanted.process >= 0)
    }
  }

  /// Gives a range back.
  /// - Throws: ENOMEM.
  public func remove(_ range: RangeLock) throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    if try ranges.remove(range) { givenBack() }
  }

  // MARK: Whole files

  /// Gets a lock on the whole file for an open file; what it has is given back first.
  /// - Throws: EAGAIN, EINTR, ENOMEM.
  public func setWhole(_ wanted: RangeLock, waits: Bool) throws(Errno) {
    lock.lock()
    if let held = wholes.first(of: wanted.owner) {
      if held.isExclusive == wanted.isExclusive { return lock.unlock() }
      if wholes.removeAll(of: wanted.owner) { givenBack() }
    }
    lock.unlock()
    while true {
      lock.lock()
      guard let blocker = wholes.conflict(with: wanted) else {
        defer { lock.unlock() }
        _ = try wholes.set(wanted)
        return
      }
      try wait(wanted, for: blocker, waits, isInGraph: false)
    }
  }

  /// Gives the lock on the whole file back.
  public func removeWhole(of owner: UInt) {
    lock.withLock { if wholes.removeAll(of: owner) { givenBack() } }
  }

  // MARK: The end of an owner

  /// Gives back all that an owner has.
  func removeAll(of owner: UInt) {
    lock.withLock {
      let hadRanges = ranges.removeAll(of: owner)
      if wholes.removeAll(of: owner) || hadRanges { givenBack() }
    }
  }

  // MARK: Waiting

  /// Something has been given back; under `lock`.
  private func givenBack() {
    generation.wrappingAdd(1, ordering: .releasing)
    LockWaits.forget(identity)
    changes.wakeAll()
  }

  /// Sleeps until something has been given back. With `lock`, which is given up.
  private func wait(_ wanted: RangeLock, for blocker: RangeLock, _ waits: Bool, isInGraph: Bool) throws(Errno) {
    let number = generation.load(ordering: .acquiring)
    guard waits else {
      lock.unlock()
      throw .EAGAIN
    }
    let result: WaitResult? = withUnsafeTemporaryAllocation(of: LockWait.self, capacity: 1) { memory in
      let entry = memory.baseAddress.unsafelyUnwrapped
      // SAFETY: taken out of the graph before the memory goes; the entry is trivial.
      entry.initialize(to: LockWait(waiter: wanted.owner, blocker: blocker.owner, locks: identity))
      let isDeadlock = isInGraph && !LockWaits.begin(entry)
      lock.unlock()
      if isDeadlock { return nil }
      let result = changes.wait(interruptible: true) { generation.load(ordering: .acquiring) == number }
      if isInGraph { LockWaits.end(entry) }
      return result
    }
    guard let result else { throw .EDEADLK }
    if result != .woken { throw .EINTR }
  }
}

/// An owner that waits for another.
struct LockWait {
  let waiter: UInt
  /// 0: what it waited for has been given back.
  var blocker: UInt
  /// The file's locks.
  let locks: UInt
  var next: UnsafeMutablePointer<LockWait>?
  var previous: UnsafeMutablePointer<LockWait>?

  init(waiter: UInt, blocker: UInt, locks: UInt) {
    self.waiter = waiter
    self.blocker = blocker
    self.locks = locks
  }
}

/// Which processes wait for which, for ranges of all files.
enum LockWaits {
  private static let lock = Mutex()
  // SAFETY: the list and its links are touched with `lock`; a wait lies in its waiter's frame until `end` has taken it out.
  nonisolated(unsafe) private static var first: UnsafeMutablePointer<LockWait>? = nil
  /// How far a chain of waits is followed.
  private static var deepest: Int { 10 }

  /// Notes a wait, which stays in place until `end`; false if its end would be waited for.
  static func begin(_ wait: UnsafeMutablePointer<LockWait>) -> Bool {
    lock.lock()
    defer { lock.unlock() }
    var owner = wait.pointee.blocker
    for _ in 0..<deepest {
      if owner == wait.pointee.waiter { return false }
      guard let next = blocker(of: owner) else { break }
      owner = next
    }
    wait.pointee.next = first
    first?.pointee.previous = wait
    first = wait
    return true
  }

  /// Whether that process waits for another; for tests.
  static func isWaiting(_ owner: UInt) -> Bool { lock.withLock { blocker(of: owner) != nil } }

  /// Under `lock`.
  private static func blocker(of owner: UInt) -> UInt? {
    var next = first
    while let wait = next {
      if wait.pointee.waiter == owner, wait.pointee.blocker != 0 { return wait.pointee.blocker }
      next = wait.pointee.next
    }
    return nil
  }

  /// Whoever waits for locks of this file has to look again.
  static func forget(_ locks: UInt) {
    lock.lock()
    defer { lock.unlock() }
    var next = first
    while let wait = next {
      if wait.pointee.locks == locks { wait.pointee.blocker = 0 }
      next = wait.pointee.next
    }
  }

  /// Takes a wait out.
  static func end(_ wait: UnsafeMutablePointer<LockWait>) {
    lock.lock()
    defer { lock.unlock() }
    wait.pointee.next?.pointee.previous = wait.pointee.previous
    if let previous = wait.pointee.previous {
      previous.pointee.next = wait.pointee.next
    } else {
      first = wait.pointee.next
    }
  }
}
