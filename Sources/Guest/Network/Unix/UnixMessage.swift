// UnixMessage: what is on its way between two sockets of the same machine, and who pays for it.
import Base
import Files
import Memory
import Pages

/// What a socket has sent and nobody has received yet.
final class SendAccount {
  let used = Atomic<Int>(0)
  let limit = Atomic<Int>(212_992)
  /// Told when there is room again.
  let source: PollSource

  init(_ source: PollSource) { self.source = source }

  /// Whether poll calls the socket writable: a quarter of the room is used at most.
  var isWritable: Bool { used.load(ordering: .acquiring) &* 4 <= limit.load(ordering: .relaxed) }
  /// Whether anything may be sent.
  var hasRoom: Bool { used.load(ordering: .acquiring) < limit.load(ordering: .relaxed) }

  func give(_ count: Int) {
    used.wrappingSubtract(count, ordering: .acquiringAndReleasing)
    source.notify(.writable)
  }
}

/// Bytes with what goes along.
final class UnixMessage {
  private static let overhead = 256
  let bytes: UnsafeMutableRawBufferPointer
  let message: OutgoingMessage
  /// The sender's address.
  let address: SocketAddress?
  private let account: SendAccount
  // Guarded by the lock of the queue that it is in.
  var next: UnixMessage?
  /// Bytes that have been received.
  var taken = 0
  /// Its files have been received.
  var filesTaken = false

  /// A message of what `transfer` has, up to `count` bytes.
  /// - Throws: ENOBUFS, EFAULT.
  init(
    _ transfer: inout Transfer, count: Int, _ message: OutgoingMessage, from address: SocketAddress?,
    _ account: SendAccount
  )
    throws(Errno)
  {
    guard let memory = KernelHeap.allocate(byteCount: max(count, 1)) else { throw .ENOBUFS }
    bytes = UnsafeMutableRawBufferPointer(start: memory, count: count)
    self.message = message
    self.address = address
    self.account = account
    account.used.wrappingAdd(count &+ UnixMessage.overhead, ordering: .relaxed)
    if count > 0 { try transfer.copyIn(into: bytes) }
  }

  deinit {
    if let memory = bytes.baseAddress { KernelHeap.free(memory) }
    account.give(bytes.count &+ UnixMessage.overhead)
  }

  var left: Int { bytes.count &- taken }
}

/// Messages in order. Not synchronised.
struct UnixMessageQueue {
  private(set) var first: UnixMessage?
  private var last: UnixMessage?
  private(set) var count = 0
  private(set) var byteCount = 0

  /// Whether there is a message, or, behind so many bytes, a further byte.
  func hasMore(than count: Int) -> Bool {
    count == 0 ? first != nil : byteCount &- (first?.taken ?? 0) > count
  }

  /// The message that has the byte behind so many that have not been received, and how far into it that is.
  func skipping(_ count: Int) -> (UnixMessage?, Int) {
    var (entry, left) = (first, count)
    while let candidate = entry, left > 0, left >= candidate.left {
      left &-= candidate.left
      entry = candidate.next
    }
    return (entry, left)
  }

  mutating func append(_ entry: UnixMessage) {
    if let last { last.next = entry } else { first = entry }
    last = entry
    count &+= 1
    byteCount &+= entry.bytes.count
  }

  mutating func removeFirst() {
    guard let entry = first else { return }
    first = entry.next
    entry.next = nil
    if first == nil { last = nil }
    count &-= 1
    byteCount &-= entry.bytes.count
  }
}
