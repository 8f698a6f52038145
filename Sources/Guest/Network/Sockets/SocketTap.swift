// SocketTap: copies of the frames that come and go, for packet sockets.
//
// Interfaces ask one word whether there is anybody (`isListening`). Copies share the frame's bytes. What is loopback's has no link header: one of
// zeros is put in front, as Linux shows it; there the clone
// has memory of its own in front of what is shared.
import Base
import Devices
import Files
import Locks

/// Who sees the frames of a machine.
final class SocketTap: PacketTap {
  /// Bytes of Ethernet's header.
  static var linkHeaderByteCount: Int { 14 }
  /// ETH_P_ALL.
  static var allTypes: UInt16 { 3 }

  private let lock = Mutex()
  private let count = Atomic<Int>(0)
  // Guarded by `lock`.
  private var receivers: [PacketReceiver] = []

  /// Listens to the interfaces of a machine from now on.
  func add(_ receiver: PacketReceiver, _ stack: NetworkStack) {
    for interface in stack.interfaces { _ = interface.setTap(self) }
    lock.withLock {
      receivers.append(receiver)
      count.store(receivers.count, ordering: .relaxed)
    }
  }

  func remove(_ receiver: PacketReceiver) {
    lock.withLock {
      receivers.removeAll { $0 === receiver }
      count.store(receivers.count, ordering: .relaxed)
    }
  }

  override var isListening: Bool { count.load(ordering: .relaxed) != 0 }

  override func frame(_ packet: borrowing Packet, isOutgoing: Bool) {
    let isLoopback = packet.interfaceIndex == 1
    let etherType = packet.protocolNumber
    let destination = isOutgoing ? .outgoing : isLoopback ? .host : packet.destination
    lock.lock()
    defer { lock.unlock() }
    for receiver in receivers {
      guard receiver.wants(etherType, packet.interfaceIndex, destination), var copy = packet.clone() else { continue }
      copy.destination = destination
      if isLoopback {
        guard let header = copy.prepend(Self.linkHeaderByteCount) else { continue }
        header.initializeMemory(as: UInt8.self, repeating: 0, count: 12)
        header.storeBytes(of: etherType.bigEndian, toByteOffset: 12, as: UInt16.self)
        copy.linkOffset = 0
      }
      if !receiver.hasLinkHeader { copy.dropFirst(Self.linkHeaderByteCount) }
      receiver.take(copy)
      receiver.tell()
    }
  }

  /// The sender of a frame that has, or had, a link's header in front.
  static func sender(of frame: borrowing Packet) -> LinkAddress { LinkAddress(reading: frame.linkHeader + 6) }
}

/// What arrives for a packet socket.
final class PacketReceiver: DatagramReceiver {
  /// Frames are given with the link's header.
  let hasLinkHeader: Bool
  /// PACKET_AUXDATA.
  let tellsMore = Atomic<Bool>(false)
  /// PACKET_IGNORE_OUTGOING.
  let ignoresOutgoing = Atomic<Bool>(false)
  /// How many have been taken.
  let takenCount = Atomic<UInt64>(0)
  private let wantedType = Atomic<UInt16>(0)

  var etherType: UInt16 { wantedType.load(ordering: .relaxed) }

  init?(_ source: PollSource, _ errors: SocketErrors, hasLinkHeader: Bool) {
    self.hasLinkHeader = hasLinkHeader
    super.init(source, errors, ringCapacity: 1)
  }

  func set(etherType: UInt16, interfaceIndex: UInt32) {
    wantedType.store(etherType, ordering: .relaxed)
    boundInterface.store(interfaceIndex, ordering: .relaxed)
  }

  func wants(_ etherType: UInt16, _ interfaceIndex: UInt32, _ destination: PacketDestination) -> Bool {
    let wanted = wantedType.load(ordering: .relaxed)
    let bound = boundInterface.load(ordering: .relaxed)
    guard bound == 0 || bound == interfaceIndex else { return false }
    // What this machine sends is seen by those who see everything.
    if destination == .outgoing {
      guard wanted == SocketTap.allTypes, !ignoresOutgoing.load(ordering: .relaxed) else { return false }
    }
    guard wanted == SocketTap.allTypes || wanted == etherType, wanted != 0 else { return false }
    takenCount.wrappingAdd(1, ordering: .relaxed)
    return true
  }
}
