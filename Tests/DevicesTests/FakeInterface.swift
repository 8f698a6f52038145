// A network device of the tests: what is transmitted is kept, what is received is what the test says, header and buffers included.
import Base
import Devices
import VirtioABI
import VirtioPCI
import VirtioQueue

final class FakeInterface: VirtioDevice, @unchecked Sendable {
  var deviceID: UInt32 { VirtioDeviceID.network }
  var pciClass: UInt32 { 0x02_0000 }
  let features: UInt64
  let pairCount: Int
  var queueCount: Int { features & VirtioNetworkABI.controlQueue != 0 ? 2 * pairCount + 1 : 2 }
  let queueSize: UInt16
  var configuration = VirtioNetworkConfiguration()
  var address: [UInt8] = [2, 0, 0, 0xaa, 0xbb, 0xcc]
  private(set) var host: (any VirtioDeviceHost)?
  private(set) var agreed: UInt64 = 0
  /// What was transmitted on each pair: headers and frames.
  private(set) var transmitted: [[(header: VirtioNetworkHeader, frame: [UInt8], pieces: Int)]]
  /// Class, command and data of each command.
  private(set) var commands: [[UInt8]] = []
  var answer = VirtioNetworkControl.succeeded
  /// Nothing that is transmitted is taken while this is set.
  var isStalled = false

  init(features: UInt64, pairCount: Int = 1, queueSize: UInt16 = 256) {
    self.features = features
    self.pairCount = pairCount
    self.queueSize = queueSize
    transmitted = Array(repeating: [], count: pairCount)
    configuration.maximumPairCount = UInt16(pairCount)
    configuration.mtu = 1500
  }

  func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    var bytes = [UInt8](repeating: 0, count: 64)
    bytes[0..<6] = address[...]
    bytes[6] = UInt8(configuration.status)
    bytes[8] = UInt8(configuration.maximumPairCount)
    (bytes[10], bytes[11]) = (UInt8(configuration.mtu & 0xff), UInt8(configuration.mtu >> 8))
    for index in buffer.indices { buffer[index] = offset + index < 64 ? bytes[offset + index] : 0 }
  }
  func activate(host: any VirtioDeviceHost, features: UInt64) {
    self.host = host
    agreed = features
  }
  func reset() { host = nil }

  func serve(queue index: Int, _ queue: SplitQueue) {
    if index == 2 * pairCount && features & VirtioNetworkABI.controlQueue != 0 { return obey(queue) }
    guard index & 1 == 1 else { return }
    repeat {
      let chain = DescriptorChain()
      while !isStalled, queue.pop(into: chain) {
        var bytes = [UInt8](repeating: 0, count: chain.readableByteCount)
        _ = bytes.withUnsafeMutableBytes { chain.read(at: 0, into: $0) }
        let header = bytes.withUnsafeBytes { $0.loadUnaligned(as: VirtioNetworkHeader.self) }
        transmitted[index / 2].append((header, Array(bytes[12...]), chain.readable.count))
        queue.push(chain)
      }
    } while !isStalled && queue.rearm()
  }

  private func obey(_ queue: SplitQueue) {
    repeat {
      let chain = DescriptorChain()
      while queue.pop(into: chain) {
        var bytes = [UInt8](repeating: 0, count: chain.readableByteCount)
        _ = bytes.withUnsafeMutableBytes { chain.read(at: 0, into: $0) }
        commands.append(bytes)
        queue.push(chain, written: withUnsafeBytes(of: answer) { chain.write(at: 0, from: $0) })
      }
    } while queue.rearm()
  }

  /// Takes what was held back.
  func serveTransmitted(pair: Int = 0) {
    host?.withQueue(2 * pair + 1) { serve(queue: 2 * pair + 1, $0) }
  }

  /// Fills buffers with these bytes, each as long as said; the first begins with the header.
  /// - Returns: false: there were not so many buffers.
  @discardableResult func receive(
    _ header: VirtioNetworkHeader, _ frame: [UInt8], sizes: [Int]? = nil, pair: Int = 0
  ) -> Bool {
    var bytes = withUnsafeBytes(of: header) { Array($0) }.prefix(12) + frame
    var isDone = false
    host?.withQueue(2 * pair) { queue in
      var parts: [[UInt8]] = []
      if let sizes {
        for size in sizes {
          parts.append(Array(bytes.prefix(size)))
          bytes = bytes.dropFirst(size)
        }
      } else {
        while !bytes.isEmpty {
          parts.append(Array(bytes.prefix(PacketMemory.pageCapacity)))
          bytes = bytes.dropFirst(PacketMemory.pageCapacity)
        }
      }
      for part in parts {
        let chain = DescriptorChain()
        guard queue.pop(into: chain) else { return }
        _ = part.withUnsafeBytes { chain.write(at: 0, from: $0) }
        queue.push(chain, written: part.count)
      }
      isDone = true
    }
    return isDone
  }
}

extension VirtioNetworkHeader {
  /// A header of a frame in so many buffers.
  static func received(buffers: Int = 1, _ change: (inout VirtioNetworkHeader) -> Void = { _ in }) -> Self {
    var header = VirtioNetworkHeader()
    header.bufferCount = UInt16(buffers)
    change(&header)
    return header
  }
}
