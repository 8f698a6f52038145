// Writing through: bytes go to the page cache and, before the call returns, from there to the source.
//
// The source reads the frames themselves, not a copy. So of two writes to the same bytes the one that the source performs last sends what
// both have left in the frame, and the cache never differs from the source, without a lock over the writes.
//
// Pages on their way are present and clean, and kept by a reference, as those of `writeBack` are: invalidation passes them over.
// The size grows when the source has the bytes. What it did not take is dropped, to be read again.
import Base
import Locks
import Pages
import Platform
import Synchronization

/// Passes bytes on to the source: `count` of them, for `offset` of the file, which begin `start` bytes into the first frame.
/// Gives how many it has taken, 1 or more.
public typealias WriteThroughBody = (
  _ offset: UInt64, _ frames: UnsafeBufferPointer<PhysicalAddress>, _ start: Int, _ count: Int
) throws(Errno) -> Int

extension MemoryObject {
  /// Copies bytes in and passes them on, `limit` pages at a time.
  ///
  /// The caller keeps changes of the size away: it holds a lock that they take, alone if the write may grow the object. Only the source's
  /// own may come between (`sourceChanged`): what they may have cut off on its way is copied and sent again.
  /// - Returns: bytes that the source has taken.
  /// - Throws: EFAULT, ENOMEM, EFBIG, what the pager or the body throws, if not a byte was written.
  public func writeThrough(
    at offset: UInt64, from transfer: inout Transfer, pages limit: Int, _ send: WriteThroughBody
  ) throws(Errno) -> Int {
    guard offset <= 1 << 62, transfer.remaining <= 1 << 62, limit > 0 else { throw .EFBIG }
    let first = (offset & (PageSize.small &- 1)).int
    let capacity = min(limit, (first &+ transfer.remaining &+ 4095) >> 12)
    guard capacity > 0 else { return 0 }
    guard let memory = KernelHeap.allocate(byteCount: capacity &* MemoryLayout<PhysicalAddress>.stride) else {
      throw .ENOMEM
    }
    defer { KernelHeap.free(memory) }
    // SAFETY: fresh heap memory for `capacity` addresses; only initialised ones are used.
    let frames = memory.bindMemory(to: PhysicalAddress.self, capacity: capacity)
    clearBehindEnd(before: offset)
    var done = 0
    while transfer.remaining > 0 {
      do throws(Errno) {
        let position = offset &+ done.u64
        let before = transfer
        let cuts = cutsSoFar
        let (copied, written) = try writeBatch(at: position, from: &transfer, frames, capacity, send)
        if cuts != cutsSoFar {
          transfer = before
          continue
        }
        done &+= written
        if written < copied || copied == 0 { break }
      } catch {
        if done > 0 { break }
        throw error
      }
    }
    return done
  }

  private var cutsSoFar: Int {
    lock.lock()
    defer { lock.unlock() }
    return cutTotal
  }

  /// One batch: as many pages as `frames` has room for.
  /// - Returns: bytes copied in, and how many of them the source has taken.
  private func writeBatch(
    at position: UInt64, from transfer: inout Transfer, _ frames: UnsafeMutablePointer<PhysicalAddress>,
    _ capacity: Int, _ send: WriteThroughBody
  ) throws(Errno) -> (copied: Int, written: Int) {
    var count = 0
    var copied = 0
    var failure: Errno?
    while count < capacity, transfer.remaining > 0, failure == nil {
      let before = transfer.copied
      do throws(Errno) {
        (frames + count).initialize(to: try placePage(at: position &+ copied.u64, from: &transfer, &failure))
        count &+= 1
      } catch let error { failure = error }
      copied &+= transfer.copied &- before
    }
    defer { for index in 0..<count { Frames.release(frames[index]) } }
    guard copied > 0 else {
      if let failure { throw failure }
      return (0, 0)
    }
    var written = 0
    let list = UnsafeBufferPointer(start: frames, count: count)
    do throws(Errno) {
      written = try send(position, list, (position & (PageSize.small &- 1)).int, copied)
    } catch {
      drop(list, at: position >> frameShift)
      throw error
    }
    grow(to: position &+ written.u64)
    if written < copied {
      // The page with the first byte that was not taken, and those behind it.
      let taken = ((position &+ written.u64) >> frameShift &- position >> frameShift).int
      drop(UnsafeBufferPointer(rebasing: list[min(taken, count)...]), at: position >> frameShift &+ taken.u64)
    }
    return (copied, written)
  }

  /// Copies bytes to one page and gives its frame, with a reference. A fault after some bytes is told by `failure`.
  private func placePage(at position: UInt64, from transfer: inout Transfer, _ failure: inout Errno?)
    throws(Errno) -> PhysicalAddress
  {
    let page = position >> frameShift
    let inPage = (position & (PageSize.small &- 1)).int
    let wanted = min(4096 &- inPage, transfer.remaining)
    while true {
      lock.lock()
      let word = pages.word(page)
      if word.isPresent {
        markUsed(page)
        Frames.retain(word.frame)
        lock.unlock()
        do throws(Errno) { _ = try copy(&transfer, to: word.frame, inPage, wanted, &failure) } catch {
          Frames.release(word.frame)
          throw error
        }
        return word.frame
      }
      lock.unlock()
      if word.isFilling {
        waitForFilling(page)
      } else if covers(position, wanted) {
        if let frame = try placeFresh(at: position, from: &transfer, wanted, &failure) { return frame }
      } else {
        try fetch(page: page, forWriting: true)
      }
    }
  }

  /// Whether nothing of a page but these bytes is in the file.
  private func covers(_ position: UInt64, _ count: Int) -> Bool {
    let size = byteCount
    let inPage = position & (PageSize.small &- 1)
    return position &- inPage >= size || (inPage == 0 && (count == 4096 || position &+ count.u64 >= size))
  }

  /// Copies bytes to a frame of their own and then makes that the page, or copies them to the page that has come meanwhile.
  /// - Returns: nil if memory was short and the page must be looked at again.
  private func placeFresh(
    at position: UInt64, from transfer: inout Transfer, _ wanted: Int, _ failure: inout Errno?
  ) throws(Errno) -> PhysicalAddress? {
    let page = position >> frameShift
    let inPage = (position & (PageSize.small &- 1)).int
    guard let frame = Frames.allocate(zeroed: wanted < 4096, use: .file) else {
      guard Reclaim.run(pages: 64, .requestLocks) else { throw .ENOMEM }
      return nil
    }
    let count: Int
    // Not while the page is marked as filling: the program's memory may be a mapping of this very page.
    do throws(Errno) { count = try copy(&transfer, to: frame, inPage, wanted, &failure) } catch {
      Frames.free(frame)
      throw error
    }
    if count < wanted { clearMemory(LinearMap.pointer(frame) + (inPage &+ count), byteCount: 4096 &- inPage &- count) }
    while true {
      lock.lock()
      guard let slot = pages.slotMakingNodes(page) else {
        lock.unlock()
        Frames.free(frame)
        throw .ENOMEM
      }
      let word = PageWord(slot.pointee)
      if word.isPresent {
        // SAFETY: two frames, of which the page's stays while we hold the lock and then a reference.
        (LinearMap.pointer(word.frame) + inPage).copyMemory(from: LinearMap.pointer(frame) + inPage, byteCount: count)
        Frames.retain(word.frame)
        lock.unlock()
        Frames.free(frame)
        return word.frame
      }
      if !word.isFilling, covers(position, count) {
        slot.pointee = PageWord.present(frame, isDirty: false).rawValue
        pageTotal &+= 1
        Frames.retain(frame)
        lock.unlock()
        return frame
      }
      lock.unlock()
      if word.isFilling {
        waitForFilling(page)
      } else {
        // A fault has left less than covers the page.
        do throws(Errno) { try fetch(page: page, forWriting: true) } catch {
          Frames.free(frame)
          throw error
        }
      }
    }
  }

  /// Copies bytes into a frame. A fault is an error only if there was no byte before it.
  private func copy(
    _ transfer: inout Transfer, to frame: PhysicalAddress, _ inPage: Int, _ wanted: Int, _ failure: inout Errno?
  ) throws(Errno) -> Int {
    let before = transfer.copied
    // SAFETY: a frame that the caller holds a reference to; `inPage + wanted` is at most a page.
    let target = UnsafeMutableRawBufferPointer(start: LinearMap.pointer(frame) + inPage, count: wanted)
    do throws(Errno) { try transfer.copyIn(into: target) } catch {
      guard transfer.copied > before else { throw error }
      failure = error
    }
    return transfer.copied &- before
  }

  private func waitForFilling(_ page: UInt64) {
    let before = fillings.load(ordering: .acquiring)
    lock.lock()
    let isFilling = pages.word(page).isFilling
    lock.unlock()
    guard isFilling else { return }
    _ = fillWaiters.wait(until: .never, interruptible: false) { fillings.load(ordering: .acquiring) == before }
  }

  /// What stores through mappings have left behind the end becomes zero before the end moves away from it.
  private func clearBehindEnd(before offset: UInt64) {
    lock.lock()
    if offset > byteCount { clearTail() }
    lock.unlock()
  }

  /// Takes clean pages out of the cache and all mappings: they are not what the source has.
  private func drop(_ frames: UnsafeBufferPointer<PhysicalAddress>, at page: UInt64) {
    lock.lock()
    for index in 0..<frames.count {
      guard let slot = pages.slot(page &+ index.u64) else { continue }
      let word = PageWord(slot.pointee)
      if word.isPresent, !word.isDirty, word.frame == frames[index] { removePage(slot) }
    }
    lock.unlock()
    unmap(from: page, to: page &+ frames.count.u64, evenPrivate: false)
  }

  /// The source has made a range zero, or something else: its whole pages go, dirty ones too. Of pages that are there in part only that
  /// part is cleared; the rest may be dirty, and stays so.
  public func forget(offset: UInt64, byteCount count: UInt64) {
    let (sum, overflow) = offset.addingReportingOverflow(count)
    let first = offset >> frameShift &+ (offset & 4095 == 0 ? 0 : 1)
    let end = overflow ? UInt64.max : sum >> frameShift
    lock.lock()
    if first > end {
      clearPart(page: end, from: (offset & 4095).int, to: (sum & 4095).int)
    } else {
      if offset & 4095 != 0 { clearPart(page: first &- 1, from: (offset & 4095).int, to: 4096) }
      if !overflow { clearPart(page: end, from: 0, to: (sum & 4095).int) }
    }
    pages.forEach(from: first, to: end) { _, slot in
      if PageWord(slot.pointee).isPresent { removePage(slot) }
      return true
    }
    lock.unlock()
    unmap(from: first, to: end, evenPrivate: false)
  }
}
