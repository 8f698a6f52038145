// The channel to a virtio-fs device (virtio 1.2, 5.11): FUSE requests in, replies out.
//
// Queue 0 has priority and carries requests without replies; the others carry requests, each CPU using its own if there
// are several. Many threads may have requests open. A thread that finds the queue full settles its own first, so
// that threads with many requests never wait for each other in a circle.
import Base
import Locks
import Pages
import Platform
import VirtioABI

/// One request and the places for its reply. The memory belongs to the caller and stays as it is until the call is over.
public struct DeviceCall {
  /// `readable` pieces of the request, then `writable` ones for the reply.
  public var segments: UnsafeMutablePointer<DeviceSegment>
  /// Pieces that the device reads, 1 or more.
  public var readable: Int
  /// Pieces that the device writes, 0 or more.
  public var writable: Int
  /// Bytes that the device says it wrote, at most what the pieces hold; set by the channel.
  public var replyCount = 0
  /// The channel's own.
  var slot = -1

  /// A call.
  public init(segments: UnsafeMutablePointer<DeviceSegment>, readable: Int, writable: Int) {
    self.segments = segments
    self.readable = readable
    self.writable = writable
  }
}

/// A virtio-fs device.
public final class FUSEChannel {
  private static let queueSize = 64
  private static let priorityQueueSize = 16

  private let function: VirtioFunction
  private let priority: Virtqueue
  private let requests: [Virtqueue]

  /// Starts the device. Thread context.
  /// - Throws: ENODEV if it is no virtio-fs device or refuses; ENOMEM.
  public init(_ function: VirtioFunction) throws(Errno) {
    let description = function.description
    guard description.deviceID == VirtioDeviceID.fileSystem, description.queueCount >= 2 else { throw .ENODEV }
    self.function = function
    let size = min(Self.queueSize, description.queueSize.int)
    let prioritySize = min(Self.priorityQueueSize, description.queueSize.int)
    let count = min(description.queueCount.int &- 1, CPU.count, 15)
    priority = try Self.queue(size: prioritySize)
    var requests: [Virtqueue] = []
    for _ in 0..<count { requests.append(try Self.queue(size: size)) }
    self.requests = requests
    var queues: [DeviceQueue?] = [priority]
    for queue in requests { queues.append(queue) }
    try function.start(queues)
  }

  private static func queue(size: Int) throws(Errno) -> Virtqueue {
    let byteCount = Virtqueue.byteCount(size: size)
    guard let memory = KernelHeap.allocateZeroed(byteCount: byteCount, alignment: 16),
      let queue = Virtqueue(size: size, memory: memory)
    else { throw .ENOMEM }
    return queue
  }

  /// Most pieces of one call.
  public var maximumSegments: Int { Virtqueue.maximumSegments }
  /// Entries of a queue.
  public var queueSize: Int { requests[0].size }
  /// Most calls that gain from being performed together; more work too.
  public var maximumCalls: Int { requests[0].size }

  /// Sends calls with one notification and waits until the device is done with all of them. Not interruptible: the
  /// device may write to the pieces until the end.
  /// - Throws: EIO if the device is broken (it touches the pieces no more); ENOMEM, after those calls are done that were sent.
  public func perform(_ calls: UnsafeMutableBufferPointer<DeviceCall>) throws(Errno) {
    let queue = requests[requests.count == 1 ? 0 : CPU.current % requests.count]
    var settled = 0
    var sent = 0
    var error: Errno?
    while sent < calls.count && error == nil {
      do throws(Errno) {
        let call = calls[sent]
        if let slot = try queue.add(call.segments, readable: call.readable, writable: call.writable) {
          calls[sent].slot = slot
          sent &+= 1
        } else {
          queue.kick()
          if settled == sent { queue.waitForSlot() }
          // One of ours at least, and all that are done with it: the next notification is for as many again.
          var isNext = settled < sent
          while isNext {
            settled &+= 1
            try settle(&calls[settled &- 1], queue)
            isNext = settled < sent && queue.isDone(calls[settled].slot)
          }
        }
      } catch let failure { error = failure }
    }
    queue.kick()
    while settled < sent {
      do throws(Errno) { try settle(&calls[settled], queue) } catch let failure { error = failure }
      settled &+= 1
    }
    if let error { throw error }
  }

  private func settle(_ call: inout DeviceCall, _ queue: Virtqueue) throws(Errno) {
    _ = queue.wait(for: call.slot)
    guard queue.isDone(call.slot) else {
      function.stop()
      throw .EIO
    }
    call.replyCount = queue.release(call.slot)
  }

  /// Sends a request that has no reply, with priority. Returns when the piece may be used again; nobody hears of a broken device.
  public func post(_ request: DeviceSegment) {
    var request = request
    // SAFETY: the piece is on this stack until the device is done.
    withUnsafePointer(to: &request) { pointer in
      do throws(Errno) { _ = try priority.perform(pointer, readable: 1, writable: 0) } catch { return }
    }
  }
}
