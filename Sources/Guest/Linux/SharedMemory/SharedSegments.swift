// System V shared memory: segments that have a key and an identifier, and live until they are removed and nobody has them
// attached. A segment is a memory object; attaching maps it.
//
// `SharedSegments.lock` guards the table; it is held while a segment's mappings are counted, and by nobody who holds an
// address space's lock.
import Base
import Files
import Locks
import Memory
import Pages

/// One segment.
final class SharedSegment: MappingOwner {
  /// struct shmid64_ds of x86-64.
  struct Status {
    var key: Int32 = 0
    var userID: UInt32 = 0
    var groupID: UInt32 = 0
    var creatorUserID: UInt32 = 0
    var creatorGroupID: UInt32 = 0
    var mode: UInt32 = 0
    var sequence: UInt16 = 0
    var padding: UInt16 = 0
    var padding2: UInt32 = 0
    var reserved: (UInt64, UInt64) = (0, 0)
    var byteCount: UInt64 = 0
    var attachTime: Int64 = 0
    var detachTime: Int64 = 0
    var changeTime: Int64 = 0
    var creator: Int32 = 0
    var last: Int32 = 0
    var attachments: UInt64 = 0
    var reserved2: (UInt64, UInt64) = (0, 0)
  }

  let identifier: Int32
  let byteCount: UInt64
  let object: MemoryObject
  // Whole words, changed by whoever attaches.
  private(set) var record: Status
  /// Removed, but still attached somewhere (SHM_DEST).
  var isRemoved = false
  /// SHM_LOCK; nothing is paged out here in any case.
  var isLocked = false

  init(identifier: Int32, key: Int32, byteCount: UInt64, mode: UInt32, process: Int32, credentials: Credentials) {
    self.identifier = identifier
    self.byteCount = byteCount
    object = MemoryObject(byteCount: byteCount.alignedUp(to: PageSize.small))
    record = Status()
    record.key = key
    record.userID = credentials.effectiveUserID
    record.groupID = credentials.effectiveGroupID
    record.creatorUserID = credentials.effectiveUserID
    record.creatorGroupID = credentials.effectiveGroupID
    record.mode = mode
    record.byteCount = byteCount
    record.changeTime = FileTime.now.seconds
    record.creator = process
  }

  var key: Int32 { record.key }
  var isAttached: Bool { object.mappingCount > 0 }

  /// What IPC_STAT shows.
  var status: Status {
    var result = record
    if isRemoved { result.mode |= 0o1000 }
    if isLocked { result.mode |= 0o2000 }
    if isRemoved { result.key = 0 }
    result.attachments = object.mappingCount.u64
    return result
  }

  /// - Throws: EACCES.
  func check(_ rights: AccessRights, _ credentials: Credentials) throws(Errno) {
    guard !credentials.isPrivileged else { return }
    guard
      credentials.allows(rights, mode: record.mode, userID: record.userID, groupID: record.groupID)
        || (credentials.effectiveUserID == record.creatorUserID
          && credentials.allows(
            rights, mode: record.mode, userID: record.creatorUserID, groupID: record.creatorGroupID))
    else { throw .EACCES }
  }

  /// - Throws: EPERM.
  func requireOwner(_ credentials: Credentials) throws(Errno) {
    let user = credentials.effectiveUserID
    guard credentials.isPrivileged || user == record.userID || user == record.creatorUserID else { throw .EPERM }
  }

  /// IPC_SET: owner and permissions.
  func set(_ new: Status) {
    record.userID = new.userID
    record.groupID = new.groupID
    record.mode = record.mode & ~0o777 | new.mode & 0o777
    record.changeTime = FileTime.now.seconds
  }

  func attached(by process: Int32) {
    record.attachTime = FileTime.now.seconds
    record.last = process
  }

  func detached(by process: Int32) {
    record.detachTime = FileTime.now.seconds
    record.last = process
  }

  // MARK: MappingOwner

  var mappingDevice: UInt64 { 1 }
  var mappingInode: UInt64 { identifier.u32.u64 }

  func withMappingPath(_ body: (UnsafeRawBufferPointer) -> Void) {
    var text = Array("/SYSV".utf8)
    let digits = Array("0123456789abcdef".utf8)
    var shift: UInt32 = 32
    while shift > 0 {
      shift &-= 4
      text.append(digits[(key.u32 >> shift & 15).int])
    }
    text.append(contentsOf: Array(" (deleted)".utf8))
    text.withUnsafeBytes(body)
  }
}

/// All segments of the machine.
enum SharedSegments {
  /// SHMMNI and SHMMAX.
  static let capacity = 4096
  static var largest: UInt64 { AddressMap.program.count }

  /// struct shminfo64.
  struct Limits {
    var largest = SharedSegments.largest
    var smallest: UInt64 = 1
    var segments = SharedSegments.capacity.u64
    var segmentsOfAProcess = SharedSegments.capacity.u64
    var pages = SharedSegments.largest >> 12
    var reserved: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
  }

  /// struct shm_info.
  struct Usage {
    var segments: Int32 = 0
    var padding: Int32 = 0
    var pages: UInt64 = 0
    var resident: UInt64 = 0
    var swapped: UInt64 = 0
    var attempts: UInt64 = 0
    var successes: UInt64 = 0
  }

  private static let lock = Mutex()
  // SAFETY: touched with `lock`; whoever finds a segment keeps it by a reference of its own.
  /// By index; an identifier is index + sequence number * 32768, so that old identifiers do not hit new segments.
  nonisolated(unsafe) private static var table: [SharedSegment?] = []
  nonisolated(unsafe) private static var sequence: Int32 = 0

  static var limits: Limits { Limits() }

  /// The segment of a key, made if that is asked for (shmget).
  static func get(key: Int32, byteCount: UInt64, flags: UInt32, process: Int32, credentials: Credentials)
    throws(Errno) -> Int32
  {
    let (create, exclusive): (UInt32, UInt32) = (0o1000, 0o2000)
    lock.lock()
    defer { lock.unlock() }
    if key != 0 {
      for case .some(let segment) in table where segment.key == key && !segment.isRemoved {
        if flags & create != 0 && flags & exclusive != 0 { throw .EEXIST }
        guard byteCount <= segment.byteCount else { throw .EINVAL }
        var rights: AccessRights = []
        if flags & 0o444 != 0 { rights.insert(.read) }
        if flags & 0o222 != 0 { rights.insert(.write) }
        try segment.check(rights, credentials)
        return segment.identifier
      }
      guard flags & create != 0 else { throw .ENOENT }
    }
    guard byteCount >= 1, byteCount <= largest else { throw .EINVAL }
    guard byteCount <= Frames.promisedByteCount else { throw .ENOMEM }
    var index = 0
    while index < table.count, table[index] != nil { index &+= 1 }
    guard index < capacity else { throw .ENOSPC }
    let identifier = index.i32 &+ sequence &* 32768
    sequence = (sequence &+ 1) & 0x7fff
    let segment = SharedSegment(
      identifier: identifier, key: key, byteCount: byteCount, mode: flags & 0o777, process: process,
      credentials: credentials)
    if index == table.count { table.append(segment) } else { table[index] = segment }
    return identifier
  }

  /// - Throws: EINVAL.
  static func find(_ identifier: Int32) throws(Errno) -> SharedSegment {
    lock.lock()
    defer { lock.unlock() }
    let index = (identifier & 0x7fff).int
    guard identifier >= 0, index < table.count, let segment = table[index], segment.identifier == identifier else {
      throw .EINVAL
    }
    return segment
  }

  /// - Throws: EINVAL.
  static func find(index: Int32) throws(Errno) -> SharedSegment {
    lock.lock()
    defer { lock.unlock() }
    guard index >= 0, index.int < table.count, let segment = table[index.int] else { throw .EINVAL }
    return segment
  }

  /// Removes a segment as soon as nobody has it attached.
  static func remove(_ segment: SharedSegment) {
    lock.withLock { segment.isRemoved = true }
    sweep()
  }

  /// Drops removed segments that nobody has attached any more: munmap and the end of a process detach without saying so.
  static func sweep() {
    lock.lock()
    for index in 0..<table.count {
      if let segment = table[index], segment.isRemoved, !segment.isAttached { table[index] = nil }
    }
    lock.unlock()
  }

  /// Index of the last segment, for SHM_INFO and IPC_INFO.
  static var highestIndex: Int {
    lock.withLock {
      var index = table.count
      while index > 0, table[index &- 1] == nil { index &-= 1 }
      return max(index &- 1, 0)
    }
  }

  static var usage: Usage {
    lock.withLock {
      var result = Usage()
      for case .some(let segment) in table {
        result.segments &+= 1
        result.pages &+= segment.byteCount.alignedUp(to: PageSize.small) >> 12
        result.resident &+= segment.object.residentPages.u64
      }
      return result
    }
  }
}
