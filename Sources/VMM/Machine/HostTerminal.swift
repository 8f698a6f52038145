// The terminal that osv-run was started on. The guest's program sets its modes; its line discipline is the host's own, so that lines,
// echo and Ctrl-C are exactly what they are everywhere, and cost the guest nothing.
//
// Rules: what the terminal was like is remembered before the first change and restored at the end, whoever finds the reason, and
// while the process is stopped. A process group in the background changes nothing and reads nothing: the guest hears of it as
// a signal (SIGTTOU, SIGTTIN), and if its program stops by that, the monitor stops by the same signal. No call waits: neither for output
// to drain nor for another process. What signal handlers touch is `saved`, constant once `state` says that there is
// something to restore, and `state` itself.

import CKVM
import Synchronization
import VirtioABI
import VirtioConsole

#if canImport(Glibc)
  import Glibc
#endif

/// The terminal behind the standard streams, if there is one.
final class HostTerminal: ConsoleTerminal {
  typealias Modes = VirtioConsoleTerminal.Modes

  /// Requests of Linux, all that a jailed monitor makes of it.
  enum Request {
    static let getModes: UInt32 = 0x5401
    static let setModes: UInt32 = 0x5402
    static let flush: UInt32 = 0x540b
    static let getGroup: UInt32 = 0x540f
    static let getSize: UInt32 = 0x5413
    static let readable: UInt32 = 0x541b
    static let all = [getModes, setModes, flush, getGroup, getSize, readable]
  }

  /// The one terminal of the process: the first of the standard streams that is one; nil without.
  static let shared: HostTerminal? = {
    for descriptor: CInt in [0, 1, 2] where isatty(descriptor) == 1 { return HostTerminal(descriptor) }
    return nil
  }()

  // Bits of `state`.
  private static let isChanged: UInt64 = 1
  private static let hasEnded: UInt64 = 2

  private let descriptor: CInt
  private let lock = Mutex(Wanted())
  // SAFETY: there for good, since signal handlers look at them: `state` is changed atomically; `saved` is written once, under `lock`,
  // before `state` says `isChanged`.
  nonisolated(unsafe) private let saved = UnsafeMutablePointer<Modes>.allocate(capacity: 1)
  nonisolated(unsafe) private let state = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)

  private struct Wanted {
    /// What the guest has set last.
    var modes: Modes?
    /// The process could not be stopped: nobody would continue it, so it is an error to try what a background process may not.
    var isOrphaned = false
  }

  private init(_ descriptor: CInt) {
    self.descriptor = descriptor
    saved.initialize(to: Modes())
    state.initialize(to: 0)
  }

  private func call(_ request: UInt32, _ argument: UnsafeMutableRawPointer) -> CInt {
    ioctl(descriptor, UInt(request), argument)
  }

  // MARK: For the console

  /// See `ConsoleTerminal`.
  func perform(_ action: UInt16, _ terminal: inout VirtioConsoleTerminal) -> CInt {
    var code: CInt = 0
    let isForced = action & VirtioConsoleTerminal.force != 0
    switch action & ~VirtioConsoleTerminal.force {
    case VirtioConsoleTerminal.ask: break
    case VirtioConsoleTerminal.set: code = set(terminal.modes, discardsInput: false, isForced: isForced)
    case VirtioConsoleTerminal.discardAndSet: code = set(terminal.modes, discardsInput: true, isForced: isForced)
    case VirtioConsoleTerminal.discard: code = discard(isForced: isForced)
    default: code = EINVAL
    }
    let tag = terminal.tag
    terminal = VirtioConsoleTerminal()
    terminal.tag = tag
    if call(Request.getModes, &terminal.modes) != 0, code == 0 { code = errno }
    var size = winsize()
    if call(Request.getSize, &size) == 0 { (terminal.columns, terminal.rows) = (size.ws_col, size.ws_row) }
    var readable: CInt = 0
    if call(Request.readable, &readable) == 0 { terminal.readable = UInt32(max(0, readable)) }
    return code
  }

  /// See `ConsoleTerminal`.
  func mayRead() -> ConsoleReadPermission {
    if isForeground { return .granted }
    if lock.withLock({ $0.isOrphaned }) || Signals.isIgnored(SIGTTIN) { return .refused }
    Signals.post(ClockPage.EventBits.backgroundRead)
    return .later
  }

  /// What a program may set: everything about lines, echo and characters; nothing about the wire. One byte at a time ends a read
  /// without lines: how many its program waits for, and how long, is the guest kernel's affair.
  static func sanitised(_ asked: Modes, over now: Modes) -> Modes {
    var modes = now
    modes.input = asked.input & 0x7fff
    modes.output = asked.output & 0xffff
    modes.local = asked.local & 0xffff
    modes.characters = asked.characters
    if modes.local & 2 == 0 {  // ICANON; VTIME and VMIN
      modes.characters[5] = 0
      modes.characters[6] = 1
    }
    return modes
  }

  private func set(_ asked: Modes, discardsInput: Bool, isForced: Bool) -> CInt {
    lock.withLock { wanted in
      if let refusal = refusal(wanted, isForced) { return refusal }
      var now = Modes()
      guard call(Request.getModes, &now) == 0 else { return errno }
      let modes = Self.sanitised(asked, over: now)
      if ckvm_load_acquire(state) & Self.isChanged == 0 {
        saved.pointee = now
        TerminalRescue.install()
        _ = ckvm_fetch_or(state, Self.isChanged)
      }
      wanted.modes = modes
      if discardsInput { _ = ioctl(descriptor, UInt(Request.flush), CInt(0)) }  // TCIFLUSH
      let code = apply(modes)
      // Whoever ended the machine meanwhile has restored the terminal already, or this is it.
      if ckvm_load_acquire(state) & Self.hasEnded != 0 { _ = apply(saved.pointee) }
      return code
    }
  }

  private func discard(isForced: Bool) -> CInt {
    lock.withLock { wanted in
      if let refusal = refusal(wanted, isForced) { return refusal }
      return Self.withoutStopping { ioctl(descriptor, UInt(Request.flush), CInt(0)) == 0 ? 0 : errno }
    }
  }

  /// Why the terminal may not be changed now; nil if it may.
  private func refusal(_ wanted: Wanted, _ isForced: Bool) -> CInt? {
    if isForced || isForeground || Signals.isIgnored(SIGTTOU) { return nil }
    return wanted.isOrphaned ? EIO : CInt(ERESTART)
  }

  /// Whether this process may use the terminal: its group has it, or nobody of this session does.
  private var isForeground: Bool {
    var group = pid_t()
    return call(Request.getGroup, &group) != 0 || group == getpgrp()
  }

  private func apply(_ modes: Modes) -> CInt {
    var modes = modes
    return Self.withoutStopping { call(Request.setModes, &modes) == 0 ? 0 : errno }
  }

  /// With SIGTTOU blocked, a change from the background is not the end of the process's running.
  private static func withoutStopping<Result>(_ body: () -> Result) -> Result {
    var set = sigset_t()
    var old = sigset_t()
    sigemptyset(&set)
    sigaddset(&set, SIGTTOU)
    pthread_sigmask(SIG_BLOCK, &set, &old)
    defer { pthread_sigmask(SIG_SETMASK, &old, nil) }
    return body()
  }

  // MARK: The end, and stopping

  /// Puts the terminal back to what it was, for good. Any context, signal handlers included; any number of times.
  func restore() {
    let old = ckvm_fetch_or(state, Self.hasEnded)
    if old == Self.isChanged, isForeground { _ = apply(saved.pointee) }
  }

  /// Stops the process by a signal that the guest's program has stopped by, as a shell expects it of its jobs, and returns when
  /// it has been continued. The terminal is put back meanwhile.
  static func stop(by number: CInt) {
    guard [SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU].contains(number) else { return }
    guard let shared else {
      _ = Signals.stop(by: number)
      return
    }
    shared.lock.withLock { wanted in
      if wanted.modes != nil, shared.isForeground { _ = shared.apply(shared.saved.pointee) }
      if !Signals.stop(by: number) { wanted.isOrphaned = true }
      shared.reapply(wanted)
    }
  }

  /// The process was continued, after a stop that may have been none of ours: whoever had the terminal may have left it otherwise.
  func resume() { lock.withLock { reapply($0) } }

  private func reapply(_ wanted: Wanted) {
    guard let modes = wanted.modes, isForeground, ckvm_load_acquire(state) & Self.hasEnded == 0 else { return }
    _ = apply(modes)
  }
}

/// Restores the terminal when a signal is about to kill the process.
enum TerminalRescue {
  static let deadly: [CInt] = [
    SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU,
    SIGXFSZ, SIGPWR, SIGIO, SIGSTKFLT,
  ]

  /// Catches what would kill; what is ignored stays ignored.
  static func install(_ numbers: [CInt] = deadly) {
    for number in numbers {
      if Signals.isIgnored(number) { continue }
      var action = sigaction()
      action.sa_flags = CInt(bitPattern: UInt32(SA_RESETHAND)) | CInt(SA_NODEFER)
      action.__sigaction_handler.sa_handler = { number in
        HostTerminal.shared?.restore()
        raise(number)
      }
      sigaction(number, &action, nil)
    }
  }
}
