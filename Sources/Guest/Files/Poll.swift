// Poll: waiting until one of several open files is ready.
//
// The files are looked at; if none is ready, a waiter is left with the source of each, and they are looked at again: what
// became ready in between is seen now, what does later wakes the thread. The waiters lie in one block of memory for
// the length of the wait.
import Base
import Locks
import Pages

/// One file to wait for.
public struct PollRequest {
  /// The file; nil is ignored (a negative descriptor) unless `result` says `invalid`.
  public var file: OpenFile?
  /// What is asked for; `ReadyMask.always` is added.
  public var interest: ReadyMask
  /// What is so.
  public var result: ReadyMask = []
  /// Its number, for select.
  var descriptor: Int

  /// A request.
  public init(_ file: OpenFile?, _ interest: ReadyMask, descriptor: Int = 0) {
    self.file = file
    self.interest = interest
    self.descriptor = descriptor
  }

  /// Looks. True if there is something to report.
  mutating func look() -> Bool {
    if let file {
      // O_PATH files are no files to poll.
      result = file.isPathOnly ? .invalid : file.readyMask.withNormal.intersection(interest.union(.always))
    }
    return !result.isEmpty
  }
}

/// The requests of one call, in memory that can be refused.
public struct PollRequests: ~Copyable {
  /// How many there are.
  public private(set) var count = 0
  private let requests: UnsafeMutablePointer<PollRequest>

  /// Room for so many.
  /// - Throws: ENOMEM.
  public init(capacity: Int) throws(Errno) {
    let byteCount = max(capacity, 1).multipliedReportingOverflow(by: MemoryLayout<PollRequest>.stride)
    guard !byteCount.overflow, let memory = KernelHeap.allocate(byteCount: byteCount.partialValue) else {
      throw .ENOMEM
    }
    requests = memory.bindMemory(to: PollRequest.self, capacity: capacity)
  }

  deinit {
    requests.deinitialize(count: count)
    KernelHeap.free(UnsafeMutableRawPointer(requests))
  }

  /// Adds one; there must be room.
  public mutating func append(_ request: PollRequest) {
    // SAFETY: the caller keeps to the capacity it asked for; the first `count` are initialised.
    (requests + count).initialize(to: request)
    count &+= 1
  }

  /// The request with that number.
  public subscript(index: Int) -> PollRequest {
    _read { yield requests[index] }
  }

  /// Looks at all of them.
  /// - Returns: how many have something to report.
  fileprivate func look() -> Int {
    var ready = 0
    for index in 0..<count where requests[index].look() { ready &+= 1 }
    return ready
  }
}

/// Waiting for readiness.
public enum Poll {
  /// Waits until a file is ready or the deadline passes, and fills in the results.
  /// - Returns: how many are ready; 0 if time ran out.
  /// - Throws: EINTR, ENOMEM.
  public static func wait(_ requests: borrowing PollRequests, until deadline: Deadline) throws(Errno) -> Int {
    let ready = requests.look()
    if ready > 0 || deadline == .now { return ready }
    let stride = MemoryLayout<PollWaiter>.stride
    guard let memory = KernelHeap.allocate(byteCount: max(requests.count, 1) &* stride) else { throw .ENOMEM }
    defer { KernelHeap.free(memory) }
    // SAFETY: room for a waiter a request; each is initialised before it is added and removed before the memory goes.
    let waiters = memory.bindMemory(to: PollWaiter.self, capacity: max(requests.count, 1))
    let wake = PollWake()
    let context = Unmanaged.passUnretained(wake).toOpaque()
    for index in 0..<requests.count {
      (waiters + index).initialize(to: PollWaiter(context, pollWoken))
      requests[index].file?.pollSource?.add(waiters + index)
    }
    defer {
      for index in 0..<requests.count {
        requests[index].file?.pollSource?.remove(waiters + index)
        (waiters + index).deinitialize(count: 1)
      }
    }
    while true {
      wake.happened.store(false, ordering: .sequentiallyConsistent)
      let ready = requests.look()
      if ready > 0 { return ready }
      switch wake.queue.wait(
        until: deadline, interruptible: true, while: { !wake.happened.load(ordering: .acquiring) })
      {
      case .woken: continue
      case .timedOut: return requests.look()
      case .interrupted: throw .EINTR
      }
    }
  }

}

/// What the waiters of one poll wake.
private final class PollWake {
  let happened = Atomic<Bool>(false)
  let queue = WaitQueue()
}

private func pollWoken(_ context: UnsafeMutableRawPointer, _ events: UInt32) {
  // SAFETY: `Poll.wait` keeps the object until its waiters are removed.
  Unmanaged<PollWake>.fromOpaque(context)._withUnsafeGuaranteedRef {
    $0.happened.store(true, ordering: .releasing)
    $0.queue.wakeAll()
  }
}

/// select's sets: bit maps over descriptors.
public struct SelectSet: ~Copyable {
  /// What is asked; on return what is so. One bit a descriptor.
  public let bits: UnsafeMutableBufferPointer<UInt64>

  /// A set for descriptors below `count`, all out.
  /// - Throws: ENOMEM.
  public init(count: Int) throws(Errno) {
    let words = (count &+ 63) / 64
    guard let memory = KernelHeap.allocateZeroed(byteCount: max(words, 1) &* 8) else { throw .ENOMEM }
    // SAFETY: memory for the words, all zero.
    bits = UnsafeMutableBufferPointer(start: memory.bindMemory(to: UInt64.self, capacity: words), count: words)
  }

  deinit { KernelHeap.free(UnsafeMutableRawPointer(bits.baseAddress.unsafelyUnwrapped)) }

  /// Whether a descriptor is in the set.
  public subscript(descriptor: Int) -> Bool {
    get { bits[descriptor / 64] &>> (descriptor % 64).u64 & 1 != 0 }
    nonmutating set {
      let bit: UInt64 = 1 &<< (descriptor % 64).u64
      if newValue { bits[descriptor / 64] |= bit } else { bits[descriptor / 64] &= ~bit }
    }
  }
}

extension Poll {
  /// Waits like select(2) for descriptors below `count`.
  /// - Returns: how many bits are set in the three sets together.
  /// - Throws: EBADF (a bit that is no descriptor), EINTR, ENOMEM.
  public static func select(
    _ count: Int, in table: DescriptorTable, read: borrowing SelectSet, write: borrowing SelectSet,
    except: borrowing SelectSet, until deadline: Deadline
  ) throws(Errno) -> Int {
    var wanted = 0
    for word in 0..<read.bits.count {
      wanted &+= (read.bits[word] | write.bits[word] | except.bits[word]).nonzeroBitCount
    }
    var requests = try PollRequests(capacity: wanted)
    for descriptor in 0..<count {
      var interest: ReadyMask = []
      if read[descriptor] { interest.insert(.readable) }
      if write[descriptor] { interest.insert(.writable) }
      if except[descriptor] { interest.insert(.priority) }
      guard !interest.isEmpty else { continue }
      requests.append(PollRequest(try table.file(descriptor), interest, descriptor: descriptor))
    }
    _ = try wait(requests, until: deadline)
    var bits = 0
    for index in 0..<requests.count {
      let request = requests[index]
      let (descriptor, result) = (request.descriptor, request.result)
      let isReadable = request.interest.contains(.readable) && !result.isDisjoint(with: [.readable, .hangUp, .error])
      let isWritable = request.interest.contains(.writable) && !result.isDisjoint(with: [.writable, .error])
      let isExcepted = request.interest.contains(.priority) && result.contains(.priority)
      read[descriptor] = isReadable
      write[descriptor] = isWritable
      except[descriptor] = isExcepted
      bits &+= (isReadable ? 1 : 0) &+ (isWritable ? 1 : 0) &+ (isExcepted ? 1 : 0)
    }
    return bits
  }
}
