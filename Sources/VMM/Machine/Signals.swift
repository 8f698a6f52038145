// Signals to the monitor become events of the guest: a bit in the clock page, announced by an interrupt.
//
// The handler runs on the main thread (the others block these signals) in the middle of anything: it only stores words and
// makes two system calls. The second SIGINT or SIGTERM ends the machine, in case the guest does not listen; the second
// SIGQUIT ends it too, and says where the guest was.

import CKVM
import KVM
import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

/// The monitor's signal handlers. There is one machine in a process.
enum Signals {
  /// Signals that the guest hears of, in the order of their bits in `ClockPage.events`.
  static let forwarded: [CInt] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH]

  // Set once, before the handlers are installed, and only read by them; `ending` by the handlers alone.
  nonisolated(unsafe) private static var machine: VirtualMachine?
  nonisolated(unsafe) private static var events: UnsafeMutablePointer<UInt64>?
  nonisolated(unsafe) private static var ending: UInt64 = 0
  nonisolated(unsafe) private static var quits: UInt64 = 0

  nonisolated(unsafe) private static var resized: UInt64 = 0

  /// Whether the terminal has changed its size since the last call.
  static func takeResize() -> Bool {
    guard ckvm_load_acquire(&resized) != 0 else { return false }
    ckvm_store_release(&resized, 0)
    return true
  }

  /// Whether SIGQUIT came twice.
  static var isAutopsyAsked: Bool { ckvm_load_acquire(&quits) >= 3 }

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

  /// From now on signals go to the guest. A signal that osv-run's caller ignores stays ignored, as `nohup` wants.
  static func forward(to vm: VirtualMachine, events word: UnsafeMutablePointer<UInt64>) {
    machine = vm
    events = word
    var action = sigaction()
    action.sa_flags = CInt(SA_RESTART)
    for signal in forwarded {
      var old = sigaction()
      sigaction(signal, nil, &old)
      if old.__sigaction_handler.sa_handler.map({ unsafeBitCast($0, to: Int.self) }) == 1 { continue }
      action.__sigaction_handler.sa_handler = { signal in Signals.handle(signal) }
      sigaction(signal, &action, nil)
    }
    // A closed pipe is an error of the guest's write, not our end.
    signal(SIGPIPE, SIG_IGN)
  }

  /// Tells the guest that its balloon is needed. Any thread.
  static func wantBalloon() {
    guard let events, let machine else { return }
    _ = ckvm_fetch_or(events, 1 << 5)
    try? machine.signal(InterruptMessage(vector: BootVectors.monitor, cpu: 0))
  }

  private static func handle(_ number: CInt) {
    let saved = errno
    defer { errno = saved }
    guard let events, let machine else { return }
    var bit: UInt64 = 0
    switch number {
    case SIGINT: bit = 0
    case SIGTERM: bit = 1
    case SIGHUP: bit = 2
    case SIGQUIT: bit = 3
    default:
      bit = 4
      ckvm_store_release(&resized, 1)
    }
    if bit < 2, ckvm_fetch_or(&ending, 1) != 0 { _exit(128 + number) }
    if number == SIGQUIT, ckvm_fetch_or(&quits, 1) != 0 { _ = ckvm_fetch_or(&quits, 2) }
    _ = ckvm_fetch_or(events, 1 << bit)
    try? machine.signal(InterruptMessage(vector: BootVectors.monitor, cpu: 0))
  }
}
