// A console that is not ours, in the manner of QEMU's virtio-serial with one virtconsole: port 0 alone of several that there could be.
//
// A buffer of no bytes breaks it. Control messages it does not know it ignores, those for ports that are not there are warnings. Input goes to
// a port that the driver has opened only; output of a port whose other side is closed is discarded.
import Base
import Devices
import Synchronization
import VirtioABI
import VirtioPCI
import VirtioQueue

final class ForeignConsole: VirtioDevice, @unchecked Sendable {
  var deviceID: UInt32 { VirtioDeviceID.console }
  var pciClass: UInt32 { 0x07_8000 }
  let features: UInt64
  let queueCount: Int
  var queueSize: UInt16 { 128 }

  struct State {
    var isHostConnected = true
    var isGuestConnected = false
    var output: [UInt8] = []
    var discarded = 0
    var pending: [UInt8] = []
    /// What the driver has said: event, port, value.
    var heard: [[Int]] = []
    var warnings = 0
    /// Buffers of no bytes.
    var errors = 0
    /// Requests in queues of ports that are not there.
    var strays = 0
  }
  let state = Synchronization.Mutex(State())
  private let host = Synchronization.Mutex<(any VirtioDeviceHost)?>(nil)

  init(features: UInt64 = VirtioConsoleABI.multiport, queueCount: Int = 10) {
    self.features = features
    self.queueCount = queueCount
  }

  func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    // No terminal; as many ports as there are queues for.
    for index in buffer.indices { buffer[index] = offset + index == 4 ? UInt8(queueCount / 2 - 1) : 0 }
  }
  func activate(host: any VirtioDeviceHost, features: UInt64) { self.host.withLock { $0 = host } }
  func reset() { host.withLock { $0 = nil } }

  func serve(queue index: Int, _ queue: SplitQueue) {
    switch index {
    case VirtioConsoleABI.receive0: deliver(queue)
    case VirtioConsoleABI.controlReceive: _ = queue.rearm()
    default:
      repeat {
        let chain = DescriptorChain()
        while queue.pop(into: chain) {
          var bytes = [UInt8](repeating: 0, count: chain.readableByteCount)
          _ = bytes.withUnsafeMutableBytes { chain.read(at: 0, into: $0) }
          guard !bytes.isEmpty else {
            state.withLock { $0.errors += 1 }
            return queue.fail(.badRequest)
          }
          switch index {
          case VirtioConsoleABI.transmit0:
            state.withLock {
              if $0.isHostConnected { $0.output += bytes } else { $0.discarded += bytes.count }
            }
          case VirtioConsoleABI.controlTransmit:
            if bytes.count >= 8 { hear(bytes.withUnsafeBytes { $0.loadUnaligned(as: VirtioConsoleControl.self) }) }
          default: state.withLock { $0.strays += 1 }
          }
          queue.push(chain)
        }
      } while queue.rearm()
    }
  }

  private func hear(_ message: VirtioConsoleControl) {
    state.withLock { $0.heard.append([Int(message.event), Int(message.port), Int(message.value)]) }
    if message.event == VirtioConsoleControl.deviceReady { return send(VirtioConsoleControl.portAdd, 1) }
    guard message.port == 0 else { return state.withLock { $0.warnings += 1 } }
    switch message.event {
    case VirtioConsoleControl.portReady:
      send(VirtioConsoleControl.consolePort, 1)
      send(VirtioConsoleControl.portName, 1, Array("org.example.console".utf8) + [0])
      if state.withLock({ $0.isHostConnected }) { send(VirtioConsoleControl.portOpen, 1) }
    case VirtioConsoleControl.portOpen:
      state.withLock { $0.isGuestConnected = message.value != 0 }
      // Whoever feeds it is told that it may.
      feed([])
    default: break
    }
  }

  /// A control message about port 0, or another.
  func send(_ event: UInt16, _ value: UInt16, _ data: [UInt8] = [], port: UInt32 = 0) {
    let message = VirtioConsoleControl(port: port, event: event, value: value)
    sendRaw(withUnsafeBytes(of: message) { Array($0) } + data)
  }

  func sendRaw(_ bytes: [UInt8]) {
    host.withLock({ $0 })?.withQueue(VirtioConsoleABI.controlReceive) { queue in
      let chain = DescriptorChain()
      guard queue.pop(into: chain) else { return }
      queue.push(chain, written: bytes.withUnsafeBytes { chain.write(at: 0, from: $0) })
      _ = queue.rearm()
    }
  }

  /// The other side of port 0 opens or closes.
  func connect(_ isConnected: Bool) {
    state.withLock { $0.isHostConnected = isConnected }
    send(VirtioConsoleControl.portOpen, isConnected ? 1 : 0)
  }

  /// Bytes come from the other side.
  func feed(_ bytes: [UInt8]) {
    state.withLock { $0.pending += bytes }
    host.withLock({ $0 })?.withQueue(VirtioConsoleABI.receive0) { deliver($0) }
  }

  private func deliver(_ queue: SplitQueue) {
    repeat {
      let chain = DescriptorChain()
      while state.withLock({ $0.isHostConnected && $0.isGuestConnected && !$0.pending.isEmpty }), queue.pop(into: chain)
      {
        guard chain.writableByteCount > 0 else { return refuse(queue) }
        let part = state.withLock { Array($0.pending.prefix(chain.writableByteCount)) }
        queue.push(chain, written: part.withUnsafeBytes { chain.write(at: 0, from: $0) })
        state.withLock { $0.pending.removeFirst(part.count) }
      }
    } while queue.rearm() && state.withLock({ $0.isHostConnected && $0.isGuestConnected && !$0.pending.isEmpty })
  }

  private func refuse(_ queue: SplitQueue) {
    state.withLock { $0.errors += 1 }
    queue.fail(.badRequest)
  }
}
