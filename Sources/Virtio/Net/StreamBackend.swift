// Frames by a stream socket of the UNIX domain, as passt speaks it (and QEMU's stream netdev): the length of a frame in 4 bytes, the
// highest first, and then its bytes.
//
// Many small frames come with one recv(2) into a buffer of our own and are copied from there: a system call costs more than a copy. What is
// sent goes from guest memory; where the socket takes only a part of a frame, the rest is copied, for the guest gets its buffer back.
// There are no offloads, and there is one pair. The other side is another process: its lengths are checked.
import CSystemCalls
import Glibc
import VirtioABI

// SAFETY: what receives is touched by `receive` alone, what sends by `transmit` and `flush` alone; each is called by one thread at a time.
/// A socket with passt behind it, or something that speaks like it.
public final class StreamBackend: NetworkBackend, @unchecked Sendable {
  /// Bytes of the length in front of a frame.
  static let prefixByteCount = 4
  /// Bytes of the receive buffer: several frames of the largest kind.
  private static let bufferByteCount = 1 << 18

  /// See `NetworkBackend`.
  public let mtu: Int
  private let socket: CInt

  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: StreamBackend.bufferByteCount, alignment: 16)
  /// The part of `buffer` that holds bytes that were not taken.
  private var start = 0
  private var end = 0
  private var hasEnded = false

  private let pieces = UnsafeMutableBufferPointer<iovec>.allocate(capacity: 1024)
  /// The end of a frame that the socket had no room for.
  private var rest: [UInt8] = []
  private var restStart = 0

  /// A backend over a connected socket, owned by it from now on; it must not block.
  public init(socket: CInt, mtu: Int) {
    self.socket = socket
    self.mtu = mtu
  }

  deinit {
    close(socket)
    buffer.deallocate()
    pieces.deallocate()
  }

  /// See `NetworkBackend`.
  public var pairCount: Int { 1 }
  /// See `NetworkBackend`.
  public var offloads: NetworkOffloads { [] }
  /// See `NetworkBackend`.
  public func descriptor(ofPair pair: Int) -> CInt { socket }
  /// See `NetworkBackend`.
  public func configure(received: NetworkOffloads, pairs: Int) {}

  // MARK: Receiving

  /// See `NetworkBackend`.
  public func receive(pair: Int, into pieces: UnsafeBufferPointer<iovec>) -> ReceiveOutcome {
    while true {
      if hasEnded { return .ended }
      if let frame = nextFrame() {
        let header = VirtioNetworkHeader()
        _ = withUnsafeBytes(of: header) { pieces.write(at: 0, from: $0) }
        pieces.write(at: VirtioNetworkHeader.byteCount, from: frame)
        return .frame(min(VirtioNetworkHeader.byteCount + frame.count, pieces.byteCount))
      }
      guard !hasEnded else { continue }
      guard refill() else { return hasEnded ? .ended : .none }
    }
  }

  /// The next whole frame in the buffer, which stays there until the next call.
  private func nextFrame() -> UnsafeRawBufferPointer? {
    guard end - start >= Self.prefixByteCount else { return nil }
    let count = buffer[start..<(start + Self.prefixByteCount)].reduce(0) { $0 << 8 | Int($1) }
    guard count >= FrameHeader.linkByteCount, count <= FrameHeader.frameLimit else {
      // From here on nobody knows where a frame begins.
      hasEnded = true
      return nil
    }
    guard end - start >= Self.prefixByteCount + count else { return nil }
    let first = start + Self.prefixByteCount
    start = first + count
    return UnsafeRawBufferPointer(rebasing: buffer[first..<start])
  }

  /// Receives more bytes. False if there are none.
  private func refill() -> Bool {
    if start == end {
      (start, end) = (0, 0)
    } else if buffer.count - end < FrameHeader.frameLimit + Self.prefixByteCount {
      UnsafeMutableRawBufferPointer(rebasing: buffer[..<(end - start)])
        .copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[start..<end]))
      (start, end) = (0, end - start)
    }
    let count = recv(socket, buffer.baseAddress! + end, buffer.count - end, CInt(MSG_DONTWAIT))
    if count > 0 { end += count }
    if count == 0 || count < 0 && errno != EAGAIN && errno != EINTR { hasEnded = true }
    return count > 0
  }

  // MARK: Sending

  /// See `NetworkBackend`.
  public func transmit(pair: Int, _ frame: UnsafeBufferPointer<iovec>) -> TransmitOutcome {
    guard flush(pair: pair) else { return .full }
    let byteCount = frame.byteCount - VirtioNetworkHeader.byteCount
    guard byteCount <= FrameHeader.frameLimit else { return .refused }
    var length = UInt32(byteCount).bigEndian
    return withUnsafeMutableBytes(of: &length) { prefix in
      pieces.initializeElement(at: 0, to: iovec(iov_base: prefix.baseAddress, iov_len: prefix.count))
      let list = UnsafeMutableBufferPointer(rebasing: pieces[1...])
      let filled = list.fill(from: frame, skip: VirtioNetworkHeader.byteCount)
      let whole = UnsafeBufferPointer(start: pieces.baseAddress, count: 1 + filled.count)
      guard whole.byteCount == Self.prefixByteCount + byteCount else { return .refused }
      let count = send(whole)
      if count < 0 { return errno == EAGAIN || errno == EINTR ? .full : .refused }
      if count < Self.prefixByteCount + byteCount {
        rest = [UInt8](unsafeUninitializedCapacity: Self.prefixByteCount + byteCount - count) { buffer, filled in
          filled = whole.read(at: count, into: UnsafeMutableRawBufferPointer(buffer))
        }
        restStart = 0
      }
      return .sent
    }
  }

  /// See `NetworkBackend`.
  public func flush(pair: Int) -> Bool {
    while restStart < rest.count {
      let count = rest.withUnsafeMutableBytes { bytes in
        var piece = iovec(iov_base: bytes.baseAddress! + restStart, iov_len: bytes.count - restStart)
        return withUnsafePointer(to: &piece) { send(UnsafeBufferPointer(start: $0, count: 1)) }
      }
      if count > 0 {
        restStart += count
      } else if errno == EAGAIN {
        return false
      } else if errno != EINTR {
        // Nobody reads any more.
        restStart = rest.count
      }
    }
    return true
  }

  /// Sends without SIGPIPE and without waiting.
  private func send(_ pieces: UnsafeBufferPointer<iovec>) -> Int {
    var message = msghdr()
    // SAFETY: sendmsg only reads the pieces.
    message.msg_iov = UnsafeMutablePointer(mutating: pieces.baseAddress)
    message.msg_iovlen = pieces.count
    return sendmsg(socket, &message, CInt(MSG_NOSIGNAL | MSG_DONTWAIT))
  }
}
