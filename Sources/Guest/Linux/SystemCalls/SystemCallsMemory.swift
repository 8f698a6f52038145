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
    let isShared: Bool
    switch flags & 0xf {
    case 1, 3: isShared = true
    case 2: isShared = false
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
    if flags & 0x110 != 0 || flags & 0x10_0000 != 0, flags & 0x10_0010 != 0 {
      guard address0.isAligned() else { throw .EINVAL }
    }
    if flags & 0x20 == 0 {
      try setFile(argument4.i32.int, isShared: isShared, in: &request)
    }
    return try process.addressSpace.map(request).rawValue.int
  }

  /// Completes a mapping of a file with what its descriptor allows.
  private func setFile(_ descriptor: Int, isShared: Bool, in request: inout MapRequest) throws(Errno) {
    let file = try process.descriptors.file(descriptor)
    guard file.isReadable else { throw .EACCES }
    if isShared, request.protection.contains(.write), !file.isWritable { throw .EACCES }
    request.object = try file.memoryObject()
    request.owner = file
    request.offset = argument5
    request.mayWrite = !isShared || file.isWritable
  }

  func munmap() throws(Errno) -> Int {
    try process.addressSpace.unmap(try pageRange(address0, argument1))
    return 0
  }

  func mprotect() throws(Errno) -> Int {
    guard argument1 > 0 else { return 0 }
    guard argument2 & ~0x0300_000f == 0 else { throw .EINVAL }
    try process.addressSpace.protect(
      try pageRange(address0, argument1, tooLong: .ENOMEM), Protection(rawValue: argument2.u8 & 7))
    return 0
  }

  func mremap() throws(Errno) -> Int {
    let flags = argument3
    let mayMove = flags & 1 != 0
    let isFixed = flags & 2 != 0
    let keepsOld = flags & 4 != 0
    guard flags & ~7 == 0, !(isFixed || keepsOld) || mayMove, argument2 > 0, argument2 <= AddressMap.programEnd.rawValue
    else { throw .EINVAL }
    let old = try pageRange(address0, argument1)
    return try process.addressSpace.remap(
      old, byteCount: argument2.alignedUp(to: PageSize.small), mayMove: mayMove,
      fixed: isFixed ? address4 : nil, keepOld: keepsOld
    ).rawValue.int
  }

  func brk() throws(Errno) -> Int { process.addressSpace.setBreak(address0).rawValue.int }

  func madvise() throws(Errno) -> Int {
    let advice: MemoryAdvice
    switch argument2 {
    case 0, 1, 2, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21: advice = .hint
    case 3, 22: advice = .willNeed
    case 4: advice = .discard
    case 8: advice = .free
    case 9: advice = .remove
    case 14: advice = .hugePages
    case 15: advice = .noHugePages
    case 23: advice = .populateWrite
    default: throw .EINVAL
    }
    guard argument1 > 0 else { return 0 }
    try process.addressSpace.advise(try pageRange(address0, argument1), advice)
    return 0
  }

  func msync() throws(Errno) -> Int {
    guard argument2 & ~7 == 0, argument2 & 5 != 5 else { throw .EINVAL }
    guard argument1 > 0 else { return 0 }
    try process.addressSpace.synchronise(try pageRange(address0, argument1, tooLong: .ENOMEM))
    return 0
  }

  func mincore() throws(Errno) -> Int {
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

/// The bytes of a value, for bodies that throw an `Errno`.
@inline(__always)
func withUnsafeBytesThrowing<T, R>(
  of value: inout T, _ body: (UnsafeRawBufferPointer) throws(Errno) -> R
) throws(Errno) -> R {
  try withUnsafeBytes(of: &value, body)
}
