// The beginning and the end of a task.
// SAFETY of all: a thread's task slot holds one reference, counted in `attach` and given up in `end` when the slot is empty;
// only the thread itself takes a task from its slot. A process outlives its tasks: until the last one has told the parent it
// is among the parent's children, and from `passRetained` on it is kept here.
import Base
import Locks
import Memory
import Platform
import Threads

extension Task {
  /// Makes a thread that has not started (or the running one) this task's.
  func attach(to thread: Thread) {
    thread[.task] = Unmanaged.passRetained(self).toOpaque()
    process.addressSpace.attach(to: thread)
  }

  /// Ends the running thread. The last one of its process takes the process with it.
  /// - Parameter status: the wait status of the process if this was its last thread and nobody has decided otherwise.
  func end(status: UInt32) -> Never {
    let thread = Thread.current
    RobustList.release(head: robustList, owner: identifier, in: process.addressSpace)
    process.lock.withLock { hasLeftLocks = true }
    FutexTable.abandon(identifier: identifier.u32, thread: thread)
    if clearChildAddress.rawValue != 0 {
      // Whoever joins this thread waits for that; if the address is bad, nobody does.
      try? UserSpan.write(UInt32(0), at: clearChildAddress)
      if let key = try? FutexKey(clearChildAddress, in: process.addressSpace) { _ = FutexTable.wake(key, count: 1) }
    }
    let (isLast, wasLastUser) = process.remove(self)
    if isLast {
      // Whoever hears of the end may forget the process at once.
      let process = Unmanaged.passRetained(process)
      process._withUnsafeGuaranteedRef {
        $0.end(status: status)
        $0.tellParent(closesDescriptors: wasLastUser)
      }
      process.release()
    }
    thread[.task] = nil
    Unmanaged.passUnretained(self).release()
    Thread.exit()
  }

  /// CPU time, ns.
  var cpuTime: UInt64 { thread.runTime }
}

extension Process {
  /// CPU time of all its threads, ns.
  var cpuTime: UInt64 {
    lock.withLock {
      var sum = endedThreads.cpuTime
      for task in tasks { sum &+= task.cpuTime }
      return sum
    }
  }
}
