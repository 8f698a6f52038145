// The file-system device (virtio 1.2, 5.11): FUSE requests from the queues to the server, replies straight into guest memory.
//
// Queue 0 is the one of high priority (FORGET, INTERRUPT), the others are alike; each has its own chain and request buffer, under the
// queue's lock. A request is copied before it is looked at; data goes by preadv to where the guest wants it, and by pwritev from where it
// has it.
import CSystemCalls
import Glibc
import VirtioABI
import VirtioPCI
import VirtioQueue

// SAFETY: a chain and its request buffer are touched with the lock of the queue of their number, and freed with the device,
// when no queue serves it any more; the server has locks of its own.
/// A virtio file system over a FUSE server.
public final class VirtioFileSystemDevice: VirtioDevice, @unchecked Sendable {
  /// Longest request that is served, without the data of a WRITE; longer ones are answered by EINVAL. The longest is the
  /// setting of an extended attribute: 64 KiB and a name.
  public static let requestLimit = 69_632

  /// The server.
  public let server: FUSEServer
  private let tag: [UInt8]
  // Guarded by the lock of the queue of the same number.
  private let chains: [DescriptorChain]
  private let requests: [UnsafeMutableRawBufferPointer]

  /// A device.
  /// - Parameters:
  ///   - server: what answers.
  ///   - tag: the name by which a guest mounts it; at most 36 bytes of UTF-8 count.
  ///   - requestQueues: 1 to 15; one for each CPU of the guest is right.
  public init(server: FUSEServer, tag: String, requestQueues: Int = 1) {
    precondition((1...15).contains(requestQueues))
    self.server = server
    self.tag = Array(tag.utf8.prefix(VirtioFSDevice.tagByteCount))
    chains = (0...requestQueues).map { _ in DescriptorChain() }
    requests = (0...requestQueues).map { _ in
      UnsafeMutableRawBufferPointer.allocate(byteCount: Self.requestLimit, alignment: 8)
    }
  }

  deinit {
    for buffer in requests { buffer.deallocate() }
  }

  /// See `VirtioDevice`.
  public var deviceID: UInt32 { VirtioFSDevice.deviceID }
  /// See `VirtioDevice`: mass storage, other.
  public var pciClass: UInt32 { 0x01_8000 }
  /// See `VirtioDevice`.
  public var features: UInt64 { 0 }
  /// See `VirtioDevice`.
  public var queueCount: Int { chains.count }
  /// See `VirtioDevice`: a chain of 256 pages and the headers goes by an indirect table.
  public var queueSize: UInt16 { 256 }

  /// See `VirtioDevice`: the tag, then the number of request queues.
  public func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    let count = UInt32(chains.count - 1)
    for index in buffer.indices {
      let place = offset + index
      switch place {
      case 0..<tag.count: buffer[index] = tag[place]
      case VirtioFSDevice.tagByteCount..<VirtioFSDevice.configurationByteCount:
        buffer[index] = UInt8(truncatingIfNeeded: count >> UInt32(8 * (place - VirtioFSDevice.tagByteCount)))
      default: buffer[index] = 0
      }
    }
  }

  /// See `VirtioDevice`.
  public func activate(host: any VirtioDeviceHost, features: UInt64) {}

  /// See `VirtioDevice`: the guest's nodes and handles go with it.
  public func reset() { server.reset() }

  /// See `VirtioDevice`.
  public func serve(queue index: Int, _ queue: SplitQueue) {
    let chain = chains[index]
    let buffer = requests[index]
    repeat {
      while queue.pop(into: chain) {
        queue.push(chain, written: serve(chain, buffer))
      }
    } while queue.rearm()
  }

  /// Nothing is read twice: the head decides what else is copied.
  private func serve(_ chain: DescriptorChain, _ buffer: UnsafeMutableRawBufferPointer) -> Int {
    let headCount = chain.read(
      at: 0, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<FUSEServer.headByteCount]))
    let head = UnsafeRawBufferPointer(rebasing: buffer[..<headCount])
    if FUSEServer.hasPayload(head) {
      let payload = FUSEPayload(chain.readable, skip: headCount, count: chain.readableByteCount - headCount)
      return server.handle(request: head, payload: payload, reply: chain.writable)
    }
    let rest = chain.read(at: headCount, into: UnsafeMutableRawBufferPointer(rebasing: buffer[headCount...]))
    let request = UnsafeRawBufferPointer(rebasing: buffer[..<(headCount + rest)])
    return server.handle(request: request, reply: chain.writable)
  }
}
