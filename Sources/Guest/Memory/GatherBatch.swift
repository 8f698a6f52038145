// Unmapping gathers a batch: page-table entries are taken out first, then translations are flushed once on all CPUs, and
// only then are the pages given back. A page is never free while some CPU could still reach it.
//
// A few translations are dropped one by one: on kvm_pvm dropping all has the tables compared and guarded anew, so that the next
// change of each costs an exit too (three times as much for two pages). Rights that were given need no flush, but there each page
// that had fewer would fault by itself at its next use; many are brought in line by one flush.
import Base
import Pages
import Platform

/// Pages taken out of page tables whose translations are not flushed yet.
struct GatherBatch: ~Copyable {
  private static let inlineCapacity = 32
  /// Entries of a list page; its first word links to the next list page.
  private static let pageCapacity = 511

  private var inline: InlineArray<32, UInt64> = InlineArray(repeating: 0)
  private var inlineCount = 0
  private var listPage: PhysicalAddress?
  private var listCount = 0
  private var changes = 0
  /// Addresses of the first changes.
  private var changed: InlineArray<4, UInt64> = InlineArray(repeating: 0)
  private var gains = 0
  /// Changes that are dropped one by one, and gains that are worth a flush.
  private static let fewChanges = 4
  private static let manyGains = 24
  /// Whose tables the changes are in, with a user counted; nil: those that the CPU has.
  private var tables: AddressSpaceTablesPointer?

  init() {}

  /// Says whose tables the changes that follow are in: for those who change mappings that are perhaps not their own thread's.
  mutating func note(_ space: AddressSpace) {
    guard TLB.flushesEverywhere, tables != space.tables else { return }
    flush()
    tables?.release()
    space.tables.retain()
    tables = space.tables
  }

  /// Notes that the translation of `address` lost something (rights, or its page).
  mutating func noteChange(at address: VirtualAddress) {
    if changes < Self.fewChanges { changed[changes] = address.rawValue }
    changes &+= 1
  }

  /// Notes that a translation that was there got more rights.
  mutating func noteGain() { gains &+= 1 }

  /// Hands over a page table that was unlinked; everything is dropped then.
  mutating func add(table: PhysicalAddress, at address: VirtualAddress) {
    changes &+= Self.fewChanges
    add(table, at: address)
  }

  /// Hands over the reference that an entry at `address` had to `frame`.
  mutating func add(_ frame: PhysicalAddress, at address: VirtualAddress) {
    noteChange(at: address)
    guard Frames.isManaged(frame) else { return }
    if inlineCount < Self.inlineCapacity {
      inline[inlineCount] = frame.rawValue
      inlineCount &+= 1
      return
    }
    if listPage == nil || listCount == Self.pageCapacity {
      guard let page = Frames.allocate() else {
        drain()
        return add(frame, at: address)
      }
      words(page)[0] = listPage?.rawValue ?? 0
      listPage = page
      listCount = 0
    }
    listCount &+= 1
    words(listPage.unsafelyUnwrapped)[listCount] = frame.rawValue
  }

  /// Flushes and gives the pages back. Must be the last call, and be called.
  mutating func finish() {
    drain()
    tables?.release()
    tables = nil
  }

  private mutating func flush() {
    let gained = gains >= Self.manyGains && TLB.flushesEverywhere
    guard changes > 0 || gained else { return }
    Preemption.disable()
    if let tables { tables.withFlushes { flushNow(gained) } } else { flushNow(gained) }
    Preemption.enable()
    changes = 0
    gains = 0
  }

  private func flushNow(_ gained: Bool) {
    if changes <= Self.fewChanges && !gained {
      TLB.flushEverywhere(count: changes) { VirtualAddress(changed[$0]) }
    } else {
      TLB.flushAllEverywhere()
    }
  }

  private mutating func drain() {
    flush()
    guard inlineCount > 0 || listPage != nil else { return }
    while inlineCount > 0 {
      inlineCount &-= 1
      Frames.release(PhysicalAddress(inline[inlineCount]))
    }
    while let page = listPage {
      let list = words(page)
      while listCount > 0 {
        Frames.release(PhysicalAddress(list[listCount]))
        listCount &-= 1
      }
      listPage = list[0] == 0 ? nil : PhysicalAddress(list[0])
      listCount = Self.pageCapacity
      Frames.free(page)
    }
    listCount = 0
    Frames.noticeSurplus()
  }

  private func words(_ page: PhysicalAddress) -> UnsafeMutablePointer<UInt64> {
    // SAFETY: the batch's own frame, in the linear map.
    LinearMap.pointer(page).assumingMemoryBound(to: UInt64.self)
  }
}
