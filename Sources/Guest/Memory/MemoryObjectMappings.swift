// What a memory object does to those who map it, and how it writes back.
import Base
import Locks
import Pages
import Platform
import Synchronization

extension MemoryObject {
  // MARK: The list of mappings

  func link(_ region: RegionPointer) {
    mappingsLock.lock()
    linkLocked(region)
    mappingsLock.unlock()
  }

  func unlink(_ region: RegionPointer) {
    mappingsLock.lock()
    unlinkLocked(region)
    mappingsLock.unlock()
  }

  func linkLocked(_ region: RegionPointer) {
    region.pointee.nextMapping = mappings
    region.pointee.previousMapping = nil
    mappings?.pointee.previousMapping = region
    mappings = region
  }

  func unlinkLocked(_ region: RegionPointer) {
    let next = region.pointee.nextMapping
    let previous = region.pointee.previousMapping
    next?.pointee.previousMapping = previous
    if let previous { previous.pointee.nextMapping = next } else { mappings = next }
  }

  /// Calls `body` with the entries of all mappings of a range of pages.
  func forEachEntry(
    from: UInt64, to: UInt64, _ body: (RegionPointer, PageTableSlot, VirtualAddress) -> Void
  ) {
    var next = mappings
    while let region = next {
      next = region.pointee.nextMapping
      guard let space = region.pointee.space?.takeUnretainedValue() else { continue }
      let first = region.pointee.offset >> frameShift
      let end = first &+ (region.pointee.end &- region.pointee.start) >> frameShift
      guard from < end, to > first else { continue }
      let start = region.pointee.start &+ (max(from, first) &- first) << frameShift
      let stop = region.pointee.start &+ (min(to, end) &- first) << frameShift
      space.table.forEachPage(in: VirtualRange(start: VirtualAddress(start), end: VirtualAddress(stop))) {
        slot, _, page in
        body(region, slot, page)
      }
    }
  }

  /// Takes a range of pages out of all mappings.
  /// - Parameter evenPrivate: private copies too (the file was truncated).
  func unmap(from: UInt64, to: UInt64, evenPrivate: Bool) {
    var batch = GatherBatch()
    mappingsLock.lock()
    forEachEntry(from: from, to: to) { region, slot, page in
      let old = slot.entry
      guard old.rawValue != 0, evenPrivate || !old.isOwned, let space = region.pointee.space?.takeUnretainedValue()
      else { return }
      batch.note(space)
      guard slot.replace(old, by: .absent) else { return }
      batch.add(old.frame, at: page)
      space.residentPages.subtract(1, ordering: .relaxed)
    }
    mappingsLock.unlock()
    batch.finish()
  }

  /// Makes the next store through any shared mapping of the pages a fault.
  private func protectMappings(from: UInt64, to: UInt64) {
    var batch = GatherBatch()
    mappingsLock.lock()
    forEachEntry(from: from, to: to) { region, slot, page in
      let old = slot.entry
      guard old.isWritable, !old.isOwned, let space = region.pointee.space?.takeUnretainedValue() else { return }
      batch.note(space)
      slot.makeReadOnly()
      batch.noteChange(at: page)
    }
    mappingsLock.unlock()
    batch.finish()
  }

  // MARK: Writing back and forgetting

  /// Writes dirty pages of a range to the pager (fsync: everything), and waits for those that somebody else is writing. Sleeps.
  ///
  /// Pages that become dirty meanwhile may stay so: behind what has been sent, nobody looks again.
  /// - Throws: what the pager threw first; those pages stay dirty, the others have been written.
  public func writeBack(offset: UInt64 = 0, byteCount count: UInt64 = .max) throws(Errno) {
    guard let pager, isAheadOfSource else { return }
    let limit = max(1, min(pager.maximumPages, 64))
    let (sum, overflow) = offset.addingReportingOverflow(count)
    let end = overflow ? UInt64.max : (sum >> frameShift) &+ (sum & 4095 == 0 ? 0 : 1)
    let first = offset >> frameShift
    var failure: Errno?
    if let memory = KernelHeap.allocate(byteCount: limit &* MemoryLayout<PhysicalAddress>.stride) {
      // SAFETY: fresh heap memory for `limit` addresses; only initialised ones are used.
      let frames = memory.bindMemory(to: PhysicalAddress.self, capacity: limit)
      failure = writeBackRuns(from: first, to: end, frames, limit, pager)
      KernelHeap.free(memory)
    } else {
      // Memory is out, and what is dirty may be what it is needed for: a page at a time.
      var frame = PhysicalAddress(0)
      failure = withUnsafeMutablePointer(to: &frame) { writeBackRuns(from: first, to: end, $0, 1, pager) }
    }
    if let failure { throw failure }
  }

  /// All runs of a range: one that the pager refuses does not keep the others.
  /// - Returns: the first error.
  private func writeBackRuns(
    from first: UInt64, to end: UInt64, _ frames: UnsafeMutablePointer<PhysicalAddress>, _ limit: Int,
    _ pager: any Pager
  ) -> Errno? {
    var page = first
    var failure: Errno?
    while let next = writeBackRun(from: page, to: end, frames, limit, pager, &failure) { page = next }
    return failure
  }

  /// One run: consecutive dirty pages, as many as the pager takes at once. One at a time: who finds nothing dirty has waited for what was
  /// under way.
  /// - Returns: where to go on; nil: nothing is dirty there.
  private func writeBackRun(
    from page: UInt64, to end: UInt64, _ frames: UnsafeMutablePointer<PhysicalAddress>, _ limit: Int,
    _ pager: any Pager, _ firstFailure: inout Errno?
  ) -> UInt64? {
    writeBackLock.lock()
    defer { writeBackLock.unlock() }
    var first: UInt64 = 0
    var found = 0
    lock.lock()
    pages.forEach(from: page, to: end) { number, slot in
      let word = PageWord(slot.pointee)
      guard word.isPresent && word.isDirty else { return found == 0 }
      if found == 0 { first = number }
      guard number == first &+ found.u64, found < limit else { return false }
      markClean(slot)
      Frames.retain(word.frame)
      (frames + found).initialize(to: word.frame)
      found &+= 1
      return true
    }
    isWritingBack = found > 0
    let size = byteCount
    lock.unlock()
    guard found > 0 else { return nil }
    // From here a store makes the page dirty again; what was stored before is what we write.
    protectMappings(from: first, to: first &+ found.u64)
    reach(.sending)
    let start = first << frameShift
    let bytes = min(found.u64 << frameShift, size > start ? size &- start : 0).int
    var failure: Errno?
    do {
      if bytes > 0 {
        try pager.writeBack(page: first, frames: UnsafeBufferPointer(start: frames, count: found), byteCount: bytes)
      }
    } catch { failure = error }
    lock.lock()
    for index in 0..<found where failure != nil && pages.word(first &+ index.u64).frame == frames[index] {
      markDirty(first &+ index.u64)
    }
    isWritingBack = false
    lock.unlock()
    for index in 0..<found { Frames.release(frames[index]) }
    if firstFailure == nil { firstFailure = failure }
    return first &+ found.u64
  }
}
