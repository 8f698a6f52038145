// System calls about processes and threads: identity, limits, names, scheduling, their end.
import Base
import Files
import Locks
import Memory
import Pages
import Platform
import Threads
import VirtioABI

/// struct utsname: six fields of 65 bytes.
struct SystemName {
  static let fieldByteCount = 65
  /// The fields, in their order.
  enum Field: Int {
    case system, host, release, version, machine, domain
  }
  private var bytes: [390 of UInt8] = .init(repeating: 0)

  /// Everything but the host name is a constant: programs look at the release to decide what a kernel can do.
  init(hostName: UnsafePointer<UInt8>?) {
    set(0, "Linux")
    set(2, "6.1.0-osv")
    set(3, "#1 SMP OSv")
    set(4, "x86_64")
    set(5, "(none)")
    guard let hostName else {
      set(1, "osv")
      return
    }
    var index = 0
    while index < Self.fieldByteCount &- 1, hostName[index] != 0 {
      bytes[Self.fieldByteCount &+ index] = hostName[index]
      index &+= 1
    }
  }

  /// A field without its NULs.
  func bytes(of field: Field) -> [UInt8] {
    var result: [UInt8] = []
    var index = field.rawValue &* Self.fieldByteCount
    while bytes[index] != 0 {
      result.append(bytes[index])
      index &+= 1
    }
    return result
  }

  private mutating func set(_ field: Int, _ text: StaticString) {
    // SAFETY: a static string's bytes are always there.
    for index in 0..<text.utf8CodeUnitCount { bytes[field &* Self.fieldByteCount &+ index] = text.utf8Start[index] }
  }
}

/// struct sysinfo.
struct SystemInformation {
  var uptime: Int64 = 0
  var loads: (UInt64, UInt64, UInt64) = (0, 0, 0)
  var totalMemory: UInt64 = 0
  var freeMemory: UInt64 = 0
  var sharedMemory: UInt64 = 0
  var bufferMemory: UInt64 = 0
  var totalSwap: UInt64 = 0
  var freeSwap: UInt64 = 0
  var processes: UInt16 = 1
  var padding0: UInt16 = 0
  var padding1: UInt32 = 0
  var totalHigh: UInt64 = 0
  var freeHigh: UInt64 = 0
  var unit: UInt32 = 1
  var padding2: UInt32 = 0
}

extension SystemCall {
  func getpid() -> Int { withProcess { $0.identifier.int } }
  func gettid() -> Int { withTask { $0.identifier.int } }
  func getppid() -> Int { process.parent?.identifier.int ?? 0 }
  func getpgrp() -> Int { withProcess { $0.group.int } }

  /// getpgid and getsid know only the caller.
  func getpgid() throws(Errno) -> Int {
    try checkSelf()
    return process.group.int
  }
  func getsid() throws(Errno) -> Int {
    try checkSelf()
    return process.session.int
  }
  func setpgid() throws(Errno) -> Int {
    try checkSelf()
    guard argument1.i32 >= 0 else { throw .EINVAL }
    // The first process leads its session and so may not leave its group.
    guard argument1.i32 == 0 || argument1.i32 == process.identifier else { throw .EPERM }
    return 0
  }
  func setsid() throws(Errno) -> Int { throw .EPERM }

  private func checkSelf() throws(Errno) {
    guard argument0.i32 == 0 || argument0.i32 == process.identifier else { throw .ESRCH }
  }

  func uname() throws(Errno) -> Int {
    let host = Boot.string(at: Boot.information.pointee.hostNameOffset)
    try UserSpan.write(SystemName(hostName: host), at: address0)
    return 0
  }

  func sysinfo() throws(Errno) -> Int {
    let memory = Frames.statistics
    var information = SystemInformation()
    information.uptime = (Clock.now() / 1_000_000_000).i64
    information.totalMemory = memory.total.u64 &* PageSize.small
    information.freeMemory = memory.free.u64 &* PageSize.small
    try UserSpan.write(information, at: address0)
    return 0
  }

  // MARK: Limits

  func prlimit64() throws(Errno) -> Int {
    guard argument0.i32 == 0 || argument0.i32 == process.identifier else { throw .ESRCH }
    return try limit(argument1, new: address2, old: address3)
  }
  func getrlimit() throws(Errno) -> Int { try limit(argument0, new: .zero, old: address1) }
  func setrlimit() throws(Errno) -> Int { try limit(argument0, new: address1, old: .zero) }

  private func limit(_ resource: UInt64, new: VirtualAddress, old: VirtualAddress) throws(Errno) -> Int {
    guard resource < ResourceLimits.count.u64 else { throw .EINVAL }
    let wanted = new.isNull ? nil : try UserSpan.read(ResourceLimit.self, at: new)
    if let wanted, wanted.current > wanted.maximum { throw .EINVAL }
    if let wanted, resource.int == ResourceLimits.openFiles, wanted.maximum > ResourceLimits.mostOpenFiles {
      throw .EPERM
    }
    if wanted != nil, resource.int == ResourceLimits.cpuTime { try process.makeCPULimitTimers() }
    let used = resource.int == ResourceLimits.cpuTime ? process.cpuTime : 0
    process.lock.lock()
    var before = process.limits[resource.int]
    if resource.int == ResourceLimits.cpuTime { before.passSeconds(of: used) }
    if let wanted {
      guard wanted.maximum <= before.maximum || process.credentials.isPrivileged else {
        process.lock.unlock()
        throw .EPERM
      }
      process.limits[resource.int] = wanted
    }
    process.lock.unlock()
    if let wanted { process.applyLimit(resource.int, wanted.current) }
    if !old.isNull { try UserSpan.write(before, at: old) }
    return 0
  }

  // MARK: Names and modes

  func prctl() throws(Errno) -> Int {
    switch argument0.i32 {
    case 15:  // PR_SET_NAME: what does not fit is cut off.
      var name: [16 of UInt8] = .init(repeating: 0)
      for index in 0..<15 {
        let byte = try UserSpan.read(UInt8.self, at: address1 + index)
        if byte == 0 { break }
        name[index] = byte
      }
      process.lock.withLock { task.name = name }
    case 16: try UserSpan.write(task.name, at: address1)  // PR_GET_NAME
    case 3: return 1  // PR_GET_DUMPABLE
    case 1, 4, 8, 36, 38: return 0  // PDEATHSIG, DUMPABLE, KEEPCAPS, CHILD_SUBREAPER, NO_NEW_PRIVS
    case 29: task.timerSlack = argument1.i64 > 0 ? argument1 : Task.defaultTimerSlack  // PR_SET_TIMERSLACK
    case 30: return min(task.timerSlack, UInt64(Int32.max)).int  // PR_GET_TIMERSLACK
    case 23: return 1  // PR_CAPBSET_READ
    case 39: return 1  // PR_GET_NO_NEW_PRIVS
    default: throw .EINVAL
    }
    return 0
  }

  func arch_prctl() throws(Errno) -> Int {
    switch argument0.i32 {
    case 0x1002:  // ARCH_SET_FS
      guard argument1 < AddressMap.programEnd.rawValue else { throw .EPERM }
      ThreadPointer.current = argument1
    case 0x1003: try UserSpan.write(ThreadPointer.current, at: address1)  // ARCH_GET_FS
    case 0x1001: throw .EPERM  // ARCH_SET_GS: GS base is the kernel's, always.
    default: throw .EINVAL
    }
    return 0
  }

  func personality() -> Int { 0 }

  // MARK: Ends

  func exit() -> Never { task.end(status: Process.waitStatus(exit: argument0.i32)) }

  func exit_group() -> Never {
    process.end(status: Process.waitStatus(exit: argument0.i32))
    task.end(status: 0)
  }

  func set_tid_address() -> Int {
    task.clearChildAddress = address0
    return task.identifier.int
  }

  func set_robust_list() throws(Errno) -> Int {
    guard argument1 == RobustList.headByteCount else { throw .EINVAL }
    task.robustList = address0
    return 0
  }

  func get_robust_list() throws(Errno) -> Int {
    guard let other = try findTask(argument0.i32) else { throw .ESRCH }
    try UserSpan.write(other.robustList.rawValue, at: address1)
    try UserSpan.write(RobustList.headByteCount, at: address2)
    return 0
  }

  // MARK: Randomness

  func getrandom() throws(Errno) -> Int {
    guard argument2 & ~7 == 0, argument2 & 6 != 6 else { throw .EINVAL }
    var transfer = Transfer(program: address0, count: min(argument1, 0x1ff_ffff).int)
    var block: [32 of UInt64] = .init(repeating: 0)
    while transfer.remaining > 0 {
      for index in 0..<32 { block[index] = Random.next() }
      do throws(Errno) {
        try withUnsafeBytesThrowing(of: &block) { (bytes) throws(Errno) in _ = try transfer.copyOut(from: bytes) }
      } catch {
        guard transfer.copied > 0 else { throw error }
        break
      }
    }
    return transfer.copied
  }
}

extension UInt64 {
  /// As an Int; what does not fit becomes the largest.
  var clampedInt: Int { self > Int.max.u64 ? .max : int }
}
