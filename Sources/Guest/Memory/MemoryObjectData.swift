// Reading, writing and resizing memory objects. Callers (vnodes) serialise changes of the size among themselves.
import Base
import Locks
import Pages
import Platform
import Synchronization

extension MemoryObject {
  /// Copies bytes out, from `offset` on, up to the end of the object or of the transfer.
  /// - Returns: bytes copied (0 at the end of the object). A fault after some bytes is no error.
  /// - Throws: EFAULT, EIO, ENOMEM, what the pager throws.
  public func read(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    let before = transfer.copied
    var position = offset
    while transfer.remaining > 0 {
      do {
        let end = byteCount
        guard position < end else { break }
        let count = try readPiece(at: position, count: (end &- position), into: &transfer)
        position &+= count.u64
      } catch {
        if transfer.copied > before { break }
        throw error
      }
    }
    return transfer.copied &- before
  }

  /// Copies bytes of one page (or of a file in memory, as many as there are).
  private func readPiece(at position: UInt64, count: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    let page = position >> frameShift
    let inPage = position & (PageSize.small &- 1)
    let wanted = min(PageSize.small &- inPage, count).int
    lock.lock()
    let word = pages.word(page)
    if word.isPresent {
      markUsed(page)
      Frames.retain(word.frame)
      lock.unlock()
      defer { Frames.release(word.frame) }
      // SAFETY: the frame stays while we hold a reference to it; others may write to it, as in any shared memory.
      let source = UnsafeRawBufferPointer(start: LinearMap.pointer(word.frame) + inPage.int, count: wanted)
      return try transfer.copyOut(from: source)
    }
    if let source = directFrame(page) {
      let whole = pageTotal == 0 ? min(count, directByteCount &- position).int : wanted
      lock.unlock()
      // SAFETY: a file in memory is never freed nor written.
      return try transfer.copyOut(
        from: UnsafeRawBufferPointer(start: LinearMap.pointer(source) + inPage.int, count: whole))
    }
    lock.unlock()
    guard hasPager else { return try transfer.zeroOut(count: wanted) }
    try fetch(page: page, forWriting: false)
    return 0
  }

  /// Copies bytes in, growing the object.
  /// - Returns: bytes copied.
  /// - Throws: EFAULT, EIO, EFBIG, ENOSPC (memory is out), what the pager throws.
  public func write(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    guard offset <= 1 << 62, transfer.remaining <= 1 << 62 else { throw .EFBIG }
    let before = transfer.copied
    var position = offset
    while transfer.remaining > 0 {
      do {
        position &+= try writePiece(at: position, from: &transfer).u64
      } catch {
        if transfer.copied > before { break }
        throw error == .ENOMEM ? .ENOSPC : error
      }
    }
    return transfer.copied &- before
  }

  /// Copies bytes to one page.
  private func writePiece(at position: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    let page = position >> frameShift
    let inPage = (position & (PageSize.small &- 1)).int
    let wanted = min(4096 &- inPage, transfer.remaining)
    lock.lock()
    var word = pages.word(page)
    if !word.isPresent && page >= pageCount && !word.isFilling {
      // Behind the end: a fresh page, zero where nothing is written.
      if quota?.take() == false {
        lock.unlock()
        guard quota?.waitForRemoved() == true else { throw .ENOSPC }
        return 0
      }
      guard let frame = Frames.allocate(zeroed: true, use: hasPager ? .file : .shared) else {
        quota?.give(1)
        lock.unlock()
        guard Reclaim.run(pages: 64, .requestLocks) else { throw .ENOMEM }
        return 0
      }
      guard let slot = pages.slotMakingNodes(page) else {
        Frames.free(frame, zeroed: true)
        quota?.give(1)
        lock.unlock()
        throw .ENOMEM
      }
      word = .present(frame, isDirty: !hasPager)
      slot.pointee = word.rawValue
      pageTotal &+= 1
    }
    guard word.isPresent else {
      lock.unlock()
      try fetch(page: page, forWriting: true)
      return 0
    }
    if hasPager { markUsed(page) }
    // Clean or not, the reference keeps it.
    Frames.retain(word.frame)
    let cuts = cutTotal
    lock.unlock()
    defer { Frames.release(word.frame) }
    // SAFETY: the frame stays while we hold a reference to it.
    let target = UnsafeMutableRawBufferPointer(start: LinearMap.pointer(word.frame) + inPage, count: wanted)
    let before = transfer
    var failure: Errno?
    reach(.copying)
    do throws(Errno) { _ = try transfer.copyIn(into: target) } catch { failure = error }
    let count = transfer.copied &- before.copied
    if count > 0, !wrote(position, count.u64, to: word.frame, cuts: cuts) {
      transfer = before
      return 0
    }
    if let failure { throw failure }
    return count
  }

  /// Bytes have been copied to a page: it is dirty from now on. Marked before, it could be written back, half copied, and count as clean
  /// when the rest has come; and what lies behind the end is not written back, so the end moves with the mark.
  /// - Returns: false if the page has gone meanwhile, or what is in it: nothing has been written, and all is to be done again.
  private func wrote(_ position: UInt64, _ count: UInt64, to frame: PhysicalAddress, cuts: Int) -> Bool {
    let page = position >> frameShift
    lock.lock()
    defer { lock.unlock() }
    let word = pages.word(page)
    guard word.isPresent, word.frame == frame, cuts == cutTotal else { return false }
    let old = byteCount
    if position &+ count > old {
      // What stores through mappings have left behind the end is not in the file.
      if position > old, !old.isAligned(to: PageSize.small) {
        let last = old >> frameShift
        clearPart(page: last, from: (old & 4095).int, to: last == page ? (position & 4095).int : 4096)
      }
      size.store(position &+ count, ordering: .releasing)
    }
    if hasPager { markDirty(page) }
    return true
  }

  /// Moves the end up to `end` if it is lower.
  func grow(to end: UInt64) {
    lock.lock()
    if end > byteCount { size.store(end, ordering: .releasing) }
    lock.unlock()
  }

  // MARK: Size

  /// Sets the size. Pages behind it are dropped from the cache and from all mappings, and the rest of the last page is
  /// cleared.
  /// - Throws: ENOMEM, what the pager throws.
  public func truncate(to byteCount: UInt64) throws(Errno) {
    let isShrinking = byteCount < self.byteCount
    // The last page of a file in memory needs a copy before its rest can be cleared.
    if isShrinking && byteCount < directByteCount && !byteCount.isAligned(to: PageSize.small) {
      try fetch(page: byteCount >> frameShift, forWriting: true)
    }
    resize(to: byteCount)
  }

  /// Tells the object that its source has grown or shrunk; pages behind the new end are dropped.
  /// - Parameter unlessAhead: do not shrink while the source has yet to get something.
  public func sourceChanged(byteCount: UInt64, unlessAhead: Bool = false) {
    resize(to: byteCount, unlessAhead: unlessAhead)
  }

  private func resize(to byteCount: UInt64, unlessAhead: Bool = false) {
    lock.lock()
    let old = self.byteCount
    // Under the lock: a page that becomes dirty from here on is one of the smaller object.
    if unlessAhead, byteCount < old, dirtyTotal > 0 || isWritingBack { return lock.unlock() }
    // What stores through mappings have left behind the end is not in the file.
    if byteCount > old { clearTail() }
    size.store(byteCount, ordering: .releasing)
    guard byteCount < old else {
      // What was behind the end of a source that has grown has to be read again.
      if hasPager, !old.isAligned(to: 4096), let slot = pages.slot(old >> frameShift) {
        let word = PageWord(slot.pointee)
        if word.isPresent && !word.isDirty && Frames.references(word.frame) == 1 { removePage(slot) }
      }
      return lock.unlock()
    }
    cutTotal &+= 1
    if directByteCount > byteCount { directByteCount = byteCount }
    let end = pageCount
    pages.forEach(from: end) { _, slot in
      // A page that is being filled is dropped by its filler.
      if PageWord(slot.pointee).isPresent { removePage(slot) }
      return true
    }
    clearTail()
    lock.unlock()
    unmap(from: end, to: .max, evenPrivate: true)
    Frames.noticeSurplus()
  }

  /// Makes a range zero, giving its whole pages back (FALLOC_FL_PUNCH_HOLE). The time it takes is that of the pages
  /// that are there.
  /// - Throws: ENOMEM, what the pager throws.
  public func discard(offset: UInt64, byteCount count: UInt64) throws(Errno) {
    let (sum, overflow) = offset.addingReportingOverflow(count)
    let end = min(overflow ? .max : sum, byteCount)
    guard offset < end else { return }
    // A page with a source gets zeroes of its own; of the others only the borders are cleared, and the whole pages go.
    let sourceEnd = hasPager ? end : min(end, directByteCount.alignedUp(to: PageSize.small))
    var position = offset
    while position < end {
      let page = position >> frameShift
      let next = min((page &+ 1) << frameShift, end)
      if position >= sourceEnd, position.isAligned(to: PageSize.small) {
        let stop = end == byteCount ? pageCount : end >> frameShift
        if page < stop {
          removePages(from: page, to: stop)
          position = stop << frameShift
          continue
        }
      }
      if position < sourceEnd || word(page).isPresent { try clear(page: page, from: position, to: next) }
      position = next
    }
    Frames.noticeSurplus()
  }

  /// Takes the pages of a range out, of all shared mappings too.
  private func removePages(from: UInt64, to: UInt64) {
    lock.lock()
    pages.forEach(from: from, to: to) { _, slot in
      if PageWord(slot.pointee).isPresent { removePage(slot) }
      return true
    }
    lock.unlock()
    unmap(from: from, to: to, evenPrivate: false)
  }

  /// Clears a part of a page.
  private func clear(page: UInt64, from: UInt64, to: UInt64) throws(Errno) {
    try fetch(page: page, forWriting: true)
    lock.lock()
    let word = pages.word(page)
    if word.isPresent {
      markDirty(page)
      // SAFETY: within a frame of the cache, under the lock.
      clearMemory(LinearMap.pointer(word.frame) + (from & 4095).int, byteCount: (to &- from).int)
    }
    lock.unlock()
  }
}
