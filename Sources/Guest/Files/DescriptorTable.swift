// DescriptorTable: the numbers by which a process knows its open files.
//
// A reader-writer lock guards the table; it is held for a few loads and stores, never over what a file does. `file(_:)` returns a
// reference of its own, so a close on another thread takes nothing from under a call that is running. Calls only read the table, so
// one that is switched away from while it does holds up none of the others.
//
// The table knows how many threads run programs with it. Where it is one, that thread's calls need neither lock nor reference to use
// a file (`withFile`): only such a thread changes the table, so nobody does until the call that uses the file is over. Others (procfs)
// only read it, and what they find they count. A second thread comes by a call of the first (clone), and that uses no file; the number
// falls to one when another thread is done with the table for good, and what that did before is seen (it goes down releasing, and is
// loaded acquiring).
import Base
import Locks

/// The descriptors of a process.
public final class DescriptorTable {
  let lock = ReaderWriterLock()
  private var files = GrowingTable<OpenFile?>(blank: nil)
  /// Bit maps over `files`: taken numbers, and those that close when a program is executed.
  private var taken = GrowingTable<UInt64>(blank: 0)
  private var closing = GrowingTable<UInt64>(blank: 0)
  private var limitValue: Int
  /// Threads that run programs with it.
  private let users = Atomic<Int>(0)

  /// An empty table; numbers stay below `limit` (RLIMIT_NOFILE).
  public init(limit: Int = 1024) { limitValue = limit }

  /// Numbers stay below this (RLIMIT_NOFILE's soft limit); lowering it closes nothing.
  public var limit: Int {
    get { lock.withReadLock { limitValue } }
    set { lock.withWriteLock { limitValue = newValue } }
  }

  /// All descriptors are below this.
  public var count: Int { lock.withReadLock { files.count } }

  // MARK: Users

  /// One more thread runs a program with it. Before that thread starts.
  public func addUser() { users.wrappingAdd(1, ordering: .relaxed) }

  /// A thread will not use it any more.
  /// - Returns: whether it was the last one.
  public func removeUser() -> Bool {
    let before = users.wrappingSubtract(1, ordering: .acquiringAndReleasing).oldValue
    // One who was never counted would let two others believe that each of them is alone.
    precondition(before > 0, "a descriptor table has fewer users than leave it")
    return before == 1
  }

  // MARK: Looking

  /// Runs a body with the open file of a descriptor, which stays open, or at least there, until it returns. For threads that are counted
  /// as users; the body changes nothing in the table and starts no thread.
  /// - Throws: EBADF, what the body throws.
  @inline(__always) public func withFile<R>(
    _ descriptor: Int, _ body: (OpenFile) throws(Errno) -> R
  ) throws(Errno) -> R {
    guard users.load(ordering: .acquiring) == 1 else { return try body(file(descriptor)) }
    guard descriptor.uint < files.count.uint, let file = files.uncounted(descriptor) else { throw .EBADF }
    return try file.use(body)
  }

  /// The open file of a descriptor.
  /// - Throws: EBADF.
  public func file(_ descriptor: Int) throws(Errno) -> OpenFile {
    lock.readLock()
    defer { lock.readUnlock() }
    guard descriptor >= 0, descriptor < files.count, let file = files[descriptor] else { throw .EBADF }
    return file
  }

  /// The first descriptor in use at or behind a number, for listings; nil if there is none.
  public func next(from descriptor: Int) -> Int? {
    lock.readLock()
    defer { lock.readUnlock() }
    var number = max(descriptor, 0)
    while number < files.count {
      if files[number] != nil { return number }
      number &+= 1
    }
    return nil
  }

  /// Whether the descriptor closes when a program is executed.
  /// - Throws: EBADF.
  public func closesOnExec(_ descriptor: Int) throws(Errno) -> Bool {
    lock.readLock()
    defer { lock.readUnlock() }
    try check(descriptor)
    return closing[descriptor &>> 6] & bit(descriptor) != 0
  }

  /// Sets whether the descriptor closes when a program is executed.
  /// - Throws: EBADF.
  public func setClosesOnExec(_ descriptor: Int, _ closes: Bool) throws(Errno) {
    lock.writeLock()
    defer { lock.writeUnlock() }
    try check(descriptor)
    mark(descriptor, closes: closes)
  }

  // MARK: Changing

  /// Gives an open file the lowest free number that is not below `minimum`.
  /// - Throws: EMFILE, ENOMEM; EINVAL if `minimum` is not below the limit.
  public func install(_ file: OpenFile, closeOnExec: Bool = false, atLeast minimum: Int = 0) throws(Errno) -> Int {
    lock.writeLock()
    defer { lock.writeUnlock() }
    guard minimum >= 0, minimum < limitValue || minimum == 0 else { throw .EINVAL }
    let number = lowestFree(from: minimum)
    guard number < limitValue else { throw .EMFILE }
    try place(file, at: number, closeOnExec)
    return number
  }

  /// Whether there is a number for one more file: for whoever makes something of what would be lost without.
  /// - Throws: EMFILE.
  public func checkRoom() throws(Errno) {
    lock.readLock()
    defer { lock.readUnlock() }
    guard lowestFree(from: 0) < limitValue else { throw .EMFILE }
  }

  /// Gives the file of a descriptor one more, the lowest free number not below `minimum` (dup, F_DUPFD).
  /// - Throws: EBADF, EMFILE, EINVAL.
  public func duplicate(_ descriptor: Int, atLeast minimum: Int = 0, closeOnExec: Bool = false) throws(Errno) -> Int {
    try install(try file(descriptor), closeOnExec: closeOnExec, atLeast: minimum)
  }

  /// Makes `target` refer to the file of `descriptor`, closing what it referred to (dup2, dup3). Both the same: nothing happens.
  /// - Throws: EBADF, also for a `target` that is out of range; ENOMEM.
  public func duplicate(_ descriptor: Int, onto target: Int, closeOnExec: Bool = false) throws(Errno) {
    let file = try file(descriptor)
    guard descriptor != target else { return }
    let old = try put(file, at: target, closeOnExec)
    if let old { try? removed(old) }
  }

  /// Closes a descriptor.
  /// - Throws: EBADF, or what the file says about it; it is closed then too.
  public func close(_ descriptor: Int) throws(Errno) {
    lock.writeLock()
    guard descriptor >= 0, descriptor < files.count, let file = files[descriptor] else {
      lock.writeUnlock()
      throw .EBADF
    }
    clear(descriptor)
    lock.writeUnlock()
    try removed(file)
  }

  // SAFETY: a number, never followed; a table's descriptors are closed, and its locks with them, before it ends.
  /// Its name as an owner of locks.
  public var lockOwner: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }

  /// A descriptor is gone. POSIX wants all locks of the process on that file gone with it.
  private func removed(_ file: OpenFile) throws(Errno) {
    defer { if !file.isPathOnly { file.vnode.fileLocks?.removeAll(of: lockOwner) } }
    try file.descriptorRemoved()
  }

  /// Closes all descriptors from `first` to `last` (close_range), or marks them to be closed when a program is executed.
  public func closeRange(_ first: Int, _ last: Int, onExecOnly: Bool = false) {
    var number = first
    while let found = next(from: number), found <= last {
      if onExecOnly { try? setClosesOnExec(found, true) } else { try? close(found) }
      number = found &+ 1
    }
  }

  /// Closes what is to be closed when a program is executed.
  public func closeOnExec() {
    var number = 0
    while let found = next(from: number) {
      if (try? closesOnExec(found)) == true { try? close(found) }
      number = found &+ 1
    }
  }

  /// A table with the same descriptors (fork).
  /// - Throws: ENOMEM.
  public func copy() throws(Errno) -> DescriptorTable {
    let result = DescriptorTable()
    lock.readLock()
    defer { lock.readUnlock() }
    result.limitValue = limitValue
    for number in 0..<files.count {
      if let file = files[number] { try result.place(file, at: number, closing[number &>> 6] & bit(number) != 0) }
    }
    return result
  }

  // MARK: With the lock

  @inline(__always) private func bit(_ number: Int) -> UInt64 { 1 &<< (number & 63).u64 }

  private func check(_ descriptor: Int) throws(Errno) {
    guard descriptor >= 0, descriptor < files.count, files[descriptor] != nil else { throw .EBADF }
  }

  private func lowestFree(from minimum: Int) -> Int {
    var word = minimum &>> 6
    var masked: UInt64 = (1 &<< (minimum & 63).u64) &- 1
    while word &<< 6 < files.count {
      let free = ~(taken[word] | masked)
      if free != 0 { return word &<< 6 | free.trailingZeroBitCount }
      masked = 0
      word &+= 1
    }
    return max(minimum, files.count)
  }

  private func place(_ file: OpenFile, at number: Int, _ closeOnExec: Bool) throws(Errno) {
    // The bit maps first: they may be longer than need be.
    try taken.grow(to: (number &>> 6) &+ 1)
    try closing.grow(to: (number &>> 6) &+ 1)
    try files.grow(to: number &+ 1)
    file.descriptorAdded()
    files[number] = file
    taken[number &>> 6] |= bit(number)
    mark(number, closes: closeOnExec)
  }

  /// Puts a file in the place of another, which it returns.
  private func put(_ file: OpenFile, at target: Int, _ closeOnExec: Bool) throws(Errno) -> OpenFile? {
    lock.writeLock()
    defer { lock.writeUnlock() }
    guard target >= 0, target < limitValue else { throw .EBADF }
    let old = target < files.count ? files[target] : nil
    try place(file, at: target, closeOnExec)
    return old
  }

  private func clear(_ number: Int) {
    files[number] = nil
    taken[number &>> 6] &= ~bit(number)
    closing[number &>> 6] &= ~bit(number)
  }

  private func mark(_ number: Int, closes: Bool) {
    if closes { closing[number &>> 6] |= bit(number) } else { closing[number &>> 6] &= ~bit(number) }
  }
}
