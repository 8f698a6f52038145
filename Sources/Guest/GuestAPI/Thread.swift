// Threads of the program.
import Base
import Locks

/// What a new thread finds on its stack, and what its creator waits on.
private struct ThreadRecord {
  /// Where the gate returns to in the new thread: `threadStart`.
  var start: (@convention(c) (Int, UnsafeMutableRawPointer) -> Void)?
  /// Keeps the stack aligned as after a call.
  var padding = 0
  /// Not 0 while the thread runs; the kernel clears it and wakes who waits.
  var alive: UInt32 = 1
  var body: Unmanaged<ThreadBody>?

  /// Offset of `alive` (Embedded Swift has no key paths to ask for it).
  static let aliveOffset = 16
}

private final class ThreadBody {
  let run: () -> Void
  init(_ run: @escaping () -> Void) { self.run = run }
}

/// Where a thread leaves what it comes to.
private final class ThreadResult<Result> {
  var value: Result?
}

// SAFETY: the result is written by the thread before it ends, and read by who has seen its end; the rest never changes.
/// Another thread of control in the same memory, which comes to a result. It runs on if nobody keeps this object.
public final class Thread<Result>: @unchecked Sendable {
  private let stack: ThreadStack
  private let result = ThreadResult<Result>()
  /// The kernel's number of it.
  public let number: Int

  /// Starts a thread that runs `body`.
  /// - Parameters:
  ///   - name: for people, up to 15 bytes; nil: the program's.
  ///   - affinity: the CPUs it may run on, bit i for CPU i.
  ///   - stackByteCount: the size of its stack, whose pages take memory when they are touched.
  /// - Throws: ENOMEM, EAGAIN.
  public init(
    name: String? = nil, affinity: UInt64 = .max, stackByteCount: Int = 262_144, _ body: @escaping () -> Result
  ) throws(Errno) {
    ThreadStack.freeSome()
    let stack = try ThreadStack(byteCount: stackByteCount)
    let result = self.result
    stack.record.pointee.start = threadStart
    stack.record.pointee.body = Unmanaged.passRetained(
      ThreadBody {
        if affinity != .max { CurrentThread.affinity = affinity }
        if let name { CurrentThread.setName(name) }
        result.value = body()
      })
    // VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | CHILD_CLEARTID
    let flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x200000
    let number = call(Call.clone, flags, argument(stack.record), 0, argument(stack.alive), 0)
    if number < 0 {
      stack.record.pointee.body?.release()
      stack.free()
    }
    self.number = try checked(number)
    self.stack = stack
  }

  deinit { stack.leave() }

  /// Waits until the thread has ended, and says what it came to. Any number of threads may do so.
  @discardableResult public func join() -> Result {
    stack.waitForEnd()
    // The thread ends by running its body to the end, and in no other way.
    return result.value.unsafelyUnwrapped
  }
}

/// The stack of a thread, with its record at the top.
private struct ThreadStack {
  let start: Int
  let byteCount: Int

  init(byteCount wanted: Int) throws(Errno) {
    let readWrite = 3
    let privateAnonymousStack = 0x20022
    byteCount = (max(wanted, 16_384) &+ 4095) & ~4095
    start = try checked(call(Call.mmap, 0, byteCount, readWrite, privateAnonymousStack, -1, 0))
    record.initialize(to: ThreadRecord())
  }

  // SAFETY: the record lies at the top of the stack, which goes away in `free` only.
  var record: UnsafeMutablePointer<ThreadRecord> {
    UnsafeMutablePointer(bitPattern: start + byteCount - 64).unsafelyUnwrapped
  }
  var alive: UnsafeMutableRawPointer { UnsafeMutableRawPointer(record) + ThreadRecord.aliveOffset }

  // SAFETY: the kernel stores to the word; a volatile read is what the compiler must not fold.
  var isInUse: Bool { loadVolatile(alive) != 0 }

  func waitForEnd() {
    let waitShared = 0
    let wakeShared = 1
    guard isInUse else { return }
    while isInUse { _ = call(Call.futex, argument(alive), waitShared, 1, 0) }
    // The kernel wakes one.
    _ = call(Call.futex, argument(alive), wakeShared, Int(Int32.max), 0)
  }

  func free() { _ = call(Call.munmap, start, byteCount) }

  /// Nobody names the thread any more: its stack is freed when it has ended.
  func leave() {
    if !isInUse { return free() }
    Self.abandoned.mutex.withLock { Self.abandoned.stacks.append(self) }
  }

  // SAFETY: `stacks` is touched with `mutex`.
  private final class Abandoned: @unchecked Sendable {
    let mutex = Mutex()
    var stacks: [ThreadStack] = []
  }
  private static let abandoned = Abandoned()

  /// Frees the stacks of threads that have ended and that nobody names; looks at a few, so that many threads cost each a little.
  static func freeSome() {
    abandoned.mutex.withLock {
      for _ in 0..<4 {
        guard let last = abandoned.stacks.popLast() else { return }
        if last.isInUse {
          // Others come first the next time.
          abandoned.stacks.append(last)
          abandoned.stacks.swapAt(0, abandoned.stacks.count &- 1)
          continue
        }
        last.free()
      }
    }
  }
}

/// The calling thread.
public enum CurrentThread {
  /// Lets other threads of this CPU run.
  public static func yield() {
    #if HOSTED
      _ = call(Call.schedYield)
    #else
      ProgramWord.yield()
    #endif
  }

  /// The kernel's number of it; that of the first thread is the program's.
  public static var number: Int { call(Call.gettid) }

  /// The CPUs it may run on, bit i for CPU i.
  public static var affinity: UInt64 {
    get {
      let get = 204
      var mask: UInt64 = 0
      _ = withUnsafeMutablePointer(to: &mask) { call(get, 0, 8, argument($0)) }
      return mask
    }
    set {
      var mask = newValue
      _ = withUnsafeMutablePointer(to: &mask) { call(Call.schedSetaffinity, 0, 8, argument($0)) }
    }
  }

  /// Gives it a name for people, of which 15 bytes count.
  public static func setName(_ name: String) {
    let setName = 15
    var bytes: [16 of UInt8] = .init(repeating: 0)
    var count = 0
    for byte in name.utf8 where count < 15 {
      bytes[count] = byte
      count &+= 1
    }
    withUnsafeBytes(of: &bytes) { _ = call(Call.prctl, setName, argument($0.baseAddress)) }
  }

  /// By which others may `wake` this thread while it is in `pass` or `wait`.
  public static var permit: ThreadPermit { ThreadPermit(name: ProgramWord.currentParker) }
}

/// The right of one thread to go on once: what all locks here are made of. Given twice it counts once; and a thread that finds it
/// was woken for nothing waits again. So each waiter looks at something of its own that says whether it may go on.
public struct ThreadPermit: Sendable {
  fileprivate let name: UInt

  /// Gives the thread its permit; it goes on if it waits.
  public func wake() { ProgramWord.unpark(name) }

  /// Waits for the caller's permit.
  public static func wait(until deadline: Deadline = .never) -> WaitResult {
    ProgramWord.park(until: deadline, interruptible: false)
  }

  /// Gives the thread its permit and waits for the caller's own, in one step: the fastest way to answer somebody.
  public func pass(until deadline: Deadline = .never) {
    #if HOSTED
      wake()
      _ = ProgramWord.park(until: deadline, interruptible: false)
    #else
      ProgramWord.pass(to: name, until: deadline)
    #endif
  }
}

@inline(never)
private func loadVolatile(_ word: UnsafeMutableRawPointer) -> UInt32 { word.load(as: UInt32.self) }

/// The first function of a new thread. The gate's return instruction pops its address from the new stack; the registers still hold
/// clone's arguments, so the second parameter is the stack pointer that was given, which is the record's address.
private let threadStart: @convention(c) (Int, UnsafeMutableRawPointer) -> Void = { _, stack in
  let record = stack.assumingMemoryBound(to: ThreadRecord.self)
  // SAFETY: retained by the creator for this thread.
  if let body = record.pointee.body { body.takeRetainedValue().run() }
  while true { _ = call(Call.exit, 0) }
}
