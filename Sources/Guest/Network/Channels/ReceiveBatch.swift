// ReceiveBatch: packets that an interface has received, on their way to their flows. One thread's.
//
// A batch is classified in one reader's section, with preemption off: each packet goes into its flow's ring, and each flow is told once, at the end.
// What is for no flow is looked at after that, holding nothing.
import Base
import Devices
import Locks
import Pages

/// Where a thread that receives keeps a batch.
final class ReceiveBatch {
  /// Packets of a batch at most: some microseconds with preemption off.
  static var limit: Int { 32 }

  private static let lastNumber = Atomic<UInt64>(0)

  private unowned(unsafe) let stack: NetworkStack
  private let link: EthernetInterface
  // SAFETY: `limit` words, flows that are there until the reader's section ends.
  private let told: UnsafeMutablePointer<Unmanaged<Flow>>
  private var toldCount = 0
  private var slow = PacketList()
  /// Flows that nobody attends to; drained by this thread.
  let unattended: UnattendedFlows

  /// For packets of an interface.
  /// - Parameter wake: has the thread look at `unattended` soon; any context.
  init(_ stack: NetworkStack, _ link: EthernetInterface, wake: @escaping () -> Void) {
    self.stack = stack
    self.link = link
    told = .allocate(capacity: Self.limit)
    unattended = UnattendedFlows(wake: wake)
  }

  deinit { told.deallocate() }

  /// Takes packets from the body until it gives none, or the batch is full, and gives them to their flows.
  /// - Parameter next: gives the next frame; with preemption off.
  /// - Returns: how many there were.
  func run(now: UInt64, _ next: () -> Packet?) -> Int {
    let number = Self.lastNumber.wrappingAdd(1, ordering: .relaxed).newValue
    toldCount = 0
    let isTapped = link.isTapped
    let count = RCU.read { () -> Int in
      var count = 0
      while count < Self.limit, let packet = next() {
        count &+= 1
        packet.receivedAt = now
        sort(packet, number, isTapped: isTapped)
      }
      for index in 0..<toldCount { told[index]._withUnsafeGuaranteedRef { $0.packetsArrived(unattended) } }
      return count
    }
    while let packet = slow.removeFirst() {
      if isTapped { tell(packet) }
      stack.process(packet)
    }
    return count
  }

  private func sort(_ packet: consuming Packet, _ number: UInt64, isTapped: Bool) {
    guard link.readHeader(&packet) else { return }
    // Who listens to frames sees them before anybody else; that takes longer than may be taken here.
    if isTapped { return slow.append(packet) }
    let isV4 = packet.protocolNumber == EtherType.ipv4
    switch stack.classify(&packet, link) {
    case .flow(let flow):
      stack.push(packet, to: flow, isV4: isV4)
      flow._withUnsafeGuaranteedRef { object in
        if object.batch.exchange(number, ordering: .relaxed) != number {
          told[toldCount] = flow
          toldCount &+= 1
        }
      }
    case .slow: slow.append(packet)
    case .dropped: link.count(.receivedDropped)
    }
  }

  /// Shows a frame, whose link header has been read, to who listens.
  private func tell(_ packet: borrowing Packet) {
    guard let tap = link.tap, var copy = packet.clone() else { return }
    copy.restoreLinkHeader()
    tap.frame(copy, isOutgoing: false)
  }
}
