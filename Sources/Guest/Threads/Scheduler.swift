import Base
import Locks
import Pages
import Platform

/// The scheduler.
public enum Scheduler {
  /// Called with interrupts off when a thread gets the CPU whose `ThreadSlot.addressSpace` is not nil and not what
  /// `CPUSlot.addressSpace` holds: makes that address space the CPU's and sets the CPU slot. Set by Memory, once.
  nonisolated(unsafe) public static var switchAddressSpace: (@convention(c) (UnsafeMutableRawPointer) -> Void)? = nil

  #if GUEST
    /// Makes the boot CPU schedule: `entry(argument)` runs on the first thread, the boot stack becomes CPU 0's idle thread.
    /// After `Platform.start` and when frames and heap are up; interrupts are enabled by this.
    public static func begin(
      name: StaticString, entry: @escaping Thread.Entry, argument: UnsafeMutableRawPointer? = nil
    )
      -> Never
    { fatalError("not yet") }

    /// Starts the other CPUs. From a thread, once.
    /// - Throws: ENOMEM.
    public static func startOtherCPUs() throws(Errno) { fatalError("not yet") }
  #endif

  static var current: UnsafeMutablePointer<ThreadControl> { fatalError("not yet") }
  static func interrupt(_ control: UnsafeMutablePointer<ThreadControl>) { fatalError("not yet") }
  static func clearInterrupt(_ control: UnsafeMutablePointer<ThreadControl>) { fatalError("not yet") }
  static func isInterrupted(_ control: UnsafeMutablePointer<ThreadControl>) -> Bool { fatalError("not yet") }
  static func yield() { fatalError("not yet") }
  static func join(_ control: UnsafeMutablePointer<ThreadControl>) { fatalError("not yet") }
  static func detach(_ control: UnsafeMutablePointer<ThreadControl>) { fatalError("not yet") }
  static func setAffinity(_ control: UnsafeMutablePointer<ThreadControl>, _ mask: UInt64) { fatalError("not yet") }
  static func runTime(_ control: UnsafeMutablePointer<ThreadControl>) -> UInt64 { fatalError("not yet") }
  static func threadPointer(_ control: UnsafeMutablePointer<ThreadControl>) -> UInt64 { fatalError("not yet") }
  static func setThreadPointer(_ control: UnsafeMutablePointer<ThreadControl>, _ value: UInt64) {
    fatalError("not yet")
  }
  static func becomeProgram(_ control: UnsafeMutablePointer<ThreadControl>) throws(Errno) { fatalError("not yet") }
  static func saveExtendedState() { fatalError("not yet") }
  static func reloadExtendedState() { fatalError("not yet") }
  static func create(
    name: StaticString, affinity: UInt64, entry: @escaping Thread.Entry, argument: UnsafeMutableRawPointer?
  ) throws(Errno) -> UnsafeMutablePointer<ThreadControl> { fatalError("not yet") }
  static func createProgram(name: StaticString, affinity: UInt64) throws(Errno) -> UnsafeMutablePointer<ThreadControl> {
    fatalError("not yet")
  }
  static func start(_ control: UnsafeMutablePointer<ThreadControl>) { fatalError("not yet") }
  static func exit() -> Never { fatalError("not yet") }
}
