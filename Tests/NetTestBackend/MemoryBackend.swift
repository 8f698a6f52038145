// A network in memory, for tests of the device and of drivers: frames wait in lists, and what the device sends is kept.
import Glibc
import Synchronization
import VirtioABI
import VirtioNet

/// A frame with its header.
public struct TestFrame: Equatable, Sendable {
  /// The header as it was in front of the frame.
  public var header: VirtioNetworkHeader
  /// The frame.
  public var bytes: [UInt8]

  /// A frame without offloads, or with those of `header`.
  public init(_ bytes: [UInt8], header: VirtioNetworkHeader = VirtioNetworkHeader()) {
    self.bytes = bytes
    self.header = header
  }

  /// Whether headers and bytes are the same.
  public static func == (left: TestFrame, right: TestFrame) -> Bool {
    left.bytes == right.bytes
      && withUnsafeBytes(of: left.header) { a in withUnsafeBytes(of: right.header) { a.elementsEqual($0) } }
  }
}

/// The network.
public final class MemoryBackend: NetworkBackend {
  private struct State {
    var waiting: [[TestFrame]]
    var sent: [[TestFrame]]
    var isFull = false
    var hasEnded = false
    var offloads: NetworkOffloads = []
    var pairs = 1
  }

  private let state: Mutex<State>
  private struct Event {
    let watched: CInt
    let signalled: CInt
  }

  private let events: [Event]
  /// See `NetworkBackend`.
  public let pairCount: Int
  /// See `NetworkBackend`.
  public let offloads: NetworkOffloads
  /// See `NetworkBackend`.
  public let mtu: Int
  /// What `transmit` answers for a frame, if it is not sent.
  public let refuses: @Sendable (TestFrame) -> Bool

  /// An empty network.
  public init(
    pairCount: Int = 1, offloads: NetworkOffloads = [.tcp, .udp], mtu: Int = 1500,
    refuses: @escaping @Sendable (TestFrame) -> Bool = { _ in false }
  ) {
    self.pairCount = pairCount
    self.offloads = offloads
    self.mtu = mtu
    self.refuses = refuses
    state = Mutex(
      State(waiting: Array(repeating: [], count: pairCount), sent: Array(repeating: [], count: pairCount)))
    events = (0..<pairCount).map { _ in
      var ends: [CInt] = [-1, -1]
      // One end is watched by the device; a byte in it stands for frames that wait.
      precondition(socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0, &ends) == 0)
      for end in ends { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
      return Event(watched: ends[0], signalled: ends[1])
    }
  }

  deinit {
    for event in events {
      close(event.watched)
      close(event.signalled)
    }
  }

  // MARK: For the test

  /// Frames arrive.
  public func deliver(_ frames: [TestFrame], pair: Int = 0) {
    state.withLock { $0.waiting[pair] += frames }
    signal(pair)
  }

  /// How many frames the device has not taken yet.
  public var waitingCount: Int { state.withLock { $0.waiting.reduce(0) { $0 + $1.count } } }

  private func signal(_ pair: Int) {
    var byte: UInt8 = 1
    _ = write(events[pair].signalled, &byte, 1)
  }

  /// Takes what was sent by a pair so far.
  public func takeSent(pair: Int = 0) -> [TestFrame] {
    state.withLock { state in
      defer { state.sent[pair] = [] }
      return state.sent[pair]
    }
  }

  /// Whether there is no room for what is sent.
  public var isFull: Bool {
    get { state.withLock { $0.isFull } }
    set { state.withLock { $0.isFull = newValue } }
  }

  /// Frames that have not been taken.
  public func waitingCount(pair: Int = 0) -> Int { state.withLock { $0.waiting[pair].count } }

  /// The network is gone.
  public func end() {
    state.withLock { $0.hasEnded = true }
    for pair in 0..<pairCount { signal(pair) }
  }

  /// What the device has configured last.
  public var configured: (offloads: NetworkOffloads, pairs: Int) { state.withLock { ($0.offloads, $0.pairs) } }

  // MARK: NetworkBackend

  /// See `NetworkBackend`.
  public func descriptor(ofPair pair: Int) -> CInt { events[pair].watched }

  /// See `NetworkBackend`.
  public func configure(received: NetworkOffloads, pairs: Int) {
    state.withLock {
      $0.offloads = received
      $0.pairs = pairs
    }
  }

  /// See `NetworkBackend`.
  public func receive(pair: Int, into pieces: UnsafeBufferPointer<iovec>) -> ReceiveOutcome {
    let next = state.withLock { state -> (TestFrame?, Bool) in
      if state.waiting[pair].isEmpty { return (nil, state.hasEnded) }
      return (state.waiting[pair].removeFirst(), false)
    }
    guard let frame = next.0 else {
      if next.1 { return .ended }
      var bytes = [UInt8](repeating: 0, count: 64)
      while read(events[pair].watched, &bytes, bytes.count) > 0 {}
      // What came between the look and the emptying has its byte taken away.
      if state.withLock({ !$0.waiting[pair].isEmpty || $0.hasEnded }) { signal(pair) }
      return .none
    }
    var bytes = withUnsafeBytes(of: frame.header) { Array($0) } + frame.bytes
    var done = 0
    bytes.withUnsafeMutableBytes { source in
      for piece in pieces where done < source.count {
        let count = min(piece.iov_len, source.count - done)
        memcpy(piece.iov_base, source.baseAddress! + done, count)
        done += count
      }
    }
    return .frame(done)
  }

  /// See `NetworkBackend`.
  public func transmit(pair: Int, _ pieces: UnsafeBufferPointer<iovec>) -> TransmitOutcome {
    if isFull { return .full }
    var bytes: [UInt8] = []
    for piece in pieces { bytes += UnsafeRawBufferPointer(start: piece.iov_base, count: piece.iov_len) }
    let header = bytes.withUnsafeBytes { $0.loadUnaligned(as: VirtioNetworkHeader.self) }
    let frame = TestFrame(Array(bytes[VirtioNetworkHeader.byteCount...]), header: header)
    if refuses(frame) { return .refused }
    state.withLock { $0.sent[pair].append(frame) }
    return .sent
  }
}
