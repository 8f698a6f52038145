// Frames from the guest to the backend. Used under the lock of its transmit queue, by the pair's worker or by a vCPU's thread.
//
// The header is copied, checked, and sent from the copy; the frame goes from guest memory. A request that is too short to be a frame stops
// the queue; a header that makes no sense costs the frame. A frame for which the backend has no room stays in the queue.
import Glibc
import VirtioABI
import VirtioQueue

// SAFETY: see above: one thread at a time, with the queue's lock.
/// The transmitting side of a pair.
final class Transmitter: @unchecked Sendable {
  /// Why it stopped.
  enum Outcome: Equatable {
    /// The queue is empty, or not to be served any more.
    case drained
    /// There may be more: its share is used up.
    case busy
    /// The backend has no room.
    case full
    /// The rate allows no more for so many nanoseconds.
    case limited(UInt64)
  }

  let counters = DirectionCounters()
  /// Frames that the last `run` has dealt with.
  private(set) var handled = 0
  private let pair: Int
  private let backend: any NetworkBackend
  private let capture: (PacketCapture, Int)?
  private let chain = DescriptorChain()
  private let pieces = UnsafeMutableBufferPointer<iovec>.allocate(capacity: DescriptorChain.pieceLimit)
  private let header = UnsafeMutablePointer<VirtioNetworkHeader>.allocate(capacity: 1)
  private let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: FrameHeader.prefixByteCount, alignment: 8)
  private var bucket: TokenBucket

  init(pair: Int, backend: any NetworkBackend, rate: UInt64, capture: (PacketCapture, Int)?) {
    self.pair = pair
    self.backend = backend
    self.capture = capture
    bucket = TokenBucket(rate: rate, now: MonotonicClock.now)
  }

  deinit {
    pieces.deallocate()
    header.deallocate()
    prefix.deallocate()
  }

  /// Sends up to `budget` frames.
  func run(_ queue: SplitQueue, _ session: Session, budget: Int) -> Outcome {
    handled = 0
    queue.disarm()
    guard backend.flush(pair: pair) else { return .full }
    while handled < budget {
      if bucket.rate > 0, queue.hasAvailable() {
        let wait = bucket.wait(now: MonotonicClock.now)
        if wait > 0 { return .limited(wait) }
      }
      guard queue.pop(into: chain) else { return .drained }
      let byteCount = chain.readableByteCount - VirtioNetworkHeader.byteCount
      guard byteCount >= FrameHeader.linkByteCount else {
        queue.fail(.badRequest)
        return .drained
      }
      guard send(byteCount, session) else {
        queue.putBack(chain)
        return .full
      }
      bucket.take(byteCount: byteCount)
      queue.push(chain)
      handled += 1
    }
    return .busy
  }

  /// Sends the chain's frame, or drops it. False if there is no room for it.
  private func send(_ byteCount: Int, _ session: Session) -> Bool {
    // Not as a slice: what follows is checked on this copy.
    guard let given = chain.read(VirtioNetworkHeader.self) else { return true }
    let count = chain.read(at: VirtioNetworkHeader.byteCount, into: prefix)
    let beginning = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(prefix)[..<count])
    guard let checked = session.check.check(given, byteCount: byteCount, prefix: beginning) else {
      DirectionCounters.add(counters.refused)
      return true
    }
    header.initialize(to: checked)
    pieces.initializeElement(at: 0, to: iovec(iov_base: header, iov_len: VirtioNetworkHeader.byteCount))
    let rest = UnsafeMutableBufferPointer(rebasing: pieces[1...])
    let filled = rest.fill(from: chain.readable, skip: VirtioNetworkHeader.byteCount)
    // A frame in more pieces than one call takes: nobody's driver makes such.
    guard filled.byteCount == byteCount else {
      DirectionCounters.add(counters.refused)
      return true
    }
    switch backend.transmit(pair: pair, UnsafeBufferPointer(start: pieces.baseAddress, count: 1 + filled.count)) {
    case .full: return false
    case .refused: DirectionCounters.add(counters.refused)
    case .sent:
      DirectionCounters.add(counters.packets)
      DirectionCounters.add(counters.bytes, byteCount)
      if let (capture, interface) = capture {
        capture.record(interface: interface, isOutbound: true, filled, skip: 0, byteCount: byteCount)
      }
    }
    return true
  }
}
