// System calls for shared memory: memfd_create with its seals, and System V segments (shmget, shmat, shmdt, shmctl).
import Base
import Files
import Locks
import Memory
import Pages
import Platform

extension SystemCall {
  // MARK: memfd_create

  func memfd_create() throws(Errno) -> Int {
    let (closeOnExec, allowSealing, huge, sealExecutable, executable) = (
      UInt64(1), UInt64(2), UInt64(4), UInt64(8), UInt64(16)
    )
    let flags = argument1.u32.u64
    let known = closeOnExec | allowSealing | huge | sealExecutable | executable | 0xfc00_0000
    guard flags & ~known == 0, flags & huge != 0 || flags & 0xfc00_0000 == 0,
      flags & (sealExecutable | executable) != sealExecutable | executable
    else { throw .EINVAL }
    // The name is for /proc/self/fd and maps only; 249 bytes at most.
    var name = Array("/memfd:".utf8)
    do throws(Errno) {
      name.append(contentsOf: try UserSpan.readString(at: address0, max: 249))
    } catch {
      throw error == .ENAMETOOLONG ? .EINVAL : error
    }
    name.append(contentsOf: Array(" (deleted)".utf8))
    let file = MemoryFile(
      sealable: flags & (allowSealing | sealExecutable) != 0, executable: flags & sealExecutable == 0)
    let place = AnonymousFileSystem.location(of: file, name: name)
    let open = OpenFile(vnode: file, location: place, flags: .readWrite)
    return try process.descriptors.install(open, closeOnExec: flags & closeOnExec != 0)
  }

  private func memoryFile(_ file: OpenFile) throws(Errno) -> MemoryFile {
    guard let memory = file.vnode as? MemoryFile else { throw .EINVAL }
    return memory
  }

  func addSeals(to file: OpenFile) throws(Errno) {
    let seals = FileSeals(rawValue: argument2.u32)
    let memory = try memoryFile(file)
    guard file.isWritable else { throw .EPERM }
    guard FileSeals.all.isSuperset(of: seals) else { throw .EINVAL }
    try memory.add(seals)
  }

  func seals(of file: OpenFile) throws(Errno) -> Int { try memoryFile(file).seals.rawValue.int }

  // MARK: System V segments

  func shmget() throws(Errno) -> Int {
    try SharedSegments.get(
      key: argument0.i32, byteCount: argument1, flags: argument2.u32, process: process.identifier,
      credentials: credentials
    ).int
  }

  func shmat() throws(Errno) -> Int {
    let (readOnly, round, remap, execute) = (UInt64(0o10000), UInt64(0o20000), UInt64(0o40000), UInt64(0o100000))
    let segment = try SharedSegments.find(argument0.i32)
    let flags = argument2.u32.u64
    var address = address1
    if !address.isAligned() {
      guard flags & round != 0 else { throw .EINVAL }
      address = address.alignedDown()
    }
    if flags & remap != 0, address.isNull { throw .EINVAL }
    var wanted: AccessRights = .read
    var protection: Protection = .read
    if flags & readOnly == 0 {
      wanted.insert(.write)
      protection.insert(.write)
    }
    if flags & execute != 0 {
      wanted.insert(.execute)
      protection.insert(.execute)
    }
    try segment.check(wanted, credentials)
    var request = MapRequest(
      address: address, byteCount: segment.byteCount, protection: protection, flags: .shared, object: segment.object,
      owner: segment, mayWrite: flags & readOnly == 0)
    if !address.isNull { request.flags.insert(flags & remap != 0 ? .fixed : .fixedNoReplace) }
    do throws(Errno) {
      let start = try process.addressSpace.map(request)
      segment.attached(by: process.identifier)
      return start.rawValue.int
    } catch {
      throw error == .EEXIST || error == .EPERM ? .EINVAL : error
    }
  }

  /// Detaches what is left, wherever parts of it have been unmapped, of the segment whose attachment began at the address.
  func shmdt() throws(Errno) -> Int {
    guard address0.isAligned() else { throw .EINVAL }
    var found: SharedSegment?
    var address = address0
    while let mapping = process.addressSpace.mapping(endingAbove: address.rawValue) {
      if let owner = mapping.owner as? SharedSegment, found == nil || found === owner,
        mapping.range.start.rawValue &- mapping.offset == address0.rawValue
      {
        found = owner
        try process.addressSpace.unmap(mapping.range)
      } else if let found, mapping.range.start - address0 >= found.byteCount {
        break
      } else if found == nil, mapping.range.start - address0 >= SharedSegments.largest {
        break
      }
      address = max(mapping.range.end, address0)
    }
    guard let found else { throw .EINVAL }
    found.detached(by: process.identifier)
    SharedSegments.sweep()
    return 0
  }

  func shmctl() throws(Errno) -> Int {
    let (remove, set, status, information, segmentStatus, segmentInformation, lock, unlock, statusAny) = (
      Int32(0), Int32(1), Int32(2), Int32(3), Int32(13), Int32(14), Int32(11), Int32(12), Int32(15)
    )
    SharedSegments.sweep()
    let identifier = argument0.i32
    switch argument1.i32 {
    case information:
      try UserSpan.write(SharedSegments.limits, at: address2)
      return SharedSegments.highestIndex
    case segmentInformation:
      try UserSpan.write(SharedSegments.usage, at: address2)
      return SharedSegments.highestIndex
    case status:
      let segment = try SharedSegments.find(identifier)
      try segment.check(.read, credentials)
      try UserSpan.write(segment.status, at: address2)
    case segmentStatus, statusAny:
      let segment = try SharedSegments.find(index: identifier)
      if argument1.i32 == segmentStatus { try segment.check(.read, credentials) }
      try UserSpan.write(segment.status, at: address2)
      return segment.identifier.int
    case set:
      let segment = try SharedSegments.find(identifier)
      let new = try UserSpan.read(SharedSegment.Status.self, at: address2)
      try segment.requireOwner(credentials)
      segment.set(new)
    case remove:
      let segment = try SharedSegments.find(identifier)
      try segment.requireOwner(credentials)
      SharedSegments.remove(segment)
    case lock, unlock:
      let segment = try SharedSegments.find(identifier)
      try segment.requireOwner(credentials)
      segment.isLocked = argument1.i32 == lock
    default: throw .EINVAL
    }
    return 0
  }
}
