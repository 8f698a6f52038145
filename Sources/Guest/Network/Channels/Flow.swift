// Flow: one end of a conversation, as the classifier sees it: a ring of packets, and who is told that there are some.
//
// TCP connections and UDP sockets have subclasses. A flow is kept alive by each of its keys in the table (FlowTable), by the list of
// unattended ones while it is in it, and by its owner.
import Base
import Devices
import Locks

/// What packets are received for.
open class Flow {
  /// Its packets.
  public final let ring: PacketRing
  /// The interface that it takes packets from, 0 for any (SO_BINDTODEVICE).
  public final let boundInterface = Atomic<UInt32>(0)
  /// Whether it stands for several (`select`). Set before it is in a table.
  public final let isGroup: Bool
  /// Packets that found no room in the ring.
  public final let droppedCount = Atomic<UInt64>(0)
  /// The batch in which it was last given a packet: whoever receives tells it once a batch. A hint: at worst it is told twice.
  final let batch = Atomic<UInt64>(0)
  /// Its place in `UnattendedFlows`.
  final let unattendedLink = UnattendedLink<LiveWord>()

  /// A flow with an empty ring. (Objects are allocated without a way to fail: who makes one because of a packet looks at
  /// `NetworkMemory.hasRoom` first.)
  /// - Returns: nil if there is no memory for the ring.
  public init?(ringCapacity: Int = 256, isGroup: Bool = false) {
    guard let ring = PacketRing(capacity: ringCapacity) else { return nil }
    self.ring = ring
    self.isGroup = isGroup
  }

  /// Packets have been pushed since it was last told. Called once a batch, by who pushed, with preemption off: it must not sleep, and
  /// takes no lock but by trying. It wakes who waits, or leaves the flow to `unattended`.
  open func packetsArrived(_ unattended: UnattendedFlows) {}

  /// Nobody has attended to it for a while: called in a thread that holds nothing. Processes the ring, if nobody else is at it.
  open func drain(now: UInt64) {}

  /// Which of the flows that share its key gets a packet (SO_REUSEPORT); nil: none. Asked only if `isGroup`, with preemption off; who is returned is
  /// kept alive by this one until a grace period after it was left out. The packet begins with IP's header; where the transport's begins is known.
  open func select(_ packet: borrowing Packet) -> Flow? { self }

  /// Gives the body each flow that wants a copy of a packet to a group or to everybody. In a thread that holds nothing; the packet begins with
  /// the transport's header.
  open func forEachReceiver(_ packet: borrowing Packet, _ body: (Flow) -> Void) { body(self) }

  /// A packet that was sent has met an error. Called in a thread that holds nothing.
  /// - Parameters:
  ///   - key: of the packet.
  ///   - quoted: the transport's header as it was sent, 8 bytes or more.
  open func errorArrived(_ error: InternetError, _ key: FlowKey, quoted: UnsafeRawBufferPointer) {}

  /// Gives it a packet, which begins with the transport's header; false: there was no room. With preemption off. The caller tells it,
  /// once it has given all.
  @inline(__always) final func push(_ packet: consuming Packet) -> Bool {
    if ring.push(packet) { return true }
    droppedCount.wrappingAdd(1, ordering: .relaxed)
    return false
  }
}
