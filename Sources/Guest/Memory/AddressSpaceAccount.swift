// What an address space has, in bytes: mapped by kind of mapping, and present by whose pages they are. Counted when asked, by walking the
// regions and their tables under the read lock: the parts always make up the whole.
import Base
import Locks
import Pages

/// Sums over an address space, in bytes.
public struct MemoryAccount {
  /// Mapped (VmSize).
  public var mapped: UInt64 = 0
  /// Locked (VmLck).
  public var locked: UInt64 = 0
  /// Private writable mappings but for stacks (VmData).
  public var data: UInt64 = 0
  /// Mappings that grow downwards (VmStk).
  public var stack: UInt64 = 0
  /// Code of files that is not writable (VmExe and VmLib).
  public var code: UInt64 = 0
  /// Present: anonymous pages and private copies (RssAnon).
  public var ownResident: UInt64 = 0
  /// Present: pages of files (RssFile).
  public var fileResident: UInt64 = 0
  /// Present: pages of shared memory and the RAM file system (RssShmem).
  public var sharedResident: UInt64 = 0
  /// Present (VmRSS).
  public var resident: UInt64 { ownResident &+ fileResident &+ sharedResident }

  /// Nothing.
  public init() {}
}

extension AddressSpace {
  /// Counts.
  public func account() -> MemoryAccount {
    var account = MemoryAccount()
    lock.readLock()
    defer { lock.readUnlock() }
    var next = regions.first(endingAbove: 0)
    while let region = next {
      add(region, to: &account)
      next = regions.next(after: region)
    }
    return account
  }

  private func add(_ region: RegionPointer, to account: inout MemoryAccount) {
    let size = region.pointee.end &- region.pointee.start
    account.mapped &+= size
    if region.pointee.flags.contains(.locked) { account.locked &+= size }
    if region.pointee.flags.contains(.growsDown) {
      account.stack &+= size
    } else if region.pointee.isData {
      account.data &+= size
    } else if region.pointee.object != nil, region.pointee.protection.contains(.execute) {
      account.code &+= size
    }
    let isFile = region.pointee.object.map { $0.hasPager || $0.isDirect } ?? false
    var own: UInt64 = 0
    var others: UInt64 = 0
    let range = VirtualRange(
      start: VirtualAddress(region.pointee.start), end: VirtualAddress(region.pointee.end))
    table.forEachPage(in: range) { slot, level, _ in
      let entry = slot.entry
      guard entry.rawValue != 0 else { return }
      let bytes = level == 1 ? PageSize.small : PageSize.large
      if entry.isOwned { own &+= bytes } else { others &+= bytes }
    }
    account.ownResident &+= own
    if isFile { account.fileResident &+= others } else { account.sharedResident &+= others }
  }
}
