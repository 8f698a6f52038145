// System calls about users and groups. A process is root of its own machine and may become anybody.
import Base
import Files
import Locks
import Memory
import Threads

extension SystemCall {
  /// Changes the process' credentials.
  private func change(_ body: (inout Credentials) -> Void) {
    let old = process.lock.withLock {
      var credentials = process.credentials
      body(&credentials)
      return process.identity.replace(with: credentials)
    }
    RCU.release(old)
  }

  func getuid() -> Int { withCredentials { $0.userID.int } }
  func geteuid() -> Int { withCredentials { $0.effectiveUserID.int } }
  func getgid() -> Int { withCredentials { $0.groupID.int } }
  func getegid() -> Int { withCredentials { $0.effectiveGroupID.int } }

  func setuid() -> Int {
    let user = argument0.u32
    change {
      $0.userID = user
      $0.effectiveUserID = user
      $0.savedUserID = user
    }
    noteUser()
    return 0
  }

  /// Another user: root may lock what memory it likes, others may not.
  private func noteUser() {
    let limit = process.lock.withLock { process.limits[ResourceLimits.lockedMemory].current }
    process.applyLimit(ResourceLimits.lockedMemory, limit)
  }

  func setgid() -> Int {
    let group = argument0.u32
    change {
      $0.groupID = group
      $0.effectiveGroupID = group
      $0.savedGroupID = group
    }
    return 0
  }

  /// setreuid, setresuid: -1 leaves a number as it is.
  func setresuid() -> Int {
    let real = argument0.u32
    let effective = argument1.u32
    let saved = argument2.u32
    change {
      if real != .max { $0.userID = real }
      if effective != .max { $0.effectiveUserID = effective }
      if saved != .max { $0.savedUserID = saved }
    }
    noteUser()
    return 0
  }

  func setresgid() -> Int {
    let real = argument0.u32
    let effective = argument1.u32
    let saved = argument2.u32
    change {
      if real != .max { $0.groupID = real }
      if effective != .max { $0.effectiveGroupID = effective }
      if saved != .max { $0.savedGroupID = saved }
    }
    return 0
  }

  func getresuid() throws(Errno) -> Int {
    let all = credentials
    try UserSpan.write(all.userID, at: address0)
    try UserSpan.write(all.effectiveUserID, at: address1)
    try UserSpan.write(all.savedUserID, at: address2)
    return 0
  }

  func getresgid() throws(Errno) -> Int {
    let all = credentials
    try UserSpan.write(all.groupID, at: address0)
    try UserSpan.write(all.effectiveGroupID, at: address1)
    try UserSpan.write(all.savedGroupID, at: address2)
    return 0
  }

  func getgroups() throws(Errno) -> Int {
    guard argument0.i32 >= 0 else { throw .EINVAL }
    return 0
  }

  func setgroups() throws(Errno) -> Int { 0 }

  func umask() -> Int {
    let old = process.context.umask
    process.context.umask = argument0.u32 & 0o777
    return old.int
  }
}
