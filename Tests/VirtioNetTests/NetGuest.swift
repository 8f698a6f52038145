// A guest with a network device over a network in memory.
import Glibc
import NetTestBackend
import Synchronization
import Testing
import VirtioABI
import VirtioNet
import VirtioPCI
import VirtioQueue
import VirtioTestGuest

/// A driver of the test's own making.
final class NetGuest {
  static let basic = VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
  static let control =
    basic | VirtioNetworkABI.controlQueue | VirtioNetworkABI.controlReceive
    | VirtioNetworkABI.controlReceiveExtra | VirtioNetworkABI.controlVLAN | VirtioNetworkABI.controlAddress
  static let offloads =
    VirtioNetworkABI.checksum | VirtioNetworkABI.guestChecksum | VirtioNetworkABI.hostTCP4 | VirtioNetworkABI.hostTCP6
    | VirtioNetworkABI.hostECN | VirtioNetworkABI.hostUDP | VirtioNetworkABI.guestTCP4 | VirtioNetworkABI.guestTCP6
    | VirtioNetworkABI.guestECN | VirtioNetworkABI.guestUDP4 | VirtioNetworkABI.guestUDP6
  static let everything = control | offloads | VirtioNetworkABI.mergeableBuffers
  static let address: [UInt8] = [2, 0x6f, 0x73, 0x76, 0, 1]

  final class Interrupts: Sendable { let counts = Mutex<[UInt32: Int]>([:]) }

  let guest = TestGuest()
  let network: MemoryBackend
  let device: VirtioNetwork
  let function: PCIFunction
  let driver: TestDriver
  let interrupts = Interrupts()
  let pairCount: Int

  init(
    features: UInt64 = everything, pairCount: Int = 1, queueSize: Int = 32, rate: UInt64 = 0,
    network: MemoryBackend? = nil, capture: PacketCapture? = nil,
    attach: (@Sendable (Int, CInt) -> Void)? = nil
  ) throws {
    self.pairCount = pairCount
    self.network = network ?? MemoryBackend(pairCount: pairCount)
    var configuration = VirtioNetwork.Configuration(address: Self.address) { startThread($0) }
    configuration.pairCount = pairCount
    configuration.rate = rate
    configuration.attach = attach
    if let capture { configuration.capture = (capture, 0) }
    device = try VirtioNetwork(configuration, backend: self.network)
    function = PCIFunction(device: device, memory: guest.map) { [interrupts] message in
      interrupts.counts.withLock { $0[message.data, default: 0] += 1 }
    }
    let queueCount = 2 * pairCount + 1
    function.presetVectors((0...UInt32(queueCount)).map { MSIMessage(vector: 40 + $0, cpu: 0) })
    driver = TestDriver(function, guest, queueCount: queueCount, queueSize: queueSize, features: features)
  }

  deinit { device.stop() }

  var isBroken: Bool { driver.status & VirtioStatus.needsReset != 0 }

  func interruptCount(queue: Int) -> Int { interrupts.counts.withLock { $0[40 + UInt32(queue)] ?? 0 } }

  /// Sends a frame and notifies.
  func send(_ frame: [UInt8], _ header: VirtioNetworkHeader = VirtioNetworkHeader(), pair: Int = 0, index: Int = 0) {
    let bytes = withUnsafeBytes(of: header) { Array($0) } + frame
    driver.queues[2 * pair + 1].send(bytes, index: index)
    driver.kick(2 * pair + 1)
  }

  /// Gives a receive buffer.
  func post(_ count: Int, pair: Int = 0, index: Int) -> UInt64 {
    let address = driver.queues[2 * pair].post(count, index: index)
    driver.kick(2 * pair)
    return address
  }

  /// Sends a command; its answer, nil if there is none.
  func command(_ commandClass: UInt8, _ command: UInt8, _ data: [UInt8], queue: Int? = nil) -> UInt8? {
    let number = queue ?? 2 * pairCount
    let queue = driver.queues[number]
    let request = guest.place([commandClass, command] + data)
    let answer = guest.place([0xee])
    queue.set(0, request, 2 + data.count, flags: VirtqueueDescriptor.next, next: 1)
    queue.set(1, answer, 1, flags: VirtqueueDescriptor.write)
    queue.offer(0)
    driver.kick(number)
    guard queue.takeUsed() != nil else { return nil }
    return guest.load(UInt8.self, at: answer)
  }

  /// A received frame in one buffer.
  func received(_ address: UInt64, _ written: Int) -> TestFrame {
    let bytes = guest.bytes(address, written)
    let header = guest.load(VirtioNetworkHeader.self, at: address)
    return TestFrame(Array(bytes[12...]), header: header)
  }
}

/// Waits until something is so; false if it is not within some seconds.
func eventually(_ condition: () -> Bool) -> Bool {
  for _ in 0..<20_000 {
    if condition() { return true }
    usleep(500)
  }
  return false
}

/// Runs the body on a thread of its own.
func startThread(_ body: @escaping @Sendable () -> Void) {
  final class Body {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }
  var thread = pthread_t()
  pthread_create(
    &thread, nil,
    { argument in
      Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue().run()
      return nil
    }, Unmanaged.passRetained(Body(body)).toOpaque())
  pthread_detach(thread)
}

/// Frames.
enum Frames {
  static let peer: [UInt8] = [2, 0, 0, 0, 0, 9]
  static let broadcast = [UInt8](repeating: 0xff, count: 6)

  /// A frame of so many bytes in all, of no protocol that anyone knows.
  static func plain(_ byteCount: Int, to target: [UInt8] = NetGuest.address, seed: Int = 0) -> [UInt8] {
    let head = target + peer + [0x88, 0xb5]
    let rest = (0..<max(0, byteCount - head.count)).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ seed) }
    return Array((head + rest).prefix(byteCount))
  }

  /// The beginning of a TCP segment over IPv4 or IPv6, unsegmented, with so much data; and a header that fits.
  static func tcp(data: Int, segment: UInt16, isV6: Bool = false) -> (frame: [UInt8], header: VirtioNetworkHeader) {
    let start = 14 + (isV6 ? 40 : 20)
    var frame = NetGuest.address + peer + (isV6 ? [0x86, 0xdd] : [0x08, 0x00])
    frame += [UInt8](repeating: isV6 ? 0x60 : 0x45, count: start - 14 + 20)
    frame += (0..<data).map { UInt8(truncatingIfNeeded: $0) }
    var header = VirtioNetworkHeader()
    header.flags = VirtioNetworkHeader.needsChecksum
    header.segmentation = isV6 ? VirtioNetworkHeader.tcp6 : VirtioNetworkHeader.tcp4
    header.segmentByteCount = segment
    header.headerByteCount = UInt16(start + 20)
    header.checksumStart = UInt16(start)
    header.checksumOffset = 16
    return (frame, header)
  }
}
