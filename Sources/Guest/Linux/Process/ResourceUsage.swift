// What a thread, a process and its children that have been waited for have used (getrusage(2), wait4(2), /proc/N/stat).
import Base
import Locks
import Memory
import Platform
import Threads

/// What somebody has used.
struct ResourceUsage {
  /// CPU time, ns; all of it counts as the program's.
  var cpuTime: UInt64 = 0
  /// How often the CPU was given up, and how often it was taken away.
  var voluntarySwitches: UInt64 = 0
  var involuntarySwitches: UInt64 = 0
  /// Page faults that were resolved, without a file's having to be read and with.
  var minorFaults: UInt64 = 0
  var majorFaults: UInt64 = 0

  mutating func add(_ other: ResourceUsage) {
    cpuTime &+= other.cpuTime
    voluntarySwitches &+= other.voluntarySwitches
    involuntarySwitches &+= other.involuntarySwitches
    minorFaults &+= other.minorFaults
    majorFaults &+= other.majorFaults
  }

  /// struct rusage.
  func words(residentByteCount: UInt64) -> [18 of UInt64] {
    var words: [18 of UInt64] = .init(repeating: 0)
    words[0] = cpuTime / 1_000_000_000
    words[1] = cpuTime % 1_000_000_000 / 1000
    words[4] = residentByteCount &>> 10
    words[8] = minorFaults
    words[9] = majorFaults
    words[16] = voluntarySwitches
    words[17] = involuntarySwitches
    return words
  }
}

extension Task {
  /// What the thread has used.
  var usage: ResourceUsage {
    ResourceUsage(
      cpuTime: cpuTime, voluntarySwitches: thread.voluntarySwitches, involuntarySwitches: thread.involuntarySwitches,
      minorFaults: minorFaults, majorFaults: majorFaults)
  }
}

extension Process {
  /// What all its threads have used, those that have ended too.
  var usage: ResourceUsage {
    lock.withLock {
      var sum = endedThreads
      for task in tasks { sum.add(task.usage) }
      return sum
    }
  }

  /// What an ended process and those that it had waited for have used. `lock` is held.
  var usageOfLine: ResourceUsage {
    var sum = endedThreads
    sum.add(endedChildren)
    return sum
  }
}

extension SystemCall {
  func getrusage() throws(Errno) -> Int {
    let usage: ResourceUsage
    switch argument0.i32 {
    case 0: usage = process.usage
    case 1: usage = task.usage
    case -1: usage = process.lock.withLock { process.endedChildren }
    default: throw .EINVAL
    }
    let resident = argument0.i32 == -1 ? 0 : process.addressSpace.residentByteCount
    try UserSpan.write(usage.words(residentByteCount: resident), at: address1)
    return 0
  }
}
