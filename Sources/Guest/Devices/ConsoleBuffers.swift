// The buffers of the console's output, shared by both ports.
//
// A buffer belongs to whoever took it until it is given back, or left in a queue: then it is a stray, and comes back when the
// device is done with it. Its memory is read and written by its owner only, so program memory is copied while no lock is held.
import Base
import Locks
import Memory
import Pages
import Platform
import VirtioABI

/// A few buffers that the device can read.
final class ConsoleBuffers {
  private static let count = 6
  private static let smallByteCount = 4096
  private static let largeOrder = 4
  private static let largeByteCount = 65536

  private struct Buffer {
    var memory: UnsafeMutableRawPointer?
    var byteCount = 0
    var isTaken = false
    /// Where it was left: queue and slot; -1 if nowhere.
    var strayPort = -1
    var straySlot = -1
  }

  private let queues: [Virtqueue]
  private let lock = Mutex()
  // SAFETY: `count` entries, for good. `memory` and `byteCount` belong to whoever has taken the buffer, the rest is
  // guarded by `lock`.
  private let buffers: UnsafeMutablePointer<Buffer>
  private let takenCount = Atomic<Int>(0)
  private let returns = WaitQueue()

  /// Buffers that will be left in those queues.
  init(_ queues: [Virtqueue]) {
    self.queues = queues
    buffers = .allocate(capacity: Self.count)
    buffers.initialize(repeating: Buffer(), count: Self.count)
  }

  /// The memory of a buffer that is the caller's.
  func memory(_ index: Int) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: buffers[index].memory, count: buffers[index].byteCount)
  }

  /// Takes a buffer, waiting for one if that is allowed.
  /// - Throws: EAGAIN, EINTR, ENOMEM.
  func take(wanted: Int, _ nonBlocking: Bool) throws(Errno) -> Int {
    while true {
      let index = lock.withLock { () -> Int? in
        reclaimStrays()
        for index in 0..<Self.count where !buffers[index].isTaken {
          buffers[index].isTaken = true
          takenCount.add(1, ordering: .relaxed)
          return index
        }
        return nil
      }
      if let index {
        guard grow(index, wanted) else {
          give(index)
          throw .ENOMEM
        }
        return index
      }
      if nonBlocking { throw .EAGAIN }
      if waitForBuffer() == .interrupted { throw .EINTR }
    }
  }

  /// Gives a buffer back.
  func give(_ index: Int) {
    lock.withLock { buffers[index].isTaken = false }
    takenCount.subtract(1, ordering: .sequentiallyConsistent)
    returns.wakeOne()
  }

  /// Leaves a buffer in a queue: nobody waits for it.
  func leave(_ index: Int, port: Int, slot: Int) {
    lock.withLock {
      buffers[index].strayPort = port
      buffers[index].straySlot = slot
    }
  }

  /// Whether the device has something of the port's that nobody waits for.
  func hasStray(of port: Int) -> Bool {
    lock.withLock {
      reclaimStrays()
      for index in 0..<Self.count where buffers[index].straySlot >= 0 && buffers[index].strayPort == port {
        return true
      }
      return false
    }
  }

  /// Waits until the device is done with what was left in the queues up to now.
  func waitForStrays(interruptible: Bool, until deadline: Deadline) {
    lock.withLock { reclaimStrays() }
    for index in 0..<Self.count {
      let (port, slot) = lock.withLock { (buffers[index].strayPort, buffers[index].straySlot) }
      if slot >= 0, queues[port].wait(for: slot, interruptible: interruptible, until: deadline) != .woken { return }
    }
  }

  private func waitForBuffer() -> WaitResult {
    // A stray's end wakes nobody here: wait for one of them instead, if there is any.
    let stray = lock.withLock { () -> (port: Int, slot: Int)? in
      for index in 0..<Self.count where buffers[index].straySlot >= 0 {
        return (buffers[index].strayPort, buffers[index].straySlot)
      }
      return nil
    }
    if let stray { return queues[stray.port].wait(for: stray.slot, interruptible: true) }
    return returns.wait(interruptible: true) { takenCount.load(ordering: .relaxed) == Self.count }
  }

  private func reclaimStrays() {
    for index in 0..<Self.count where buffers[index].straySlot >= 0 {
      let queue = queues[buffers[index].strayPort]
      queue.reap()
      guard queue.isDone(buffers[index].straySlot) else { continue }
      queue.release(buffers[index].straySlot)
      buffers[index].straySlot = -1
      buffers[index].isTaken = false
      takenCount.subtract(1, ordering: .relaxed)
    }
  }

  /// A page does for most writes; a larger one gets a large buffer, if there is memory for it.
  private func grow(_ index: Int, _ wanted: Int) -> Bool {
    if wanted > Self.smallByteCount { enlarge(index, 0) }
    if buffers[index].memory == nil {
      guard let page = Frames.allocate() else { return false }
      buffers[index].memory = LinearMap.pointer(page)
      buffers[index].byteCount = Self.smallByteCount
    }
    return true
  }

  /// Makes a buffer of the caller's a large one that begins with the same `count` bytes, if there is memory for it.
  func enlarge(_ index: Int, _ count: Int) {
    // The buffer is the caller's: nobody else looks at its memory.
    guard buffers[index].byteCount < Self.largeByteCount, let block = Frames.allocate(order: Self.largeOrder) else {
      return
    }
    let memory = LinearMap.pointer(block)
    if let old = buffers[index].memory {
      memory.copyMemory(from: old, byteCount: count)
      Frames.free(LinearMap.physical(of: old))
    }
    buffers[index].memory = memory
    buffers[index].byteCount = Self.largeByteCount
  }
}
