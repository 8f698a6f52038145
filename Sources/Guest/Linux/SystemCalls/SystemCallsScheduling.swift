// System calls about how threads share the CPUs: policies, priorities, nice levels, affinity.
import Base
import Files
import Locks
import Memory
import Platform
import Threads

/// struct sched_attr, as far as it was from the beginning.
private struct SchedulingAttributes {
  static let byteCount: UInt32 = 48
  var size: UInt32 = SchedulingAttributes.byteCount
  var policy: UInt32 = 0
  var flags: UInt64 = 0
  var nice: Int32 = 0
  var priority: UInt32 = 0
  var runtime: UInt64 = 0
  var deadline: UInt64 = 0
  var period: UInt64 = 0
}

extension SystemCall {
  /// SCHED_RESET_ON_FORK, in the argument of sched_setscheduler; accepted, since there are no children.
  private static var resetOnFork: UInt32 { 0x4000_0000 }

  func sched_yield() -> Int {
    Thread.yield()
    return 0
  }

  /// A thread of this process by its number; 0 is the caller.
  func findTask(_ identifier: Int32) throws(Errno) -> Task? {
    guard identifier >= 0 else { throw .EINVAL }
    return identifier == 0 || identifier == task.identifier ? task : process.task(identifier)
  }

  private func existingTask(_ identifier: Int32) throws(Errno) -> Task {
    guard let found = try findTask(identifier) else { throw .ESRCH }
    return found
  }

  // MARK: Policy

  func sched_getscheduler() throws(Errno) -> Int { try existingTask(argument0.i32).thread.policy.kind.rawValue.int }

  func sched_getparam() throws(Errno) -> Int {
    let policy = try existingTask(argument0.i32).thread.policy
    try UserSpan.write(policy.priority.int.i32, at: address1)
    return 0
  }

  func sched_setscheduler() throws(Errno) -> Int {
    let kind = argument1.u32 & ~Self.resetOnFork
    let priority = try UserSpan.read(Int32.self, at: address2)
    let other = try existingTask(argument0.i32)
    try set(other, kind: kind, priority: priority.int, nice: other.thread.policy.nice.int)
    return 0
  }

  func sched_setparam() throws(Errno) -> Int {
    let priority = try UserSpan.read(Int32.self, at: address1)
    let other = try existingTask(argument0.i32)
    let policy = other.thread.policy
    try set(other, kind: policy.kind.rawValue.u32, priority: priority.int, nice: policy.nice.int)
    return 0
  }

  func sched_getattr() throws(Errno) -> Int {
    guard argument2 >= SchedulingAttributes.byteCount.u64, argument3 == 0 else { throw .EINVAL }
    let policy = try existingTask(argument0.i32).thread.policy
    var attributes = SchedulingAttributes()
    attributes.policy = policy.kind.rawValue.u32
    attributes.nice = policy.nice.int.i32
    attributes.priority = policy.priority.u32
    try UserSpan.write(attributes, at: address1)
    return 0
  }

  func sched_setattr() throws(Errno) -> Int {
    guard argument2 == 0 else { throw .EINVAL }
    let wanted = try UserSpan.read(SchedulingAttributes.self, at: address1)
    guard wanted.size == 0 || wanted.size >= SchedulingAttributes.byteCount else { throw .E2BIG }
    guard wanted.flags & ~1 == 0 else { throw .EINVAL }
    let nice = max(-20, min(19, wanted.nice.int))
    try set(try existingTask(argument0.i32), kind: wanted.policy, priority: wanted.priority.int, nice: nice)
    return 0
  }

  private func set(_ other: Task, kind number: UInt32, priority: Int, nice: Int) throws(Errno) {
    guard let kind = SchedulingPolicy.Kind(rawValue: number.u8), number < 8 else { throw .EINVAL }
    let isRealTime = kind == .fifo || kind == .roundRobin
    guard isRealTime ? priority >= 1 && priority <= 99 : priority == 0 else { throw .EINVAL }
    let before = other.thread.policy
    if isRealTime, before.kind != kind || priority > before.priority.int {
      let limit = process.lock.withLock { process.limits[ResourceLimits.realTimePriority].current }
      guard process.credentials.isPrivileged || priority.u64 <= limit else { throw .EPERM }
    }
    if nice < before.nice.int { try checkNice(nice, error: .EPERM) }
    other.thread.policy = SchedulingPolicy(kind: kind, priority: priority.u8, nice: nice.i8)
    PriorityInheritance.refresh(other.thread)
  }

  func sched_get_priority_max() throws(Errno) -> Int {
    switch argument0.i32 {
    case 0, 3, 5, 6: 0
    case 1, 2: 99
    default: throw .EINVAL
    }
  }
  func sched_get_priority_min() throws(Errno) -> Int { try sched_get_priority_max() == 0 ? 0 : 1 }

  func sched_rr_get_interval() throws(Errno) -> Int {
    let kind = try existingTask(argument0.i32).thread.policy.kind
    let slice: UInt64 = kind == .fifo ? 0 : kind == .roundRobin ? 100_000_000 : Thread.slice
    try UserSpan.write(TimeSpecification(slice), at: address1)
    return 0
  }

  // MARK: Nice levels

  /// PRIO_PROCESS names a thread, as on Linux; groups and users have no others than this process.
  private func tasksNamed() throws(Errno) -> [Task] {
    let identifier = argument1.i32
    switch argument0.i32 {
    case 0:
      guard identifier >= 0, let found = try findTask(identifier) else { throw .ESRCH }
      return [found]
    case 1:
      guard identifier == 0 || identifier == process.group else { throw .ESRCH }
      return process.lock.withLock { process.tasks }
    case 2:
      guard identifier == 0 || identifier.u32 == process.credentials.userID else { throw .ESRCH }
      return process.lock.withLock { process.tasks }
    default: throw .EINVAL
    }
  }

  /// The result is 20 less the nice level: never negative.
  func getpriority() throws(Errno) -> Int {
    var least = 19
    for task in try tasksNamed() { least = min(least, task.thread.policy.nice.int) }
    return 20 &- least
  }

  func setpriority() throws(Errno) -> Int {
    let nice = max(-20, min(19, argument2.i32.int))
    for task in try tasksNamed() {
      var policy = task.thread.policy
      if nice < policy.nice.int { try checkNice(nice, error: .EACCES) }
      policy.nice = nice.i8
      task.thread.policy = policy
    }
    return 0
  }

  private func checkNice(_ nice: Int, error: Errno) throws(Errno) {
    let limit = process.lock.withLock { process.limits[ResourceLimits.nice].current }
    guard process.credentials.isPrivileged || (20 &- nice).u64 <= limit else { throw error }
  }

  // MARK: CPUs

  private static var allCPUs: UInt64 { CPU.count >= 64 ? .max : (1 &<< CPU.count.u64) &- 1 }

  func sched_getaffinity() throws(Errno) -> Int {
    // Linux's answer is as long as its own mask, here one word.
    guard argument1 >= 8, argument1 & 7 == 0 else { throw .EINVAL }
    let other = try existingTask(argument0.i32)
    try UserSpan.write(other.thread.affinity & Self.allCPUs, at: address2)
    return 8
  }

  func sched_setaffinity() throws(Errno) -> Int {
    // The size is an unsigned int; what lies behind our one word does not count.
    var mask: UInt64 = 0
    for index in 0..<min(8, argument1.u32).int {
      mask |= try UserSpan.read(UInt8.self, at: address2 + index).u64 &<< (index &* 8).u64
    }
    mask &= Self.allCPUs
    guard mask != 0 else { throw .EINVAL }
    let other = try existingTask(argument0.i32)
    other.thread.affinity = mask
    // A CPU that the monitor is still adding cannot be had yet; it will be there in a moment.
    while other.thread.affinity != mask {
      _ = Thread.sleep(until: .after(50_000))
      other.thread.affinity = mask
    }
    return 0
  }

  func getcpu() throws(Errno) -> Int {
    if !address0.isNull { try UserSpan.write(CPU.current.u32, at: address0) }
    if !address1.isNull { try UserSpan.write(UInt32(0), at: address1) }
    return 0
  }
}
