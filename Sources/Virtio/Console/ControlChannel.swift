// The control queues: what the driver is told about ports, and what it says about itself.
//
// Messages wait here until the driver has buffers for them. The lock is a leaf; messages are put into the queue under the
// queue's lock, which is taken first.
//
// SAFETY of all: bytes of trivial structures, within the closures. Every message that waits was made by `append` and begins
// with a whole head; a driver's message is a copy.
import Synchronization
import VirtioABI
import VirtioQueue

/// The host's end of the control queues.
final class ControlChannel: Sendable {
  /// A driver that asks for more than this without taking the answers is at fault.
  static let pendingLimit = 64
  private static let names = ["stdio", "stderr"]

  private struct State {
    var pending: [[UInt8]] = []
    var isPortReady = [false, false]
    var isPortRemoved = [false, false]
    /// Whether a failure is among what waits: one at a time is enough for a driver that does not listen.
    var hasFailure = [false, false]
    var isInputOpen = [true, true]
    var size: (columns: UInt16, rows: UInt16)?
  }

  private let state: Mutex<State>

  init(size: (columns: UInt16, rows: UInt16)?) {
    var initial = State()
    initial.size = size
    state = Mutex(initial)
  }

  /// Forgets the driver; what is known of the ports stays.
  func reset() {
    state.withLock {
      $0.pending = []
      $0.isPortReady = [false, false]
      $0.hasFailure = [false, false]
    }
  }

  /// Takes a message of the driver.
  /// - Returns: The port that the driver has opened with it, if any; nil for a message that makes no sense.
  func receive(_ message: VirtioConsoleControl) -> (isValid: Bool, opened: Int?) {
    state.withLock { state in
      let port = Int(message.port)
      switch message.event {
      case VirtioConsoleControl.deviceReady:
        guard message.value == 1 else { return (true, nil) }
        for port in 0..<2 { Self.append(&state, port, VirtioConsoleControl.portAdd, 1) }
      case VirtioConsoleControl.portReady:
        guard port < 2 else { return (false, nil) }
        guard message.value == 1 else { return (true, nil) }
        state.isPortReady[port] = true
        if port == 0 { Self.append(&state, 0, VirtioConsoleControl.consolePort, 1) }
        Self.append(&state, port, VirtioConsoleControl.portName, 1, Array(Self.names[port].utf8))
        if port == 0, let size = state.size { Self.appendSize(&state, size) }
        Self.append(&state, port, VirtioConsoleControl.portOpen, state.isInputOpen[port] ? 1 : 0)
        if state.isPortRemoved[port] { Self.append(&state, port, VirtioConsoleControl.portRemove, 1) }
      case VirtioConsoleControl.portOpen:
        guard port < 2 else { return (false, nil) }
        if message.value == 1 { return (state.pending.count <= Self.pendingLimit, port) }
      default: break
      }
      return (state.pending.count <= Self.pendingLimit, nil)
    }
  }

  /// There is input to come on a port, or no more.
  func setInputOpen(_ isOpen: Bool, port: Int) {
    state.withLock {
      guard $0.isInputOpen[port] != isOpen else { return }
      $0.isInputOpen[port] = isOpen
      if $0.isPortReady[port] { Self.append(&$0, port, VirtioConsoleControl.portOpen, isOpen ? 1 : 0) }
    }
  }

  /// Nobody reads the port's output any more.
  func remove(port: Int) {
    state.withLock {
      $0.isPortRemoved[port] = true
      if $0.isPortReady[port] { Self.append(&$0, port, VirtioConsoleControl.portRemove, 1) }
    }
  }

  /// A request to transmit has failed.
  func reportFailure(port: Int, code: CInt) {
    state.withLock {
      guard $0.isPortReady[port], !$0.hasFailure[port] else { return }
      $0.hasFailure[port] = true
      Self.append(&$0, port, VirtioConsoleControl.outputFailed, UInt16(clamping: code))
    }
  }

  /// Answers a request about the terminal.
  func answer(_ terminal: VirtioConsoleTerminal, code: CInt) {
    state.withLock {
      Self.append(
        &$0, 0, VirtioConsoleControl.terminalAnswer, UInt16(clamping: code), withUnsafeBytes(of: terminal) { Array($0) }
      )
    }
  }

  /// The terminal's size.
  var size: (columns: UInt16, rows: UInt16)? {
    get { state.withLock { $0.size } }
    set {
      state.withLock { state in
        state.size = newValue
        if state.isPortReady[0], let newValue { Self.appendSize(&state, newValue) }
      }
    }
  }

  /// Puts waiting messages into the driver's buffers, as far as there are any.
  func flush(into queue: SplitQueue, _ chain: DescriptorChain) {
    state.withLock { state in
      var sent = 0
      while sent < state.pending.count {
        guard queue.hasAvailable() || queue.rearm(), queue.pop(into: chain) else { break }
        let message = state.pending[sent]
        guard chain.writableByteCount >= message.count else { return queue.fail(.badRequest) }
        queue.push(chain, written: message.withUnsafeBytes { chain.write(at: 0, from: $0) })
        sent += 1
        if let failed = Self.failedPort(message) { state.hasFailure[failed] = false }
      }
      state.pending.removeFirst(sent)
    }
  }

  private static func append(_ state: inout State, _ port: Int, _ event: UInt16, _ value: UInt16, _ data: [UInt8] = [])
  {
    let message = VirtioConsoleControl(port: UInt32(port), event: event, value: value)
    state.pending.append(withUnsafeBytes(of: message) { Array($0) } + data)
  }

  /// The port that a message reports a failure of.
  private static func failedPort(_ message: [UInt8]) -> Int? {
    let head = message.withUnsafeBytes { $0.loadUnaligned(as: VirtioConsoleControl.self) }
    return head.event == VirtioConsoleControl.outputFailed ? Int(head.port) : nil
  }

  private static func appendSize(_ state: inout State, _ size: (columns: UInt16, rows: UInt16)) {
    append(
      &state, 0, VirtioConsoleControl.resize, 1,
      withUnsafeBytes(of: (size.columns.littleEndian, size.rows.littleEndian)) { Array($0) })
  }
}
