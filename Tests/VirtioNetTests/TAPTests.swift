// The network device on a real TAP, in a network namespace of the test's own: the host's network stack is the other side.
//
// It takes CAP_SYS_ADMIN and /dev/net/tun; OSV_SKIP_NET=1 says that a machine has not got them, and nothing else skips.
import CSystemCalls
import Foundation
import Glibc
import Testing
import VirtioABI
import VirtioPCI
import VirtioTestGuest

@testable import VirtioNet

@_silgen_name("unshare") private func unshare(_ flags: CInt) -> CInt

let skipNet = ProcessInfo.processInfo.environment["OSV_SKIP_NET"] == "1"

/// What is thrown where there is no such namespace.
private struct NoNamespace: Error, CustomStringConvertible {
  let description: String
}

/// Runs the body on a thread of its own in a new network namespace.
private func inNamespace(_ body: @escaping @Sendable () throws -> Void) throws {
  final class State: @unchecked Sendable {
    var error: (any Error)?
    let done = DispatchSemaphore(value: 0)
  }
  let state = State()
  startThread {
    do {
      // CLONE_NEWNET
      guard unshare(0x4000_0000) == 0 else {
        throw NoNamespace(
          description: "no network namespace (\(String(cString: strerror(errno)))): run as root, or set OSV_SKIP_NET=1")
      }
      try body()
    } catch { state.error = error }
    state.done.signal()
  }
  state.done.wait()
  if let error = state.error { throw error }
}

/// What stands for a TAP goes away, with a header in front of frames or without; no right is needed for that.
@Suite struct LostTAPTests {
  private func outcome(_ backend: TAPBackend, pair: Int = 0) -> ReceiveOutcome {
    var bytes = [UInt8](repeating: 0, count: 2000)
    return bytes.withUnsafeMutableBytes { bytes in
      var piece = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
      return withUnsafePointer(to: &piece) {
        backend.receive(pair: pair, into: UnsafeBufferPointer(start: $0, count: 1))
      }
    }
  }

  private func socketPair() -> (CInt, CInt) {
    var ends: [CInt] = [-1, -1]
    #expect(socketpair(AF_UNIX, CInt(SOCK_SEQPACKET.rawValue), 0, &ends) == 0)
    for end in ends { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
    return (ends[0], ends[1])
  }

  @Test func theEndOfTheFileIsTheEnd() {
    let (near, far) = socketPair()
    let backend = TAPBackend(queues: [near], hasHeader: false, mtu: 1500)
    #expect(outcome(backend) == .none)
    var frame = Frames.plain(60)
    #expect(write(far, &frame, 60) == 60)
    #expect(outcome(backend) == .frame(72))
    close(far)
    #expect(outcome(backend) == .ended)
    #expect(outcome(backend) == .ended)
  }

  /// A terminal whose other side is gone says EIO, a directory EISDIR.
  @Test func anErrorThatStaysIsTheEnd() throws {
    let terminal = open("/dev/ptmx", O_RDWR | O_NONBLOCK | O_NOCTTY)
    var (number, isLocked): (CInt, CInt) = (0, 0)
    // TIOCGPTN, TIOCSPTLCK.
    try #require(terminal >= 0 && ioctl(terminal, 0x8004_5430, &number) == 0)
    try #require(ioctl(terminal, 0x4004_5431, &isLocked) == 0)
    let other = open("/dev/pts/\(number)", O_RDWR | O_NOCTTY)
    try #require(other >= 0)
    let backend = TAPBackend(queues: [terminal], hasHeader: false, mtu: 1500)
    #expect(outcome(backend) == .none)
    close(other)
    #expect(outcome(backend) == .ended)
    let directory = TAPBackend(queues: [open("/", O_RDONLY)], hasHeader: false, mtu: 1500)
    #expect(outcome(directory) == .ended)
  }

  @Test func aFurtherQueueEndsOnlyWhileItIsInUse() {
    let (first, second) = (socketPair(), socketPair())
    let backend = TAPBackend(queues: [first.0, second.0], hasHeader: false, mtu: 1500)
    close(second.1)
    #expect(outcome(backend, pair: 1) == .none)
    backend.configure(received: [], pairs: 2)
    #expect(outcome(backend, pair: 1) == .ended && outcome(backend) == .none)
    backend.configure(received: [], pairs: 1)
    #expect(outcome(backend, pair: 1) == .none)
    close(first.1)
  }
}

/// The sum of 16-bit words, folded.
private func sum(_ bytes: [UInt8], _ start: UInt32 = 0) -> UInt16 {
  var total = start
  for index in stride(from: 0, to: bytes.count, by: 2) {
    total += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
  }
  while total >> 16 != 0 { total = total & 0xffff + total >> 16 }
  return UInt16(total)
}

private func big(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 255)] }

/// A guest at 10.77.0.2 behind a TAP at 10.77.0.1.
private final class TAPGuest {
  static let here: [UInt8] = [10, 77, 0, 2]
  static let host: [UInt8] = [10, 77, 0, 1]

  let guest = TestGuest()
  let device: VirtioNetwork
  let function: PCIFunction
  let driver: TestDriver
  let name: String
  let pairCount: Int
  /// The TAP's address, once it has answered.
  var peer = Frames.broadcast
  private var buffers: [[UInt64]] = []
  private let outgoing: UInt64
  private var sendIndex = 0

  init(features: UInt64 = NetGuest.everything, pairCount: Int = 1, mtu: Int32 = 1500) throws {
    var bytes = [CChar](repeating: 0, count: 16)
    for (index, byte) in "osvtest%d".utf8.enumerated() { bytes[index] = CChar(byte) }
    var flags = osv_tap_has_header
    if pairCount > 1 { flags |= osv_tap_multi_queue }
    var queues: [CInt] = []
    for _ in 0..<pairCount {
      let tap = osv_tap_open(&bytes, flags)
      guard tap >= 0 else {
        throw NoNamespace(description: "no TAP (\(String(cString: strerror(-tap)))): OSV_SKIP_NET=1 skips")
      }
      queues.append(tap)
    }
    name = bytes.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    self.pairCount = pairCount
    #expect(osv_interface_set_mtu(name, mtu) == 0)
    #expect(osv_interface_add_ipv4(name, Self.host, 24) == 0)
    #expect(osv_interface_up(name) == 0)
    let backend = TAPBackend(queues: queues, hasHeader: true, mtu: Int(osv_interface_mtu(name)))
    #expect(backend.offloads.isSuperset(of: .tcp))
    var configuration = VirtioNetwork.Configuration(address: NetGuest.address) { startThread($0) }
    configuration.mtu = Int(mtu)
    configuration.pairCount = pairCount
    device = try VirtioNetwork(configuration, backend: backend)
    function = PCIFunction(device: device, memory: guest.map) { _ in }
    let offered = device.features | NetGuest.basic
    driver = TestDriver(
      function, guest, queueCount: 2 * pairCount + 1, queueSize: 32, features: features & offered)
    outgoing = guest.allocate(70_000)
    for pair in 0..<pairCount {
      buffers.append((0..<32).map { driver.queues[2 * pair].post(2100, index: $0) })
      driver.kick(2 * pair)
    }
  }

  deinit { device.stop() }

  func send(_ frame: [UInt8], _ header: VirtioNetworkHeader = VirtioNetworkHeader(), pair: Int = 0) {
    let bytes = withUnsafeBytes(of: header) { Array($0) } + frame
    bytes.withUnsafeBytes { guest.pointer(outgoing).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    let queue = driver.queues[2 * pair + 1]
    queue.set(0, outgoing, bytes.count)
    queue.offer(0)
    driver.kick(2 * pair + 1)
    #expect(eventually { queue.usedIndex == queue.nextAvailable })
  }

  /// The next frame that satisfies a condition; others (the host's own chatter) are dropped.
  func receive(pair: Int = 0, _ isWanted: ([UInt8]) -> Bool) -> TestFrameParts? {
    for _ in 0..<6000 {
      guard let used = driver.queues[2 * pair].takeUsed() else {
        usleep(500)
        continue
      }
      var bytes = guest.bytes(buffers[pair][used.head], used.written)
      let header = bytes.withUnsafeBytes { $0.loadUnaligned(as: VirtioNetworkHeader.self) }
      var heads = [used.head]
      while heads.count < Int(header.bufferCount), let more = driver.queues[2 * pair].takeUsed() {
        bytes += guest.bytes(buffers[pair][more.head], more.written)
        heads.append(more.head)
      }
      for head in heads { driver.queues[2 * pair].offer(head) }
      driver.kick(2 * pair)
      let frame = Array(bytes[12...])
      if isWanted(frame) { return TestFrameParts(header: header, frame: frame) }
    }
    return nil
  }

  struct TestFrameParts {
    var header: VirtioNetworkHeader
    var frame: [UInt8]
  }

  /// Asks for the host's address, so that the host knows ours, too.
  func meet() throws {
    let request: [UInt8] =
      Frames.broadcast + NetGuest.address + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + NetGuest.address + Self.here
      + [0, 0, 0, 0, 0, 0] + Self.host
    send(request)
    let answer = try #require(receive { $0.count >= 42 && $0[12..<14] == [8, 6] && $0[21] == 2 })
    peer = Array(answer.frame[6..<12])
    var own = [UInt8](repeating: 0, count: 6)
    #expect(osv_interface_mac(name, &own) == 0)
    #expect(peer == own)
  }

  /// An IPv4 packet in a frame.
  func packet(_ kind: UInt8, _ payload: [UInt8]) -> [UInt8] {
    var ip: [UInt8] =
      [0x45, 0] + big(UInt16(20 + payload.count)) + [0, 1, 0x40, 0, 64, kind, 0, 0] + Self.here + Self.host
    let check = ~sum(ip)
    ip.replaceSubrange(10..<12, with: big(check))
    return peer + NetGuest.address + [8, 0] + ip + payload
  }

  /// The sum of UDP's pseudo-header, for one datagram of that length.
  static func pseudo(_ count: Int) -> UInt32 { UInt32(sum(here + host + [0, 17] + big(UInt16(count)))) }
}

/// A UDP socket of the host in this thread's namespace.
private func hostSocket(port: UInt16) throws -> CInt {
  let socket = Glibc.socket(AF_INET, CInt(SOCK_DGRAM.rawValue), 0)
  try #require(socket >= 0)
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_port = port.bigEndian
  let done = withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(socket, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
  }
  try #require(done == 0)
  var limit = timeval(tv_sec: 5, tv_usec: 0)
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  return socket
}

private func receive(_ socket: CInt) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: 70_000)
  let count = recv(socket, &bytes, bytes.count, 0)
  return Array(bytes.prefix(max(0, count)))
}

private func send(_ socket: CInt, _ bytes: [UInt8], port: UInt16) -> Int {
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_port = port.bigEndian
  address.sin_addr.s_addr = TAPGuest.here.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }
  return withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      sendto(socket, bytes, bytes.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
    }
  }
}

@Suite(.enabled(if: !skipNet)) struct TAPTests {
  @Test func theHostAnswersAndSendsWhatWasAskedFor() throws {
    try inNamespace {
      let guest = try TAPGuest()
      try guest.meet()
      // An echo.
      var echo: [UInt8] = [8, 0, 0, 0, 0, 7, 0, 1] + Array("how are you?".utf8)
      echo.replaceSubrange(2..<4, with: big(~sum(echo)))
      guest.send(guest.packet(1, echo))
      let answer = try #require(guest.receive { $0.count > 34 && $0[23] == 1 && $0[34] == 0 })
      #expect(Array(answer.frame[42...]) == Array("how are you?".utf8))
      #expect(guest.device.report.transmitted.refused == 0)
    }
  }

  @Test func checksumsAreLeftToWhoTakesTheFrame() throws {
    try inNamespace {
      let guest = try TAPGuest()
      try guest.meet()
      let socket = try hostSocket(port: 7001)
      defer { close(socket) }
      let data = Array("a datagram of an odd number of bytes!".utf8)
      let length = UInt16(8 + data.count)
      // Ours has the pseudo-header's sum alone; the host completes it.
      let udp = big(7002) + big(7001) + big(length) + big(UInt16(TAPGuest.pseudo(Int(length)))) + data
      var header = VirtioNetworkHeader()
      header.flags = VirtioNetworkHeader.needsChecksum
      header.checksumStart = 34
      header.checksumOffset = 6
      guest.send(guest.packet(17, udp), header)
      #expect(receive(socket) == data)
      // The host's comes likewise.
      #expect(send(socket, data, port: 7002) == data.count)
      let got = try #require(guest.receive { $0.count > 42 && $0[23] == 17 })
      #expect(Array(got.frame[42...]) == data)
      #expect(got.header.flags & VirtioNetworkHeader.needsChecksum != 0)
      #expect(got.header.checksumStart == 34 && got.header.checksumOffset == 6 && got.header.bufferCount == 1)
    }
  }

  @Test func aDriverWithoutOffloadsGetsCompleteFrames() throws {
    try inNamespace {
      let guest = try TAPGuest(features: NetGuest.control)
      try guest.meet()
      let socket = try hostSocket(port: 7001)
      defer { close(socket) }
      let data = Array("complete".utf8)
      #expect(send(socket, data, port: 7002) == data.count)
      let got = try #require(guest.receive { $0.count > 42 && $0[23] == 17 })
      #expect(got.header.flags == 0)
      let udp = Array(got.frame[34..<(34 + 8 + data.count)])
      let pseudo = UInt32(sum(TAPGuest.host + TAPGuest.here + [0, 17] + big(UInt16(udp.count))))
      #expect(sum(udp, pseudo) == 0xffff)
    }
  }

  @Test func unsegmentedDatagramsBecomeSeveral() throws {
    try inNamespace {
      let guest = try TAPGuest()
      // Linux 6.2 and later.
      guard guest.device.features & VirtioNetworkABI.hostUDP != 0 else { return }
      try guest.meet()
      let socket = try hostSocket(port: 7001)
      defer { close(socket) }
      let data = (0..<12_345).map { UInt8(truncatingIfNeeded: $0 &* 13) }
      let length = UInt16(8 + data.count)
      let udp = big(7002) + big(7001) + big(length) + big(UInt16(TAPGuest.pseudo(Int(length)))) + data
      var header = VirtioNetworkHeader()
      header.flags = VirtioNetworkHeader.needsChecksum
      header.segmentation = VirtioNetworkHeader.udp
      header.segmentByteCount = 1200
      header.headerByteCount = 42
      header.checksumStart = 34
      header.checksumOffset = 6
      guest.send(guest.packet(17, udp), header)
      var all: [UInt8] = []
      for index in 0..<11 {
        let part = receive(socket)
        #expect(part.count == (index < 10 ? 1200 : 345))
        all += part
      }
      #expect(all == data)
    }
  }

  @Test func flowsComeByTheQueueThatTheyWereSentOn() throws {
    try inNamespace {
      let guest = try TAPGuest(features: NetGuest.everything | VirtioNetworkABI.multiqueue, pairCount: 4)
      try guest.meet()
      let control = guest.driver.queues[8]
      let command = guest.guest.place([4, 0, 4, 0])
      let answer = guest.guest.place([0xee])
      control.set(0, command, 4, flags: 1, next: 1)
      control.set(1, answer, 1, flags: 2)
      control.offer(0)
      guest.driver.kick(8)
      #expect(guest.guest.load(UInt8.self, at: answer) == 0)
      let socket = try hostSocket(port: 7001)
      defer { close(socket) }
      for pair in [3, 1, 2, 0] {
        let data = Array("flow of pair \(pair)".utf8)
        let port = UInt16(7100 + pair)
        let length = UInt16(8 + data.count)
        var udp = big(port) + big(7001) + big(length) + [0, 0] + data
        udp.replaceSubrange(6..<8, with: big(~sum(udp, TAPGuest.pseudo(Int(length)))))
        // Several, so that the host has seen the flow on that queue.
        for _ in 0..<3 {
          guest.send(guest.packet(17, udp), pair: pair)
          #expect(receive(socket) == data)
        }
        #expect(send(socket, data, port: port) == data.count)
        let got = guest.receive(pair: pair) { $0.count > 42 && $0[23] == 17 }
        #expect(got.map { Array($0.frame[42...]) } == data, "pair \(pair)")
      }
    }
  }

  @Test func aLargerMTUIsTheInterfaces() throws {
    try inNamespace {
      let guest = try TAPGuest(mtu: 9000)
      try guest.meet()
      #expect(guest.function.readBAR(at: 0x10a, count: 2) == 9000)
      let socket = try hostSocket(port: 7001)
      defer { close(socket) }
      let data = (0..<8500).map { UInt8(truncatingIfNeeded: $0 &* 3) }
      #expect(send(socket, data, port: 7002) == data.count)
      let got = try #require(guest.receive { $0.count > 8000 })
      #expect(got.header.bufferCount == 5 && Array(got.frame[42...]) == data)
    }
  }

  @Test func theLinkIsLostWithTheInterface() throws {
    try inNamespace {
      let guest = try TAPGuest()
      try guest.meet()
      // The interface goes when it is told to be deleted, though we have it open.
      let socket = Glibc.socket(CInt(AF_NETLINK), CInt(SOCK_RAW.rawValue), 0)
      defer { close(socket) }
      let index = if_nametoindex(guest.name)
      func words(_ values: [UInt32]) -> [UInt8] { values.flatMap { v in withUnsafeBytes(of: v) { Array($0) } } }
      // RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK
      let message = words([32, 17 | 5 << 16, 1, 0, 0, index, 0, 0])
      #expect(Glibc.send(socket, message, message.count, 0) == message.count)
      #expect(eventually { guest.function.readBAR(at: 0x106, count: 2) == 0 })
    }
  }
}
