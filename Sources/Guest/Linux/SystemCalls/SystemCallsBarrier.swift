// membarrier(2): a memory barrier on every CPU that runs a thread of the process, so that the threads' own fast paths need none.
//
// All of them interrupt the other CPUs and wait until each has answered: an interrupt is a full barrier, and its return
// serialises the instruction stream (SYNC_CORE). A thread that does not run meanwhile has passed a barrier when it was switched away
// from. The one for restartable sequences has the threads that run elsewhere begin theirs anew, on all CPUs or on one.
import Base
import Platform
import Synchronization
import Threads

/// Commands of membarrier.
enum MemoryBarrier {
  static let query: UInt32 = 0
  static let global: UInt32 = 1 << 0
  static let globalExpedited: UInt32 = 1 << 1
  static let registerGlobalExpedited: UInt32 = 1 << 2
  static let privateExpedited: UInt32 = 1 << 3
  static let registerPrivateExpedited: UInt32 = 1 << 4
  static let privateExpeditedSyncCore: UInt32 = 1 << 5
  static let registerPrivateExpeditedSyncCore: UInt32 = 1 << 6
  static let privateExpeditedSequences: UInt32 = 1 << 7
  static let registerPrivateExpeditedSequences: UInt32 = 1 << 8
  static let getRegistrations: UInt32 = 1 << 9
  /// MEMBARRIER_CMD_FLAG_CPU.
  static let onOneCPU: UInt32 = 1

  /// What a query answers.
  static let supported: UInt32 =
    global | globalExpedited | registerGlobalExpedited | privateExpedited | registerPrivateExpedited
    | privateExpeditedSyncCore | registerPrivateExpeditedSyncCore | privateExpeditedSequences
    | registerPrivateExpeditedSequences | getRegistrations

  /// Interrupts the other CPUs and waits for them.
  static func run() {
    Preemption.disable()
    InterProcessor.synchroniseOthers()
    Preemption.enable()
  }
}

extension SystemCall {
  /// membarrier(command, flags, cpu).
  /// - Throws: EINVAL (no such command, or flags), EPERM (not registered).
  func membarrier() throws(Errno) -> Int {
    typealias Barrier = MemoryBarrier
    if argument0.u32 == Barrier.privateExpeditedSequences {
      guard argument1.u32 & ~Barrier.onOneCPU == 0 else { throw .EINVAL }
      try check(isRegisteredFor: Barrier.registerPrivateExpeditedSequences)
      restartSequences(on: argument1.u32 & Barrier.onOneCPU != 0 ? argument2.i32 : -1)
      return 0
    }
    guard argument1.u32 == 0 else { throw .EINVAL }
    switch argument0.u32 {
    case Barrier.query: return Barrier.supported.int
    case Barrier.getRegistrations: return process.barrierRegistrations.load(ordering: .relaxed).int
    case Barrier.global, Barrier.globalExpedited: Barrier.run()
    case Barrier.privateExpedited:
      try check(isRegisteredFor: Barrier.registerPrivateExpedited)
      Barrier.run()
    case Barrier.privateExpeditedSyncCore:
      try check(isRegisteredFor: Barrier.registerPrivateExpeditedSyncCore)
      Barrier.run()
    case let command
    where command & (command &- 1) == 0
      && command
        & (Barrier.registerGlobalExpedited | Barrier.registerPrivateExpedited
          | Barrier.registerPrivateExpeditedSyncCore | Barrier.registerPrivateExpeditedSequences) != 0:
      process.barrierRegistrations.bitwiseOr(command, ordering: .relaxed)
    default: throw .EINVAL
    }
    return 0
  }

  private func check(isRegisteredFor registration: UInt32) throws(Errno) {
    guard process.barrierRegistrations.load(ordering: .relaxed) & registration != 0 else { throw .EPERM }
  }

  /// On all CPUs if the number is negative; on one that is not there, nothing is to be done.
  private func restartSequences(on cpu: Int32) {
    #if !HOSTED
      if cpu < 0 { Thread.noticeOthers() } else if cpu < 64 { Thread.noticeOthers(on: 1 &<< cpu.i64.u64) }
    #endif
  }
}
