// futex_waitv(2): waiting for any of several futexes.
//
// One waiter for each, all of the same thread. Whoever wakes one leaves the others where they are: the thread takes them out
// itself, and what was woken besides the one it reports is lost, as on Linux.
import Base
import Locks
import Memory
import Pages
import Platform

extension FutexTable {
  /// The most that can be waited for at once.
  static var waitLimit: Int { 128 }

  /// Sleeps while all words are as expected, until one is woken.
  /// - Returns: the index of that one.
  /// - Throws: EAGAIN (a word differs), ETIMEDOUT, EINTR, EFAULT, ENOMEM.
  static func waitAny(
    count: Int, until deadline: Deadline, _ entry: (Int) throws(Errno) -> (key: FutexKey, expected: UInt32)
  ) throws(Errno) -> Int {
    let stride = MemoryLayout<FutexWaiter>.stride
    guard let memory = KernelHeap.allocate(byteCount: count &* stride, alignment: 64) else { throw .ENOMEM }
    defer { KernelHeap.free(memory) }
    // SAFETY: memory for that many; each waiter is taken out of every queue before it is freed.
    let waiters = memory.bindMemory(to: FutexWaiter.self, capacity: count)
    var queued = 0
    var failure: Errno?
    do throws(Errno) {
      while queued < count {
        let (key, expected) = try entry(queued)
        (waiters + queued).initialize(to: FutexWaiter(key: key, bitset: anyBit, parker: Parking.current))
        try enqueue(waiters + queued, expected: expected)
        queued &+= 1
      }
      while firstWoken(waiters, queued) == nil {
        switch Parking.park(until: deadline, interruptible: true) {
        case .woken: continue
        case .timedOut: throw .ETIMEDOUT
        case .interrupted: throw .EINTR
        }
      }
    } catch { failure = error }
    var woken: Int?
    for index in 0..<queued where !leave(waiters + index) && woken == nil { woken = index }
    if let woken { return woken }
    throw failure ?? .EAGAIN
  }

  private static func firstWoken(_ waiters: UnsafeMutablePointer<FutexWaiter>, _ count: Int) -> Int? {
    for index in 0..<count where waiters[index].isWoken.load(ordering: .acquiring) != 0 { return index }
    return nil
  }
}
