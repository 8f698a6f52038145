// membarrier(2): a memory barrier on every CPU that runs a thread of the process, so that the threads' own fast paths need none.
//
// All of them interrupt the other CPUs and wait until each has answered: an interrupt is a full barrier, and its return
// serialises the instruction stream (SYNC_CORE). A thread that does not run meanwhile has passed a barrier when it was switched away
// from. The commands that restart others' restartable sequences are not there: refused as by a Linux built without them.
import Base
import Platform
import Synchronization

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
  static let getRegistrations: UInt32 = 1 << 9

  /// What a query answers.
  static let supported: UInt32 =
    global | globalExpedited | registerGlobalExpedited | privateExpedited | registerPrivateExpedited
    | privateExpeditedSyncCore | registerPrivateExpeditedSyncCore | getRegistrations

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
    guard argument1.u32 == 0 else { throw .EINVAL }
    switch argument0.u32 {
    case Barrier.query: return Barrier.supported.int
    case Barrier.getRegistrations: return process.barrierRegistrations.load(ordering: .relaxed).int
    case Barrier.global, Barrier.globalExpedited: Barrier.run()
    case Barrier.privateExpedited: try run(ifRegisteredFor: Barrier.registerPrivateExpedited)
    case Barrier.privateExpeditedSyncCore: try run(ifRegisteredFor: Barrier.registerPrivateExpeditedSyncCore)
    case let command
    where command & (command &- 1) == 0
      && command
        & (Barrier.registerGlobalExpedited | Barrier.registerPrivateExpedited
          | Barrier.registerPrivateExpeditedSyncCore) != 0:
      process.barrierRegistrations.bitwiseOr(command, ordering: .relaxed)
    default: throw .EINVAL
    }
    return 0
  }

  private func run(ifRegisteredFor registration: UInt32) throws(Errno) {
    guard process.barrierRegistrations.load(ordering: .relaxed) & registration != 0 else { throw .EPERM }
    MemoryBarrier.run()
  }
}
