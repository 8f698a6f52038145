// The console device (virtio 1.2, 5.3) with two ports: 0 for standard input and output, 1 for standard error.
//
// Output is written where the queue is served, on the thread that notified. Where an output stays full for longer than
// `patience`, its request is held back until RoomWatch says that there is room: a reader that is asleep holds up the guest's
// writer, never its CPU. Output is never lost. The process must ignore SIGPIPE. When nobody reads an output any more, the rest of
// it is dropped, `onOutputFailure` is told, and so is the driver (its port is removed); after another failure (a full disk) the
// driver is told for what request, and the next is tried again. Input: see InputPump.
// Order of the queues' locks: transmit or control transmit first, control receive last.
import Glibc
import Synchronization
import VirtioABI
import VirtioPCI
import VirtioQueue

// SAFETY: a chain and an output are touched with their queue's lock, the host with its own; the rest never changes.
/// The console of one virtual machine.
public final class VirtioConsole: VirtioDevice, @unchecked Sendable {
  /// What the console is connected to.
  public struct Configuration: Sendable {
    /// Read for port 0; negative for an input that has ended.
    public var input: CInt = 0
    /// Written to by port 0.
    public var output: CInt = 1
    /// Written to by port 1.
    public var error: CInt = 2
    /// Read for port 1: the terminal, where port 0 reads something else; negative for an input that stays empty.
    public var terminalInput: CInt = -1
    /// The terminal behind the console, where there is one.
    public var terminal: (any ConsoleTerminal)?
    /// Whether port 0 reads from that terminal.
    public var isInputTerminal = false
    /// The terminal's size, where there is one.
    public var size: (columns: UInt16, rows: UInt16)?
    /// Starts a thread: the one that reads the input, when the guest first asks for some, and the one that waits for room in
    /// an output, when there first is none. The body returns after `stop`.
    public var startThread: @Sendable (@escaping @Sendable () -> Void) -> Void = VirtioConsole.startDetached
    /// An output (port 0 or 1) failed with that error number, EPIPE mostly. Called once for each, from the thread that wrote.
    public var onOutputFailure: @Sendable (Int, CInt) -> Void = { _, _ in }
    /// Standard input, output and error, and no terminal.
    public init() {}
  }

  private let control: ControlChannel
  private let terminal: (any ConsoleTerminal)?
  private let pump: InputPump
  private let terminalPump: InputPump?
  private let room: RoomWatch
  /// How long a thread that serves a queue waits for room itself, in nanoseconds: a reader that is only slow is caught up with.
  private static let patience: UInt64 = 2_000_000
  private let onOutputFailure: @Sendable (Int, CInt) -> Void
  private let host = Mutex<(any VirtioDeviceHost)?>(nil)
  // One for each queue that chains are taken from here, guarded by that queue's lock.
  private let chains = (0..<VirtioConsoleABI.queueCount).map { _ in DescriptorChain() }
  private let outputs: [ConsoleOutput]

  /// Why there is no console: the host gives no descriptor; `code` is a Linux error number.
  public struct OpenFailure: Error {
    /// What failed.
    public let code: CInt
  }

  /// A console.
  public init(_ configuration: Configuration = Configuration()) throws(OpenFailure) {
    let control = ControlChannel(size: configuration.size)
    self.control = control
    let terminal = configuration.terminal
    self.terminal = terminal
    onOutputFailure = configuration.onOutputFailure
    outputs = [ConsoleOutput(configuration.output), ConsoleOutput(configuration.error)]
    let tell = Relay()
    let reads = configuration.isInputTerminal ? terminal : nil
    let mayRead: @Sendable () -> ConsoleReadPermission = { reads?.mayRead() ?? .granted }
    pump = try InputPump(
      descriptor: configuration.input, queueIndex: VirtioConsoleABI.receive0, startThread: configuration.startThread,
      mayRead: mayRead,
      onEnd: { tell.console?.inputEnded(port: 0) })
    if configuration.terminalInput >= 0 {
      terminalPump = try InputPump(
        descriptor: configuration.terminalInput, queueIndex: VirtioConsoleABI.receive1,
        startThread: configuration.startThread, mayRead: { terminal?.mayRead() ?? .granted },
        onEnd: { tell.console?.inputEnded(port: 1) })
    } else {
      terminalPump = nil
    }
    room = try RoomWatch(
      outputs.map(\.descriptor), startThread: configuration.startThread,
      onRoom: { tell.console?.resumeOutput(port: $0) })
    tell.console = self
  }

  // SAFETY: set once, before a thread that looks starts.
  /// From the pump back to the console: set once, before the pump runs.
  private final class Relay: @unchecked Sendable { weak var console: VirtioConsole? }

  /// Ends the console's threads. The console must not be used afterwards.
  public func stop() {
    pump.stop()
    terminalPump?.stop()
    room.stop()
  }

  /// The terminal has another size.
  public func resize(columns: UInt16, rows: UInt16) {
    control.size = (columns, rows)
    guard let host = host.withLock({ $0 }) else { return }
    host.configurationChanged()
    flush(host)
  }

  /// The error number for which a port's output is dropped, 0 while it is not. A snapshot.
  public func outputFailure(port: Int) -> CInt { outputs[port].failure }

  // MARK: VirtioDevice

  /// See `VirtioDevice`.
  public var deviceID: UInt32 { VirtioDeviceID.console }
  /// See `VirtioDevice`: simple communication controller.
  public var pciClass: UInt32 { 0x07_8000 }
  /// See `VirtioDevice`.
  public var features: UInt64 {
    VirtioConsoleABI.multiport | (control.size == nil ? 0 : VirtioConsoleABI.size)
  }
  /// See `VirtioDevice`.
  public var queueCount: Int { VirtioConsoleABI.queueCount }
  /// See `VirtioDevice`.
  public var queueSize: UInt16 { 64 }

  /// See `VirtioDevice`.
  public func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    var configuration = VirtioConsoleConfiguration()
    if let size = control.size {
      configuration.columns = size.columns
      configuration.rows = size.rows
    }
    withUnsafeBytes(of: configuration) { bytes in
      for index in buffer.indices { buffer[index] = offset + index < bytes.count ? bytes[offset + index] : 0 }
    }
  }

  /// See `VirtioDevice`.
  public func activate(host: any VirtioDeviceHost, features: UInt64) {
    self.host.withLock { $0 = host }
    pump.setHost(host)
    terminalPump?.setHost(host)
  }

  /// See `VirtioDevice`.
  public func reset() {
    host.withLock { $0 = nil }
    pump.setHost(nil)
    terminalPump?.setHost(nil)
    control.reset()
    for output in outputs { output.isHeldBack = false }
  }

  /// See `VirtioDevice`.
  public func serve(queue index: Int, _ queue: SplitQueue) {
    switch index {
    case VirtioConsoleABI.receive0: if queue.hasAvailable() { pump.buffersPosted(queue) }
    case VirtioConsoleABI.transmit0: transmit(queue, port: 0, chains[index])
    case VirtioConsoleABI.transmit1: transmit(queue, port: 1, chains[index])
    case VirtioConsoleABI.controlReceive: control.flush(into: queue, chains[index])
    case VirtioConsoleABI.controlTransmit: serveControl(queue, chains[index])
    // Without a terminal to read, its buffers stay where they are.
    case VirtioConsoleABI.receive1: if let terminalPump, queue.hasAvailable() { terminalPump.buffersPosted(queue) }
    default: break
    }
  }

  /// Writes what the driver transmits, from the request that was held back on, if there is one, until there is no more, or no
  /// room for it.
  private func transmit(_ queue: SplitQueue, port: Int, _ chain: DescriptorChain, isResumed: Bool = false) {
    // Whoever waits for room goes on with it, nobody else.
    let output = outputs[port]
    guard output.isHeldBack == isResumed else { return }
    // The thread that has waited for room already does not wait again.
    var deadline: UInt64? = isResumed ? 0 : nil
    var isBegun = isResumed
    output.isHeldBack = false
    repeat {
      while isBegun || queue.pop(into: chain) {
        if !isBegun { output.begin() }
        isBegun = false
        let wasBroken = output.failure != 0
        var result = output.proceed(chain.readable)
        while result == .full, Self.waitBriefly(for: output, until: &deadline) {
          result = output.proceed(chain.readable)
        }
        // What there is to say is said before the request is handed back: a driver that looks then knows already.
        switch result {
        case .full:
          output.isHeldBack = true
          return room.wait(for: port)
        case .failed(let code):
          control.reportFailure(port: port, code: code)
          flush()
        case .done where output.failure != 0 && !wasBroken:
          onOutputFailure(port, output.failure)
          control.remove(port: port)
          flush()
        case .done: break
        }
        queue.push(chain)
      }
    } while queue.rearm()
  }

  /// Waits until there is room in an output, but not beyond the deadline, which is set at the first wait. False if there is none
  /// by then, or if a signal came: the guest has to hear of it.
  private static func waitBriefly(for output: ConsoleOutput, until deadline: inout UInt64?) -> Bool {
    let now = MonotonicClock.now
    let end = deadline ?? now &+ patience
    deadline = end
    guard now < end else { return false }
    var wait = pollfd(fd: output.descriptor, events: Int16(POLLOUT), revents: 0)
    return poll(&wait, 1, 1 + CInt((end - now) / 1_000_000)) == 1
  }

  /// There may be room again for the request that was held back.
  private func resumeOutput(port: Int) {
    let index = port == 0 ? VirtioConsoleABI.transmit0 : VirtioConsoleABI.transmit1
    guard let host = host.withLock({ $0 }) else { return }
    host.withQueue(index) { transmit($0, port: port, chains[index], isResumed: true) }
  }

  private func serveControl(_ queue: SplitQueue, _ chain: DescriptorChain) {
    repeat {
      while queue.pop(into: chain) {
        guard let message = chain.read(VirtioConsoleControl.self) else { return queue.fail(.badRequest) }
        let (isValid, opened) = control.receive(message)
        guard isValid else { return queue.fail(.badRequest) }
        if message.event == VirtioConsoleControl.terminalRequest {
          guard var state = chain.read(VirtioConsoleTerminal.self, at: VirtioConsoleControl.byteCount) else {
            return queue.fail(.badRequest)
          }
          let code = terminal?.perform(message.value, &state) ?? ENOTTY
          control.answer(state, code: code)
        }
        if opened == 0, pump.reopen() { control.setInputOpen(true, port: 0) }
        if opened == 1, let terminalPump, terminalPump.reopen() { control.setInputOpen(true, port: 1) }
        queue.push(chain)
        flush()
      }
    } while queue.rearm()
  }

  private func inputEnded(port: Int) {
    control.setInputOpen(false, port: port)
    flush()
  }

  private func flush() {
    if let host = host.withLock({ $0 }) { flush(host) }
  }

  private func flush(_ host: any VirtioDeviceHost) {
    host.withQueue(VirtioConsoleABI.controlReceive) {
      control.flush(into: $0, chains[VirtioConsoleABI.controlReceive])
    }
  }

  /// Runs the body on a new detached thread.
  public static func startDetached(_ body: @escaping @Sendable () -> Void) {
    final class Start {
      let body: @Sendable () -> Void
      init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    // SAFETY: the one reference made here is the one that the thread takes.
    let argument = Unmanaged.passRetained(Start(body)).toOpaque()
    let failure = pthread_create(
      &thread, nil,
      { argument in
        Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue().body()
        return nil
      }, argument)
    precondition(failure == 0, "no thread for the console's input")
    pthread_detach(thread)
  }
}
