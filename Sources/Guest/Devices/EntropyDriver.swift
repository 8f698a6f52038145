// The entropy device (virtio 1.2, 5.4): random bytes of the host, for the kernel's generator.
import Base
import Locks
import Pages
import VirtioABI

/// A virtio entropy source; set up at the first need. Threads only.
public final class EntropyDriver {
  private static let queueSize = 4
  private static let bufferByteCount = 256

  private let function: VirtioFunction
  private let lock = Mutex()
  // Guarded by `lock`: nil before the first need.
  private var queue: Virtqueue?
  private var buffer: UnsafeMutableRawPointer?

  /// A driver for the device, which is not touched yet.
  /// - Throws: ENODEV if it is no entropy source.
  public init(_ function: VirtioFunction) throws(Errno) {
    guard function.description.deviceID == VirtioDeviceID.entropy else { throw .ENODEV }
    self.function = function
  }

  /// Fills the buffer with random bytes.
  /// - Throws: ENODEV, ENOMEM at the first call; EIO if the device is broken or gives nothing.
  public func fill(_ destination: UnsafeMutableRawBufferPointer) throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    let (queue, buffer) = try started()
    var done = 0
    while done < destination.count {
      var segment = DeviceSegment(address: buffer, count: min(destination.count &- done, Self.bufferByteCount))
      let count = try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
        try queue.perform(pointer, readable: 0, writable: 1)
      }
      guard count > 0 else { throw .EIO }
      // SAFETY: the device's count is at most the piece's, which is at most what is left.
      UnsafeMutableRawBufferPointer(rebasing: destination[done...]).copyMemory(
        from: UnsafeRawBufferPointer(start: buffer, count: count))
      done &+= count
    }
    clearMemory(buffer, byteCount: Self.bufferByteCount)
  }

  private func started() throws(Errno) -> (Virtqueue, UnsafeMutableRawPointer) {
    if let queue, let buffer { return (queue, buffer) }
    if function.isDead { throw .ENODEV }
    let size = min(Self.queueSize, function.description.queueSize.int)
    let ringByteCount = Virtqueue.byteCount(size: size)
    guard let memory = KernelHeap.allocateZeroed(byteCount: ringByteCount &+ Self.bufferByteCount, alignment: 16) else {
      throw .ENOMEM
    }
    guard let queue = Virtqueue(size: size, memory: memory) else {
      KernelHeap.free(memory)
      throw .ENOMEM
    }
    try function.start([queue])
    self.queue = queue
    buffer = memory + ringByteCount
    return (queue, memory + ringByteCount)
  }
}
