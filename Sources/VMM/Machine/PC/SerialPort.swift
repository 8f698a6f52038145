// A 16550A serial port: what a kernel's console needs. Bytes go out at once; what comes in waits in the FIFO of 16.
//
// Output is gathered until a line ends, 256 bytes are together, or `flush` is called: the port says by `onActivity` that there is
// something to flush, or room for input. Interrupts are edges: the line is raised whenever a cause appears while none was served.
import Synchronization

/// COM1.
final class SerialPort: Sendable {
  /// Bytes that the receive FIFO holds.
  static let fifoSize = 16
  private static let outputLimit = 256

  private struct State {
    var input: [UInt8] = []
    var output: [UInt8] = []
    var interruptEnable: UInt8 = 0
    var lineControl: UInt8 = 0
    var modemControl: UInt8 = 0
    var scratch: UInt8 = 0
    var divisor: UInt16 = 1
    var hasFIFO = false
    /// The transmitter became empty, and nobody has been told.
    var hasSent = false
    var isRaised = false
  }

  private let state = Mutex(State())
  private let raise: @Sendable () -> Void
  private let send: @Sendable ([UInt8]) -> Void
  private let onActivity: @Sendable () -> Void

  /// - Parameters:
  ///   - raise: the interrupt line goes up.
  ///   - send: takes output; called without locks.
  ///   - onActivity: see above; cheap, called without locks.
  init(
    raise: @escaping @Sendable () -> Void, send: @escaping @Sendable ([UInt8]) -> Void,
    onActivity: @escaping @Sendable () -> Void
  ) {
    self.raise = raise
    self.send = send
    self.onActivity = onActivity
  }

  // MARK: The other end of the line

  /// Bytes that the FIFO has room for.
  var room: Int { state.withLock { $0.modemControl & 0x10 != 0 ? 0 : Self.fifoSize - $0.input.count } }

  /// Puts in what there is room for.
  func receive(_ bytes: some Collection<UInt8>) {
    change { $0.input.append(contentsOf: bytes.prefix(Self.fifoSize - $0.input.count)) }
  }

  /// Sends what has been gathered.
  func flush() {
    let bytes = state.withLock { state in
      defer { state.output.removeAll(keepingCapacity: true) }
      return state.output
    }
    if !bytes.isEmpty { send(bytes) }
  }

  // MARK: The guest's end

  /// Reads register 0 to 7.
  func read(_ register: UInt16) -> UInt8 {
    var hasRoom = false
    var value: UInt8 = 0
    change { state in
      let isDivisor = state.lineControl & 0x80 != 0
      switch register {
      case 0 where isDivisor: value = UInt8(truncatingIfNeeded: state.divisor)
      case 0:
        if !state.input.isEmpty {
          value = state.input.removeFirst()
          hasRoom = state.input.isEmpty
        }
      case 1: value = isDivisor ? UInt8(truncatingIfNeeded: state.divisor >> 8) : state.interruptEnable
      case 2:
        value = Self.cause(state) | (state.hasFIFO ? 0xc0 : 0)
        if value & 0xf == 2 { state.hasSent = false }
      case 3: value = state.lineControl
      case 4: value = state.modemControl
      case 5: value = 0x60 | (state.input.isEmpty ? 0 : 1)
      case 6:
        // Looped back, the outputs are the inputs; else there is somebody at the other end.
        let control = state.modemControl
        value =
          control & 0x10 != 0
          ? (control & 1) << 5 | (control & 2) << 3 | (control & 4) << 4 | (control & 8) << 4 : 0xb0
      default: value = state.scratch
      }
    }
    if hasRoom { onActivity() }
    return value
  }

  /// Writes register 0 to 7.
  func write(_ register: UInt16, _ value: UInt8) {
    var isFirst = false
    var ready: [UInt8] = []
    change { state in
      let isDivisor = state.lineControl & 0x80 != 0
      switch register {
      case 0 where isDivisor: state.divisor = state.divisor & 0xff00 | UInt16(value)
      case 0 where state.modemControl & 0x10 != 0:
        if state.input.count < Self.fifoSize { state.input.append(value) }
        state.hasSent = true
      case 0:
        state.output.append(value)
        isFirst = state.output.count == 1
        if value == 0x0a || state.output.count == Self.outputLimit {
          swap(&ready, &state.output)
          isFirst = false
        }
        // Not empty for a moment, and then empty again: an edge of its own.
        if Self.cause(state) == 2 { state.isRaised = false }
        state.hasSent = true
      case 1 where isDivisor: state.divisor = state.divisor & 0xff | UInt16(value) << 8
      case 1:
        if value & ~state.interruptEnable & 2 != 0 { state.hasSent = true }
        state.interruptEnable = value & 0xf
      case 2:
        state.hasFIFO = value & 1 != 0
        if value & 2 != 0 { state.input.removeAll() }
      case 3: state.lineControl = value
      case 4: state.modemControl = value & 0x1f
      case 7: state.scratch = value
      default: break
      }
    }
    if !ready.isEmpty { send(ready) }
    if isFirst { onActivity() }
  }

  /// The cause that the interrupt identification names; 1: none.
  private static func cause(_ state: State) -> UInt8 {
    if state.interruptEnable & 1 != 0, !state.input.isEmpty { return 4 }
    if state.interruptEnable & 2 != 0, state.hasSent { return 2 }
    return 1
  }

  /// Changes the state, and raises the line if that made a cause. OUT2 is the gate of the interrupt on a PC.
  private func change(_ body: (inout State) -> Void) {
    let rises = state.withLock { state in
      body(&state)
      let isRaised = Self.cause(state) != 1 && state.modemControl & 0x18 == 0x08
      defer { state.isRaised = isRaised }
      return isRaised && !state.isRaised
    }
    if rises { raise() }
  }
}
