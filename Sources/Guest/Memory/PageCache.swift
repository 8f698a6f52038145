// Forgetting clean pages of files when memory is short: which pages go, mapped ones among them.
//
// A hand goes round over all objects and their pages. A page that was used since the hand came by last is spared once: used by a read
// (a bit in its word) or through a mapping (the accessed bits of its entries, which the CPU sets). Dirty pages, locked ones, and pages
// that somebody holds a reference to stay. A mapped page is taken out of all mappings first and given up after the flush.
//
// Order of locks: the list's, an object's `mappingsLock`, its `lock`. The objects' are only tried: their holder may be the one who
// waits for memory. Nothing here allocates but pages of the reserve for long lists.
import Base
import Locks
import Pages
import Platform
import Synchronization

/// How hard to look for pages.
enum ShrinkEffort {
  /// Unmapped pages of which nobody is known to need one again: for an object whose source has changed.
  case unmapped
  /// Pages not used since the last look.
  case unused
  /// Any clean page.
  case any
}

extension MemoryObject {
  /// Forgets all clean pages that nobody maps: the next read asks the pager.
  public func invalidate() {
    guard hasPager else { return }
    lock.lock()
    _ = shrink(.max, .unmapped)
    lock.unlock()
  }

  /// Forgets up to `limit` clean pages. Under `lock`, and `mappingsLock` unless only unmapped pages are wanted.
  /// - Returns: how many pages went.
  func shrink(_ limit: Int, _ effort: ShrinkEffort) -> Int {
    var given = 0
    let hand = shrinkHand
    var from = hand
    var hasTurned = false
    while given < limit {
      let end = hasTurned ? hand : UInt64.max
      let (count, next) = shrinkRun(from: from, to: end, limit &- given, effort)
      given &+= count
      shrinkHand = next ?? 0
      if let next {
        from = next
      } else if hasTurned || hand == 0 {
        break
      } else {
        hasTurned = true
        from = 0
      }
    }
    return given
  }

  /// Pages taken out of mappings with one flush.
  private static var runLength: Int { 32 }

  /// One run of that, with one flush for all its mappings.
  /// - Returns: how many pages went, and where to go on; nil at the end.
  private func shrinkRun(from: UInt64, to: UInt64, _ limit: Int, _ effort: ShrinkEffort) -> (Int, UInt64?) {
    var given = 0
    var next: UInt64?
    var unmapped = InlineArray<32, UInt64>(repeating: 0)
    var count = 0
    var batch = GatherBatch()
    pages.forEach(from: from, to: to) { number, slot in
      guard given &+ count < limit, count < Self.runLength else {
        next = number
        return false
      }
      let word = PageWord(slot.pointee)
      guard word.isPresent, !word.isDirty else { return true }
      let isMapped = Frames.references(word.frame) > 1
      if isMapped && effort == .unmapped { return true }
      var isUsed = false
      if effort == .unused && word.isUsed {
        slot.pointee &= ~PageWord.usedBit
        isUsed = true
      }
      if isMapped && isInUse(number, word.frame, effort, &batch) { isUsed = true }
      if isUsed { return true }
      if isMapped {
        takeOut(number, word.frame, &batch)
        unmapped[count] = number
        count &+= 1
      } else {
        removePage(slot)
        given &+= 1
      }
      return true
    }
    batch.finish()
    for index in 0..<count {
      // Who reads the page just now has a reference; it stays, then.
      guard let slot = pages.slot(unmapped[index]), Frames.references(PageWord(slot.pointee).frame) == 1 else {
        continue
      }
      removePage(slot)
      given &+= 1
    }
    return (given, next)
  }

  /// Whether a mapping has used the page since the last look, or must keep it.
  private func isInUse(_ page: UInt64, _ frame: PhysicalAddress, _ effort: ShrinkEffort, _ batch: inout GatherBatch)
    -> Bool
  {
    var isUsed = false
    forEachEntry(from: page, to: page &+ 1) { region, slot, address in
      let entry = slot.entry
      guard !entry.isOwned, entry.frame == frame else { return }
      if region.pointee.flags.contains(.locked) || entry.isWritable { isUsed = true }
      if effort == .unused && entry.isAccessed {
        if let space = region.pointee.space?.takeUnretainedValue() { batch.note(space) }
        slot.clearAccessed()
        // The CPU sets the bit again only when it has forgotten the translation.
        batch.noteChange(at: address)
        isUsed = true
      }
    }
    return isUsed
  }

  /// Takes a page out of all mappings.
  private func takeOut(_ page: UInt64, _ frame: PhysicalAddress, _ batch: inout GatherBatch) {
    forEachEntry(from: page, to: page &+ 1) { region, slot, address in
      let old = slot.entry
      guard !old.isOwned, old.frame == frame, let space = region.pointee.space?.takeUnretainedValue() else { return }
      batch.note(space)
      guard slot.replace(old, by: .absent) else { return }
      batch.add(frame, at: address)
      space.residentPages.subtract(1, ordering: .relaxed)
    }
  }
}

/// All objects with a pager: what can be forgotten when memory is short.
enum PageCache {
  private static let lock = Mutex()
  // SAFETY: the list and its links are touched with `lock`. Who is in it is there as long as that is held, for a `deinit`
  // takes it out first. It is used without being counted: whoever let go last would come to `deinit` with the lock.
  nonisolated(unsafe) private static var first: Unmanaged<MemoryObject>?
  nonisolated(unsafe) private static var last: Unmanaged<MemoryObject>?
  nonisolated(unsafe) private static var count = 0
  /// Dirty pages in all of them.
  static let dirtyPages = Atomic<Int>(0)

  static func add(_ object: MemoryObject) {
    lock.lock()
    append(object)
    lock.unlock()
  }

  static func remove(_ object: MemoryObject) {
    lock.lock()
    unlink(object)
    lock.unlock()
  }

  private static func append(_ object: MemoryObject) {
    let entry = Unmanaged.passUnretained(object)
    object.nextObject = nil
    object.previousObject = last
    if let last { last._withUnsafeGuaranteedRef { $0.nextObject = entry } } else { first = entry }
    last = entry
    count &+= 1
  }

  private static func unlink(_ object: MemoryObject) {
    let next = object.nextObject
    let previous = object.previousObject
    if let next { next._withUnsafeGuaranteedRef { $0.previousObject = previous } } else { last = previous }
    if let previous { previous._withUnsafeGuaranteedRef { $0.nextObject = next } } else { first = next }
    count &-= 1
  }

  /// Pages in all of them; a snapshot.
  static var pageCount: Int {
    lock.lock()
    defer { lock.unlock() }
    var sum = 0
    var next = first
    while let entry = next {
      sum &+= entry._withUnsafeGuaranteedRef { $0.pageTotal }
      next = entry._withUnsafeGuaranteedRef { $0.nextObject }
    }
    return sum
  }

  /// Forgets about so many pages: first those not used since the last two looks, at last any.
  /// - Returns: how many went, and whether an object was busy that might have given some.
  static func shrink(pages: Int) -> (given: Int, wasBusy: Bool) {
    var given = 0
    var wasBusy = false
    lock.lock()
    for round in 0..<3 {
      var turns = count
      while given < pages, turns > 0, let entry = first {
        turns &-= 1
        let wanted = pages &- given
        if let count = entry._withUnsafeGuaranteedRef({ shrink($0, wanted, round < 2 ? .unused : .any) }) {
          given &+= count
        } else {
          wasBusy = true
        }
        // Where enough was found, the next look begins here again.
        if given < pages {
          entry._withUnsafeGuaranteedRef { unlink($0) }
          entry._withUnsafeGuaranteedRef { append($0) }
        }
      }
    }
    lock.unlock()
    return (given, wasBusy)
  }

  /// An object that is busy is passed over (nil): its holder may be waiting for us.
  private static func shrink(_ object: MemoryObject, _ limit: Int, _ effort: ShrinkEffort) -> Int? {
    guard object.mappingsLock.tryLock() else { return nil }
    defer { object.mappingsLock.unlock() }
    guard object.lock.tryLock() else { return nil }
    defer { object.lock.unlock() }
    return object.shrink(limit, effort)
  }
}
