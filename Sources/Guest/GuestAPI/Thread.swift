// Threads of the program.
import Base

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

/// Another thread of control in the same memory.
public struct Thread: ~Copyable {
  private static let stackByteCount = 262_144

  private let stack: Int
  private let record: UnsafeMutablePointer<ThreadRecord>

  /// Starts a thread that runs `body`.
  /// - Throws: ENOMEM, EAGAIN.
  public init(_ body: @escaping () -> Void) throws(Errno) {
    let readWrite = 3
    let privateAnonymousStack = 0x20022
    let stack = try checked(call(Call.mmap, 0, Self.stackByteCount, readWrite, privateAnonymousStack, -1, 0))
    // SAFETY: the record lies at the top of the fresh stack, and the stack goes away in `join` only.
    let top = UnsafeMutableRawPointer(bitPattern: stack + Self.stackByteCount - 64)!
    let record = top.initializeMemory(as: ThreadRecord.self, to: ThreadRecord())
    record.pointee.start = threadStart
    record.pointee.body = Unmanaged.passRetained(ThreadBody(body))
    let alive = top + ThreadRecord.aliveOffset
    // VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | CHILD_CLEARTID
    let flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x200000
    let result = call(Call.clone, flags, argument(record), 0, argument(alive), 0)
    if result < 0 {
      record.pointee.body?.release()
      _ = call(Call.munmap, stack, Self.stackByteCount)
      _ = try checked(result)
    }
    self.stack = stack
    self.record = record
  }

  /// Waits until the thread has ended.
  public consuming func join() {
    let word = UnsafeMutableRawPointer(record) + ThreadRecord.aliveOffset
    let waitShared = 0
    // SAFETY: the kernel stores to the word; a volatile read is what the compiler must not fold.
    while loadVolatile(word) != 0 { _ = call(Call.futex, argument(word), waitShared, 1, 0) }
    _ = call(Call.munmap, stack, Self.stackByteCount)
  }

  /// Lets other threads run.
  public static func yield() { _ = call(24) }
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
