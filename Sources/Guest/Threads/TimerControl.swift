// TimerControl: a timer of `TimerEvent`; recycled, never freed, so that a CPU may still have its node in a heap while a new
// owner arms it (`TimerQueue` moves it then as it moves any).

import Base
import Locks
import Pages
import Platform

struct TimerControl: ~Copyable {
  var node: TimerNode<LiveWord>
  var handler: TimerEvent.Handler?
  var context: UnsafeMutableRawPointer?
  var nextFree: UnsafeMutablePointer<TimerControl>?

  // SAFETY: the list and its links are touched with `freeLock`.
  nonisolated(unsafe) private static var free: UnsafeMutablePointer<TimerControl>? = nil
  private static let freeLock = Mutex()

  static func make(
    handler: @escaping TimerEvent.Handler, context: UnsafeMutableRawPointer?
  ) throws(Errno) -> UnsafeMutablePointer<TimerControl> {
    let recycled: UnsafeMutablePointer<TimerControl>? = freeLock.withLock {
      guard let control = free else { return nil }
      free = control.pointee.nextFree
      return control
    }
    guard let control = recycled ?? allocate() else { throw .ENOMEM }
    control.pointee.handler = handler
    control.pointee.context = context
    return control
  }

  private static func allocate() -> UnsafeMutablePointer<TimerControl>? {
    let layout = MemoryLayout<TimerControl>.self
    #if HOSTED
      let memory: UnsafeMutableRawPointer? = .allocate(byteCount: layout.size, alignment: layout.alignment)
    #else
      let memory = KernelHeap.allocate(byteCount: layout.size, alignment: 64)
    #endif
    guard let memory else { return nil }
    // SAFETY: fresh memory of that size and alignment, never freed. The lowest bit tells timers from threads.
    let control = memory.bindMemory(to: TimerControl.self, capacity: 1)
    control.initialize(to: TimerControl(node: TimerNode(owner: UInt(bitPattern: memory) | 1)))
    return control
  }

  static func arm(_ control: UnsafeMutablePointer<TimerControl>, _ nanoseconds: UInt64) {
    // SAFETY: controls do not move.
    let node = withUnsafeMutablePointer(to: &control.pointee.node) { $0 }
    Scheduler.arm(node, at: nanoseconds)
  }

  static func cancel(_ control: UnsafeMutablePointer<TimerControl>) -> Bool { control.pointee.node.cancel() }

  static func destroy(_ control: UnsafeMutablePointer<TimerControl>) {
    _ = control.pointee.node.cancel()
    // The handler runs with interrupts off, on another CPU: it is over in a moment.
    while control.pointee.node.firing.load() != 0 { Scheduler.pause() }
    freeLock.withLock {
      control.pointee.nextFree = free
      free = control
    }
  }

  /// Calls the handler of a timer whose time has come, given its address.
  static func fire(_ address: UInt) {
    // SAFETY: owners of nodes are addresses of controls, which live for ever.
    let control = UnsafeMutablePointer<TimerControl>(bitPattern: address).unsafelyUnwrapped
    control.pointee.handler?(control.pointee.context)
  }
}
