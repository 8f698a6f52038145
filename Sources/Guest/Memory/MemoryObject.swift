// A memory object: the pages of a file, of shared memory or of a device, cached once for all readers, writers and mappings.
//
// `lock` guards the pages and the size; nothing sleeps for I/O under it. `mappingsLock`, taken before `lock`, guards
// the list of mappings. A page is absent, filling (one thread fills it, others wait), present, or present
// and dirty. The cache holds one reference to each page's frame, each page-table entry another one.
import Base
import Locks
import Pages
import Platform
import Synchronization

/// Where the pages of a memory object come from, and where they go.
public protocol Pager: AnyObject {
  /// Reads consecutive pages of the object. What lies behind the end of the file stays as it is (the frames are zero).
  /// - Parameters:
  ///   - page: number of the first page (offset / 4096).
  ///   - frames: one for each page, 1 to `maximumPages`, zeroed and the caller's until the call returns.
  /// - Throws: EIO or what the source says.
  func fill(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>) throws(Errno)

  /// Writes consecutive dirty pages.
  /// - Parameters:
  ///   - page: number of the first page.
  ///   - frames: one for each page.
  ///   - byteCount: bytes to write from the first one's start; less than all of them only at the end of the file.
  func writeBack(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>, byteCount: Int) throws(Errno)

  /// Pages worth reading at once, 1 to 64: how far readahead goes.
  var maximumPages: Int { get }

  /// The first page has become dirty: sooner or later somebody must write back, and look afterwards whether the object is ahead of its
  /// source again (`isAheadOfSource`): pages that become dirty while others still are say nothing. Called under the object's lock.
  func contentsDirtied()
}

extension Pager {
  /// Nothing: for pagers whose objects nobody writes.
  public func contentsDirtied() {}
}

// SAFETY: pages and what is known of them are touched with `lock`, the list of mappings with `mappingsLock`, the links of
// `PageCache` with its lock; the rest is atomic or constant.
/// Pages of one file or of shared memory.
///
/// Without a pager, absent pages are zero. With `direct` memory (a file that lies in guest memory), absent pages
/// are those frames, never copied until somebody writes.
public final class MemoryObject: @unchecked Sendable {
  let lock = Mutex()
  let mappingsLock = Mutex()
  var pages = PageIndex()
  let size: Atomic<UInt64>
  unowned(unsafe) let pager: (any Pager)?
  let direct: PhysicalAddress
  /// Bytes of `direct` that still count.
  var directByteCount: UInt64
  var mappings: RegionPointer?
  /// Pages in the cache.
  var pageTotal = 0
  /// Those of them that are dirty, if there is a pager.
  var dirtyTotal = 0
  /// How often the source has cut the object, dropping what was behind its new end.
  var cutTotal = 0
  /// Held while a run of dirty pages is written back; taken before all other locks of the object, and of the file it belongs to.
  let writeBackLock = Mutex()
  /// Whether a run is under way: its pages are not dirty any more, and the source has not got them yet.
  var isWritingBack = false
  #if HOSTED
    /// What a test puts between (Interleaving.swift).
    var visitor: ((Interleaving) -> Void)?
  #endif
  /// Who counts its pages together with those of others.
  let quota: PageQuota?
  /// Raised when pages stop filling; waiters wait for that.
  let fillings = Atomic<UInt>(0)
  let fillWaiters = WaitQueue()
  /// The page behind the last run that was read, and how long that was: a reader that goes on there gets twice as much.
  var nextRead: UInt64 = 0
  var lastRun = 0
  /// Where the next look for pages to forget begins.
  var shrinkHand: UInt64 = 0
  /// The list of objects that can be shrunk (`PageCache`).
  var nextObject: Unmanaged<MemoryObject>?
  var previousObject: Unmanaged<MemoryObject>?

  /// A new object of `byteCount` bytes. `pager` is not kept alive: it must outlive the object (it usually owns it).
  /// With a quota there is no pager.
  public init(byteCount: UInt64 = 0, pager: (any Pager)? = nil, quota: PageQuota? = nil) {
    size = Atomic(byteCount)
    self.quota = quota
    self.pager = pager
    direct = PhysicalAddress(0)
    directByteCount = 0
    if pager != nil { PageCache.add(self) }
  }

  /// An object whose pages lie at `direct`, contiguous and never written: not memory of `Frames`, whose frames would be freed with
  /// their last mapping.
  public init(direct: PhysicalAddress, byteCount: UInt64) {
    precondition(!Frames.isManaged(direct), "a file in memory must not lie in memory that is handed out")
    size = Atomic(byteCount)
    pager = nil
    quota = nil
    self.direct = direct
    directByteCount = byteCount
  }

  deinit {
    if hasPager {
      PageCache.remove(self)
      PageCache.dirtyPages.subtract(dirtyTotal, ordering: .relaxed)
    }
    quota?.give(pageTotal)
    pages.forEach { _, slot in
      Frames.release(PageWord(slot.pointee).frame)
      return true
    }
    Frames.noticeSurplus()
  }

  /// Size in bytes: reads end and mappings give bus errors behind it.
  public var byteCount: UInt64 { size.load(ordering: .acquiring) }

  /// Pages in the cache.
  public var residentPages: Int { pageTotal }

  /// Pages that differ from their source; a snapshot.
  public var dirtyPages: Int { dirtyTotal }

  /// Whether the source has yet to get something: dirty pages, or some that are on their way.
  public var isAheadOfSource: Bool {
    lock.lock()
    defer { lock.unlock() }
    return dirtyTotal > 0 || isWritingBack
  }

  /// Dirty pages of all objects; a snapshot.
  public static var dirtyPagesEverywhere: Int { max(PageCache.dirtyPages.load(ordering: .relaxed), 0) }

  /// Whether so much is dirty everywhere that writing should wait for the sources.
  public static var isMuchDirty: Bool {
    PageCache.dirtyPages.load(ordering: .relaxed) > Frames.statistics.total &>> 2
  }

  // MARK: Pages, under the lock

  @inline(__always) var hasPager: Bool { pager != nil }
  @inline(__always) var isDirect: Bool { directByteCount > 0 }
  /// Pages up to the end.
  @inline(__always) var pageCount: UInt64 { (byteCount &+ (PageSize.small &- 1)) >> frameShift }
  @inline(__always) func word(_ page: UInt64) -> PageWord { pages.word(page) }

  /// The frame of a page that lies in memory and was never replaced.
  @inline(__always) func directFrame(_ page: UInt64) -> PhysicalAddress? {
    page << frameShift < directByteCount ? direct + page << frameShift : nil
  }

  func markDirty(_ page: UInt64) {
    guard let slot = pages.slot(page) else { return }
    let old = slot.pointee
    slot.pointee = old | PageWord.dirtyBit | PageWord.usedBit
    guard old & PageWord.dirtyBit == 0, let pager else { return }
    dirtyTotal &+= 1
    PageCache.dirtyPages.add(1, ordering: .relaxed)
    if dirtyTotal == 1 { pager.contentsDirtied() }
  }

  /// What is in a dirty page is on its way.
  func markClean(_ slot: PageIndex.Node) {
    slot.pointee &= ~PageWord.dirtyBit
    dirtyTotal &-= 1
    PageCache.dirtyPages.subtract(1, ordering: .relaxed)
  }

  /// Whether whoever makes another page dirty must write back first: a quarter of memory is dirty, some of it here.
  var mustWriteBack: Bool { dirtyTotal > 0 && Self.isMuchDirty }

  @inline(__always) func markUsed(_ page: UInt64) {
    if let slot = pages.slot(page), slot.pointee & PageWord.usedBit == 0 { slot.pointee |= PageWord.usedBit }
  }

  /// Takes a page out of the cache.
  func removePage(_ slot: PageIndex.Node) {
    let word = PageWord(slot.pointee)
    slot.pointee = 0
    pageTotal &-= 1
    if hasPager && word.isPresent && word.isDirty {
      dirtyTotal &-= 1
      PageCache.dirtyPages.subtract(1, ordering: .relaxed)
    }
    quota?.give(1)
    Frames.release(word.frame)
  }

  // MARK: Fetching

  /// Makes a page present, reading it and what probably follows. Sleeps; called without locks.
  /// - Parameters:
  ///   - page: its number; nothing happens behind the end.
  ///   - forWriting: the object's own page is needed, not the file's in memory.
  func fetch(page: UInt64, forWriting: Bool) throws(Errno) {
    var attempts = 0
    while true {
      lock.lock()
      let word = pages.word(page)
      guard page < pageCount, !word.isPresent else { return lock.unlock() }
      if word.isFilling {
        let before = fillings.load(ordering: .acquiring)
        lock.unlock()
        _ = fillWaiters.wait(until: .never, interruptible: false) { fillings.load(ordering: .acquiring) == before }
        continue
      }
      let source = directFrame(page)
      if source != nil && !forWriting { return lock.unlock() }
      if pager != nil && source == nil {
        if try fillRun(page) { return }  // Unlocks.
      } else if quota?.take() == false {
        lock.unlock()
        guard attempts < 16, quota?.waitForRemoved() == true else { throw .ENOSPC }
        attempts += 1
        continue
      } else if let frame = Frames.allocate(zeroed: source == nil, use: .shared) {
        if let slot = pages.slotMakingNodes(page) {
          if let source {
            // SAFETY: a fresh frame, and a file in memory, which nobody frees.
            LinearMap.pointer(frame).copyMemory(from: LinearMap.pointer(source), byteCount: PageSize.small.int)
          }
          slot.pointee = PageWord.present(frame, isDirty: true).rawValue
          pageTotal &+= 1
          lock.unlock()
          // Mappings of the file's page must see what is written to the object's from now on.
          if source != nil { unmap(from: page, to: page &+ 1, evenPrivate: false) }
          return
        }
        Frames.free(frame)
        quota?.give(1)
        lock.unlock()
      } else {
        quota?.give(1)
        lock.unlock()
      }
      // Others may take what was reclaimed first, but not for ever.
      guard attempts < 16, Reclaim.run(pages: 64, .requestLocks) else { throw .ENOMEM }
      attempts += 1
    }
  }

  /// Reads a run of absent pages. Under the lock, which it gives back.
  /// - Returns: false if memory is out.
  private func fillRun(_ page: UInt64) throws(Errno) -> Bool {
    let limit = max(1, min(pager.unsafelyUnwrapped.maximumPages, 64))
    var wanted = page == nextRead ? min(max(lastRun &* 2, 8), limit) : min(8, limit)
    // A small file that is read from its start is read whole: a request costs more than the pages.
    if page == 0 && lastRun == 0 && pageCount <= 32 { wanted = min(32, limit) }
    wanted = min(wanted, (pageCount &- page).int)
    guard let memory = KernelHeap.allocate(byteCount: wanted &* MemoryLayout<PhysicalAddress>.stride) else {
      lock.unlock()
      return false
    }
    defer { KernelHeap.free(memory) }
    // SAFETY: fresh heap memory for `wanted` addresses; only the first `count`, all initialised, are used.
    let frames = memory.bindMemory(to: PhysicalAddress.self, capacity: wanted)
    var count = 0
    while count < wanted && pages.word(page &+ count.u64).rawValue == 0 {
      guard let frame = Frames.allocate(zeroed: true, use: .file) else { break }
      guard let slot = pages.slotMakingNodes(page &+ count.u64) else {
        Frames.free(frame, zeroed: true)
        break
      }
      slot.pointee = PageWord.filling(frame).rawValue
      pageTotal &+= 1
      (frames + count).initialize(to: frame)
      count &+= 1
    }
    lastRun = count
    nextRead = page &+ count.u64
    lock.unlock()
    guard count > 0 else { return false }

    var failure: Errno?
    do {
      try pager.unsafelyUnwrapped.fill(page: page, frames: UnsafeBufferPointer(start: frames, count: count))
    } catch {
      failure = error
    }
    lock.lock()
    for index in 0..<count {
      let number = page &+ index.u64
      guard let slot = pages.slot(number) else { continue }
      if failure != nil || number >= pageCount {
        removePage(slot)
      } else {
        slot.pointee = PageWord.present(frames[index], isDirty: false).rawValue
        if number == byteCount >> frameShift { clearTail() }
      }
    }
    lock.unlock()
    fillings.add(1, ordering: .releasing)
    fillWaiters.wakeAll()
    if let failure { throw failure }
    return true
  }

  /// Clears what lies behind the end of the object in the page that the end is in, if that is there.
  func clearTail() { clearPart(page: byteCount >> frameShift, from: (byteCount & 4095).int, to: 4096) }

  /// Clears a part of a page, if that is there.
  func clearPart(page: UInt64, from: Int, to: Int) {
    guard from < to, let slot = pages.slot(page) else { return }
    let word = PageWord(slot.pointee)
    // SAFETY: within a frame of the cache, which stays under the lock.
    if word.isPresent { clearMemory(LinearMap.pointer(word.frame) + from, byteCount: to &- from) }
  }
}
