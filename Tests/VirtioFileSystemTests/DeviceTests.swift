// The device between the queues and the server: a guest played in plain memory.
import Glibc
import Testing
import VirtioABI
import VirtioPCI
import VirtioQueue

@testable import VirtioFileSystem

/// 1 MiB of guest memory with one queue of 16 entries at its front.
final class PlayedGuest {
  let memory = GuestMemoryMap()
  let base: UnsafeMutableRawPointer
  let queue: SplitQueue
  private var next: UInt16 = 0
  private var entry = 0

  init() throws {
    base = UnsafeMutableRawPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: 1 << 20)
    memory.add(start: GuestAddress(0), byteCount: 1 << 20, host: base)
    queue = try SplitQueue(
      .init(
        size: 16, descriptors: GuestAddress(0), available: GuestAddress(0x1000), used: GuestAddress(0x2000),
        features: VirtioFeature.version1), memory: memory)
  }

  deinit { base.deallocate() }

  /// Offers a chain: pieces of (address, count, writable).
  func offer(_ pieces: [(Int, Int, Bool)]) {
    let head = entry
    for (index, piece) in pieces.enumerated() {
      let isLast = index == pieces.count - 1
      let place = base + 16 * entry
      place.storeBytes(of: UInt64(piece.0), as: UInt64.self)
      place.storeBytes(of: UInt32(piece.1), toByteOffset: 8, as: UInt32.self)
      place.storeBytes(of: (piece.2 ? 2 : 0) | (isLast ? 0 : 1), toByteOffset: 12, as: UInt16.self)
      place.storeBytes(of: UInt16(entry + 1), toByteOffset: 14, as: UInt16.self)
      entry += 1
    }
    (base + 0x1004 + 2 * Int(next % 16)).storeBytes(of: UInt16(head), as: UInt16.self)
    next += 1
    (base + 0x1002).storeBytes(of: next, as: UInt16.self)
  }

  func write(_ bytes: [UInt8], at address: Int) { (base + address).copyMemory(from: bytes, byteCount: bytes.count) }

  /// Bytes written for the used entry of a number.
  func used(_ index: Int) -> Int { Int((base + 0x2004 + 8 * index + 4).load(as: UInt32.self)) }
  var usedCount: Int { Int((base + 0x2002).load(as: UInt16.self)) }
}

@Suite struct DeviceTests {
  let host = TestDirectory()

  func request(_ opcode: UInt32, _ node: UInt64, _ body: [UInt8]) -> [UInt8] {
    var header = FUSEInHeader()
    header.length = UInt32(40 + body.count)
    header.opcode = opcode
    header.nodeID = node
    header.unique = 9
    return bytes(header) + body
  }

  @Test func servesAQueue() throws {
    host.file("file", "content of the file")
    let server = try FUSEServer(path: host.path)
    let device = VirtioFileSystemDevice(server: server, tag: "volume0", requestQueues: 2)
    let client = TestClient(sharing: server)
    client.initialise(TestClient.ours)
    let guest = try PlayedGuest()
    var read = FUSEReadIn()
    read.size = 4096
    let message = request(FUSEOpcode.read, client.node("file"), bytes(read))
    guest.write(message, at: 0x4000)
    // The header apart, the data over two pages that are not neighbours.
    guest.offer([(0x4000, message.count, false), (0x5000, 16, true), (0x7ff8, 8, true), (0x9000, 4088, true)])
    let forget = request(FUSEOpcode.forget, client.node("file"), bytes(FUSEForgetIn()))
    guest.write(forget, at: 0xa000)
    guest.offer([(0xa000, forget.count, false)])
    guest.write([1, 2, 3], at: 0xb000)
    guest.offer([(0xb000, 3, false), (0xc000, 64, true)])
    device.serve(queue: 1, guest.queue)
    #expect(guest.queue.fault == nil)
    #expect(guest.usedCount == 3)
    #expect(guest.used(0) == 16 + 19)
    #expect(guest.used(1) == 0)
    #expect(guest.used(2) == 16)
    #expect((guest.base + 0x5008).load(as: UInt64.self) == 9)
    let data =
      UnsafeRawBufferPointer(start: guest.base + 0x7ff8, count: 8).map { $0 }
      + UnsafeRawBufferPointer(start: guest.base + 0x9000, count: 11).map { $0 }
    #expect(String(decoding: data, as: UTF8.self) == "content of the file")
    #expect((guest.base + 0xc004).load(as: Int32.self) == 0 - EINVAL)
  }

  @Test func configuration() throws {
    let device = VirtioFileSystemDevice(server: try FUSEServer(path: host.path), tag: "volume0", requestQueues: 3)
    #expect(device.queueCount == 4)
    var bytes = [UInt8](repeating: 0xff, count: 64)
    bytes.withUnsafeMutableBytes { device.readConfiguration(at: 0, into: $0) }
    #expect(Array(bytes[..<8]) == Array("volume0\0".utf8))
    #expect(Array(bytes[36..<44]) == [3, 0, 0, 0, 0, 0, 0, 0])
    var part = [UInt8](repeating: 0xff, count: 2)
    part.withUnsafeMutableBytes { device.readConfiguration(at: 35, into: $0) }
    #expect(part == [0, 3])
  }

  @Test func resetForgetsTheGuest() throws {
    host.file("file")
    let server = try FUSEServer(path: host.path)
    let device = VirtioFileSystemDevice(server: server, tag: "x")
    let client = TestClient(sharing: server)
    client.initialise(TestClient.plain)
    _ = client.open(client.node("file"))
    #expect(server.statistics.nodes == 2)
    device.reset()
    #expect(server.statistics == (1, 0, 0, 0))
    #expect(client.getattr(1).error == EINVAL)
  }
}
