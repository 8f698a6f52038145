// The checks: each says whether what it tried came out as it must.
import GuestAPI

enum Checks {
  /// A number that threads share; guarded by whatever the check is about.
  final class Shared: @unchecked Sendable {
    var first = 0
    var second = 0
  }

  /// Runs the body on that many threads and waits for all; each has a number.
  static func crowd(_ count: Int, _ body: @escaping (Int) -> Void) throws(Errno) {
    let done = Semaphore()
    for index in 0..<count {
      _ = try Thread {
        body(index)
        done.post()
      }
    }
    for _ in 0..<count { done.wait() }
  }

  static func results() throws(Errno) -> Bool {
    let thread = try Thread(name: "adder", affinity: 1) {
      var sum = 0
      for number in 1...1_000 { sum += number }
      return (sum: sum, affinity: CurrentThread.affinity, cpu: CPUs.current, number: CurrentThread.number)
    }
    let number = thread.number
    let result = thread.join()
    return result.sum == 500_500 && result.affinity == 1 && result.cpu == 0 && result.number == number
      && number != CurrentThread.number
  }

  static func mutex() throws(Errno) -> Bool {
    let mutex = Mutex()
    let shared = Shared()
    try crowd(4) { _ in
      for round in 0..<10_000 {
        mutex.withLock { shared.first += 1 }
        if round % 500 == 0 { CurrentThread.yield() }
      }
    }
    let recursive = RecursiveMutex()
    let depth = recursive.withLock { recursive.withLock { 2 } }
    return shared.first == 40_000 && mutex.tryLock() && depth == 2
  }

  /// A queue of one place between a producer and a consumer.
  static func condition() throws(Errno) -> Bool {
    let mutex = Mutex()
    let changed = Condition()
    let shared = Shared()
    let consumer = try Thread {
      var sum = 0
      while true {
        mutex.lock()
        _ = changed.wait(mutex) { shared.first == 0 }
        let number = shared.first
        shared.first = 0
        mutex.unlock()
        changed.wakeAll()
        if number < 0 { return sum }
        sum += number
      }
    }
    for number in 1...1_000 {
      mutex.lock()
      _ = changed.wait(mutex) { shared.first != 0 }
      shared.first = number == 1_000 ? -1 : number
      mutex.unlock()
      changed.wakeAll()
    }
    let sum = consumer.join()
    mutex.lock()
    let isInTime = changed.wait(mutex, until: .after(milliseconds: 2)) { true }
    mutex.unlock()
    return sum == 499_500 && !isInTime
  }

  static func readersAndWriters() throws(Errno) -> Bool {
    let lock = ReaderWriterLock()
    let shared = Shared()
    let torn = Semaphore()
    try crowd(6) { index in
      for round in 0..<3_000 {
        if index < 2 && round % 4 == 0 {
          lock.withWriteLock {
            shared.first += 1
            shared.second += 1
          }
        } else if !lock.withReadLock({ shared.first == shared.second }) {
          torn.post()
        }
      }
    }
    return shared.first == 1_500 && shared.second == 1_500 && torn.count == 0
  }

  static func semaphore() throws(Errno) -> Bool {
    let semaphore = Semaphore(2)
    guard semaphore.tryWait(), semaphore.wait(), !semaphore.tryWait() else { return false }
    let before = Clock.monotonic
    guard !semaphore.wait(until: .after(milliseconds: 3)), Clock.monotonic - before >= 3_000_000 else { return false }
    let poster = try Thread {
      sleep(milliseconds: 1)
      semaphore.post(3)
    }
    for _ in 0..<3 { semaphore.wait() }
    poster.join()
    return semaphore.count == 0
  }

  static func waitingForAny() throws(Errno) -> Bool {
    let semaphores = [Semaphore(), Semaphore(), Semaphore()]
    let queue = WaitQueue()
    let shared = Shared()
    var sources = semaphores.map { $0.source }
    sources.append(queue.source { shared.first != 0 })
    guard waitForAny(sources, until: .after(milliseconds: 1)) == nil else { return false }
    let poster = try Thread {
      for round in 0..<3_000 {
        semaphores[round % 3].post()
        if round % 100 == 0 { CurrentThread.yield() }
      }
    }
    var counts = [0, 0, 0]
    for _ in 0..<3_000 {
      guard let index = waitForAny(sources, until: .after(milliseconds: 10_000)), index < 3 else { return false }
      counts[index] += 1
    }
    poster.join()
    let waker = try Thread {
      shared.first = 1
      queue.wakeOne()
    }
    let last = waitForAny(sources, until: .after(milliseconds: 10_000))
    waker.join()
    // A timer among them comes when nothing else does.
    shared.first = 0
    let timer = Timer(after: 2_000_000)
    sources.append(timer.source)
    return counts == [1_000, 1_000, 1_000] && last == 3
      && waitForAny(sources, until: .after(milliseconds: 10_000)) == 4
  }

  static func timers() throws(Errno) -> Bool {
    let start = Clock.monotonic
    let timer = Timer(after: 1_000_000, every: 500_000)
    for _ in 0..<5 { guard timer.wait() else { return false } }
    guard Clock.monotonic - start >= 3_000_000 else { return false }
    timer.cancel()
    guard !timer.wait(), !timer.tryTake() else { return false }
    timer.restart(after: 0)
    return timer.tryTake()
  }

  /// An object whose end is seen.
  final class Version: @unchecked Sendable {
    let number: Int
    let check: Int
    private let ended: Semaphore
    init(_ number: Int, _ ended: Semaphore) {
      self.number = number
      check = number &* 7
      self.ended = ended
    }
    deinit { ended.post() }
  }

  static func readCopyUpdate() throws(Errno) -> Bool {
    let ended = Semaphore()
    let wrong = Semaphore()
    let pointer = RCUPointer(Version(0, ended))
    try crowd(4) { index in
      var last = 0
      for round in 0..<2_000 {
        if index == 0 {
          pointer.update { old in Version(old.number + 1, ended) }
        } else {
          let number = pointer.read { version in
            // A reader may lose the CPU.
            if round % 50 == 0 { CurrentThread.yield() }
            return version.check == version.number &* 7 ? version.number : -1
          }
          if number < last { wrong.post() }
          last = number
        }
      }
    }
    RCU.barrier()
    // All versions but the last are gone.
    return wrong.count == 0 && pointer.read { $0.number } == 2_000 && ended.count == 2_000
  }

  static func regions() throws(Errno) -> Bool {
    let region = try Region(byteCount: 1 << 22, [.huge, .populated])
    let bytes = region.bytes
    guard bytes.count == 1 << 22, bytes[0] == 0, bytes[bytes.count - 1] == 0 else { return false }
    bytes[5_000] = 7
    try region.protect(0..<8_192, .read)
    guard bytes[5_000] == 7 else { return false }
    try region.protect(0..<8_192, .readWrite)
    try region.discard(0..<8_192)
    guard bytes[5_000] == 0 else { return false }
    // More than there is, or can be.
    do throws(Errno) {
      _ = try Region(byteCount: 1 << 50)
      return false
    } catch { return error.number == 12 }  // ENOMEM
  }

  static func many() throws(Errno) -> Bool {
    let start = Semaphore()
    let arrived = Semaphore()
    for _ in 0..<1_000 {
      _ = try Thread(stackByteCount: 16_384) {
        arrived.post()
        start.wait()
        arrived.post()
      }
    }
    for _ in 0..<1_000 { arrived.wait() }
    start.post(1_000)
    for _ in 0..<1_000 { arrived.wait() }
    return arrived.count == 0
  }
}
