// Parking on host threads: what locks use in unit tests, where no scheduler is installed.
#if HOSTED
  import Base
  import Glibc

  // glibc shows it to _GNU_SOURCE only.
  @_silgen_name("sched_getcpu") private func hostCPU() -> Int32

  /// Permits over pthreads. Control blocks are recycled and never freed, as `Parker` promises.
  public enum HostedParking {
    struct Block {
      var mutex = pthread_mutex_t()
      var condition = pthread_cond_t()
      var permit = false
      var interrupted = false
      var nextFree: UnsafeMutablePointer<Block>?
    }

    // SAFETY: touched with `freeMutex`, which is a global and so never moved. Blocks are never freed.
    nonisolated(unsafe) private static var freeBlocks: UnsafeMutablePointer<Block>?
    nonisolated(unsafe) private static var freeMutex = pthread_mutex_t()
    private static let key: pthread_key_t = {
      var key = pthread_key_t()
      pthread_key_create(&key) { HostedParking.recycle($0) }
      return key
    }()

    private static func recycle(_ pointer: UnsafeMutableRawPointer?) {
      guard let pointer else { return }
      // SAFETY: the key's values are only ever the blocks that `block` makes.
      let block = pointer.assumingMemoryBound(to: Block.self)
      pthread_mutex_lock(&freeMutex)
      block.pointee.nextFree = freeBlocks
      freeBlocks = block
      pthread_mutex_unlock(&freeMutex)
    }

    private static var block: UnsafeMutablePointer<Block> {
      if let pointer = pthread_getspecific(key) { return pointer.assumingMemoryBound(to: Block.self) }
      pthread_mutex_lock(&freeMutex)
      var block = freeBlocks
      if let found = block { freeBlocks = found.pointee.nextFree }
      pthread_mutex_unlock(&freeMutex)
      if block == nil {
        block = .allocate(capacity: 1)
        block!.initialize(to: Block())
        pthread_mutex_init(&block!.pointee.mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(&block!.pointee.condition, &attributes)
      }
      block!.pointee.permit = false
      block!.pointee.interrupted = false
      pthread_setspecific(key, block)
      return block!
    }

    /// The host's CPU, of four.
    static var currentCPU: Int { Int(hostCPU()) & 3 }

    static var current: Parker { Parker(rawValue: UInt(bitPattern: block)) }

    static func park(until deadline: Deadline, interruptible: Bool) -> WaitResult {
      let block = self.block
      pthread_mutex_lock(&block.pointee.mutex)
      defer { pthread_mutex_unlock(&block.pointee.mutex) }
      while !block.pointee.permit {
        if interruptible && block.pointee.interrupted { return .interrupted }
        if deadline == .never {
          pthread_cond_wait(&block.pointee.condition, &block.pointee.mutex)
          continue
        }
        var time = timespec(
          tv_sec: (deadline.nanoseconds / 1_000_000_000).int, tv_nsec: (deadline.nanoseconds % 1_000_000_000).int)
        let result = pthread_cond_timedwait(&block.pointee.condition, &block.pointee.mutex, &time)
        if result == ETIMEDOUT && !block.pointee.permit { return .timedOut }
      }
      block.pointee.permit = false
      return .woken
    }

    static func unpark(_ parker: Parker) {
      change(parker) { $0.pointee.permit = true }
    }

    /// Interrupts the thread's interruptible waits, now and to come, until `clearInterrupt`.
    public static func interrupt(_ parker: Parker) {
      change(parker) { $0.pointee.interrupted = true }
    }

    /// Takes back an interrupt.
    public static func clearInterrupt(_ parker: Parker) {
      change(parker) { $0.pointee.interrupted = false }
    }

    private static func change(_ parker: Parker, _ body: (UnsafeMutablePointer<Block>) -> Void) {
      // SAFETY: a parker's name is the address of its block, and blocks are never freed.
      let block = UnsafeMutablePointer<Block>(bitPattern: parker.rawValue)!
      pthread_mutex_lock(&block.pointee.mutex)
      body(block)
      pthread_cond_signal(&block.pointee.condition)
      pthread_mutex_unlock(&block.pointee.mutex)
    }
  }
#endif
