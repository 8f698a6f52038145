// Reclaim and memory that comes back only behind a grace period.
import Base
import Locks
import Synchronization
import Testing

@testable import Memory
@testable import Threads

@Suite struct ReclaimTests {
  /// What is deferred, on the heap, where calls must lie.
  private final class Given: @unchecked Sendable {
    var call = RCU.Call()
    let isMade = Atomic<Bool>(false)
    let isOver = Atomic<Bool>(false)
  }

  private func leave(_ given: Given) {
    // SAFETY: the object lives until the call has been made: the test holds it.
    let call = withUnsafeMutablePointer(to: &given.call) { $0 }
    RCU.later(
      call,
      { Unmanaged<Given>.fromOpaque($0!).takeUnretainedValue().isMade.store(true, ordering: .releasing) },
      Unmanaged.passUnretained(given).toOpaque())
  }

  @Test(arguments: [Reclaim.Caller.requestLocks, .noLocks])
  func whoWantsMemoryWaitsForWhatIsDeferred(_ caller: Reclaim.Caller) throws {
    try WorkQueue.begin()
    for _ in 0..<200 {
      let given = Given()
      leave(given)
      Reclaim.waitForDeferred(caller, wanting: Int.max / 2, since: 0)
      let isMade = given.isMade.load(ordering: .acquiring)
      #expect(isMade)
    }
  }

  /// What is deferred may want a lock that the caller has.
  @Test func whoHoldsAnyLocksDoesNot() throws {
    try WorkQueue.begin()
    let given = Given()
    RCU.read {
      leave(given)
      Reclaim.waitForDeferred(.anyLocks, wanting: Int.max / 2, since: 0)
      let isMade = given.isMade.load(ordering: .acquiring)
      #expect(!isMade)
    }
    RCU.barrier()
  }

  @Test func whoHasGotItDoesNot() throws {
    try WorkQueue.begin()
    // Enough has come back since there was nothing: this returns whether or not there are calls.
    Reclaim.waitForDeferred(.noLocks, wanting: 0, since: 0)
  }

  /// The work thread makes the calls itself: waiting for them there would be for ever.
  @Test func theWorkThreadDoesNotWait() throws {
    try WorkQueue.begin()
    let given = Given()
    let item = UnsafeMutablePointer<WorkItem>.allocate(capacity: 1)
    item.initialize(
      to: WorkItem(
        {
          Reclaim.waitForDeferred(.noLocks, wanting: Int.max / 2, since: 0)
          Unmanaged<Given>.fromOpaque($0!).takeUnretainedValue().isOver.store(true, ordering: .releasing)
        }, context: Unmanaged.passUnretained(given).toOpaque()))
    leave(given)
    WorkQueue.submit(item)
    RCU.barrier()
    while !given.isOver.load(ordering: .acquiring) { Thread.yield() }
    let isMade = given.isMade.load(ordering: .acquiring)
    #expect(isMade)
  }
}
