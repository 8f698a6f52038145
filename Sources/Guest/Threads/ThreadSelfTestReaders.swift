// Checks of `ThreadSelfTest`: structures with many readers.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Pages
  import Platform

  /// What the readers of the check look up: freed by a deferred call, and marked then.
  private struct Entry: ~Copyable {
    var node: RCUTableNode<LiveWord>
    var call = RCU.Call()
    var isAlive: UInt64 = 1

    static func make(_ key: UInt) -> UnsafeMutablePointer<Entry>? {
      guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Entry>.size, alignment: 16) else { return nil }
      // SAFETY: fresh memory of that size.
      let entry = memory.bindMemory(to: Entry.self, capacity: 1)
      entry.initialize(to: Entry(node: RCUTableNode(hash: key, owner: UInt(bitPattern: memory))))
      return entry
    }

    static func at(_ owner: UInt) -> UnsafeMutablePointer<Entry> {
      // SAFETY: owners of the table's nodes are addresses of entries.
      UnsafeMutablePointer(bitPattern: owner).unsafelyUnwrapped
    }
  }

  /// The table of the check, and what has come of it.
  private struct Directory: ~Copyable {
    let table: RCUTable
    let freed = Atomic<UInt64>(0)
    let found = Atomic<UInt64>(0)
    let wrong = Atomic<UInt64>(0)
  }

  // SAFETY: set before the threads of the check start; what it points to is freed when they, and the calls put off, are done.
  nonisolated(unsafe) private var directory: UnsafeMutablePointer<Directory>? = nil

  extension ThreadSelfTest {
    /// One thread adds and removes entries, the table grows, others look up what is always there.
    static func readCopyUpdate() -> Outcome {
      let size = 4
      guard
        let memory = KernelHeap.allocate(byteCount: MemoryLayout<Directory>.size, alignment: 64),
        let words = KernelHeap.allocate(byteCount: RCUTable.wordCount(size: size) &* 8, alignment: 64)
      else { return Outcome(false) }
      // SAFETY: fresh memory of those sizes.
      let shared = memory.bindMemory(to: Directory.self, capacity: 1)
      shared.initialize(
        to: Directory(table: RCUTable(words.bindMemory(to: LiveWord.self, capacity: size &+ 1), size: size)))
      directory = shared
      for key in 0..<64 as Range<UInt> {
        guard let entry = Entry.make(key) else { return Outcome(false) }
        insert(entry, shared)
      }
      ThreadSelfTest.shared.stop.store(false, ordering: .relaxed)
      let one = spawn(lookUpMain)
      let two = spawn(lookUpMain)
      var made: UInt64 = 0
      let start = Clock.now()
      for round in 0..<2_000 as Range<UInt> {
        guard let entry = Entry.make(64 &+ round) else { continue }
        insert(entry, shared)
        made &+= 1
        if round % 4 != 0 { remove(entry, shared) } else { made &-= 1 }
        if round % 256 == 0 { _ = Thread.sleep(until: .after(100_000)) }
      }
      RCU.barrier()
      let took = Clock.now() &- start
      ThreadSelfTest.shared.stop.store(true, ordering: .relaxed)
      one?.join()
      two?.join()
      // Take it apart.
      shared.pointee.table.forEach { remove(Entry.at($0), shared) }
      RCU.barrier()
      let isRight =
        shared.pointee.wrong.load(ordering: .relaxed) == 0 && shared.pointee.table.count == 0
        && shared.pointee.freed.load(ordering: .relaxed) == 2_064 && RCU.pendingCalls == 0
      let found = shared.pointee.found.load(ordering: .relaxed)
      KernelHeap.free(UnsafeMutableRawPointer(shared.pointee.table.buckets))
      KernelHeap.free(memory)
      return Outcome(isRight && found > 0).with("ns a change", took / 2_000).with("found", found)
    }

    private static func insert(_ entry: UnsafeMutablePointer<Entry>, _ shared: UnsafeMutablePointer<Directory>) {
      // SAFETY: entries do not move.
      shared.pointee.table.insert(withUnsafeMutablePointer(to: &entry.pointee.node) { $0 })
      guard let size = shared.pointee.table.wantedSize,
        let words = KernelHeap.allocate(byteCount: RCUTable.wordCount(size: size) &* 8, alignment: 64)
      else { return }
      let old = shared.pointee.table.grow(words.bindMemory(to: LiveWord.self, capacity: size &+ 1), size: size)
      RCU.synchronize()
      KernelHeap.free(UnsafeMutableRawPointer(old))
      shared.pointee.table.hasGrown()
    }

    private static func remove(_ entry: UnsafeMutablePointer<Entry>, _ shared: UnsafeMutablePointer<Directory>) {
      // SAFETY: as above; freed by the call, after all readers.
      shared.pointee.table.remove(withUnsafeMutablePointer(to: &entry.pointee.node) { $0 })
      RCU.later(withUnsafeMutablePointer(to: &entry.pointee.call) { $0 }, freeEntry, UnsafeMutableRawPointer(entry))
    }

    /// Writers and readers on all CPUs: nobody sees half a change, and both go on.
    static func readersAndWriters() -> Outcome {
      shared.guardedCount = 0
      shared.guardedCopy = 0
      shared.atomicCount.store(0, ordering: .relaxed)
      let start = Clock.now()
      var threads: InlineArray<4, Thread?> = InlineArray(repeating: nil)
      for index in 0..<4 {
        threads[index] = spawn(readOrWriteMain, UnsafeMutableRawPointer(bitPattern: index &+ 1))
      }
      for index in 0..<4 { threads[index]?.join() }
      let each = (Clock.now() &- start) / 20_000
      let isFree = shared.readerWriterLock.tryWriteLock()
      if isFree { shared.readerWriterLock.writeUnlock() }
      let isRight = shared.guardedCount == 400 && shared.guardedCopy == 400
      return Outcome(isRight && isFree && shared.atomicCount.load(ordering: .relaxed) == 0).with("ns a turn", each)
    }
  }

  private func freeEntry(_ address: UnsafeMutableRawPointer?) {
    guard let address else { return }
    // SAFETY: the address that `remove` gave.
    address.assumingMemoryBound(to: Entry.self).pointee.isAlive = 0
    directory?.pointee.freed.wrappingAdd(1, ordering: .relaxed)
    KernelHeap.free(address)
  }

  private func lookUpMain(_ argument: UnsafeMutableRawPointer?) {
    guard let directory else { return }
    var key: UInt = 0
    while !ThreadSelfTest.shared.stop.load(ordering: .relaxed) {
      key = (key &+ 1) & 63
      let isRight = RCU.read {
        var isAlive = true
        directory.pointee.table.forEach { isAlive = isAlive && Entry.at($0).pointee.isAlive == 1 }
        return isAlive && directory.pointee.table.find(key) { _ in true } != nil
      }
      if isRight {
        directory.pointee.found.wrappingAdd(1, ordering: .relaxed)
      } else {
        directory.pointee.wrong.wrappingAdd(1, ordering: .relaxed)
      }
    }
  }

  private func readOrWriteMain(_ number: UnsafeMutableRawPointer?) {
    let number = UInt(bitPattern: number)
    for round in 0..<5_000 as Range<UInt> {
      if round % 50 == number {
        ThreadSelfTest.shared.readerWriterLock.withWriteLock {
          ThreadSelfTest.shared.guardedCount &+= 1
          for _ in 0..<10 { instruction_pause() }
          ThreadSelfTest.shared.guardedCopy &+= 1
        }
      } else {
        let isWhole = ThreadSelfTest.shared.readerWriterLock.withReadLock {
          ThreadSelfTest.shared.guardedCount == ThreadSelfTest.shared.guardedCopy
        }
        if !isWhole { ThreadSelfTest.shared.atomicCount.wrappingAdd(1, ordering: .relaxed) }
      }
      if round % 500 == 0 { Thread.yield() }
    }
  }
#endif
