// Futexes with an owner (FUTEX_LOCK_PI and its kin): the word holds the number of the thread that has the lock, bit 31 if
// others wait, bit 30 if an owner died. Unlocking hands the lock over to a waiter, the one of the highest real-time priority
// that has waited longest: nobody can take it in between. As long as others wait, the owner runs with the highest of their priorities
// (PriorityInheritance), and so does the one it waits for itself.
//
// Rules: all changes by the kernel are made under the bucket's lock, by compare and exchange, since programs take and give
// back free locks without asking. A waiter that is woken has the lock. The waits of a lock's waiters are behind its owner: all are
// moved, under the bucket's lock, before the next owner is woken. The running thread gives up a priority that it had inherited
// before it wakes anybody, and looks whether it may still have the CPU when it holds no lock.
//
// SAFETY of all: buckets are never moved or freed. A waiter and its wait lie in the frame of the thread that waits, which
// returns only when `sleep` has found the waiter out of its queue, by its bucket's lock, and `end` has taken the wait out of
// the heap; whoever wakes one is done with both before (`handOver`).
import Base
import Locks
import Memory
import Platform
import Threads

extension FutexTable {
  static var ownerMask: UInt32 { 0x3fff_ffff }
  static var ownerDied: UInt32 { 0x4000_0000 }
  static var waitersFlag: UInt32 { 0x8000_0000 }

  /// Takes the lock for the running thread, `identifier`; sleeps while another has it, unless it only `tries`.
  /// - Parameter thread: the thread with that number, nil if there is none.
  /// - Throws: EDEADLK (it has it already, or the owner waits for it), EAGAIN (tries, in vain), ESRCH (the owner does not exist),
  ///   ETIMEDOUT, EINTR, EFAULT.
  static func lockOwned(
    _ key: FutexKey, identifier: UInt32, tries: Bool = false, until deadline: Deadline, thread: (UInt32) -> Thread?
  ) throws(Errno) {
    try withOwnedWaiter(key, identifier: identifier) { (waiter, wait) throws(Errno) in
      let bucket = buckets + key.bucket
      while true {
        bucket.pointee.lock.lock()
        let found = loadWithoutFault(key.address)
        let owner = (found ?? 0) & ownerMask
        var refusal: Errno?
        if owner == identifier {
          refusal = .EDEADLK
        } else if owner != 0 {
          if let other = thread(owner) {
            if tries {
              refusal = .EAGAIN
            } else if !PriorityInheritance.begin(wait, behind: other) {
              refusal = .EDEADLK
            }
          } else {
            refusal = .ESRCH
          }
        }
        var isDone = false
        if let found, refusal == nil {
          let hasOthers = owner == 0 && bestWaiter(bucket, key) != nil
          let desired =
            owner == 0 ? found & ownerDied | identifier | (hasOthers ? waitersFlag : 0) : found | waitersFlag
          isDone = changeWithoutFault(key.address) { $0 == found ? desired : nil } == found
          if isDone && owner != 0 {
            waiter.pointee.owner = owner
            bucket.pointee.append(waiter)
          } else if isDone && hasOthers {
            setOwner(of: key, in: bucket, identifier, Thread.current)
          }
        }
        bucket.pointee.lock.unlock()
        if let refusal { throw refusal }
        if isDone { return owner == 0 ? () : try sleep(waiter, until: deadline) }
        PriorityInheritance.end(wait)
        try touch(key.address)
      }
    }
  }

  /// Hands the lock over, or frees it. `died`: because its owner, `identifier`, ends.
  /// - Throws: EPERM if it has not got it, EFAULT.
  static func unlockOwned(_ key: FutexKey, identifier: UInt32, died: Bool = false) throws(Errno) {
    let bucket = buckets + key.bucket
    while true {
      bucket.pointee.lock.lock()
      let heir = bestWaiter(bucket, key)
      let hasOthers = heir.map { bestWaiter(bucket, key, but: $0) != nil } ?? false
      let found = changeWithoutFault(key.address) { word in
        guard word & ownerMask == identifier else { return nil }
        guard let heir else { return died ? ownerDied : 0 }
        return heir.pointee.identifier | (hasOthers ? waitersFlag : 0) | (died ? ownerDied : 0)
      }
      let isMine = found.map { $0 & ownerMask == identifier } ?? false
      if isMine, let heir { handOver(key, to: heir, in: bucket, hasOthers: hasOthers) }
      bucket.pointee.lock.unlock()
      Preemption.check()
      if isMine { return }
      if found != nil { throw .EPERM }
      try touch(key.address)
    }
  }

  /// The word says that the waiter has the lock: it is woken, and the others wait behind it. The bucket is locked.
  private static func handOver(
    _ key: FutexKey, to heir: UnsafeMutablePointer<FutexWaiter>, in bucket: UnsafeMutablePointer<FutexBucket>,
    hasOthers: Bool
  ) {
    guard let wait = heir.pointee.wait else { return }
    PriorityInheritance.end(wait)
    bucket.pointee.remove(heir)
    if hasOthers { setOwner(of: key, in: bucket, heir.pointee.identifier, wait.pointee.thread) }
    wake(heir)
  }

  /// The waiter for the lock who is to have it next.
  private static func bestWaiter(
    _ bucket: UnsafeMutablePointer<FutexBucket>, _ key: FutexKey, but other: UnsafeMutablePointer<FutexWaiter>? = nil
  ) -> UnsafeMutablePointer<FutexWaiter>? {
    var best: UnsafeMutablePointer<FutexWaiter>?
    var candidate = bucket.pointee.first
    while let waiter = candidate {
      candidate = waiter.pointee.next
      guard waiter != other, waiter.pointee.key == key, let wait = waiter.pointee.wait, waiter.pointee.target == nil
      else { continue }
      if let best = best?.pointee.wait, !PriorityInheritance.precedes(wait, best) { continue }
      best = waiter
    }
    return best
  }

  /// Runs the body with a record of the running thread, counted among those who wait for owners. A thread that ends takes itself out
  /// of its process first and looks at the count after that: either it is not found as an owner any more, or it looks for its waiters.
  private static func withOwnedWaiter(
    _ key: FutexKey, identifier: UInt32, target: FutexKey? = nil,
    _ body: (UnsafeMutablePointer<FutexWaiter>, UnsafeMutablePointer<PriorityWait>) throws(Errno) -> Void
  ) throws(Errno) {
    waitersForOwners.wrappingAdd(1, ordering: .sequentiallyConsistent)
    defer { waitersForOwners.wrappingSubtract(1, ordering: .relaxed) }
    var wait = PriorityWait(of: Thread.current)
    try withUnsafeMutablePointer(to: &wait) { (wait) throws(Errno) in
      // Whatever becomes of it: nobody waits behind anybody with a record that is gone.
      defer { PriorityInheritance.end(wait) }
      var waiter = FutexWaiter(key: key, parker: Parking.current, identifier: identifier, wait: wait, target: target)
      try withUnsafeMutablePointer(to: &waiter) { (waiter) throws(Errno) in try body(waiter, wait) }
    }
  }

  private static func setOwner(
    of key: FutexKey, in bucket: UnsafeMutablePointer<FutexBucket>, _ owner: UInt32, _ thread: Thread
  ) {
    var candidate = bucket.pointee.first
    while let waiter = candidate {
      candidate = waiter.pointee.next
      guard waiter.pointee.key == key, waiter.pointee.target == nil, let wait = waiter.pointee.wait else { continue }
      waiter.pointee.owner = owner
      PriorityInheritance.move(wait, behind: thread)
    }
  }

  /// How many threads wait for locks with owners, or are about to.
  static var waitersForOwnersCount: Int { waitersForOwners.load(ordering: .relaxed) }

  // MARK: Owners that end

  /// A thread ends: what it had, whether or not the words still say so, goes to those who wait for it. It is no owner to be found any more.
  static func abandon(identifier: UInt32, thread: Thread) {
    guard waitersForOwners.load(ordering: .sequentiallyConsistent) != 0 else { return }
    for index in 0..<bucketCount { while handOn(buckets + index, identifier) {} }
    PriorityInheritance.abandon(thread)
  }

  /// Hands on one lock of the bucket; false if there is none.
  private static func handOn(_ bucket: UnsafeMutablePointer<FutexBucket>, _ identifier: UInt32) -> Bool {
    bucket.pointee.lock.lock()
    var candidate = bucket.pointee.first
    while let waiter = candidate, waiter.pointee.owner != identifier { candidate = waiter.pointee.next }
    guard let key = candidate?.pointee.key, let heir = bestWaiter(bucket, key) else {
      bucket.pointee.lock.unlock()
      return false
    }
    let hasOthers = bestWaiter(bucket, key, but: heir) != nil
    let next = heir.pointee.identifier
    let found = changeWithoutFault(key.address) { $0 & ownerDied | next | (hasOthers ? waitersFlag : 0) }
    if found != nil { handOver(key, to: heir, in: bucket, hasOthers: hasOthers) }
    bucket.pointee.lock.unlock()
    if found != nil { return true }
    // The word is gone: nobody can have the lock any more. Its waiters give up when they are interrupted.
    do throws(Errno) { try touch(key.address) } catch { return false }
    return true
  }

  // MARK: Condition variables over such locks

  /// FUTEX_WAIT_REQUEUE_PI: waits at `key` to be given, or moved to wait for, the lock `target`. When it returns the caller
  /// has the lock.
  static func waitForLock(
    _ key: FutexKey, expected: UInt32, target: FutexKey, identifier: UInt32, until deadline: Deadline
  ) throws(Errno) {
    guard key != target else { throw .EINVAL }
    try withOwnedWaiter(key, identifier: identifier, target: target) { (waiter, _) throws(Errno) in
      try enqueue(waiter, expected: expected)
      try sleep(waiter, until: deadline)
    }
  }

  /// FUTEX_CMP_REQUEUE_PI: gives the lock to the first waiter if it is free, and moves up to `moveCount` others to wait for it.
  /// - Parameter thread: the thread with that number, nil if there is none.
  /// - Returns: how many have it or wait for it now.
  static func requeueToLock(
    from source: FutexKey, to target: FutexKey, moveCount: Int, expected: UInt32, thread: (UInt32) -> Thread?
  ) throws(Errno) -> Int {
    guard source != target else { throw .EINVAL }
    while true {
      lock(source, target)
      var moved = Requeued()
      let found = loadWithoutFault(source.address)
      if found == expected { moved = requeueLocked(from: source, to: target, count: moveCount &+ 1, thread) }
      unlock(source, target)
      Preemption.check()
      if let refusal = moved.refusal { throw refusal }
      if moved.faulted && moved.count == 0 {
        try touch(target.address)
        continue
      }
      if found == expected { return moved.count }
      if found != nil { throw .EAGAIN }
      _ = try UserSpan.read(UInt32.self, at: source.address)
    }
  }

  /// What became of waiters of a condition: how many have the lock or wait for it, and what ended that.
  private struct Requeued {
    var count = 0
    var faulted = false
    /// EINVAL: a waiter of another kind. ESRCH: the lock's owner is no thread. EDEADLK: it waits for what the waiter has.
    var refusal: Errno?
  }

  private static func requeueLocked(
    from source: FutexKey, to target: FutexKey, count: Int, _ thread: (UInt32) -> Thread?
  ) -> Requeued {
    var result = Requeued()
    var candidate = buckets[source.bucket].first
    while let waiter = candidate, result.count < count {
      candidate = waiter.pointee.next
      guard waiter.pointee.key == source else { continue }
      guard waiter.pointee.target == target, let wait = waiter.pointee.wait else {
        result.refusal = .EINVAL
        return result
      }
      let identifier = waiter.pointee.identifier
      let isFirst = result.count == 0
      let found = changeWithoutFault(target.address) { word in
        isFirst && word & ownerMask == 0 ? word & ownerDied | identifier | waitersFlag : word | waitersFlag
      }
      guard let found else {
        result.faulted = true
        return result
      }
      let owner = found & ownerMask
      if isFirst && owner == 0 {
        waiter.pointee.target = nil
        waiter.pointee.owner = owner
        buckets[source.bucket].remove(waiter)
        // Who waits already waits behind it now.
        setOwner(of: target, in: buckets + target.bucket, identifier, wait.pointee.thread)
        wake(waiter)
      } else {
        let holder = thread(owner)
        guard let holder, PriorityInheritance.begin(wait, behind: holder) else {
          result.refusal = holder == nil ? .ESRCH : .EDEADLK
          return result
        }
        waiter.pointee.target = nil
        waiter.pointee.owner = owner
        move(waiter, to: target)
      }
      result.count &+= 1
    }
    return result
  }
}

/// Threads that sleep for a lock with an owner: as long as there is none, a thread that ends need not look.
private let waitersForOwners = Atomic<Int>(0)
