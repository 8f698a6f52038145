// Standard output and error: bytes are copied to a buffer the device can read, sent with one notification, and waited for.
//
// A few buffers are shared by both ports. A buffer belongs to the thread that took it until the device is done with it;
// program memory is read while no lock is held. A write that is interrupted after it was sent counts as done: its buffer is taken
// back later, and `flush` waits for it.
import Base
import Locks
import Memory
import Pages
import Platform
import VirtioABI

/// The transmitting sides of the console's two ports.
final class ConsoleOutput {
  private static let bufferCount = 4
  private static let smallByteCount = 4096
  private static let largeOrder = 4
  private static let largeByteCount = 65536
  static let queueSize = 8

  private struct Buffer {
    var memory: UnsafeMutableRawPointer?
    var byteCount = 0
    var isTaken = false
    /// Where it was sent by a thread that does not wait for it: queue and slot; -1 if nowhere.
    var strayPort = -1
    var straySlot = -1
  }

  private let queues: [Virtqueue]
  private let control: ConsoleControl
  private let function: VirtioFunction
  private let lock = Mutex()
  // SAFETY: `bufferCount` entries, for good. `memory` and `byteCount` belong to whoever has taken the buffer, the rest is
  // guarded by `lock`.
  private let buffers: UnsafeMutablePointer<Buffer>
  private let takenCount = Atomic<Int>(0)
  private let returns = WaitQueue()

  /// - Parameter queues: of port 0 and of port 1.
  init(_ queues: [Virtqueue], control: ConsoleControl, function: VirtioFunction) {
    self.queues = queues
    self.control = control
    self.function = function
    buffers = .allocate(capacity: Self.bufferCount)
    buffers.initialize(repeating: Buffer(), count: Self.bufferCount)
  }

  /// Writes everything, sleeping while there is no buffer or the device is not done.
  /// - Returns: bytes written; fewer than there were only after an interrupt or a fault.
  /// - Throws: if nothing was written: EPIPE (nobody reads), EAGAIN (no buffer, and not to block), EINTR, EFAULT, ENOMEM, and
  ///   what the host's own write has failed with (ENOSPC, EIO…).
  func write(_ port: Int, from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
    var written = 0
    while transfer.remaining > 0 {
      do throws(Errno) {
        if control.isOutputClosed(port) { throw .EPIPE }
        let count = try writePart(port, &transfer, nonBlocking)
        written &+= count
      } catch let error {
        if written == 0 { throw error }
        return written
      }
    }
    return written
  }

  private func writePart(_ port: Int, _ transfer: inout Transfer, _ nonBlocking: Bool) throws(Errno) -> Int {
    let index = try takeBuffer(wanted: transfer.remaining, nonBlocking)
    let memory = buffers[index].memory.unsafelyUnwrapped
    let before = transfer.copied
    var fault: Errno?
    do throws(Errno) {
      try transfer.copyIn(into: UnsafeMutableRawBufferPointer(start: memory, count: buffers[index].byteCount))
    } catch let error { fault = error }
    let count = transfer.copied &- before
    guard count > 0 else {
      giveBuffer(index)
      if let fault { throw fault }
      return 0
    }
    try send(port, index, memory, count)
    if control.isOutputClosed(port) { throw .EPIPE }
    if let error = control.takeOutputError(port) { throw error }
    return count
  }

  private func send(_ port: Int, _ index: Int, _ memory: UnsafeMutableRawPointer, _ count: Int) throws(Errno) {
    let queue = queues[port]
    var segment = DeviceSegment(address: memory, count: count)
    let slot: Int?
    do throws(Errno) {
      // There are more slots than buffers.
      slot = try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
        try queue.add(pointer, readable: 1, writable: 0)
      }
    } catch let error {
      giveBuffer(index)
      throw error
    }
    guard let slot else {
      giveBuffer(index)
      throw .EIO
    }
    queue.kick()
    let result = queue.wait(for: slot, interruptible: true)
    // What the device had to say meanwhile: that nobody reads, perhaps.
    control.poll()
    if queue.isDone(slot) {
      queue.release(slot)
      giveBuffer(index)
    } else if result == .interrupted {
      lock.withLock {
        buffers[index].strayPort = port
        buffers[index].straySlot = slot
      }
      // Sent is sent. The caller looks for signals when it returns.
    } else {
      function.stop()
      throw .EIO
    }
  }

  /// Waits until the device is done with everything that was sent.
  func flush() {
    for index in 0..<Self.bufferCount {
      let (port, slot) = lock.withLock { (buffers[index].strayPort, buffers[index].straySlot) }
      if slot >= 0 { _ = queues[port].wait(for: slot) }
    }
  }

  // MARK: Buffers

  private func takeBuffer(wanted: Int, _ nonBlocking: Bool) throws(Errno) -> Int {
    while true {
      let index = lock.withLock { () -> Int? in
        reclaimStrays()
        for index in 0..<Self.bufferCount where !buffers[index].isTaken {
          buffers[index].isTaken = true
          takenCount.add(1, ordering: .relaxed)
          return index
        }
        return nil
      }
      if let index {
        guard grow(index, wanted) else {
          giveBuffer(index)
          throw .ENOMEM
        }
        return index
      }
      if nonBlocking { throw .EAGAIN }
      if waitForBuffer() == .interrupted { throw .EINTR }
    }
  }

  private func waitForBuffer() -> WaitResult {
    // A stray's end wakes nobody here: wait for one of them instead, if there is any.
    let stray = lock.withLock { () -> (port: Int, slot: Int)? in
      for index in 0..<Self.bufferCount where buffers[index].straySlot >= 0 {
        return (buffers[index].strayPort, buffers[index].straySlot)
      }
      return nil
    }
    if let stray { return queues[stray.port].wait(for: stray.slot, interruptible: true) }
    return returns.wait(interruptible: true) { takenCount.load(ordering: .relaxed) == Self.bufferCount }
  }

  private func reclaimStrays() {
    for index in 0..<Self.bufferCount where buffers[index].straySlot >= 0 {
      let queue = queues[buffers[index].strayPort]
      queue.reap()
      guard queue.isDone(buffers[index].straySlot) else { continue }
      queue.release(buffers[index].straySlot)
      buffers[index].straySlot = -1
      buffers[index].isTaken = false
      takenCount.subtract(1, ordering: .relaxed)
    }
  }

  private func giveBuffer(_ index: Int) {
    lock.withLock { buffers[index].isTaken = false }
    takenCount.subtract(1, ordering: .sequentiallyConsistent)
    returns.wakeOne()
  }

  /// A page does for most writes; a larger one gets a large buffer, if there is memory for it.
  private func grow(_ index: Int, _ wanted: Int) -> Bool {
    // The buffer is the caller's: nobody else looks at its memory.
    if wanted > Self.smallByteCount && buffers[index].byteCount < Self.largeByteCount,
      let block = Frames.allocate(order: Self.largeOrder)
    {
      if let memory = buffers[index].memory { Frames.free(LinearMap.physical(of: memory)) }
      buffers[index].memory = LinearMap.pointer(block)
      buffers[index].byteCount = Self.largeByteCount
    } else if buffers[index].memory == nil {
      guard let page = Frames.allocate() else { return false }
      buffers[index].memory = LinearMap.pointer(page)
      buffers[index].byteCount = Self.smallByteCount
    }
    return true
  }
}
