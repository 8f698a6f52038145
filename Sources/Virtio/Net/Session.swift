// What holds from DRIVER_OK to reset: the transport, and what was agreed on. It never changes. A thread that still has one whose driver is
// gone finds no live queue with it, or, if another driver has come, that one's: so it asks with the queue's lock whose the queue is
// (`VirtioNetwork.isServed`), for the session is exchanged while no queue is live.
import VirtioABI
import VirtioPCI

/// One driver's time with the device.
final class Session: Sendable {
  let host: any VirtioDeviceHost
  /// What was agreed on and can be had together (5.1.3.1).
  let features: UInt64
  /// The check of transmitted headers.
  let check: FrameHeader
  /// A received frame may lie in several buffers.
  let isMergeable: Bool
  /// The driver takes headers that say something of checksums.
  let takesChecksums: Bool
  /// Room for any frame that may come, its header included, and one byte more: a frame that fills it was cut short.
  let roomByteCount: Int
  /// The control queue.
  let controlQueue: Int

  init(host: any VirtioDeviceHost, features: UInt64, mtu: Int, pairCount: Int) {
    let features = Self.consistent(features)
    self.host = host
    self.features = features
    check = FrameHeader(features: features, mtu: mtu)
    isMergeable = features & VirtioNetworkABI.mergeableBuffers != 0
    takesChecksums = features & VirtioNetworkABI.guestChecksum != 0
    let large =
      VirtioNetworkABI.guestTCP4 | VirtioNetworkABI.guestTCP6 | VirtioNetworkABI.guestUDP4 | VirtioNetworkABI.guestUDP6
    let frame = features & large != 0 ? FrameHeader.frameLimit : check.plainLimit
    roomByteCount = VirtioNetworkHeader.byteCount + frame + 1
    let hasPairs = features & VirtioNetworkABI.multiqueue != 0
    controlQueue =
      features & VirtioNetworkABI.controlQueue == 0
      ? Int.max : VirtioNetworkABI.controlQueue(pairCount: hasPairs ? pairCount : 1)
  }

  /// What a backend may hand to the driver.
  var receivedOffloads: NetworkOffloads {
    NetworkOffloads.features.reduce(into: []) { offloads, entry in
      if features & entry.received != 0 { offloads.insert(entry.offload) }
    }
  }

  /// Takes back what was agreed on without what it needs.
  private static func consistent(_ features: UInt64) -> UInt64 {
    var features = features
    func drop(_ dependents: UInt64, without needed: UInt64) {
      if features & needed == 0 { features &= ~dependents }
    }
    let received = NetworkOffloads.features.reduce(0) { $0 | $1.received }
    let transmitted = NetworkOffloads.features.reduce(0) { $0 | $1.transmitted }
    drop(received, without: VirtioNetworkABI.guestChecksum)
    drop(transmitted, without: VirtioNetworkABI.checksum)
    drop(VirtioNetworkABI.guestECN, without: VirtioNetworkABI.guestTCP4 | VirtioNetworkABI.guestTCP6)
    drop(VirtioNetworkABI.hostECN, without: VirtioNetworkABI.hostTCP4 | VirtioNetworkABI.hostTCP6)
    drop(
      VirtioNetworkABI.controlReceive | VirtioNetworkABI.controlReceiveExtra | VirtioNetworkABI.controlVLAN
        | VirtioNetworkABI.controlAddress | VirtioNetworkABI.multiqueue,
      without: VirtioNetworkABI.controlQueue)
    return features
  }
}

extension NetworkOffloads {
  /// The feature by which a driver receives what is offloaded, and that by which it transmits it.
  static var features: [(offload: NetworkOffloads, received: UInt64, transmitted: UInt64)] {
    [
      (.checksum, VirtioNetworkABI.guestChecksum, VirtioNetworkABI.checksum),
      (.tcp4, VirtioNetworkABI.guestTCP4, VirtioNetworkABI.hostTCP4),
      (.tcp6, VirtioNetworkABI.guestTCP6, VirtioNetworkABI.hostTCP6),
      (.ecn, VirtioNetworkABI.guestECN, VirtioNetworkABI.hostECN),
      (.udp4, VirtioNetworkABI.guestUDP4, VirtioNetworkABI.hostUDP),
      (.udp6, VirtioNetworkABI.guestUDP6, VirtioNetworkABI.hostUDP),
    ]
  }
}
