// Who serves which interrupt vector.
import Base
import VirtioABI

/// The table of interrupt handlers, one for each vector from 32 up.
///
/// A handler runs with interrupts disabled, on the interrupted thread's kernel stack, after the end-of-interrupt. It may
/// wake threads, send interrupts and arm the timer; it must not sleep, and should leave work to threads.
public enum InterruptTable {
  /// A handler, given the context it was registered with.
  public typealias Handler = @convention(c) (UnsafeMutableRawPointer?) -> Void

  struct Entry {
    var handler: Handler?
    var context: UnsafeMutableRawPointer?
    var count: UInt64
  }

  /// The vector of the non-maskable interrupt. Its handler may hit anything at any moment, on a stack of its own: it may
  /// count and look, nothing else. Without one it is a panic that shows where the kernel is.
  public static let nonMaskable: UInt32 = 2

  /// Registers `handler` for `vector`, 32 to 254 or `nonMaskable`, in place of the one before. Before its source can interrupt.
  public static func register(_ vector: UInt32, handler: @escaping Handler, context: UnsafeMutableRawPointer? = nil) {
    precondition(vector >= 32 && vector < 255 || vector == nonMaskable)
    let wasEnabled = Interrupts.disable()
    interruptEntries[vector.int].context = context
    interruptEntries[vector.int].handler = handler
    Interrupts.restore(wasEnabled)
  }

  /// Removes the handler of `vector`: its interrupts are counted and dropped.
  public static func unregister(_ vector: UInt32) {
    interruptEntries[vector.int].handler = nil
  }

  /// How often `vector` came, over all CPUs (not exact when they race).
  public static func count(_ vector: UInt32) -> UInt64 { interruptEntries[vector.int].count }

  /// Calls the handler of `vector`, as an interrupt would.
  @inline(__always) public static func dispatch(_ vector: UInt32) {
    let index = (vector & 255).int
    interruptEntries[index].count &+= 1
    if let handler = interruptEntries[index].handler { handler(interruptEntries[index].context) }
  }
}

// SAFETY: never moved. A vector's entry is written before its source can interrupt, and by no two CPUs; counts of CPUs that
// race may be lost.
nonisolated(unsafe) var interruptEntries: InlineArray<256, InterruptTable.Entry> = InlineArray(
  repeating: InterruptTable.Entry(handler: nil, context: nil, count: 0))
