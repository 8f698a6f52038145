// Standard output and error: bytes are copied to a buffer the device can read, sent with one notification, and waited for.
//
// A write that is interrupted after it was sent counts as done: its buffer is taken back later, and `flush` waits for it.
//
// Small writes that follow one another closely are gathered instead: each of them would cost an exit. What is gathered goes out
//  * when the buffer is full, or the first byte in it has waited for `window`,
//  * when the CPU has nothing else to do (its program waits for something, perhaps for an answer to what it wrote),
//  * before anything else is written, on whichever port, before input is read, and before the machine ends.
// So the order of all output is the order of the writes. The first of several writes is never gathered, and none while the
// device has earlier bytes left, so that a write that fails is told so and a killed program's bytes are in the reader's pipe. A
// gathered write that fails on the host is told at the next write, at close, or by a sentence at the end.
// `order` guards what is gathered, and is held while requests enter the queues; the exit of a notification happens outside of it.
import Base
import Locks
import Memory
import Pages
import Platform
import Threads
import VirtioABI

/// The transmitting sides of the console's two ports.
final class ConsoleOutput {
  static let queueSize = 8
  /// Bytes of a write that may be gathered.
  static let smallWrite = 1024

  /// What small writes to a port have left to be sent.
  private struct Gathered {
    /// The buffer, which is the stream's; -1 if there is none.
    var index = -1
    var count = 0
    /// Whether the buffer before was full before it was sent.
    var wasFull = false
    /// When the last write ended, if it was a small one and did not fail.
    var lastSmallWrite: UInt64?
  }

  private let queues: [Virtqueue]
  private let control: ConsoleControl
  private let function: VirtioFunction
  private let buffers: ConsoleBuffers
  private let order = Mutex()
  // SAFETY: an entry a port, for good; guarded by `order`.
  private let gathered: UnsafeMutablePointer<Gathered>
  /// Entries of `gathered` that have something; written under `order`.
  private let gatheredCount = Atomic<Int>(0)
  private let timer: TimerEvent
  private let alarm: UnsafeMutablePointer<Alarm>
  /// How close to the last one a write must follow to be gathered, and how long gathered bytes wait, in ns; 0: not at all.
  private let window: UInt64

  /// What sends gathered bytes that nothing else has sent.
  private struct Alarm: ~Copyable {
    let isArmed = Atomic<Bool>(false)
    var work: WorkItem
    init(_ work: consuming WorkItem) { self.work = work }
  }
  // SAFETY: the alarm is there for ever, and does not move.
  private var sendWork: UnsafeMutablePointer<WorkItem> { withUnsafeMutablePointer(to: &alarm.pointee.work) { $0 } }

  /// - Parameter queues: of port 0 and of port 1.
  /// - Throws: ENOMEM.
  init(_ queues: [Virtqueue], control: ConsoleControl, function: VirtioFunction, window: UInt64) throws(Errno) {
    self.window = window
    self.queues = queues
    self.control = control
    self.function = function
    buffers = ConsoleBuffers(queues)
    gathered = .allocate(capacity: 2)
    gathered.initialize(repeating: Gathered(), count: 2)
    alarm = .allocate(capacity: 1)
    timer = try TimerEvent(
      handler: { context in
        // SAFETY: the context is the alarm, which is there for ever.
        let alarm = context.unsafelyUnwrapped.assumingMemoryBound(to: Alarm.self)
        // Lowered before the work looks, raised behind a gathering: what finds it raised is seen by the work.
        _ = alarm.pointee.isArmed.exchange(false, ordering: .sequentiallyConsistent)
        WorkQueue.submit(withUnsafeMutablePointer(to: &alarm.pointee.work) { $0 })
      }, context: alarm)
    alarm.initialize(
      to: Alarm(
        WorkItem(
          { context in
            // SAFETY: the context is a console's output, which is there for ever.
            let output = Unmanaged<ConsoleOutput>.fromOpaque(context.unsafelyUnwrapped)
            output._withUnsafeGuaranteedRef { $0.sendGathered() }
          }, context: Unmanaged.passUnretained(self).toOpaque())))
  }

  /// Writes everything, sleeping while there is no buffer or the device is not done.
  /// - Returns: bytes written; fewer than there were only after an interrupt or a fault.
  /// - Throws: if nothing was written: EPIPE (nobody reads), EAGAIN (no buffer, and not to block), EINTR, EFAULT, ENOMEM, and
  ///   what the host's own write, or one that was gathered before, has failed with (ENOSPC, EIO…).
  func write(_ port: Int, from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
    let isSmall = transfer.remaining <= Self.smallWrite
    var written = 0
    while transfer.remaining > 0 {
      do throws(Errno) {
        try check(port)
        let count = try writePart(port, &transfer, nonBlocking, isSmall: isSmall)
        written &+= count
      } catch let error {
        if written == 0 { throw error }
        return written
      }
    }
    return written
  }

  private func check(_ port: Int) throws(Errno) {
    if control.isOutputClosed(port) { throw .EPIPE }
    guard let error = control.takeOutputError(port) else { return }
    order.withLock { gathered[port].lastSmallWrite = nil }
    throw error
  }

  private func writePart(_ port: Int, _ transfer: inout Transfer, _ nonBlocking: Bool, isSmall: Bool) throws(Errno)
    -> Int
  {
    let index = try buffers.take(wanted: transfer.remaining, nonBlocking)
    let before = transfer.copied
    var fault: Errno?
    do throws(Errno) { try transfer.copyIn(into: buffers.memory(index)) } catch let error { fault = error }
    let count = transfer.copied &- before
    guard count > 0 else {
      buffers.give(index)
      if let fault { throw fault }
      return 0
    }
    if isSmall, try gather(port, index, count) { return count }
    try send(port, index, count)
    try check(port)
    if isSmall { order.withLock { gathered[port].lastSmallWrite = Clock.now() } }
    return count
  }

  // MARK: Sending

  private func send(_ port: Int, _ index: Int, _ count: Int) throws(Errno) {
    order.lock()
    let isElsewhere = addGathered(1 &- port)
    _ = addGathered(port)
    gathered[port].lastSmallWrite = nil
    let slot = add(port, index, count)
    order.unlock()
    if isElsewhere { queues[1 &- port].kick() }
    try finish(port, index, slot)
  }

  /// Puts a buffer into a port's queue: its slot, or nil if the queue has failed. Under `order`.
  private func add(_ port: Int, _ index: Int, _ count: Int) -> Int? {
    var segment = DeviceSegment(address: buffers.memory(index).baseAddress.unsafelyUnwrapped, count: count)
    do throws(Errno) {
      // There are more slots than buffers.
      return try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
        try queues[port].add(pointer, readable: 1, writable: 0)
      }
    } catch { return nil }
  }

  /// Tells the device of a buffer, waits for it and gives it back. A caller that is interrupted leaves it as a stray.
  private func finish(_ port: Int, _ index: Int, _ slot: Int?) throws(Errno) {
    guard let slot else {
      buffers.give(index)
      throw .EIO
    }
    let queue = queues[port]
    queue.kick()
    let result = queue.wait(for: slot, interruptible: true)
    // What the device had to say meanwhile: that nobody reads, perhaps.
    control.poll()
    if queue.isDone(slot) {
      queue.release(slot)
      buffers.give(index)
    } else if result == .interrupted {
      // Sent is sent. The caller looks for signals when it returns.
      buffers.leave(index, port: port, slot: slot)
    } else {
      function.stop()
      throw .EIO
    }
  }

  /// Waits until the device is done with everything that was written, or the deadline has passed.
  /// - Parameter interruptible: whether a signal ends the wait.
  func flush(interruptible: Bool = false, until deadline: Deadline = .never) {
    sendGathered()
    buffers.waitForStrays(interruptible: interruptible, until: deadline)
    control.poll()
  }

  // MARK: Gathering

  /// Keeps a small write's buffer, or its bytes, for later; false if they are to be sent now.
  private func gather(_ port: Int, _ index: Int, _ count: Int) throws(Errno) -> Bool {
    let now = Clock.now()
    order.lock()
    guard let last = gathered[port].lastSmallWrite, now &- last < window, !buffers.hasStray(of: port) else {
      order.unlock()
      return false
    }
    let isElsewhere = addGathered(1 &- port)
    var full: (index: Int, slot: Int?)?
    let open = gathered[port].index
    let hasRoom = open >= 0 && gathered[port].count &+ count <= buffers.memory(open).count
    if hasRoom {
      let end = buffers.memory(open).baseAddress.unsafelyUnwrapped + gathered[port].count
      end.copyMemory(from: buffers.memory(index).baseAddress.unsafelyUnwrapped, byteCount: count)
      gathered[port].count &+= count
    } else {
      // As much as that comes within a moment: the next may be larger.
      if open >= 0 || gathered[port].wasFull { buffers.enlarge(index, count) }
      gathered[port].wasFull = open >= 0
      if open >= 0 { full = (open, add(port, open, gathered[port].count)) }
      gathered[port].index = index
      gathered[port].count = count
      if open < 0 { gatheredCount.add(1, ordering: .relaxed) }
    }
    gathered[port].lastSmallWrite = now
    order.unlock()
    if hasRoom {
      buffers.give(index)
    } else {
      WorkQueue.submitWhenIdle(sendWork)
      // Once a `window` at most: it stays armed though what it was armed for has gone out.
      if !alarm.pointee.isArmed.exchange(true, ordering: .sequentiallyConsistent) {
        timer.arm(at: .after(window, from: now))
      }
    }
    if isElsewhere { queues[1 &- port].kick() }
    if let full { try finish(port, full.index, full.slot) }
    return true
  }

  /// Puts what a port has gathered into its queue: whether there was something. Under `order`.
  private func addGathered(_ port: Int) -> Bool {
    let index = gathered[port].index
    guard index >= 0 else { return false }
    gathered[port].index = -1
    // Last of all: whoever finds nothing gathered finds the buffer among the strays, and can wait for it.
    defer { gatheredCount.subtract(1, ordering: .releasing) }
    guard let slot = add(port, index, gathered[port].count) else {
      buffers.give(index)
      return false
    }
    buffers.leave(index, port: port, slot: slot)
    return true
  }

  /// Sends what is gathered, and waits for nothing; threads only.
  func sendGathered() {
    guard gatheredCount.load(ordering: .acquiring) > 0 else { return }
    for port in 0..<2 where order.withLock({ addGathered(port) }) { queues[port].kick() }
    control.poll()
  }
}
