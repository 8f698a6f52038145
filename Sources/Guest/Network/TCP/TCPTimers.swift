// TCPTimers: when connections and listeners want to be called, in one queue that the network's thread serves.
//
// Timers of TCP are put off much more often than they expire. So an entry that is in the queue stays where it is when its time is put off: it
// comes out early then, is looked at, and goes in again. What a flow wants (`wantedAt`) and where it lies in the queue (`armedAt`) are therefore
// two words: whoever wants an earlier time writes the first and looks at the second; the server takes an entry out, writes the second, and
// looks at the first. One of them sees the other.
//
// The lock is a leaf, taken under connections' locks.
import Base
import Locks
import Pages

/// A flow's place in the queue.
struct TCPTimerEntry: PairingNode, ~Copyable {
  var links = PairingLinks<TCPTimerEntry>()
  /// When it comes out, ns.
  var deadline: UInt64 = 0
  // SAFETY: the flow has this entry, and the queue a reference of the flow while the entry is in it.
  let flow: Unmanaged<TCPTimedFlow>
  var isQueued = false

  borrowing func precedes(_ other: borrowing TCPTimerEntry) -> Bool { deadline < other.deadline }
}

/// A flow that is called at times.
class TCPTimedFlow: Flow {
  // SAFETY: memory of the flow's own; what it holds is guarded by the queue's lock.
  fileprivate let entry: UnsafeMutablePointer<TCPTimerEntry>
  /// When it wants to be called; `.max`: never.
  fileprivate let wantedAt = Atomic<UInt64>(.max)
  /// When it comes out of the queue; `.max`: it is not in it.
  fileprivate let armedAt = Atomic<UInt64>(.max)

  override init?(ringCapacity: Int, isGroup: Bool = false) {
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<TCPTimerEntry>.stride, alignment: 16) else {
      return nil
    }
    entry = memory.bindMemory(to: TCPTimerEntry.self, capacity: 1)
    super.init(ringCapacity: ringCapacity, isGroup: isGroup)
    entry.initialize(to: TCPTimerEntry(flow: Unmanaged.passUnretained(self)))
  }

  deinit { KernelHeap.free(entry) }

  /// The time has come, or a time that it once wanted. In a thread that holds nothing.
  func timeHasCome(now: UInt64) {}
}

/// The queue.
final class TCPTimers {
  private unowned(unsafe) let stack: NetworkStack
  private let lock = Mutex()
  // Guarded by `lock`.
  private var heap = PairingHeap<TCPTimerEntry>()

  init(_ stack: NetworkStack) { self.stack = stack }

  /// Has a flow be called at a time, and at no other; `.max`: never.
  @inline(__always) func set(_ flow: TCPTimedFlow, at time: UInt64) {
    flow.wantedAt.store(time, ordering: .sequentiallyConsistent)
    if time < flow.armedAt.load(ordering: .sequentiallyConsistent) { arm(flow, at: time) }
  }

  @inline(never) private func arm(_ flow: TCPTimedFlow, at time: UInt64) {
    let entry = flow.entry
    let isFirst = lock.withLock { () -> Bool in
      guard time < flow.armedAt.load(ordering: .relaxed) else { return false }
      if entry.pointee.isQueued { heap.remove(entry) } else { _ = entry.pointee.flow.retain() }
      entry.pointee.isQueued = true
      entry.pointee.deadline = time
      heap.insert(entry)
      flow.armedAt.store(time, ordering: .sequentiallyConsistent)
      return heap.first == entry
    }
    if isFirst { stack.wake(by: time) }
  }

  /// Takes a flow out: it is over. The caller keeps the flow.
  func remove(_ flow: TCPTimedFlow) {
    flow.wantedAt.store(.max, ordering: .sequentiallyConsistent)
    let entry = flow.entry
    let wasQueued = lock.withLock { () -> Bool in
      guard entry.pointee.isQueued else { return false }
      heap.remove(entry)
      entry.pointee.isQueued = false
      flow.armedAt.store(.max, ordering: .sequentiallyConsistent)
      return true
    }
    if wasQueued { entry.pointee.flow.release() }
  }

  /// Calls those whose time has come. In a thread that holds nothing.
  /// - Returns: when there is something to do next; `.max`: never.
  func run(now: UInt64) -> UInt64 {
    while true {
      lock.lock()
      guard let first = heap.first, first.pointee.deadline <= now else {
        let next = heap.first?.pointee.deadline ?? .max
        lock.unlock()
        return next
      }
      _ = heap.removeFirst()
      first.pointee.isQueued = false
      // SAFETY: the queue's reference is ours now.
      let flow = first.pointee.flow.takeRetainedValue()
      flow.armedAt.store(.max, ordering: .sequentiallyConsistent)
      lock.unlock()
      let wanted = flow.wantedAt.load(ordering: .sequentiallyConsistent)
      if wanted <= now {
        flow.timeHasCome(now: now)
      } else if wanted != .max {
        arm(flow, at: wanted)
      }
    }
  }
}
