// Which address space a thread runs in: the scheduler keeps the tables' address for each thread, and switches to them
// when the thread gets a CPU.
import Base
import Platform
import Threads

extension AddressSpace {
  /// Makes a thread (the running one, or one that has not started) run in this address space, which must outlive it.
  public func attach(to thread: Thread) {
    thread[.addressSpace] = UnsafeMutableRawPointer(tables)
    guard thread == Thread.current else { return }
    let wereEnabled = Interrupts.disable()
    activate()
    Interrupts.restore(wereEnabled)
  }

  /// Tells the scheduler how to switch address spaces. Boot only.
  public static func installSwitch() {
    // SAFETY: the slot holds nothing else. The tables are there: the address space outlives its threads, and a CPU's are
    // used once more by it.
    Scheduler.switchAddressSpace = { $0.assumingMemoryBound(to: AddressSpaceTables.self).activate() }
  }
}
