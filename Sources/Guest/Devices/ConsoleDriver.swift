// The console (virtio 1.2, 5.3): standard input and output as port 0, standard error as port 1, which also has what is typed on the
// terminal where standard input is something else.
//
// The device is started at the first use: one exit, and one for each write that the device does not hear of otherwise. That both
// ports exist is known, so nothing waits for the control queues' handshake.
//
// Under another monitor than osv-run there is only port 0, for all of it, and no terminal: see `BootFlags.foreignMonitor`.
import Base
import Locks
import Memory
import Pages
import VirtioABI

/// The console's driver. Calls may sleep; several threads may call at once. Threads only, but for the readiness callback.
public final class ConsoleDriver {
  /// A port: what it carries.
  public enum Port: Int, Sendable {
    /// Standard input and output.
    case standard = 0
    /// Standard error, and the terminal's input where it is not standard input.
    case error = 1
  }

  private let function: VirtioFunction
  /// The device is another monitor's.
  private let isForeign: Bool
  private let isTerminal: Bool
  private let isInputEmpty: Bool
  private let hasTerminalInput: Bool
  private let lock = Mutex()
  private let isStarted = Atomic<Bool>(false)
  // Set under `lock` before `isStarted`, and constant from then on.
  private var control: ConsoleControl?
  private var output: ConsoleOutput?
  private var input: ConsoleInput?
  private var terminalInput: ConsoleInput?
  private let initialSize: UInt32
  private let window: UInt64

  /// Called, in any context, when input has arrived or ended: whoever polls should look again. Set before the first use.
  public var onInputChange: (() -> Void)?
  /// The same for port 1.
  public var onTerminalInputChange: (() -> Void)?

  /// A driver for the device, which is not touched yet.
  /// - Parameters:
  ///   - flags: `BootFlags`: whether input is a terminal, or empty.
  ///   - columns: of the terminal, 0 if there is none; likewise `rows`.
  ///   - window: how long small writes may wait for more of them, in ns; 0: not at all.
  /// - Throws: ENODEV if it is no console of two ports, or of several that are another monitor's.
  public init(
    _ function: VirtioFunction, flags: UInt32, columns: UInt16 = 0, rows: UInt16 = 0,
    gathering window: UInt64 = 1_000_000
  ) throws(Errno) {
    isForeign = flags & BootFlags.foreignMonitor != 0
    let queueCount = isForeign ? VirtioConsoleABI.controlTransmit &+ 1 : VirtioConsoleABI.queueCount
    guard function.description.deviceID == VirtioDeviceID.console, function.offers(VirtioConsoleABI.multiport),
      function.description.queueCount.int >= queueCount
    else { throw .ENODEV }
    self.function = function
    isTerminal = !isForeign && flags & BootFlags.inputIsTerminal != 0
    isInputEmpty = flags & BootFlags.inputIsEmpty != 0
    hasTerminalInput = !isForeign && flags & BootFlags.terminalInput != 0
    self.window = window
    initialSize = columns.u32 | rows.u32 &<< 16
  }

  /// What a port is on the device.
  @inline(__always) private func number(_ port: Port) -> Int { isForeign ? 0 : port.rawValue }

  // MARK: Output

  /// Writes everything to a port, sleeping until the host has it; small writes in quick succession are gathered, and sent within a
  /// millisecond.
  /// - Returns: bytes written; fewer than there were only after an interrupt or a fault.
  /// - Throws: if nothing was written: EPIPE (nobody reads any more), EAGAIN (if not to block), EINTR, EFAULT, EIO, ENODEV, ENOMEM.
  public func write(_ port: Port, from transfer: inout Transfer, nonBlocking: Bool = false) throws(Errno) -> Int {
    guard transfer.remaining > 0 else { return 0 }
    try start()
    guard let output else { throw .ENODEV }
    return try output.write(number(port), from: &transfer, nonBlocking: nonBlocking)
  }

  /// Writes kernel bytes, all of them if that is possible.
  public func write(_ port: Port, _ bytes: UnsafeRawBufferPointer) {
    var transfer = Transfer(kernelSource: bytes)
    do throws(Errno) {
      while transfer.remaining > 0 { if try write(port, from: &transfer) == 0 { return } }
    } catch { return }
  }

  /// Whether a write to the port fails with EPIPE.
  public func isOutputClosed(_ port: Port) -> Bool {
    isStarted.load(ordering: .acquiring) ? control?.isOutputClosed(number(port)) ?? false : false
  }

  /// Sends what small writes to a port have left.
  /// - Throws: what a write that nobody has been told of has failed with (ENOSPC, EIO…), but not that nobody reads any more.
  public func finishWriting(_ port: Port) throws(Errno) {
    guard isStarted.load(ordering: .acquiring) else { return }
    output?.sendGathered()
    if let error = control?.takeOutputError(number(port)) { throw error }
  }

  /// Waits until the host has everything that was written: before the machine ends.
  /// - Parameter deadline: until when to wait for whoever reads it.
  /// - Returns: what a write to standard output or error has failed with that no program has been told of; nil if none has.
  public func flush(until deadline: Deadline = .never) -> Errno? {
    guard isStarted.load(ordering: .acquiring), let output, let control else { return nil }
    output.flush(until: deadline)
    return control.takeOutputError(Port.standard.rawValue) ?? control.takeOutputError(Port.error.rawValue)
  }

  // MARK: Input

  /// Reads what is there, sleeping while there is nothing.
  /// - Returns: bytes read; 0 at the end. A terminal may give more after an end.
  /// - Throws: EAGAIN (if not to block, or the deadline has passed), EINTR, EFAULT, EIO, ENODEV, ENOMEM.
  public func read(
    _ port: Port = .standard, into transfer: inout Transfer, nonBlocking: Bool = false,
    until deadline: Deadline = .never
  ) throws(Errno) -> Int {
    if isEmpty(port) { return 0 }
    try start()
    guard let input = input(port) else { throw .ENODEV }
    output?.sendGathered()
    return try input.read(into: &transfer, nonBlocking: nonBlocking, until: deadline)
  }

  private func isEmpty(_ port: Port) -> Bool { port == .standard ? isInputEmpty : !hasTerminalInput }

  /// Since the start.
  private func input(_ port: Port) -> ConsoleInput? { port == .standard ? input : terminalInput }

  /// Whether a read would return at once.
  public func isReadable(_ port: Port = .standard) -> Bool {
    if isEmpty(port) { return true }
    return isStarted.load(ordering: .acquiring) ? input(port)?.isReadable ?? true : false
  }

  /// Bytes of input that have come already; the host may have more.
  public func readableByteCount(_ port: Port = .standard) -> Int {
    isStarted.load(ordering: .acquiring) ? input(port)?.readableByteCount ?? 0 : 0
  }

  /// Asks the host to say when there is input (which stays with it), so that `isReadable` may become true and `onInputChange`
  /// be called: before a poll sleeps.
  public func listen(_ port: Port = .standard) {
    if isEmpty(port) { return }
    do throws(Errno) { try start() } catch { return }
    input(port)?.listen()
  }

  // MARK: Terminal

  /// Carries out one of `VirtioConsoleTerminal`'s actions; afterwards `state` is how the terminal is.
  /// - Throws: ENOTTY, ERESTART (only a process in the foreground may), EIO, EINTR, ENODEV, ENOMEM.
  public func terminal(_ action: UInt16, _ state: inout VirtioConsoleTerminal) throws(Errno) {
    // Nobody would answer.
    if isForeign { throw .ENOTTY }
    try start()
    guard let control, let input else { throw .ENODEV }
    output?.flush(interruptible: true)
    try control.terminal(action, &state)
    let kind = action & ~VirtioConsoleTerminal.force
    if kind == VirtioConsoleTerminal.discard || kind == VirtioConsoleTerminal.discardAndSet {
      (terminalInput ?? input).discard()
    }
  }

  /// The terminal's size as the host last told it; zeros if there is no terminal.
  public var terminalSize: (columns: UInt16, rows: UInt16) {
    var size = initialSize
    if isStarted.load(ordering: .acquiring), let control {
      control.poll()
      if control.size != 0 { size = control.size }
    }
    return (size.u16, (size &>> 16).u16)
  }

  // MARK: Start

  @inline(__always) private func start() throws(Errno) {
    if !isStarted.load(ordering: .acquiring) { try startOnce() }
  }

  @inline(never) private func startOnce() throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    if isStarted.load(ordering: .relaxed) { return }
    if function.isDead { throw .ENODEV }
    let largest = function.description.queueSize.int
    guard largest >= ConsoleControl.queueSize else { throw .ENODEV }
    // All rings and the control queues' buffers share a page.
    let outputByteCount = Virtqueue.byteCount(size: ConsoleOutput.queueSize)
    let inputByteCount = Virtqueue.byteCount(size: ConsoleInput.queueSize)
    let byteCount = ConsoleControl.byteCount &+ 2 &* outputByteCount &+ 2 &* inputByteCount
    guard let memory = KernelHeap.allocateZeroed(byteCount: byteCount, alignment: 16) else { throw .ENOMEM }
    let rings = memory + ConsoleControl.byteCount
    guard let control = ConsoleControl(memory: memory, isForeign: isForeign),
      let output0 = Virtqueue(size: ConsoleOutput.queueSize, memory: rings),
      let output1 = Virtqueue(size: ConsoleOutput.queueSize, memory: rings + outputByteCount),
      let receive = Virtqueue(size: ConsoleInput.queueSize, memory: rings + 2 &* outputByteCount)
    else { throw .ENOMEM }
    let input = ConsoleInput(receive, port: 0, control: control, isTerminal: isTerminal, isForeign: isForeign)
    if hasTerminalInput {
      guard let memory = Virtqueue(size: ConsoleInput.queueSize, memory: rings + 2 &* outputByteCount + inputByteCount)
      else { throw .ENOMEM }
      let terminalInput = ConsoleInput(memory, port: 1, control: control, isTerminal: true)
      terminalInput.onChange = { [unowned(unsafe) self] in self.onTerminalInputChange?() }
      self.terminalInput = terminalInput
    }
    // Interrupts come back to this object by a reference that does not count: it stays for ever.
    // SAFETY: one reference, never given up: those below and the device's interrupts do not count theirs.
    _ = Unmanaged.passRetained(self)
    input.onChange = { [unowned(unsafe) self] in self.onInputChange?() }
    control.onChange = { [unowned(unsafe) self] in
      self.input?.hasChanged()
      self.terminalInput?.hasChanged()
    }
    self.control = control
    self.input = input
    // Nothing is ever written to a port 1 that is not there.
    output = try ConsoleOutput([output0, output1], control: control, function: function, window: window)
    var queues: [DeviceQueue?] = [receive, output0, control.receive, control.transmit]
    if !isForeign { queues += [terminalInput?.queue, output1] }
    try function.start(queues, features: VirtioConsoleABI.multiport)
    if isForeign {
      // By the standard a device need not look by itself at what was there when it started.
      function.notify(queue: VirtioConsoleABI.controlReceive)
      function.notify(queue: VirtioConsoleABI.controlTransmit)
    }
    isStarted.store(true, ordering: .releasing)
  }
}
