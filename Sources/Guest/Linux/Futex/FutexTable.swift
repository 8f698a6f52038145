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
import Threads

/// What a futex is known by: the address space and the address; for a word of shared memory the object and the offset in it,
/// wherever and however often it is mapped.
struct FutexKey: Equatable {
  /// The address space or the object.
  var space: UInt
  /// The address or the offset.
  var identity: UInt64
  /// Where who made the key sees the word.
  var address: VirtualAddress

  static func == (left: FutexKey, right: FutexKey) -> Bool {
    left.space == right.space && left.identity == right.identity
  }

  /// The futex at `address`; `isPrivate`: the program promises that it is in no shared memory.
  /// - Throws: EINVAL (not aligned to 4), EFAULT.
  init(_ address: VirtualAddress, in space: AddressSpace, isPrivate: Bool = false) throws(Errno) {
    try self.init(private: address, in: Self.identity(of: space))
    if !isPrivate, let shared = space.sharedIdentity(of: address) {
      self.space = shared.object
      identity = shared.offset
    }
  }

  /// The futex at an address in memory that is not shared; `space` is the address space's identity.
  /// - Throws: as above.
  @inline(__always) init(private address: VirtualAddress, in space: UInt) throws(Errno) {
    guard AddressMap.program.contains(address) else { throw address.isAligned(to: 4) ? .EFAULT : .EINVAL }
    try self.init(address, space: space)
  }

  /// What an address space is known by.
  static func identity(of space: AddressSpace) -> UInt {
    UInt(bitPattern: Unmanaged.passUnretained(space).toOpaque())
  }

  /// The futex at an address that is known to be the program's.
  init(_ address: VirtualAddress, space: UInt) throws(Errno) {
    guard address.isAligned(to: 4) else { throw .EINVAL }
    self.space = space
    self.address = address
    identity = address.rawValue
  }

  /// The bucket it belongs to.
  var bucket: Int {
    let mixed = (identity &>> 2 ^ space.u64 &>> 4) &* 0x9e37_79b9_7f4a_7c15
    return (mixed &>> 56).int  // 256 buckets: the top 8 bits.
  }
}

/// A sleeping thread.
struct FutexWaiter: ~Copyable {
  var next: UnsafeMutablePointer<FutexWaiter>?
  var previous: UnsafeMutablePointer<FutexWaiter>?
  var key: FutexKey
  let bitset: UInt32
  let parker: Parker
  /// The thread's number, if it waits for a lock with an owner (or to be moved to one).
  let identifier: UInt32
  /// Who has the lock, as far as the kernel knows. Under the bucket's lock.
  var owner: UInt32 = 0
  /// Its wait for whoever has the lock, if it waits for a lock with an owner: lies in the same frame.
  let wait: UnsafeMutablePointer<PriorityWait>?
  /// Where FUTEX_CMP_REQUEUE_PI may move it; nil: it waits for the lock already, or for no lock.
  var target: FutexKey?
  /// Where it is queued: changes under the locks of both buckets.
  let bucket: Atomic<Int>
  /// Not 0 once it has been taken out of its queue by a waker.
  let isWoken = Atomic<UInt>(0)

  init(
    key: FutexKey, bitset: UInt32 = FutexTable.anyBit, parker: Parker, identifier: UInt32 = 0,
    wait: UnsafeMutablePointer<PriorityWait>? = nil, target: FutexKey? = nil
  ) {
    self.key = key
    self.identifier = identifier
    self.wait = wait
    self.target = target
    self.bitset = bitset
    self.parker = parker
    bucket = Atomic(key.bucket)
  }
}

/// The queue of one bucket.
struct FutexBucket: ~Copyable {
  let lock = Mutex()
  /// `first`, for those who look without the lock (`FutexGate`).
  let head = LiveWord(0)
  var last: UnsafeMutablePointer<FutexWaiter>?

  /// Who has waited longest.
  var first: UnsafeMutablePointer<FutexWaiter>? {
    @inline(__always) get { UnsafeMutablePointer(bitPattern: head.peek()) }
    @inline(__always) nonmutating set { head.store(UInt(bitPattern: newValue)) }
  }

  /// Whether a wake need not look further; the word has been changed before.
  @inline(__always) var mayHaveWaiters: Bool { FutexGate<LiveWord>.mayHaveWaiters(lock: lock, head: head) }

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
  static let bucketCount = 256
  /// Matches every waiter (FUTEX_BITSET_MATCH_ANY).
  static let anyBit: UInt32 = .max

  /// Bytes of the memory of `buckets`.
  static var storageByteCount: Int { MemoryLayout.size(ofValue: futexStorage) }

  /// The queues. They lie in memory that is zero at the start and is not touched before the first futex: a free mutex and an empty
  /// queue are zero.
  // SAFETY: never moved, `storage` being a global; every access to a bucket's queue holds its lock.
  @inline(__always) static var buckets: UnsafeMutablePointer<FutexBucket> {
    withUnsafeMutablePointer(to: &futexStorage) { storage in
      UnsafeMutableRawPointer(storage).assumingMemoryBound(to: FutexBucket.self)
    }
  }

  /// Sleeps if the word is `expected`, until woken by a wake that shares a bit with `bitset`.
  /// - Throws: EAGAIN (the word differs), ETIMEDOUT, EINTR, EFAULT.
  static func wait(_ key: FutexKey, expected: UInt32, bitset: UInt32, until deadline: Deadline) throws(Errno) {
    let poll = BriefPoll()
    if poll.run({ isChanged(key.address, from: expected) }) { throw .EAGAIN }
    var waiter = FutexWaiter(key: key, bitset: bitset, parker: Parking.current)
    try withUnsafeMutablePointer(to: &waiter) { (waiter) throws(Errno) in
      try enqueue(waiter, expected: expected)
      try sleep(waiter, until: deadline)
    }
    poll.hasSlept()
  }

  /// Sleeps until the queued waiter is woken.
  static func sleep(_ waiter: UnsafeMutablePointer<FutexWaiter>, until deadline: Deadline) throws(Errno) {
    while waiter.pointee.isWoken.load(ordering: .acquiring) == 0 {
      let result = Parking.park(until: deadline, interruptible: true)
      if result != .woken, leave(waiter) { throw result == .timedOut ? .ETIMEDOUT : .EINTR }
    }
  }

  /// Queues the waiter if the word is `expected`.
  static func enqueue(_ waiter: UnsafeMutablePointer<FutexWaiter>, expected: UInt32) throws(Errno) {
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
  static func loadWithoutFault(_ address: VirtualAddress) -> UInt32? {
    Preemption.disable()
    defer { Preemption.enable() }
    return UserCopy.load32(address)
  }

  /// Whether the word is there, and another one than expected.
  private static func isChanged(_ address: VirtualAddress, from expected: UInt32) -> Bool {
    guard let found = loadWithoutFault(address) else { return false }
    return found != expected
  }

  /// Takes a waiter that gives up out of its queue; false if it was woken before that.
  static func leave(_ waiter: UnsafeMutablePointer<FutexWaiter>) -> Bool {
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
    guard bucket.pointee.mayHaveWaiters else { return 0 }
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
      guard waiter.pointee.key == key, waiter.pointee.bitset & bitset != 0, waiter.pointee.identifier == 0 else {
        continue
      }
      release(waiter, from: bucket)
      woken &+= 1
    }
    return woken
  }

  /// Takes a waiter out of its queue, which is locked, and wakes it.
  static func release(_ waiter: UnsafeMutablePointer<FutexWaiter>, from bucket: UnsafeMutablePointer<FutexBucket>) {
    bucket.pointee.remove(waiter)
    wake(waiter)
  }

  /// Wakes a waiter that has been taken out of its queue.
  static func wake(_ waiter: UnsafeMutablePointer<FutexWaiter>) {
    let parker = waiter.pointee.parker
    waiter.pointee.isWoken.store(1, ordering: .releasing)
    Parking.unpark(parker)
  }

  /// Moves a waiter to the queue of another futex; both buckets are locked.
  static func move(_ waiter: UnsafeMutablePointer<FutexWaiter>, to target: FutexKey) {
    (buckets + waiter.pointee.key.bucket).pointee.remove(waiter)
    waiter.pointee.key = target
    waiter.pointee.bucket.store(target.bucket, ordering: .releasing)
    (buckets + target.bucket).pointee.append(waiter)
  }

  /// Locks the buckets of two futexes; `unlock` undoes it.
  static func lock(_ one: FutexKey, _ two: FutexKey) {
    let (lower, higher) = (min(one.bucket, two.bucket), max(one.bucket, two.bucket))
    buckets[lower].lock.lock()
    if higher != lower { buckets[higher].lock.lock() }
  }
  static func unlock(_ one: FutexKey, _ two: FutexKey) {
    let (lower, higher) = (min(one.bucket, two.bucket), max(one.bucket, two.bucket))
    if higher != lower { buckets[higher].lock.unlock() }
    buckets[lower].lock.unlock()
  }

  /// Changes the word atomically, unless the change says nil: what was there before. Nil if accessing it faults. Locks may be
  /// held: a fault is not resolved.
  static func changeWithoutFault(_ address: VirtualAddress, _ change: (UInt32) -> UInt32?) -> UInt32? {
    Preemption.disable()
    defer { Preemption.enable() }
    guard var found = UserCopy.load32(address) else { return nil }
    while let desired = change(found) {
      guard let seen = UserCopy.compareExchange32(address, expected: found, desired: desired) else { return nil }
      if seen == found { break }
      found = seen
    }
    return found
  }

  /// Makes the word present and writable. No locks are held.
  static func touch(_ address: VirtualAddress) throws(Errno) {
    guard UserCopy.compareExchange32(address, expected: 0, desired: 0) != nil else { throw .EFAULT }
  }

  /// Wakes up to `wakeCount` waiters of `source` and moves up to `moveCount` others to `target`; with `expected`, only if that is the word of `source`.
  /// - Returns: how many were woken and moved.
  /// - Throws: EAGAIN (the word differs), EFAULT.
  static func requeue(
    from source: FutexKey, to target: FutexKey, wakeCount: Int, moveCount: Int, expected: UInt32?
  ) throws(Errno) -> (woken: Int, moved: Int) {
    while true {
      lock(source, target)
      let found = expected == nil ? nil : loadWithoutFault(source.address)
      let mayGoOn = found == expected
      var result = (woken: 0, moved: 0)
      if mayGoOn {
        result.woken = wakeLocked(buckets + source.bucket, source, count: wakeCount, bitset: anyBit)
        result.moved = moveLocked(from: source, to: target, count: moveCount)
      }
      unlock(source, target)
      if mayGoOn { return result }
      if found != nil { throw .EAGAIN }
      _ = try UserSpan.read(UInt32.self, at: source.address)
    }
  }

  private static func moveLocked(from source: FutexKey, to target: FutexKey, count: Int) -> Int {
    guard source != target else { return 0 }
    var moved = 0
    var candidate = buckets[source.bucket].first
    while let waiter = candidate, moved < count {
      candidate = waiter.pointee.next
      guard waiter.pointee.key == source, waiter.pointee.identifier == 0 else { continue }
      move(waiter, to: target)
      moved &+= 1
    }
    return moved
  }

  /// FUTEX_WAKE_OP: changes the word of `second` by `operation`, wakes waiters of `first`, and, if the word was such that
  /// the operation says so, waiters of `second`.
  /// - Returns: how many.
  static func wakeOperation(
    first: FutexKey, second: FutexKey, count: Int, secondCount: Int, operation: FutexOperation
  ) throws(Errno) -> Int {
    while true {
      lock(first, second)
      let found = changeWithoutFault(second.address) { operation.apply($0) }
      var woken = 0
      if let found {
        woken = wakeLocked(buckets + first.bucket, first, count: count, bitset: anyBit)
        if operation.compare(found) {
          woken &+= wakeLocked(buckets + second.bucket, second, count: secondCount, bitset: anyBit)
        }
      }
      unlock(first, second)
      if found != nil { return woken }
      try touch(second.address)
    }
  }
}

/// The operation of FUTEX_WAKE_OP: how to change the word, and what of it decides about the second wake.
struct FutexOperation {
  private let kind: UInt32
  private let comparison: UInt32
  private let operand: UInt32
  private let compared: UInt32

  /// - Throws: ENOSYS for one that does not exist.
  init(_ word: UInt32) throws(Errno) {
    kind = word &>> 28 & 7
    comparison = word &>> 24 & 15
    guard kind <= 4, comparison <= 5 else { throw .ENOSYS }
    // 12 bits each, with their sign.
    let value = Int32(bitPattern: word &<< 8) &>> 20
    operand = word &>> 31 != 0 ? 1 &<< (value.u32 & 31) : value.u32
    compared = (Int32(bitPattern: word &<< 20) &>> 20).u32
  }

  func apply(_ word: UInt32) -> UInt32 {
    switch kind {
    case 0: operand
    case 1: word &+ operand
    case 2: word | operand
    case 3: word & ~operand
    default: word ^ operand
    }
  }

  func compare(_ word: UInt32) -> Bool {
    let (left, right) = (Int32(bitPattern: word), Int32(bitPattern: compared))
    switch comparison {
    case 0: return left == right
    case 1: return left != right
    case 2: return left < right
    case 3: return left <= right
    case 4: return left > right
    default: return left >= right
    }
  }
}

// SAFETY: a global, never moved; `buckets` is the only way to it, and says who may take it.
/// The memory of `FutexTable.buckets`.
nonisolated(unsafe) private var futexStorage = InlineArray<1792, UInt>(repeating: 0)
