// Signals to the first program from outside the machine.
import Base

/// What the monitor's user can send to the program.
public enum ProgramSignals {
  /// A signal that the monitor passes on.
  public enum Kind { case interrupt, terminate, hangup, quit, windowChanged, stop, resume, backgroundInput }

  // SAFETY: set at boot, before the first program runs.
  /// Called when a program has taken a SIGINT, by a handler or because it waited for it: it listens. Any thread.
  nonisolated(unsafe) public static var interruptIsTaken: (() -> Void)?

  /// A program has taken a signal.
  static func noteTaken(_ signal: Signal) {
    if signal == .interrupt { interruptIsTaken?() }
  }

  /// Sends the signal to the first process. Thread context.
  public static func send(_ kind: Kind) {
    let signal: Signal
    switch kind {
    case .interrupt: signal = .interrupt
    case .terminate: signal = .terminate
    case .hangup: signal = .hangup
    case .quit: signal = .quit
    case .windowChanged: signal = .windowChanged
    case .stop: signal = .terminalStop
    case .resume: signal = .resume
    case .backgroundInput: signal = .backgroundInput
    }
    Process.first?.send(fromKernel: signal)
  }
}
