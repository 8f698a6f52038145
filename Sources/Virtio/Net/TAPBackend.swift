// Frames by a TAP interface: each read(2) takes a frame, each write(2) gives one, the virtio header in front (IFF_VNET_HDR), so that the
// host's kernel and the guest's leave checksums and segmentation to each other.
//
// Each pair has a descriptor of its own (IFF_MULTI_QUEUE). The kernel steers what it sends to the queue on which it last received of
// the same flow. Queues beyond the pairs in use are detached. The kernel completes for the reader what it has not said it takes
// (TUNSETOFFLOAD).
import CSystemCalls
import Glibc
import Synchronization
import VirtioABI

/// A TAP's queues.
public final class TAPBackend: NetworkBackend {
  /// See `NetworkBackend`.
  public let offloads: NetworkOffloads
  /// See `NetworkBackend`.
  public let mtu: Int
  private let queues: [CInt]
  private let hasHeader: Bool
  /// Pairs in use.
  private let pairs = Mutex(1)

  /// The ioctl requests that a running machine makes for it.
  public static let requests: [UInt32] = [
    UInt32(truncatingIfNeeded: osv_tap_requests.0), UInt32(truncatingIfNeeded: osv_tap_requests.1),
  ]

  /// A backend over open queues of one TAP, owned by it from now on.
  /// - Parameters:
  ///   - queues: non-blocking descriptors, one for each pair, 1 to 8.
  ///   - hasHeader: whether each frame has a virtio header in front; without one nothing can be offloaded.
  ///   - mtu: the interface's MTU.
  public init(queues: [CInt], hasHeader: Bool, mtu: Int) {
    precondition((1...VirtioNetworkABI.maximumPairCount).contains(queues.count))
    self.queues = queues
    self.mtu = mtu
    var isHeaderSet = false
    if hasHeader {
      isHeaderSet = queues.allSatisfy { osv_tap_set_header($0, CInt(VirtioNetworkHeader.byteCount)) == 0 }
    }
    self.hasHeader = isHeaderSet
    var offloads: NetworkOffloads = []
    if isHeaderSet {
      // UDP from Linux 6.2 on.
      for candidate: NetworkOffloads in [[.tcp, .udp], .tcp, .checksum]
      where offloads.isEmpty && osv_tap_set_offloads(queues[0], candidate.bits) == 0 { offloads = candidate }
      _ = osv_tap_set_offloads(queues[0], 0)
    }
    self.offloads = offloads
    for queue in queues.dropFirst() { _ = osv_tap_use_queue(queue, 0) }
  }

  deinit { for queue in queues { close(queue) } }

  /// See `NetworkBackend`.
  public var pairCount: Int { queues.count }

  /// See `NetworkBackend`.
  public func descriptor(ofPair pair: Int) -> CInt { queues[pair] }

  /// See `NetworkBackend`.
  public func configure(received: NetworkOffloads, pairs count: Int) {
    if hasHeader { _ = osv_tap_set_offloads(queues[0], received.bits) }
    pairs.withLock { pairs in
      while pairs < count {
        _ = osv_tap_use_queue(queues[pairs], 1)
        pairs += 1
      }
      while pairs > count {
        pairs -= 1
        _ = osv_tap_use_queue(queues[pairs], 0)
      }
    }
  }

  /// See `NetworkBackend`.
  public func receive(pair: Int, into pieces: UnsafeBufferPointer<iovec>) -> ReceiveOutcome {
    guard hasHeader else { return receivePlain(pair, pieces) }
    return outcome(readv(queues[pair], pieces.baseAddress!, CInt(pieces.count)), pair, ahead: 0)
  }

  /// What a read of a pair's queue has brought, behind `ahead` bytes that were not read. All but what may pass means that the interface is
  /// gone (EBADFD; EIO, ENODEV or the end of the file where something else stands for a TAP), unless the queue has merely been put out of use:
  /// who took that for none at all would be told again and again that there is something to read.
  private func outcome(_ count: Int, _ pair: Int, ahead: Int) -> ReceiveOutcome {
    if count > 0 { return .frame(ahead + count) }
    if count < 0, [EAGAIN, EINTR, ENOMEM, ENOBUFS].contains(errno) { return .none }
    return pairs.withLock { pair < $0 } ? .ended : .none
  }

  /// See `NetworkBackend`.
  public func transmit(pair: Int, _ pieces: UnsafeBufferPointer<iovec>) -> TransmitOutcome {
    let first = hasHeader ? 0 : 1
    let count = writev(queues[pair], pieces.baseAddress! + first, CInt(pieces.count - first))
    if count >= 0 { return .sent }
    return errno == EAGAIN ? .full : .refused
  }

  /// Reads behind where the header would be, and puts an empty one there.
  private func receivePlain(_ pair: Int, _ pieces: UnsafeBufferPointer<iovec>) -> ReceiveOutcome {
    let header = VirtioNetworkHeader()
    _ = withUnsafeBytes(of: header) { pieces.write(at: 0, from: $0) }
    return withUnsafeTemporaryAllocation(of: iovec.self, capacity: pieces.count) { rest in
      let rest = rest.fill(from: pieces, skip: VirtioNetworkHeader.byteCount)
      return outcome(
        readv(queues[pair], rest.baseAddress, CInt(rest.count)), pair, ahead: VirtioNetworkHeader.byteCount)
    }
  }
}

extension NetworkOffloads {
  /// As the kernel's TUN_F_ bits. Without `checksum` there is nothing.
  fileprivate var bits: UInt32 {
    guard contains(.checksum) else { return 0 }
    let table: [(NetworkOffloads, osv_tap_offload)] = [
      (.checksum, OSV_TAP_CHECKSUM), (.tcp4, OSV_TAP_TCP4), (.tcp6, OSV_TAP_TCP6), (.ecn, OSV_TAP_ECN),
      (.udp4, OSV_TAP_UDP4), (.udp6, OSV_TAP_UDP6),
    ]
    return table.reduce(0) { contains($1.0) ? $0 | $1.1.rawValue : $0 }
  }
}
