// Unmapping gathers a batch: page-table entries are taken out first, then translations are flushed once on all CPUs, and
// only then are the pages given back. A page is never free while some CPU could still reach it.
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
  private var lastChange = VirtualAddress(0)

  init() {}

  /// Notes that the translation of `address` lost something (rights, or its page).
  mutating func noteChange(at address: VirtualAddress) {
    changes &+= 1
    lastChange = address
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
        finish()
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
    guard changes > 0 else { return }
    Preemption.disable()
    if changes == 1 { TLB.flushEverywhere(lastChange) } else { TLB.flushAllEverywhere() }
    Preemption.enable()
    changes = 0
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
