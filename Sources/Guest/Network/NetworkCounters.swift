// What has happened, counted on each CPU by itself: two CPUs that receive share no line of cache for it.
//
// Counts are added to atomically, since a thread may be moved to another CPU between looking up its place and adding; that costs little where
// nobody else adds to the same place.
import Base
import Locks
import Pages
import Platform

/// A set of counts.
struct CPUCounters: ~Copyable {
  // SAFETY: `cpuCount` rows of `stride` words, never freed but by `deinit`.
  private let words: UnsafeMutablePointer<LiveCount>?
  private let count: Int
  private let stride: Int
  private let cpuCount: Int

  /// A count.
  struct LiveCount: ~Copyable {
    let value = Atomic<UInt64>(0)
  }

  /// So many counts, all 0. Without memory nothing is counted.
  init(_ count: Int) {
    self.count = count
    stride = count.alignedUp(to: 8)
    cpuCount = max(CPU.count, 1)
    let total = stride &* cpuCount
    // SAFETY: fresh memory; zero bytes are counts of 0.
    words = KernelHeap.allocateZeroed(byteCount: total &* 8, alignment: 64)?.bindMemory(
      to: LiveCount.self, capacity: total)
  }

  deinit { if let words { KernelHeap.free(words) } }

  /// Adds to a count. Any context.
  @inline(__always) func add(_ index: Int, _ number: UInt64 = 1) {
    guard let words else { return }
    let cpu = cpuCount == 1 ? 0 : min(CPU.current, cpuCount &- 1)
    words[cpu &* stride &+ index].value.wrappingAdd(number, ordering: .relaxed)
  }

  /// The sum over all CPUs.
  func sum(_ index: Int) -> UInt64 {
    guard let words else { return 0 }
    var sum: UInt64 = 0
    for cpu in 0..<cpuCount { sum &+= words[cpu &* stride &+ index].value.load(ordering: .relaxed) }
    return sum
  }
}

/// What the network counts, by the names of SNMP (RFC 4293, 4113) where they have one. Each but the last group is counted for
/// IPv4 and IPv6 apart.
public enum NetworkCounter: Int, Sendable {
  /// IP packets received.
  case ipReceived
  /// Dropped: the header makes no sense.
  case ipHeaderErrors
  /// Dropped: the address is not ours, or none that a packet may have.
  case ipAddressErrors
  /// Dropped: nobody wants the protocol.
  case ipUnknownProtocols
  /// Dropped for lack of memory or room.
  case ipDiscarded
  /// Given to a transport.
  case ipDelivered
  /// Sent by a transport.
  case ipSent
  /// Not sent for lack of memory or room, or since the neighbour does not answer.
  case ipSendDiscarded
  /// Not sent: no way to there.
  case ipNoRoutes
  /// Fragments received.
  case fragmentsReceived
  /// Datagrams put together.
  case reassembled
  /// Datagrams given up: time ran out, parts overlap, no room.
  case reassemblyFailed
  /// Of those, by time.
  case reassemblyTimedOut
  /// Packets sent in fragments.
  case fragmented
  /// Packets that would have had to be.
  case fragmentFailed
  /// Fragments sent.
  case fragmentsCreated
  /// ICMP messages received.
  case icmpReceived
  /// Those that make no sense.
  case icmpErrors
  /// ICMP messages sent.
  case icmpSent
  /// Errors not sent since too many were.
  case icmpLimited
  /// Destinations unreachable, received.
  case icmpUnreachableReceived
  /// And sent.
  case icmpUnreachableSent
  /// Echo requests received.
  case icmpEchoReceived
  /// Echo replies sent.
  case icmpEchoSent
  /// Echo replies received.
  case icmpEchoReplyReceived
  /// Packet too big, received.
  case icmpTooBigReceived
  /// UDP datagrams given to sockets.
  case udpReceived
  /// For ports where nobody is.
  case udpNoPorts
  /// Dropped: checksum or length.
  case udpErrors
  /// Dropped: the socket's queue is full.
  case udpNoRoom
  /// UDP datagrams sent.
  case udpSent
  /// Packets dropped since a flow's ring was full.
  case ringFull
  /// Packets that took the slow path.
  case slowPath
  /// Packets that went straight to a flow.
  case fastPath

  static var count: Int { NetworkCounter.fastPath.rawValue &+ 1 }
}
