// The debugging heap (`--debug memory`): every object of the kernel heap in pages of its own, at the very end of them, with
// pages behind it that are never mapped; and away, page by page, when it is freed.
//
// An allocation takes a run of pages from a window of kernel addresses:
//
//   data pages             record     allocated by   freed by
//   [canary | object]      1 page     3 pages        3 pages      (guards: never mapped)
//
// An entry of a page table that is not present may hold anything, so the guards' entries are the records: the object's
// size and alignment, whether it lives, and who allocated and freed it (`GuardWord`). The entries of a freed object's data
// pages say how far away its record is. So a fault anywhere in the window finds the object it belongs to. Addresses are used
// again only after the whole window has been gone round, but the frames at once, after the flush.
//
// What does not reach a guard is found at the free: bytes of the data pages that are not the object's hold a canary.
// `lock` guards the cursor and the claiming of runs; an object's own entries belong to its owner until the record says
// "freed", which one compare-exchange does: of two frees at once the second one is the defect.
import Base
import Platform
import Synchronization

/// What is wrong with memory that somebody wants to free, or has touched.
enum HeapDefect: Equatable {
  case notAnObject, freedTwice, wroteBefore, wroteBehind, overrun, underrun, usedAfterFree, wroteAfterFree
}

/// An entry of a page that is not mapped.
struct GuardWord: Equatable {
  var rawValue: UInt64

  static let guardPages: UInt64 = 7
  private static let recordTag: UInt64 = 1
  private static let callersTag: UInt64 = 2
  private static let freedTag: UInt64 = 3

  init(_ rawValue: UInt64) { self.rawValue = rawValue }

  // Bit 0 is clear: not present. Bits 1 to 3: what it is.
  private var tag: UInt64 { rawValue & 1 == 0 ? rawValue >> 1 & 7 : 0 }

  /// The record of an object of `byteCount` bytes.
  static func record(byteCount: Int, alignment: UInt64, isFreed: Bool) -> GuardWord {
    GuardWord(byteCount.u64 << 9 | alignment.trailingZeroBitCount.u64 << 5 | (isFreed ? 16 : 0) | recordTag << 1)
  }
  var isRecord: Bool { tag == Self.recordTag }
  var isFreed: Bool { rawValue & 16 != 0 }
  var byteCount: Int { (rawValue >> 9).int }
  var alignment: UInt64 { 1 << (rawValue >> 5 & 15) }
  var asFreed: GuardWord { GuardWord(rawValue | 16) }
  /// Bytes from the object's start to the record's page.
  var extent: UInt64 { max(byteCount.u64, 1).alignedUp(to: alignment) }
  var dataPages: UInt64 { (extent &+ 4095) >> frameShift }

  /// Two callers, on the `index`th page behind the record.
  static func callers(_ index: UInt64, _ first: UInt32, _ second: UInt32) -> GuardWord {
    GuardWord(second.u64 << 35 | first.u64 << 7 | index << 4 | callersTag << 1)
  }
  var isCallers: Bool { tag == Self.callersTag }
  var index: UInt64 { rawValue >> 4 & 7 }
  var first: UInt32 { (rawValue >> 7).u32 & 0xfff_ffff }
  var second: UInt32 { (rawValue >> 35).u32 & 0xfff_ffff }

  /// A data page of a freed object, whose record is so many pages further.
  static func freedData(distance: UInt64) -> GuardWord { GuardWord(distance << 4 | freedTag << 1) }
  var isFreedData: Bool { tag == Self.freedTag }
  var distance: UInt64 { rawValue >> 4 }
}

/// A heap of guarded objects in a window of kernel addresses.
struct GuardedHeap: ~Copyable {
  typealias Pointer = UnsafeMutablePointer<GuardedHeap>

  // SAFETY: set once at boot, by the only CPU (`enable`).
  /// The one that stands in for the kernel heap, once `enable` was called.
  nonisolated(unsafe) static var installed: Pointer?

  static let canary: UInt8 = 0xcb
  static let fresh: UInt8 = 0xa5

  let table: PageTable
  let window: VirtualRange
  let lock = SpinLock()
  /// Where the next allocation looks first; always a border between allocations.
  var cursor: VirtualAddress
  /// Frames of freed objects that other CPUs may still reach: linked through their first word, flushed and given back together.
  var pending = PhysicalAddress(0)
  var pendingCount = 0

  init(table: PageTable, window: VirtualRange) {
    self.table = table
    self.window = window
    cursor = window.start
  }
}

extension UnsafeMutablePointer where Pointee == GuardedHeap {
  /// Bytes of addresses that an object takes at least.
  static var smallestRun: UInt64 { (GuardWord.guardPages &+ 1) &* PageSize.small }

  // MARK: Allocation

  /// An object against a guard page; nil if memory or the window is out.
  func allocate(byteCount: Int, alignment: Int) -> UnsafeMutableRawPointer? {
    guard byteCount >= 0, byteCount < 1 << 30, alignment <= 1 << 21 else { return nil }
    let inPage = min(max(alignment.u64, 16), PageSize.small)
    let record = GuardWord.record(byteCount: byteCount, alignment: inPage, isFreed: false)
    let pages = record.dataPages
    let order = 64 &- (pages &- 1).leadingZeroBitCount
    guard order <= FrameAllocator.maximumOrder, let block = Frames.allocate(order: order, use: .heap)
    else { return nil }
    guard let start = claim(record, alignment: max(alignment.u64, PageSize.small)) else {
      Frames.free(block, order: order)
      return nil
    }
    let chain = CallChain.here()
    let end = start + pages << frameShift
    note(chain, end, from: 1)
    note(CallChain(), end, from: 4)
    let object = end - record.extent
    fill(block, pages << frameShift, GuardedHeap.canary)
    fill(block + (object - start), byteCount.u64, GuardedHeap.fresh)
    for page in 0..<pages {
      slot(start + page << frameShift)?.store(
        .leaf(block + page << frameShift, writable: true, executable: false))
    }
    return object.unsafePointer
  }

  /// Writes callers into three guards behind the record's.
  private func note(_ chain: CallChain, _ record: VirtualAddress, from first: UInt64) {
    for index: UInt64 in 0..<3 {
      let at = index.int &* 2
      let word = GuardWord.callers(first &+ index, chain.offsets[at], chain.offsets[at &+ 1])
      slot(record + (first &+ index) << frameShift)?.store(PageTableEntry(word.rawValue))
    }
  }

  private func slot(_ address: VirtualAddress) -> PageTableSlot? { pointee.table.slotMakingTables(address) }

  private func word(_ address: VirtualAddress) -> GuardWord {
    let (slot, level) = pointee.table.slot(address)
    return GuardWord(level == 1 ? slot.entry.rawValue : 0)
  }

  private func fill(_ start: PhysicalAddress, _ byteCount: UInt64, _ byte: UInt8) {
    // SAFETY: within a block of frames that belongs to one object of this heap.
    LinearMap.pointer(start).initializeMemory(as: UInt8.self, repeating: byte, count: byteCount.int)
  }

  /// Finds a run of pages without a living object, and puts the record in: the run is the caller's from then on.
  private func claim(_ record: GuardWord, alignment: UInt64) -> VirtualAddress? {
    let wanted = (record.dataPages &+ GuardWord.guardPages) << frameShift
    return pointee.lock.withLock { () -> VirtualAddress? in
      var start = pointee.cursor.alignedUp(to: alignment)
      var at = start
      var hasTurned = false
      while at < start + wanted {
        if start.rawValue &+ wanted > pointee.window.end.rawValue {
          if hasTurned { return nil }
          hasTurned = true
          start = pointee.window.start.alignedUp(to: alignment)
          at = start
          continue
        }
        guard let object = self.record(of: at), object.page - object.word.dataPages << frameShift <= at else {
          // Never used, or left over from an object whose record is gone.
          at += PageSize.small
          continue
        }
        at = object.page + GuardWord.guardPages << frameShift
        if !object.word.isFreed {
          start = at.alignedUp(to: alignment)
          at = start
        }
      }
      // What is left of a freed object that was taken in part tells nothing any more.
      var page = start
      while page < at {
        guard let slot = slot(page) else { return nil }
        if slot.entry.rawValue != 0 { slot.store(.absent) }
        page += PageSize.small
      }
      guard let slot = slot(start + record.dataPages << frameShift),
        self.slot(start + (wanted &- PageSize.small)) != nil
      else { return nil }
      slot.store(PageTableEntry(record.rawValue))
      pointee.cursor = start + wanted
      return start
    }
  }

  // MARK: Finding

  /// The record of the object whose pages or guards an address lies in.
  func record(of address: VirtualAddress) -> (page: VirtualAddress, word: GuardWord)? {
    guard pointee.window.contains(address) else { return nil }
    var page = address.alignedDown()
    let here = word(page)
    if here.isCallers {
      page = page - here.index << frameShift
    } else if here.isFreedData {
      page += here.distance << frameShift
    } else {
      // A living object's data: its record is the first page behind it that is not present.
      while page < pointee.window.end, word(page).rawValue & 1 != 0 { page += PageSize.small }
    }
    let found = pointee.window.contains(page) ? word(page) : GuardWord(0)
    return found.isRecord ? (page, found) : nil
  }

  /// Whether the address is one that this heap gives out.
  func owns(_ memory: UnsafeRawPointer) -> Bool { pointee.window.contains(VirtualAddress(memory)) }

  /// The size an object was allocated with.
  func byteCount(_ memory: UnsafeRawPointer) -> Int {
    guard let record = record(of: VirtualAddress(memory)), !record.word.isFreed else { return 0 }
    return record.word.byteCount
  }

  // MARK: Freeing

  /// Takes an object's pages away, after a look at what lies around it.
  /// - Returns: what was wrong, nil if nothing was.
  func free(_ memory: UnsafeRawPointer) -> HeapDefect? {
    let address = VirtualAddress(memory)
    guard let (end, record) = record(of: address) else { return .notAnObject }
    guard end - record.extent == address else { return .notAnObject }
    guard !record.isFreed,
      slot(end).unsafelyUnwrapped.replace(PageTableEntry(record.rawValue), by: PageTableEntry(record.asFreed.rawValue))
    else { return .freedTwice }
    let pages = record.dataPages
    let start = end - pages << frameShift
    let block = pointee.table.slot(start).slot.entry.frame
    if let defect = damage(block, address - start, record) { return defect }
    note(CallChain.here(), end, from: 4)
    for page in 0..<pages {
      slot(start + page << frameShift)?.store(PageTableEntry(GuardWord.freedData(distance: pages &- page).rawValue))
      TLB.flush(start + page << frameShift)
    }
    release(block, order: 64 &- (pages &- 1).leadingZeroBitCount)
    return nil
  }

  /// Looks at the bytes around an object.
  private func damage(_ block: PhysicalAddress, _ offset: UInt64, _ record: GuardWord) -> HeapDefect? {
    // SAFETY: the block is the object's, which nobody frees a second time: the record says so.
    let bytes = UnsafeRawBufferPointer(start: LinearMap.pointer(block), count: (record.dataPages << frameShift).int)
    var at = 0
    while at < offset.int {
      if bytes[at] != GuardedHeap.canary { return .wroteBefore }
      at &+= 1
    }
    at = offset.int &+ record.byteCount
    while at < bytes.count {
      if bytes[at] != GuardedHeap.canary { return .wroteBehind }
      at &+= 1
    }
    return nil
  }

  /// Gives frames back when no CPU can reach them any more.
  private func release(_ block: PhysicalAddress, order: Int) {
    if TLB.flushesEverywhere || CPU.count == 1 { return Frames.free(block, order: order) }
    FramePoison.fill(block, order: order)
    let mayWait = Interrupts.areEnabled && Preemption.count == 0
    let ready: PhysicalAddress = pointee.lock.withLock {
      let first = LinearMap.pointer(block).assumingMemoryBound(to: UInt64.self)
      // SAFETY: the block is nobody's; its order is kept beside the link.
      first[0] = pointee.pending.rawValue
      first[1] = order.u64
      pointee.pending = block
      pointee.pendingCount &+= 1
      // Another CPU's interrupt is waited for, so only where that is allowed.
      guard pointee.pendingCount >= 64, mayWait else { return PhysicalAddress(0) }
      defer { (pointee.pending, pointee.pendingCount) = (PhysicalAddress(0), 0) }
      return pointee.pending
    }
    guard ready.rawValue != 0 else { return }
    Preemption.disable()
    TLB.flushAllEverywhere()
    Preemption.enable()
    var next = ready
    while next.rawValue != 0 {
      let block = next
      let first = LinearMap.pointer(block).assumingMemoryBound(to: UInt64.self)
      let order = first[1].int
      next = PhysicalAddress(first[0])
      first[0] = FramePoison.word
      first[1] = FramePoison.word
      FramePoison.check(block, order: order, isZero: false)
      Frames.free(block, order: order)
    }
  }
}
