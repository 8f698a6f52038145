// The console's control queues: what the host says about the ports, and our few words to it.
//
// Messages are understood where they are taken (perhaps in an interrupt), into atomics; their buffers go back to the
// device when a thread comes by. The handshake is put into the queue before the device starts, so it costs no exit.
import Base
import Locks
import VirtioABI

/// The control queues of one console.
final class ConsoleControl {
  static let queueSize = 16
  private static let bufferByteCount = 64
  private static let transmitSize = 8
  private static let outgoingByteCount = 64

  let receive: Virtqueue
  let transmit: Virtqueue
  // SAFETY: `queueSize` places of 64 bytes for messages to us (slot i has place i), then `transmitSize` of 64 from us.
  private let buffers: UnsafeMutableRawPointer
  private let outgoing: UnsafeMutableRawPointer
  private let lock = Mutex()
  // Guarded by `lock`: slots of our messages that have not been taken back.
  private var openTransmits: UInt32 = 0

  /// A bit for each port without more input.
  private let endedInputs = Atomic<UInt32>(0)
  private let closedOutputs = Atomic<UInt32>(0)
  /// Error numbers of writes that have failed, 16 bits a port.
  private let outputErrors = Atomic<UInt32>(0)
  private let terminalSize = Atomic<UInt32>(0)
  /// Held by whoever has a request about the terminal out.
  private let requests = Mutex()
  private let lastTag = Atomic<UInt32>(0)
  /// The tag of the last answer; what came with it lies in `answer`, written before, read only by who waits for that tag.
  private let answeredTag = Atomic<UInt32>(0)
  private let answeredCode = Atomic<UInt32>(0)
  // SAFETY: one value, for good. A device that answers twice mixes two answers of its own.
  private let answer: UnsafeMutablePointer<VirtioConsoleTerminal>
  private let answers = WaitQueue()
  /// Whether buffers lie here that the device could have back.
  private let hasDone = Atomic<Bool>(false)
  /// Called, in any context, after something has changed.
  var onChange: (() -> Void)?

  /// Bytes of ring and buffer memory.
  static var byteCount: Int {
    Virtqueue.byteCount(size: queueSize) &+ Virtqueue.byteCount(size: transmitSize) &+ queueSize &* bufferByteCount
      &+ transmitSize &* outgoingByteCount
  }

  /// Queues over zeroed memory, with buffers posted and the handshake waiting; nil if memory is out.
  /// - Parameter isForeign: the device is not osv-run's: it may have one port only, and gives input to a port that has been opened.
  init?(memory: UnsafeMutableRawPointer, isForeign: Bool = false) {
    let transmitMemory = memory + Virtqueue.byteCount(size: Self.queueSize)
    guard let receive = Virtqueue(size: Self.queueSize, memory: memory),
      let transmit = Virtqueue(size: Self.transmitSize, memory: transmitMemory)
    else { return nil }
    self.receive = receive
    self.transmit = transmit
    buffers = transmitMemory + Virtqueue.byteCount(size: Self.transmitSize)
    outgoing = buffers + Self.queueSize &* Self.bufferByteCount
    answer = .allocate(capacity: 1)
    answer.initialize(to: VirtioConsoleTerminal())
    receive.onCompletion = { [unowned(unsafe) self] slot, length in self.take(slot, length) }
    do throws(Errno) {
      for _ in 0..<Self.queueSize { try post() }
      try put(VirtioConsoleControl(port: 0, event: VirtioConsoleControl.deviceReady, value: 1))
      try put(VirtioConsoleControl(port: 0, event: VirtioConsoleControl.portReady, value: 1))
      if isForeign {
        try put(VirtioConsoleControl(port: 0, event: VirtioConsoleControl.portOpen, value: 1))
      } else {
        try put(VirtioConsoleControl(port: 1, event: VirtioConsoleControl.portReady, value: 1))
      }
    } catch { return nil }
  }

  /// Whether the host has said that there is no more input for a port.
  func isInputEnded(_ port: Int) -> Bool { endedInputs.load(ordering: .acquiring) & (1 &<< port.u32) != 0 }
  /// Whether nobody reads a port's output any more.
  func isOutputClosed(_ port: Int) -> Bool { closedOutputs.load(ordering: .acquiring) & (1 &<< port.u32) != 0 }
  /// Why the last write to a port has failed, told once; nil if none has.
  func takeOutputError(_ port: Int) -> Errno? {
    guard outputErrors.load(ordering: .acquiring) != 0 else { return nil }
    let shift = port.u32 &* 16
    let old = outputErrors.bitwiseAnd(~(0xffff &<< shift), ordering: .acquiringAndReleasing).oldValue
    let number = old &>> shift & 0xffff
    return number == 0 ? nil : Errno(rawValue: number.i32) ?? .EIO
  }
  /// The terminal's columns (low half) and rows as last told; 0 if never.
  var size: UInt32 { terminalSize.load(ordering: .relaxed) }

  /// Takes what the host has sent, and gives it its buffers back; threads only.
  func poll() {
    receive.reap()
    guard hasDone.exchange(false, ordering: .acquiringAndReleasing) else { return }
    lock.withLock {
      do throws(Errno) {
        // Slots and places have the same numbers: a slot that is released is the next to be taken.
        for slot in 0..<Self.queueSize where receive.isDone(slot) {
          receive.release(slot)
          try post()
        }
      } catch { return }
    }
    receive.kick()
  }

  /// Has the host read a terminal on after an end of input; threads only.
  func reopenInput(_ port: Int) throws(Errno) {
    endedInputs.bitwiseAnd(~(1 &<< port.u32), ordering: .releasing)
    try send(VirtioConsoleControl(port: port.u32, event: VirtioConsoleControl.portOpen, value: 1))
  }

  /// Does something with the terminal and says how it is afterwards; threads only.
  ///
  /// Not interruptible: no terminal's change is. The host answers at once, whoever it is that has the terminal.
  /// - Parameter state: what to set, if that is asked for.
  /// - Throws: what the host says (ENOTTY, EIO, ERESTART from the background); EIO, EAGAIN.
  func terminal(_ action: UInt16, _ state: inout VirtioConsoleTerminal) throws(Errno) {
    requests.lock()
    defer { requests.unlock() }
    // A device that answers late, or twice, answers another request.
    let tag = lastTag.wrappingAdd(1, ordering: .relaxed).newValue
    state.tag = tag
    try send(VirtioConsoleControl(port: 0, event: VirtioConsoleControl.terminalRequest, value: action), state)
    poll()
    if answeredTag.load(ordering: .acquiring) != tag {
      receive.beginSleep()
      defer { receive.endSleep() }
      // What came before the device knew that we sleep.
      poll()
      _ = answers.wait { answeredTag.load(ordering: .acquiring) != tag && !receive.hasFailed }
    }
    if receive.hasFailed { throw .EIO }
    let code = answeredCode.load(ordering: .relaxed)
    state = answer.pointee
    if code != 0 { throw Errno(rawValue: code.i32) ?? .EIO }
  }

  private func send(_ message: VirtioConsoleControl, _ data: VirtioConsoleTerminal? = nil) throws(Errno) {
    try lock.withLock { () throws(Errno) in
      transmit.reap()
      for slot in 0..<Self.transmitSize where openTransmits & (1 &<< slot.u32) != 0 && transmit.isDone(slot) {
        transmit.release(slot)
        openTransmits &= ~(1 &<< slot.u32)
      }
      try put(message, data)
    }
    transmit.kick()
  }

  /// Posts the buffer of the slot that will be taken next.
  private func post() throws(Errno) {
    guard let next = receive.nextSlot else { throw .EIO }
    var segment = DeviceSegment(address: buffers + next &* Self.bufferByteCount, count: Self.bufferByteCount)
    _ = try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
      try receive.add(pointer, readable: 0, writable: 1)
    }
  }

  private func put(_ message: VirtioConsoleControl, _ data: VirtioConsoleTerminal? = nil) throws(Errno) {
    guard let next = transmit.nextSlot else { throw .EAGAIN }
    let place = outgoing + next &* Self.outgoingByteCount
    place.storeBytes(of: message, as: VirtioConsoleControl.self)
    var segment = DeviceSegment(address: place, count: VirtioConsoleControl.byteCount)
    if let data {
      (place + VirtioConsoleControl.byteCount).storeBytes(of: data, as: VirtioConsoleTerminal.self)
      segment.count &+= VirtioConsoleTerminal.byteCount
    }
    _ = try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
      try transmit.add(pointer, readable: 1, writable: 0)
    }
    openTransmits |= 1 &<< next.u32
  }

  /// A message has come, or (slot -1) the queue has failed. Any context.
  private func take(_ slot: Int, _ length: Int) {
    if slot >= 0 {
      let place = buffers + slot &* Self.bufferByteCount
      if length >= VirtioConsoleControl.byteCount {
        understand(place.load(as: VirtioConsoleControl.self), place + VirtioConsoleControl.byteCount, length)
      }
      hasDone.store(true, ordering: .releasing)
    }
    answers.wakeAll()
    onChange?()
  }

  private func understand(_ message: VirtioConsoleControl, _ data: UnsafeMutableRawPointer, _ length: Int) {
    switch message.event {
    case VirtioConsoleControl.portOpen where message.port < 2:
      let bit: UInt32 = 1 &<< message.port
      if message.value == 0 {
        endedInputs.bitwiseOr(bit, ordering: .releasing)
      } else {
        endedInputs.bitwiseAnd(~bit, ordering: .releasing)
      }
    case VirtioConsoleControl.portRemove where message.port < 2:
      closedOutputs.bitwiseOr(1 &<< message.port, ordering: .releasing)
    case VirtioConsoleControl.outputFailed where message.port < 2:
      // The last one counts; two at a time may mix, which is an error still.
      let shift = message.port &* 16
      outputErrors.bitwiseAnd(~(0xffff &<< shift), ordering: .relaxed)
      outputErrors.bitwiseOr(message.value.u32 &<< shift, ordering: .releasing)
    case VirtioConsoleControl.resize where length >= VirtioConsoleControl.byteCount &+ 4:
      terminalSize.store(data.load(as: UInt32.self), ordering: .relaxed)
    case VirtioConsoleControl.terminalAnswer
    where length >= VirtioConsoleControl.byteCount &+ VirtioConsoleTerminal.byteCount:
      let state = data.load(as: VirtioConsoleTerminal.self)
      answer.pointee = state
      answeredCode.store(message.value.u32, ordering: .relaxed)
      answeredTag.store(state.tag, ordering: .releasing)
    default: break
    }
  }
}
