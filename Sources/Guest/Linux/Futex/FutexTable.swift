// Futexes: threads that sleep on a 32-bit word of program memory.
//
// A waiter is a record on its own kernel stack, queued in the bucket of its key (address space and address) under the
// bucket's lock. Rules: the word is compared under the lock, with preemption off, so that a fault there is not resolved but
// tried again outside; who takes a record out of its queue reads the parker first and stores `isWoken` last, because the
// record is gone the moment its owner sees that. Two buckets are locked in the order of their indices.
import Base
import Locks
import Memory
import Pages
import Platform

/// What a futex is known by.
struct FutexKey: Equatable {
  /// The address space; shared futexes count as private ones as long as memory is not shared between processes.
  var space: UInt
  var address: VirtualAddress

  /// The futex at `address`.
  /// - Throws: EINVAL (not aligned to 4), EFAULT.
  init(_ address: VirtualAddress, in space: AddressSpace) throws(Errno) {
    guard AddressMap.program.contains(address) else { throw address.isAligned(to: 4) ? .EFAULT : .EINVAL }
    try self.init(address, space: UInt(bitPattern: Unmanaged.passUnretained(space).toOpaque()))
  }

  /// The futex at an address that is known to be the program's.
  init(_ address: VirtualAddress, space: UInt) throws(Errno) {
    guard address.isAligned(to: 4) else { throw .EINVAL }
    self.space = space
    self.address = address
  }

  /// The bucket it belongs to.
  var bucket: Int {
    let mixed = (address.rawValue &>> 2 ^ space.u64 &>> 4) &* 0x9e37_79b9_7f4a_7c15
    return (mixed &>> 58).int  // 64 buckets: the top 6 bits.
  }
}

/// A sleeping thread.
struct FutexWaiter: ~Copyable {
  var next: UnsafeMutablePointer<FutexWaiter>?
  var previous: UnsafeMutablePointer<FutexWaiter>?
  var key: FutexKey
  let bitset: UInt32
  let parker: Parker
  /// Where it is queued: changes under the locks of both buckets.
  let bucket: Atomic<Int>
  /// Not 0 once it has been taken out of its queue by a waker.
  let isWoken = Atomic<UInt>(0)

  init(key: FutexKey, bitset: UInt32, parker: Parker) {
    self.key = key
    self.bitset = bitset
    self.parker = parker
    bucket = Atomic(key.bucket)
  }
}

/// The queue of one bucket.
struct FutexBucket: ~Copyable {
  let lock = Mutex()
  var first: UnsafeMutablePointer<FutexWaiter>?
  var last: UnsafeMutablePointer<FutexWaiter>?

  mutating func append(_ waiter: UnsafeMutablePointer<FutexWaiter>) {
    waiter.pointee.next = nil
    waiter.pointee.previous = last
    if let last { last.pointee.next = waiter } else { first = waiter }
    last = waiter
  }

  mutating func remove(_ waiter: UnsafeMutablePointer<FutexWaiter>) {
    let next = waiter.pointee.next
    let previous = waiter.pointee.previous
    if let next { next.pointee.previous = previous } else { last = previous }
    if let previous { previous.pointee.next = next } else { first = next }
  }
}

/// All queues.
enum FutexTable {
  static let bucketCount = 64
  /// Matches every waiter (FUTEX_BITSET_MATCH_ANY).
  static let anyBit: UInt32 = .max

  // SAFETY: set once, before the first program runs; every access to a bucket's queue holds its lock.
  nonisolated(unsafe) private static var buckets: UnsafeMutablePointer<FutexBucket>! = nil

  /// Makes the queues. Boot only.
  static func initialise() {
    let memory = UnsafeMutablePointer<FutexBucket>.allocate(capacity: bucketCount)
    for index in 0..<bucketCount { (memory + index).initialize(to: FutexBucket()) }
    buckets = memory
  }

  /// Sleeps if the word is `expected`, until woken by a wake that shares a bit with `bitset`.
  /// - Throws: EAGAIN (the word differs), ETIMEDOUT, EINTR, EFAULT.
  static func wait(_ key: FutexKey, expected: UInt32, bitset: UInt32, until deadline: Deadline) throws(Errno) {
    var waiter = FutexWaiter(key: key, bitset: bitset, parker: Parking.current)
    try withUnsafeMutablePointer(to: &waiter) { (waiter) throws(Errno) in
      try enqueue(waiter, expected: expected)
      while waiter.pointee.isWoken.load(ordering: .acquiring) == 0 {
        let result = Parking.park(until: deadline, interruptible: true)
        if result != .woken, leave(waiter) { throw result == .timedOut ? .ETIMEDOUT : .EINTR }
      }
    }
  }

  /// Queues the waiter if the word is `expected`.
  private static func enqueue(_ waiter: UnsafeMutablePointer<FutexWaiter>, expected: UInt32) throws(Errno) {
    let address = waiter.pointee.key.address
    let bucket = buckets + waiter.pointee.key.bucket
    while true {
      bucket.pointee.lock.lock()
      let found = loadWithoutFault(address)
      if found == expected { bucket.pointee.append(waiter) }
      bucket.pointee.lock.unlock()
      if found == expected { return }
      if found != nil { throw .EAGAIN }
      _ = try UserSpan.read(UInt32.self, at: address)
    }
  }

  /// The word, or nil if reading it faults.
  private static func loadWithoutFault(_ address: VirtualAddress) -> UInt32? {
    Preemption.disable()
    defer { Preemption.enable() }
    return UserCopy.load32(address)
  }

  /// Takes a waiter that gives up out of its queue; false if it was woken before that.
  private static func leave(_ waiter: UnsafeMutablePointer<FutexWaiter>) -> Bool {
    while true {
      let index = waiter.pointee.bucket.load(ordering: .acquiring)
      let bucket = buckets + index
      bucket.pointee.lock.lock()
      defer { bucket.pointee.lock.unlock() }
      if waiter.pointee.isWoken.load(ordering: .acquiring) != 0 { return false }
      if waiter.pointee.bucket.load(ordering: .acquiring) == index {
        bucket.pointee.remove(waiter)
        return true
      }
    }
  }

  /// Wakes up to `count` waiters of the futex that share a bit with `bitset`.
  /// - Returns: how many.
  static func wake(_ key: FutexKey, count: Int, bitset: UInt32 = anyBit) -> Int {
    let bucket = buckets + key.bucket
    bucket.pointee.lock.lock()
    defer { bucket.pointee.lock.unlock() }
    return wakeLocked(bucket, key, count: count, bitset: bitset)
  }

  private static func wakeLocked(
    _ bucket: UnsafeMutablePointer<FutexBucket>, _ key: FutexKey, count: Int, bitset: UInt32
  ) -> Int {
    var woken = 0
    var candidate = bucket.pointee.first
    while let waiter = candidate, woken < count {
      candidate = waiter.pointee.next
      guard waiter.pointee.key == key, waiter.pointee.bitset & bitset != 0 else { continue }
      bucket.pointee.remove(waiter)
      let parker = waiter.pointee.parker
      waiter.pointee.isWoken.store(1, ordering: .releasing)
      Parking.unpark(parker)
      woken &+= 1
    }
    return woken
  }

  /// Wakes up to `wakeCount` waiters of `source` and moves up to `moveCount` others to `target`; with `expected`, only if that is the word of `source`.
  /// - Returns: how many were woken and moved.
  /// - Throws: EAGAIN (the word differs), EFAULT.
  static func requeue(
    from source: FutexKey, to target: FutexKey, wakeCount: Int, moveCount: Int, expected: UInt32?
  ) throws(Errno) -> (woken: Int, moved: Int) {
    let lower = buckets + min(source.bucket, target.bucket)
    let higher = buckets + max(source.bucket, target.bucket)
    while true {
      lower.pointee.lock.lock()
      if higher != lower { higher.pointee.lock.lock() }
      let found = expected == nil ? nil : loadWithoutFault(source.address)
      let mayGoOn = found == expected
      var result = (woken: 0, moved: 0)
      if mayGoOn {
        result.woken = wakeLocked(buckets + source.bucket, source, count: wakeCount, bitset: anyBit)
        result.moved = moveLocked(from: source, to: target, count: moveCount)
      }
      if higher != lower { higher.pointee.lock.unlock() }
      lower.pointee.lock.unlock()
      if mayGoOn { return result }
      if found != nil { throw .EAGAIN }
      _ = try UserSpan.read(UInt32.self, at: source.address)
    }
  }

  private static func moveLocked(from source: FutexKey, to target: FutexKey, count: Int) -> Int {
    guard source != target else { return 0 }
    let from = buckets + source.bucket
    let to = buckets + target.bucket
    var moved = 0
    var candidate = from.pointee.first
    while let waiter = candidate, moved < count {
      candidate = waiter.pointee.next
      guard waiter.pointee.key == source else { continue }
      from.pointee.remove(waiter)
      waiter.pointee.key = target
      waiter.pointee.bucket.store(target.bucket, ordering: .releasing)
      to.pointee.append(waiter)
      moved &+= 1
    }
    return moved
  }
}
