// Machines of the tests: stacks with a time of their own, joined by a wire that can lose, hold and change frames.
import Base
import Devices
import Locks
import Pages
import Platform
import Threads

@testable import Network

/// Time that passes when the test says so, and numbers that are the same every time.
final class TestEnvironment: NetworkEnvironment {
  private let time = Atomic<UInt64>(1_000_000_000)
  private let seed = Atomic<UInt64>(1)

  override func now() -> UInt64 { time.load(ordering: .relaxed) }
  override func random() -> UInt64 {
    SipKey(11, 22).hash(seed.wrappingAdd(1, ordering: .relaxed).newValue)
  }
  func pass(_ nanoseconds: UInt64) { time.wrappingAdd(nanoseconds, ordering: .relaxed) }
}

/// An end of a wire.
final class WireInterface: EthernetInterface {
  weak var wire: Wire?
  /// Frames on their way to this interface.
  fileprivate var incoming: [[UInt8]] = []
  fileprivate var incomingMarks: [(PacketChecksum, PacketSegmentation)] = []
  private(set) var batch: ReceiveBatch! = nil

  init(_ stack: NetworkStack, link: UInt64, mtu: Int = 1500, offloads: PacketOffloads = [], index: UInt32 = 2) {
    super.init(
      stack, index: index, name: Array("eth\(index - 2)".utf8), linkAddress: LinkAddress(link), mtu: mtu,
      maximumMTU: 9000, offloads: offloads)
    batch = ReceiveBatch(stack, self, wake: {})
  }

  override func transmit(_ packet: consuming Packet) {
    count(.transmittedPackets)
    wire?.carry(packet.allBytes, packet.checksum, packet.segmentation, from: self)
  }

  /// Brings a frame to this end.
  func receive(_ frame: [UInt8]) {
    incoming.append(frame)
    incomingMarks.append((.none, .none))
  }

  /// Receives what has come, in batches; how many frames.
  func receive(now: UInt64) -> Int {
    var total = 0
    while !incoming.isEmpty {
      total += batch.run(now: now) {
        guard !incoming.isEmpty, let packet = try? Packet.of(incoming.removeFirst()) else { return nil }
        let (checksum, segmentation) = incomingMarks.removeFirst()
        packet.checksum = checksum
        packet.segmentation = segmentation
        return packet
      }
    }
    return total
  }
}

/// A wire with any number of ends.
final class Wire {
  var ends: [WireInterface] = []
  /// All frames that were carried.
  var log: [[UInt8]] = []
  /// What becomes of a frame: nil loses it.
  var filter: (([UInt8]) -> [UInt8]?)?

  fileprivate func carry(
    _ frame: [UInt8], _ checksum: PacketChecksum, _ segmentation: PacketSegmentation, from sender: WireInterface
  ) {
    log.append(frame)
    guard let frame = filter == nil ? frame : filter!(frame) else { return }
    for end in ends where end !== sender {
      end.incoming.append(frame)
      end.incomingMarks.append((checksum, segmentation))
    }
  }
}

/// A machine on a wire.
final class TestMachine {
  let environment: TestEnvironment
  let stack: NetworkStack
  let link: WireInterface

  init(
    _ wire: Wire, _ environment: TestEnvironment, link address: UInt64, mtu: Int = 1500, offloads: PacketOffloads = []
  ) throws {
    self.environment = environment
    stack = NetworkStack(environment: environment, key: SipKey(address, ~address))
    stack.timer.isManual.store(true, ordering: .relaxed)
    link = WireInterface(stack, link: address, mtu: mtu, offloads: offloads)
    link.wire = wire
    wire.ends.append(link)
    try stack.enter(link)
  }
}

/// Two machines on a wire: 10.0.0.1 and 10.0.0.2, fd00::1 and fd00::2, and anything between.
final class TestNetwork {
  let environment = TestEnvironment()
  let wire = Wire()
  let one: TestMachine
  let two: TestMachine

  /// Flows that nobody attends to are looked after at once.
  let attends: Bool

  init(mtu: Int = 1500, offloads: PacketOffloads = [], addresses: Bool = true, attends: Bool = false) throws {
    self.attends = attends
    TestThreads.begin()
    one = try TestMachine(wire, environment, link: 0x0200_0000_0001, mtu: mtu, offloads: offloads)
    two = try TestMachine(wire, environment, link: 0x0200_0000_0002, mtu: mtu, offloads: offloads)
    guard addresses else { return }
    for (number, machine) in [one, two].enumerated() {
      try machine.link.add(InterfaceAddress(IPAddress(v4: 0x0a00_0001 + UInt32(number)), prefixLength: 24))
      try machine.link.add(InterfaceAddress(.six(UInt64(number) + 1), prefixLength: 64))
    }
    settle()
    wire.log = []
  }

  /// Has frames go to and fro until there are none.
  func settle() {
    for _ in 0..<1000 {
      var count = 0
      for end in wire.ends {
        count += end.receive(now: environment.now())
        if attends {
          end.batch.unattended.drain(now: environment.now())
          end.stack.unattended.drain(now: environment.now())
        }
        end.stack.runDeferred()
      }
      if count == 0 { return }
    }
  }

  /// Lets time pass, in steps, and everybody do what is due.
  func pass(_ nanoseconds: UInt64, step: UInt64 = 100_000_000) {
    var left = nanoseconds
    while left > 0 {
      environment.pass(min(step, left))
      left -= min(step, left)
      for end in wire.ends { end.stack.runTimers(now: environment.now()) }
      settle()
    }
  }
}

extension IPAddress {
  /// fd00::n.
  static func six(_ number: UInt64) -> IPAddress { IPAddress(high: 0xfd00 << 48, low: number) }
  static let one4 = IPAddress(v4: 0x0a00_0001)
  static let two4 = IPAddress(v4: 0x0a00_0002)
}

/// A flow that keeps what it gets.
final class CollectingFlow: Flow {
  private(set) var told = 0
  private(set) var errors: [InternetError] = []
  private(set) var errorKeys: [FlowKey] = []
  private(set) var drains = 0
  var isAttended = true

  override func packetsArrived(_ unattended: UnattendedFlows) {
    told += 1
    if !isAttended { unattended.add(self) }
  }
  override func drain(now: UInt64) { drains += 1 }
  override func errorArrived(_ error: InternetError, _ key: FlowKey, quoted: UnsafeRawBufferPointer) {
    errors.append(error)
    errorKeys.append(key)
  }
  /// The datagrams' contents and senders, of those that UDP accepts.
  func take(_ stack: NetworkStack) -> [(bytes: [UInt8], header: InternetHeader)] {
    var result: [(bytes: [UInt8], header: InternetHeader)] = []
    while var packet = ring.pop() {
      guard UDP.accept(&packet, stack) else { continue }
      let header = packet.internetHeader
      packet.dropFirst(UDP.headerByteCount)
      result.append((packet.allBytes, header))
    }
    return result
  }
}

extension NetworkStack {
  /// Sends a datagram.
  func sendDatagram(
    _ bytes: [UInt8], from source: IPAddress, _ port: UInt16, to destination: IPAddress, _ otherPort: UInt16,
    flags: OutgoingHeader.Flags = [], segment: Int? = nil
  ) throws {
    let packet = try Packet.of([UInt8](repeating: 0, count: 8) + bytes)
    var way = RouteCache()
    way = try route(to: destination, source: source.isUnspecified ? nil : source)
    let start = packet.mutableHead.baseAddress!
    start.storeBytes(of: port.bigEndian, as: UInt16.self)
    start.storeBytes(of: otherPort.bigEndian, toByteOffset: 2, as: UInt16.self)
    start.storeBytes(of: UInt16(8 + bytes.count).bigEndian, toByteOffset: 4, as: UInt16.self)
    var checksum = InternetChecksum()
    checksum.addPseudoHeader(way.source, destination, protocol: 17, byteCount: packet.byteCount)
    start.storeBytes(of: checksum.partial.bigEndian, toByteOffset: 6, as: UInt16.self)
    packet.checksum = .partial(start: 0, offset: 6)
    if let segment { packet.segmentation = PacketSegmentation(.udp, segmentByteCount: segment) }
    var header = OutgoingHeader(source: way.source, destination: destination, protocolNumber: 17)
    header.flags = flags
    try send(packet, header, &way)
  }

  /// A flow that takes datagrams for a port.
  func listen(_ port: UInt16, at address: IPAddress) throws -> CollectingFlow {
    guard let flow = CollectingFlow() else { throw NoPacket() }
    try flows.insert(FlowKey(protocol: 17, local: address, localPort: port), flow)
    return flow
  }
}
