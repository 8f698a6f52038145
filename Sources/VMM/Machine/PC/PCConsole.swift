// The little PC's console: standard input to COM1, COM1 to standard output, by one thread.
//
// On a terminal every key goes to the guest (the terminal is raw meanwhile); Ctrl-A x ends the machine, Ctrl-A Ctrl-A types a Ctrl-A.
import KVM
import Synchronization
import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

/// What is typed, with the machine's own keys taken out.
struct ConsoleKeys {
  private var isEscaped = false

  /// What of `bytes` goes to the guest; nil if the machine shall end.
  mutating func filter(_ bytes: some Sequence<UInt8>) -> [UInt8]? {
    var typed: [UInt8] = []
    for byte in bytes {
      switch (isEscaped, byte) {
      case (true, UInt8(ascii: "x")), (true, UInt8(ascii: "X")): return nil
      case (true, _):
        isEscaped = false
        if byte != 1 { typed.append(1) }
        typed.append(byte)
      case (false, 1): isEscaped = true
      case (false, _): typed.append(byte)
      }
    }
    return typed
  }
}

/// The thread between the standard streams and a serial port.
final class PCConsole: Sendable {
  private let serial: SerialPort
  private let activity: EventDescriptor
  private let onQuit: @Sendable () -> Void

  /// How long output may wait for the rest of its line, and the port for its next look, in milliseconds.
  private static let patience: CInt = 10

  /// - Parameters:
  ///   - activity: signalled by the port when there is something to do.
  ///   - onQuit: the user wants the machine to end.
  init(serial: SerialPort, activity: EventDescriptor, onQuit: @escaping @Sendable () -> Void) {
    self.serial = serial
    self.activity = activity
    self.onQuit = onQuit
  }

  /// Makes the terminal raw, if standard input is one; says whether.
  static func makeRaw() -> Bool {
    guard isatty(0) == 1, let host = HostTerminal.shared else { return false }
    var terminal = VirtioConsoleTerminal()
    _ = host.perform(VirtioConsoleTerminal.ask, &terminal)
    terminal.modes.input &= ~UInt32(BRKINT | INPCK | ISTRIP | INLCR | ICRNL | IXON)
    terminal.modes.output &= ~UInt32(OPOST)
    terminal.modes.local &= ~UInt32(ECHO | ECHONL | ICANON | ISIG | IEXTEN)
    TerminalRescue.install([SIGINT, SIGTERM, SIGHUP])
    return host.perform(VirtioConsoleTerminal.set, &terminal) == 0
  }

  /// The thread's life.
  func run(isTerminal: Bool) -> Never {
    var keys = ConsoleKeys()
    var waiting: [UInt8] = []
    var isOpen = true
    var hasOutput = false
    while true {
      let canRead = isOpen && waiting.isEmpty
      var events = [
        pollfd(fd: activity.descriptor, events: Int16(POLLIN), revents: 0),
        pollfd(fd: canRead ? 0 : -1, events: Int16(POLLIN), revents: 0),
      ]
      let isHurried = hasOutput || !waiting.isEmpty
      let count = poll(&events, 2, isHurried ? Self.patience : -1)
      if hasOutput {
        serial.flush()
        hasOutput = false
      }
      if activity.clear() { hasOutput = true }
      if count > 0, events[1].revents != 0 {
        var buffer = [UInt8](repeating: 0, count: 256)
        let count = read(0, &buffer, buffer.count)
        if count > 0 {
          guard let typed = isTerminal ? keys.filter(buffer[..<count]) : Array(buffer[..<count]) else {
            onQuit()
            continue
          }
          waiting += typed
        } else if count == 0 || errno != EINTR && errno != EAGAIN {
          isOpen = false
        }
      }
      let room = min(serial.room, waiting.count)
      if room > 0 {
        serial.receive(waiting[..<room])
        waiting.removeFirst(room)
      }
    }
  }
}
