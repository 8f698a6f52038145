// System calls about memory.
import Base
import Files
import Memory

extension SystemCall {
  func mmap() throws(Errno) -> Int {
    let flags = argument3
    let byteCount = argument1
    guard byteCount > 0, argument5.isAligned(to: PageSize.small) else { throw .EINVAL }
    guard byteCount <= AddressMap.programEnd.rawValue else { throw .ENOMEM }
    let isAnonymous = flags & 0x20 != 0
    let isShared: Bool
    switch flags & 0xf {
    case 1: isShared = true
    case 2: isShared = false
    case 3 where !isAnonymous:  // MAP_SHARED_VALIDATE: what is not known is refused, not ignored.
      guard flags & ~0xfc17_fdff == 0 else { throw .EOPNOTSUPP }
      isShared = true
    default: throw .EINVAL
    }
    var request = MapRequest(
      address: address0, byteCount: byteCount, protection: Protection(rawValue: argument2.u8 & 7))
    if isShared { request.flags.insert(.shared) }
    if flags & 0x10 != 0 { request.flags.insert(.fixed) }
    if flags & 0x10_0000 != 0 { request.flags.insert(.fixedNoReplace) }
    if flags & 0x40 != 0 { request.flags.insert(.low2GiB) }
    if flags & 0x100 != 0 { request.flags.insert(.growsDown) }
    if flags & 0x4000 != 0 { request.flags.insert(.noReserve) }
    if flags & 0x8000 != 0 { request.flags.insert(.populate) }
    if flags & 0x2_0000 != 0 { request.flags.insert(.stack) }
    if flags & 0x2000 != 0 { request.flags.insert(.locked) }
    if flags & 0x100 != 0, isShared || !isAnonymous { throw .EINVAL }
    if flags & 0x4_0000 != 0 {
      // MAP_HUGETLB: 2 MiB is the default and the only size.
      guard isAnonymous, (flags >> 26) & 0x3f == 0 || (flags >> 26) & 0x3f == 21 else { throw .EINVAL }
      request.flags.insert(.hugeOnly)
    }
    if flags & 0x110 != 0 || flags & 0x10_0000 != 0, flags & 0x10_0010 != 0 {
      guard address0.isAligned() else { throw .EINVAL }
    }
    if !isAnonymous {
      try setFile(argument4.i32.int, isShared: isShared, in: &request)
    }
    return try process.addressSpace.map(request).rawValue.int
  }

  /// Completes a mapping of a file with what its descriptor allows.
  private func setFile(_ descriptor: Int, isShared: Bool, in request: inout MapRequest) throws(Errno) {
    let file = try file(descriptor.u64)
    let (end, overflow) = argument5.addingReportingOverflow(argument1)
    guard !overflow, end <= UInt64(Int64.max) else { throw .EOVERFLOW }
    guard file.isReadable else { throw .EACCES }
    if isShared, request.protection.contains(.write), !file.isWritable { throw .EACCES }
    request.object = try file.memoryObject()
    request.owner = file
    request.offset = argument5
    request.mayWrite = !isShared || file.isWritable
    if isShared, let memory = file.vnode as? MemoryFile, memory.seals.forbidWriting {
      guard !request.protection.contains(.write) else { throw .EPERM }
      request.mayWrite = false
    }
  }

  func munmap() throws(Errno) -> Int {
    try process.addressSpace.unmap(try pageRange(address0, argument1))
    return 0
  }

  func mprotect() throws(Errno) -> Int {
    let (growsDown, growsUp) = (argument2 & 0x0100_0000 != 0, argument2 & 0x0200_0000 != 0)
    guard !(growsDown && growsUp), address0.isAligned(), argument2 & ~0x0300_000f == 0 else { throw .EINVAL }
    guard argument1 > 0 else { return 0 }
    guard !growsUp else { throw .EINVAL }  // Nothing grows upwards here.
    try process.addressSpace.protect(
      try pageRange(address0, argument1, tooLong: .ENOMEM), Protection(rawValue: argument2.u8 & 7),
      fromStart: growsDown)
    return 0
  }

  func mremap() throws(Errno) -> Int {
    let flags = argument3
    let mayMove = flags & 1 != 0
    let isFixed = flags & 2 != 0
    let keepsOld = flags & 4 != 0
    guard flags & ~7 == 0, !(isFixed || keepsOld) || mayMove, argument2 > 0, argument2 <= AddressMap.programEnd.rawValue
    else { throw .EINVAL }
    // An old size of 0 asks for a second mapping of shared memory.
    guard address0.isAligned() else { throw .EINVAL }
    let old = argument1 == 0 ? VirtualRange(start: address0, end: address0) : try pageRange(address0, argument1)
    return try process.addressSpace.remap(
      old, byteCount: argument2.alignedUp(to: PageSize.small), mayMove: mayMove,
      fixed: isFixed ? address4 : nil, keepOld: keepsOld
    ).rawValue.int
  }

  func brk() throws(Errno) -> Int { process.addressSpace.setBreak(address0).rawValue.int }

  func madvise() throws(Errno) -> Int {
    let advice: MemoryAdvice
    switch argument2 {
    case 0, 1, 2, 12, 13, 20, 21: advice = .hint
    case 3: advice = .willNeed
    case 10: advice = .copying(.notCopied)
    case 11: advice = .copying(.copied)
    case 16: advice = .dumping(false)
    case 17: advice = .dumping(true)
    case 18: advice = .copying(.copiedEmpty)
    case 19: advice = .copying(.copiedFull)
    case 22: advice = .populateRead
    case 25: advice = .collapse
    case 100, 101: throw .EPERM  // HWPOISON, SOFT_OFFLINE: no hardware memory here.
    case 4: advice = .discard
    case 8: advice = .free
    case 9: advice = .remove
    case 14: advice = .hugePages
    case 15: advice = .noHugePages
    case 23: advice = .populateWrite
    case 24: advice = .discardLocked
    default: throw .EINVAL
    }
    guard address0.isAligned() else { throw .EINVAL }
    guard argument1 > 0 else { return 0 }
    try process.addressSpace.advise(try pageRange(address0, argument1), advice)
    return 0
  }

  func msync() throws(Errno) -> Int {
    let (asynchronous, invalidate, synchronous) = (UInt64(1), UInt64(2), UInt64(4))
    guard argument2 & ~7 == 0, argument2 & (asynchronous | synchronous) != asynchronous | synchronous,
      address0.isAligned()
    else { throw .EINVAL }
    guard argument1 > 0 else { return 0 }
    try process.addressSpace.synchronise(
      try pageRange(address0, argument1, tooLong: .ENOMEM), waits: argument2 & synchronous != 0,
      invalidates: argument2 & invalidate != 0)
    return 0
  }

  // MARK: Locking

  func mlock() throws(Errno) -> Int { try lockMemory(flags: 0) }
  func mlock2() throws(Errno) -> Int { try lockMemory(flags: argument2) }

  private func lockMemory(flags: UInt64) throws(Errno) -> Int {
    guard flags & ~1 == 0 else { throw .EINVAL }
    guard let range = try lockRange() else { return 0 }
    try process.addressSpace.lock(range, onFault: flags & 1 != 0)
    return 0
  }

  func munlock() throws(Errno) -> Int {
    if let range = try lockRange() { try process.addressSpace.unlock(range) }
    return 0
  }

  /// mlock takes any address: its page counts.
  private func lockRange() throws(Errno) -> VirtualRange? {
    let start = address0.alignedDown()
    let count = argument1.addingReportingOverflow(address0.pageOffset)
    guard !count.overflow else { throw .EINVAL }
    return count.partialValue == 0 ? nil : try pageRange(start, count.partialValue, tooLong: .ENOMEM)
  }

  func mlockall() throws(Errno) -> Int {
    let flags = LockFlags(rawValue: argument0.u8)
    guard argument0 & ~7 == 0, !flags.isEmpty, flags != .onFault else { throw .EINVAL }
    try process.addressSpace.lockAll(flags)
    return 0
  }

  func munlockall() -> Int {
    process.addressSpace.unlockAll()
    return 0
  }

  func mincore() throws(Errno) -> Int {
    if argument1 == 0, address0.isAligned() { return 0 }
    let range = try pageRange(address0, argument1, tooLong: .ENOMEM)
    var transfer = Transfer(program: address2, count: (range.count &>> PageSize.smallShift).int)
    try process.addressSpace.residency(range) { (isPresent) throws(Errno) in
      var byte: UInt8 = isPresent ? 1 : 0
      try withUnsafeBytesThrowing(of: &byte) { (bytes) throws(Errno) in _ = try transfer.copyOut(from: bytes) }
    }
    return 0
  }

  /// A range of whole pages of the program's half: the length is rounded up.
  /// - Throws: EINVAL if the address is not that of a page or the length is 0, `tooLong` if the range leaves the half.
  private func pageRange(_ address: VirtualAddress, _ byteCount: UInt64, tooLong: Errno = .EINVAL) throws(Errno)
    -> VirtualRange
  {
    guard address.isAligned(), byteCount > 0 else { throw .EINVAL }
    guard byteCount <= AddressMap.programEnd.rawValue,
      let range = VirtualRange(checking: address, count: byteCount.alignedUp(to: PageSize.small)),
      range.end <= AddressMap.programEnd
    else { throw tooLong }
    return range
  }
}

// SAFETY: the value is borrowed for as long as the body runs; its callers' are bytes without padding.
/// The bytes of a value, for bodies that throw an `Errno`.
@inline(__always)
func withUnsafeBytesThrowing<T, R>(
  of value: inout T, _ body: (UnsafeRawBufferPointer) throws(Errno) -> R
) throws(Errno) -> R {
  try withUnsafeBytes(of: &value, body)
}
