// 2 MiB pages where small ones are: MADV_COLLAPSE. (Splitting is in AddressSpaceRegions, mapping them at faults in
// AddressSpaceFaults.)
import Base
import Locks
import Pages
import Platform
import Synchronization

extension AddressSpace {
  /// Puts what is mapped in each whole 2 MiB of a range into one large page.
  /// - Throws: EINVAL (not anonymous memory, or nothing there that could be collapsed), ENOMEM, EAGAIN (memory is out).
  func collapse(_ range: VirtualRange) throws(Errno) {
    lock.writeLock()
    defer { lock.writeUnlock() }
    try requireMapped(range)
    var address = range.start.alignedUp(to: PageSize.large)
    while address < range.end, range.end - address >= PageSize.large {
      guard let region = regions.find(address.rawValue), region.pointee.object == nil,
        region.pointee.end &- address.rawValue >= PageSize.large,
        region.pointee.flags.isDisjoint(with: [.noHugePages, .stack, .growsDown])
      else { throw .EINVAL }
      guard collapse(region, address) else { throw .EAGAIN }
      address += PageSize.large
    }
  }

  /// One of them. Threads that touch it meanwhile fault, and wait for our lock.
  private func collapse(_ region: RegionPointer, _ start: VirtualAddress) -> Bool {
    let (slot, level) = table.slot(start)
    if level == 2, slot.entry.isLarge { return true }
    let range = VirtualRange(start: start, count: PageSize.large)
    guard let directory = table.slotMakingTables(start, level: 2), let list = Frames.allocate(zeroed: true) else {
      return false
    }
    guard let block = Frames.allocate(order: 9, use: .program) else {
      Frames.free(list)
      return false
    }
    // SAFETY: a frame of our own: the frame of each page that was there, or 0.
    let frames = LinearMap.pointer(list).bindMemory(to: UInt64.self, capacity: 512)
    var present = 0
    table.forEachPage(in: range) { slot, _, page in
      let old = slot.exchange(.absent)
      frames[((page - start) >> frameShift).int] = old.frame.rawValue
      present &+= 1
    }
    flush()
    for index in 0..<512 {
      let target = block + index.u64 << frameShift
      if frames[index] == 0 {
        clearMemory(LinearMap.pointer(target), byteCount: PageSize.small.int)
      } else {
        copyFrame(from: PhysicalAddress(frames[index]), to: target)
      }
    }
    let protection = region.pointee.protection
    let leaf = PageTableEntry.leaf(
      block, writable: protection.contains(.write), executable: protection.contains(.execute)
    ).asOwned.asLarge
    let old = directory.exchange(protection == .none ? leaf.withRights(.none) : leaf)
    flush()
    if old.isPresent { Frames.free(old.frame) }
    for index in 0..<512 where frames[index] != 0 { Frames.release(PhysicalAddress(frames[index])) }
    Frames.free(list)
    residentPages.add(512 &- present, ordering: .relaxed)
    return true
  }

  private func flush() {
    Preemption.disable()
    TLB.flushAllEverywhere()
    Preemption.enable()
  }
}
