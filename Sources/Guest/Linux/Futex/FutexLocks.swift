// Futexes with an owner (FUTEX_LOCK_PI and its kin): the word holds the number of the thread that has the lock, bit 31 if
// others wait, bit 30 if an owner died. Unlocking hands the lock over to a waiter, the one of the highest real-time priority
// that has waited longest: nobody can take it in between. (The owner does not inherit its waiters' priority.)
//
// Rules: all changes by the kernel are made under the bucket's lock, by compare and exchange, since programs take and give
// back free locks without asking. A waiter that is woken has the lock.
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
  /// - Parameter exists: whether there is a thread with that number.
  /// - Throws: EDEADLK (it has it already), EAGAIN (tries, in vain), ESRCH (the owner does not exist), ETIMEDOUT, EINTR,
  ///   EFAULT.
  static func lockOwned(
    _ key: FutexKey, identifier: UInt32, tries: Bool = false, until deadline: Deadline, exists: (UInt32) -> Bool
  ) throws(Errno) {
    var waiter = FutexWaiter(
      key: key, parker: Parking.current, identifier: identifier, priority: Thread.current.policy.priority)
    try withUnsafeMutablePointer(to: &waiter) { (waiter) throws(Errno) in
      let bucket = buckets + key.bucket
      while true {
        bucket.pointee.lock.lock()
        let found = loadWithoutFault(key.address)
        let owner = (found ?? 0) & ownerMask
        var refusal: Errno?
        if owner == identifier {
          refusal = .EDEADLK
        } else if owner != 0 && !exists(owner) {
          refusal = .ESRCH
        } else if owner != 0 && tries {
          refusal = .EAGAIN
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
            setOwner(of: key, in: bucket, identifier)
          }
        }
        bucket.pointee.lock.unlock()
        if let refusal { throw refusal }
        if isDone { return owner == 0 ? () : try sleepOwned(waiter, until: deadline) }
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
      if isMine, let heir {
        let next = heir.pointee.identifier
        release(heir, from: bucket)
        if hasOthers { setOwner(of: key, in: bucket, next) }
      }
      bucket.pointee.lock.unlock()
      if isMine { return }
      if found != nil { throw .EPERM }
      try touch(key.address)
    }
  }

  /// The waiter for the lock who is to have it next.
  private static func bestWaiter(
    _ bucket: UnsafeMutablePointer<FutexBucket>, _ key: FutexKey, but other: UnsafeMutablePointer<FutexWaiter>? = nil
  ) -> UnsafeMutablePointer<FutexWaiter>? {
    var best: UnsafeMutablePointer<FutexWaiter>?
    var candidate = bucket.pointee.first
    while let waiter = candidate {
      candidate = waiter.pointee.next
      guard waiter != other, waiter.pointee.key == key, waiter.pointee.identifier != 0, waiter.pointee.target == nil
      else { continue }
      if let best, best.pointee.priority >= waiter.pointee.priority { continue }
      best = waiter
    }
    return best
  }

  /// Sleeps, counted among those who wait for owners.
  private static func sleepOwned(
    _ waiter: UnsafeMutablePointer<FutexWaiter>, until deadline: Deadline
  ) throws(Errno) {
    waitersForOwners.wrappingAdd(1, ordering: .sequentiallyConsistent)
    defer { waitersForOwners.wrappingSubtract(1, ordering: .relaxed) }
    try sleep(waiter, until: deadline)
  }

  private static func setOwner(
    of key: FutexKey, in bucket: UnsafeMutablePointer<FutexBucket>, _ owner: UInt32
  ) {
    var candidate = bucket.pointee.first
    while let waiter = candidate {
      candidate = waiter.pointee.next
      if waiter.pointee.key == key && waiter.pointee.identifier != 0 { waiter.pointee.owner = owner }
    }
  }

  // MARK: Owners that end

  /// A thread ends: what it had, whether or not the words still say so, goes to those who wait for it.
  static func abandon(identifier: UInt32) {
    guard waitersForOwners.load(ordering: .sequentiallyConsistent) != 0 else { return }
    for index in 0..<bucketCount { while handOn(buckets + index, identifier) {} }
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
    if found != nil {
      release(heir, from: bucket)
      if hasOthers { setOwner(of: key, in: bucket, next) }
    }
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
    var waiter = FutexWaiter(
      key: key, parker: Parking.current, identifier: identifier, priority: Thread.current.policy.priority,
      target: target)
    try withUnsafeMutablePointer(to: &waiter) { (waiter) throws(Errno) in
      try enqueue(waiter, expected: expected)
      try sleepOwned(waiter, until: deadline)
    }
  }

  /// FUTEX_CMP_REQUEUE_PI: gives the lock to the first waiter if it is free, and moves up to `moveCount` others to wait for it.
  /// - Returns: how many have it or wait for it now.
  static func requeueToLock(
    from source: FutexKey, to target: FutexKey, moveCount: Int, expected: UInt32
  ) throws(Errno) -> Int {
    guard source != target else { throw .EINVAL }
    while true {
      lock(source, target)
      var isRight = true
      var (done, faulted) = (0, false)
      let found = loadWithoutFault(source.address)
      if found == expected {
        (done, isRight, faulted) = requeueLocked(from: source, to: target, count: moveCount &+ 1)
      }
      unlock(source, target)
      if faulted && done == 0 {
        try touch(target.address)
        continue
      }
      guard isRight else { throw .EINVAL }
      if found == expected { return done }
      if found != nil { throw .EAGAIN }
      _ = try UserSpan.read(UInt32.self, at: source.address)
    }
  }

  private static func requeueLocked(
    from source: FutexKey, to target: FutexKey, count: Int
  ) -> (done: Int, isRight: Bool, faulted: Bool) {
    var done = 0
    var candidate = buckets[source.bucket].first
    while let waiter = candidate, done < count {
      candidate = waiter.pointee.next
      guard waiter.pointee.key == source else { continue }
      guard waiter.pointee.target == target else { return (done, false, false) }
      let identifier = waiter.pointee.identifier
      let isFirst = done == 0
      let found = changeWithoutFault(target.address) { word in
        isFirst && word & ownerMask == 0 ? word & ownerDied | identifier | waitersFlag : word | waitersFlag
      }
      guard let found else { return (done, true, true) }
      waiter.pointee.target = nil
      waiter.pointee.owner = found & ownerMask
      if isFirst && found & ownerMask == 0 {
        release(waiter, from: buckets + source.bucket)
      } else {
        move(waiter, to: target)
      }
      done &+= 1
    }
    return (done, true, false)
  }
}

/// Threads that sleep for a lock with an owner: as long as there is none, a thread that ends need not look.
private let waitersForOwners = Atomic<Int>(0)
