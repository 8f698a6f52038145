// A device for tests of the transport: copies what it reads to what it may write.
import Synchronization
import VirtioPCI
import VirtioQueue

/// Two queues that echo; a configuration of 4 bytes that may be written.
final class EchoDevice: VirtioDevice, @unchecked Sendable {
  var deviceID: UInt32 { 4 }
  var pciClass: UInt32 { 0x12_3456 }
  var features: UInt64 { 0b101 }
  var queueCount: Int { 2 }
  var queueSize: UInt16 { 16 }
  private let chains = [DescriptorChain(), DescriptorChain()]
  private(set) var configuration: [UInt8] = [1, 2, 3, 4]
  private(set) var activations: [UInt64] = []
  private(set) var resets = 0
  var host: (any VirtioDeviceHost)?
  let served = Atomic<Int>(0)
  /// Runs inside `serve`, before anything is taken.
  var onServe: (Int) -> Void = { _ in }

  func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    for index in buffer.indices { buffer[index] = offset + index < 4 ? configuration[offset + index] : 0 }
  }
  func writeConfiguration(at offset: Int, from bytes: UnsafeRawBufferPointer) {
    for (index, byte) in bytes.enumerated() where offset + index < 4 { configuration[offset + index] = byte }
  }
  func activate(host: any VirtioDeviceHost, features: UInt64) {
    self.host = host
    activations.append(features)
  }
  func reset() {
    host = nil
    resets += 1
  }
  func serve(queue index: Int, _ queue: SplitQueue) {
    onServe(index)
    let chain = chains[index]
    repeat {
      while queue.pop(into: chain) {
        var bytes = [UInt8](repeating: 0, count: chain.readableByteCount)
        _ = bytes.withUnsafeMutableBytes { chain.read(at: 0, into: $0) }
        queue.push(chain, written: bytes.withUnsafeBytes { chain.write(at: 0, from: $0) })
        served.add(1, ordering: .relaxed)
      }
    } while queue.rearm()
  }
}

/// Interrupts as they were raised.
final class InterruptLog: Sendable {
  private let messages = Mutex<[MSIMessage]>([])
  func append(_ message: MSIMessage) { messages.withLock { $0.append(message) } }
  /// The vectors since the last call.
  func take() -> [UInt32] {
    messages.withLock { list in
      defer { list = [] }
      return list.map(\.data)
    }
  }
}
