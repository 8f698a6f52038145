// Page faults on mapped objects: files, shared memory. Entries are installed under the object's lock, so that a
// truncation that runs beside sees either no entry yet, and no page after, or the entry, which it takes away.
import Base
import Locks
import Pages
import Platform
import Synchronization

extension AddressSpace {
  /// Maps pages of an object around a fault. Under the read lock.
  func faultOnObject(
    _ region: RegionPointer, _ object: MemoryObject, _ page: VirtualAddress, _ access: FaultAccess
  ) -> FaultStep {
    let index = region.pointee.objectOffset(page.rawValue) >> frameShift
    let isPrivateWrite = access == .write && !region.pointee.flags.contains(.shared)
    object.lock.lock()
    defer { object.lock.unlock() }
    guard index < object.pageCount else { return .done(.busError) }
    if isPrivateWrite { return copyPrivate(region, object, page, index) }

    let word = object.word(index)
    if access == .write {
      // Shared: the page must be the object's own, and is dirty from now on.
      guard word.isPresent else { return .needsPage(object, index, forWriting: true, owner: region.pointee.owner) }
      if !word.isDirty, object.mustWriteBack { return .needsWriteBack(object, owner: region.pointee.owner) }
      object.markDirty(index)
    } else if !word.isPresent && object.directFrame(index) == nil {
      return .needsPage(object, index, forWriting: false, owner: region.pointee.owner)
    }
    guard table.slotMakingTables(page) != nil else { return .needsMemory }
    mapAround(region, object, page, index)
    if access == .write { makeWritable(region, object, page, index) }
    return .done(.resolved)
  }

  /// Maps all present pages of the object around `page` that are not mapped yet.
  private func mapAround(_ region: RegionPointer, _ object: MemoryObject, _ page: VirtualAddress, _ index: UInt64) {
    let address = page.rawValue
    let window = (object.isDirect ? Self.directPages : Self.filePages) &* PageSize.small
    let start = max(address.alignedDown(to: window), region.pointee.start)
    // A window is no larger than a table maps and aligned to its size, so it lies within one table.
    let end = min(address.alignedDown(to: window) &+ window, region.pointee.end)
    guard var here = table.slotMakingTables(VirtualAddress(start)) else { return }
    var number = region.pointee.objectOffset(start) >> frameShift
    var at = start
    var mapped = 0
    while at < end && number < object.pageCount {
      if here.entry.rawValue == 0 {
        let entry = self.entry(region, object, number)
        if entry.rawValue != 0 {
          Frames.retain(entry.frame)
          if here.replace(.absent, by: entry) { mapped &+= 1 } else { Frames.release(entry.frame) }
        }
      }
      at &+= PageSize.small
      number &+= 1
      if at < end { here = here.advanced(by: 1) }
    }
    residentPages.add(mapped, ordering: .relaxed)
  }

  /// The entry for a page of the object, absent if the object does not have it now. Writable only where a store needs no note.
  private func entry(_ region: RegionPointer, _ object: MemoryObject, _ index: UInt64) -> PageTableEntry {
    let protection = region.pointee.protection
    let executable = protection.contains(.execute)
    let word = object.word(index)
    if word.isPresent {
      object.markUsed(index)
      let writable =
        region.pointee.flags.contains(.shared) && protection.contains(.write) && (!object.hasPager || word.isDirty)
      return .leaf(word.frame, writable: writable, executable: executable)
    }
    guard let direct = object.directFrame(index) else { return .absent }
    return .leaf(direct, writable: false, executable: executable)
  }

  /// Gives a shared mapping's present page the right to write, or replaces what is mapped by the object's page.
  private func makeWritable(_ region: RegionPointer, _ object: MemoryObject, _ page: VirtualAddress, _ index: UInt64) {
    let (slot, level) = table.slot(page)
    guard level == 1 else { return }
    let old = slot.entry
    let word = object.word(index)
    let new = PageTableEntry.leaf(
      word.frame, writable: true, executable: region.pointee.protection.contains(.execute))
    if old.frame == word.frame {
      if !old.isWritable { _ = slot.replace(old, by: new) }
      TLB.flush(page)
      return
    }
    Frames.retain(word.frame)
    var batch = GatherBatch()
    if slot.replace(old, by: new) { batch.add(old.frame, at: page) } else { Frames.release(word.frame) }
    batch.finish()
  }

  /// A store to a private mapping: the page becomes a copy. Small regions (the data of programs and libraries) are copied
  /// at once. Under the object's lock.
  private func copyPrivate(
    _ region: RegionPointer, _ object: MemoryObject, _ page: VirtualAddress, _ index: UInt64
  ) -> FaultStep {
    guard object.word(index).isPresent || object.directFrame(index) != nil else {
      return .needsPage(object, index, forWriting: false, owner: region.pointee.owner)
    }
    guard copyPage(region, object, page, index) else { return .needsMemory }
    let span = Self.filePages &* PageSize.small
    guard region.pointee.end &- region.pointee.start <= span else { return .done(.resolved) }
    var at = region.pointee.start
    while at < region.pointee.end {
      let number = region.pointee.objectOffset(at) >> frameShift
      if at != page.rawValue && number < object.pageCount {
        guard copyPage(region, object, VirtualAddress(at), number) else { break }
      }
      at &+= PageSize.small
    }
    return .done(.resolved)
  }

  /// Puts a private copy of one page in place, unless there is one already or the object does not have the page.
  /// - Returns: false if memory is out.
  private func copyPage(_ region: RegionPointer, _ object: MemoryObject, _ page: VirtualAddress, _ index: UInt64)
    -> Bool
  {
    let word = object.word(index)
    guard let source = word.isPresent ? word.frame : object.directFrame(index) else { return true }
    guard let slot = table.slotMakingTables(page) else { return false }
    let old = slot.entry
    guard !old.isOwned else { return true }
    guard let copy = Frames.allocate(use: .program) else { return false }
    copyFrame(from: source, to: copy)
    let new = PageTableEntry.leaf(
      copy, writable: true, executable: region.pointee.protection.contains(.execute)
    ).asOwned
    guard slot.replace(old, by: new) else {
      Frames.free(copy)
      return true
    }
    if old.rawValue == 0 {
      residentPages.add(1, ordering: .relaxed)
    } else {
      var batch = GatherBatch()
      batch.add(old.frame, at: page)
      batch.finish()
    }
    return true
  }
}
