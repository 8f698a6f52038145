// What a device is to its transport, and the transport to its device.
//
// Threads: `activate` and `reset` are called one at a time and never beside `serve` or the body of `withQueue`. Calls of
// `serve` and `withQueue` for one queue never overlap, those for different queues may. A device may call `withQueue` for another
// queue while it serves one, in one fixed order of queues.
import VirtioQueue

/// A virtio device, without regard to the bus it is on.
public protocol VirtioDevice: AnyObject, Sendable {
  /// Virtio device id: 1 network, 3 console, 4 entropy, 26 file system…
  var deviceID: UInt32 { get }
  /// PCI class code (class, subclass, programming interface; 24 bits).
  var pciClass: UInt32 { get }
  /// The device's own feature bits; the transport adds its own.
  var features: UInt64 { get }
  /// Queues, 1 to `BootDeviceSetup.maximumQueueCount`.
  var queueCount: Int { get }
  /// Largest size of a queue, a power of two.
  var queueSize: UInt16 { get }
  /// Fills `buffer` with the device's configuration from byte `offset` on; bytes behind its end are zero.
  func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer)
  /// The driver wrote bytes of the configuration; most devices have none to write.
  func writeConfiguration(at offset: Int, from bytes: UnsafeRawBufferPointer)

  /// The driver is there (DRIVER_OK): queues are live from now until `reset`.
  /// - Parameters:
  ///   - host: the transport, valid until `reset`.
  ///   - features: what was agreed on.
  func activate(host: any VirtioDeviceHost, features: UInt64)

  /// Serves the requests of a queue until there are none, then leaves it armed (`SplitQueue.rearm`) if the device wants to
  /// hear of more. Called when the guest has notified, on a vCPU's thread or on a worker; may block for as long as output must
  /// not be lost, no longer. The transport raises the interrupt afterwards.
  func serve(queue index: Int, _ queue: SplitQueue)

  /// Asked first when the guest has notified a queue: whether a thread of the device's own serves it, so that `serve` is not to be called.
  /// No lock is held; the queue may not be live any more. False where the device has no threads.
  func isServedElsewhere(queue index: Int) -> Bool

  /// The driver went away: forget all requests and the host given to `activate`.
  func reset()
}

extension VirtioDevice {
  /// Ignores the driver.
  public func writeConfiguration(at offset: Int, from bytes: UnsafeRawBufferPointer) {}
  /// False.
  public func isServedElsewhere(queue index: Int) -> Bool { false }
}

/// What a device can ask of its transport, from any thread.
public protocol VirtioDeviceHost: AnyObject, Sendable {
  /// Runs the body with a queue, under its lock, and interrupts the guest if it wants that. Does nothing where the queue is
  /// not live. Not for a queue that the caller is serving.
  func withQueue(_ index: Int, _ body: (SplitQueue) -> Void)
  /// Tells the guest that the device's configuration is another one.
  func configurationChanged()
}
