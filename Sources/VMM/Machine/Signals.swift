// Signals to the monitor become events of the guest: a bit in the clock page, announced by an interrupt.
//
// The handler runs on the main thread (the others block these signals) in the middle of anything: it only stores words and
// makes a few system calls. A second SIGTERM ends the machine, in case the guest does not listen, and so does a second SIGINT: on a
// terminal, where one Ctrl-C after another is for the program, only if no program has taken any of those of the last second and before. The
// second SIGQUIT ends it too, and says where the guest was.

import CKVM
import KVM
import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

/// The monitor's signal handlers. There is one machine in a process.
enum Signals {
  /// Signals that the guest hears of, and their bits in `ClockPage.events`.
  static let forwarded: [CInt] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT]

  // Set once, before the handlers are installed, and only read by them.
  // SAFETY: set once (`forward`), before the handlers are installed, and only read from then on.
  nonisolated(unsafe) private static var machine: VirtualMachine?
  nonisolated(unsafe) private static var boot: VCPU?
  nonisolated(unsafe) private static var events: UnsafeMutablePointer<UInt64>?
  nonisolated(unsafe) private static var isOnTerminal = false

  /// Words that handlers share with threads: changed atomically, or by the handlers alone.
  private enum Word: Int, CaseIterable {
    case ending, quits, resized, continued
    /// How often the process was continued.
    case continuations
    /// When the first SIGINT came of those that no program has taken, in ms of the monotonic clock.
    case interruptTime
  }
  // SAFETY: a word for each case, for good; a handler that interrupts an access of a Swift variable would be a second access.
  nonisolated(unsafe) private static let words: UnsafeMutablePointer<UInt64> = {
    let words = UnsafeMutablePointer<UInt64>.allocate(capacity: Word.allCases.count)
    words.initialize(repeating: 0, count: Word.allCases.count)
    return words
  }()
  private static func load(_ word: Word) -> UInt64 { ckvm_load_acquire(words + word.rawValue) }
  private static func store(_ word: Word, _ value: UInt64) { ckvm_store_release(words + word.rawValue, value) }
  private static func fetchOr(_ word: Word, _ bits: UInt64) -> UInt64 { ckvm_fetch_or(words + word.rawValue, bits) }

  /// Whether the terminal has changed its size since the last call.
  static func takeResize() -> Bool { take(.resized) }
  /// Whether the process was stopped and continued since the last call.
  static func takeContinuation() -> Bool { take(.continued) }

  private static func take(_ flag: Word) -> Bool {
    guard load(flag) != 0 else { return false }
    store(flag, 0)
    return true
  }

  /// Whether SIGQUIT came twice.
  static var isAutopsyAsked: Bool { load(.quits) >= 3 }

  /// Whether osv-run's caller wants a signal ignored.
  static func isIgnored(_ signal: CInt) -> Bool {
    var action = sigaction()
    sigaction(signal, nil, &action)
    return action.__sigaction_handler.sa_handler.map { unsafeBitCast($0, to: Int.self) } == 1
  }

  /// Runs `body` while the calling thread, and the threads it starts, do not take these signals.
  static func blocked<Result>(_ body: () -> Result) -> Result {
    var set = sigset_t()
    var old = sigset_t()
    sigemptyset(&set)
    for signal in forwarded { sigaddset(&set, signal) }
    pthread_sigmask(SIG_BLOCK, &set, &old)
    defer { pthread_sigmask(SIG_SETMASK, &old, nil) }
    return body()
  }

  /// From now on signals go to the guest, whose CPU 0 runs on the calling thread. A signal that osv-run's caller ignores stays ignored, as
  /// `nohup` wants.
  static func forward(to vm: VirtualMachine, _ vcpu: VCPU, events word: UnsafeMutablePointer<UInt64>) {
    machine = vm
    boot = vcpu
    events = word
    isOnTerminal = HostTerminal.shared != nil
    store(.ending, 0)  // Makes the words before a handler needs them.
    for signal in forwarded where !isIgnored(signal) { catchSignal(signal) }
    // A closed pipe is an error of the guest's write, not our end.
    signal(SIGPIPE, SIG_IGN)
  }

  private static func catchSignal(_ signal: CInt) {
    var action = sigaction()
    action.sa_flags = CInt(SA_RESTART)
    action.__sigaction_handler.sa_handler = { signal in Signals.handle(signal) }
    sigaction(signal, &action, nil)
  }

  /// Tells the guest that its balloon is needed. Any thread.
  static func wantBalloon() { post(ClockPage.EventBits.balloon) }

  /// Tells the guest of an event. Any thread.
  static func post(_ bits: UInt64) {
    guard let events, let machine else { return }
    _ = ckvm_fetch_or(events, bits)
    try? machine.signal(InterruptMessage(vector: BootVectors.monitor, cpu: 0))
  }

  private static func handle(_ number: CInt) {
    let saved = errno
    defer { errno = saved }
    guard let events else { return }
    var bit: UInt64 = 0
    switch number {
    case SIGINT: bit = ClockPage.EventBits.interrupt | ClockPage.EventBits.interruptUnheard
    case SIGTERM: bit = ClockPage.EventBits.terminate
    case SIGHUP: bit = ClockPage.EventBits.hangup
    case SIGQUIT: bit = ClockPage.EventBits.quit
    case SIGTSTP: bit = ClockPage.EventBits.stop
    case SIGCONT:
      bit = ClockPage.EventBits.resume
      store(.continuations, load(.continuations) &+ 1)
      store(.continued, 1)
    default:
      bit = ClockPage.EventBits.windowChanged
      store(.resized, 1)
    }
    if number == SIGTERM || number == SIGINT, isUnheard(number, ckvm_load_acquire(events)) {
      HostTerminal.shared?.restore()
      _exit(128 + number)
    }
    if number == SIGQUIT, fetchOr(.quits, 1) != 0 { _ = fetchOr(.quits, 2) }
    // The thread that runs CPU 0 looks at what is for the monitor itself before it enters the guest again.
    boot?.requestExit()
    post(bit)
  }

  /// Whether a signal that ends programs comes once too often.
  private static func isUnheard(_ number: CInt, _ pending: UInt64) -> Bool {
    guard number == SIGINT, isOnTerminal else { return fetchOr(.ending, 1) != 0 }
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    let now = UInt64(time.tv_sec) &* 1000 &+ UInt64(time.tv_nsec / 1_000_000)
    if pending & ClockPage.EventBits.interruptUnheard == 0 { store(.interruptTime, now) }
    return now - load(.interruptTime) >= 1000
  }

  /// Stops the whole process by a signal's default action, and returns when it was continued. False if it was not stopped: nobody is
  /// there who would continue it.
  static func stop(by number: CInt) -> Bool {
    let before = load(.continuations)
    if number != SIGSTOP {
      signal(number, SIG_DFL)
      var set = sigset_t()
      var old = sigset_t()
      sigemptyset(&set)
      sigaddset(&set, number)
      pthread_sigmask(SIG_UNBLOCK, &set, &old)
      raise(number)
      pthread_sigmask(SIG_SETMASK, &old, nil)
      if forwarded.contains(number) { catchSignal(number) }
    } else {
      raise(number)
    }
    // The handler runs on the main thread, perhaps a moment after this one goes on.
    for _ in 0..<20 {
      if load(.continuations) != before { return true }
      var pause = timespec(tv_sec: 0, tv_nsec: 1_000_000)
      nanosleep(&pause, nil)
    }
    return false
  }
}
