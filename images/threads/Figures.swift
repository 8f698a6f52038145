// What it costs, in cycles of the time-stamp counter and nanoseconds: the best of several rounds, since the host may be busy.
import GuestAPI

enum Figures {
  private static let rounds = 20_000

  static func print() throws(Errno) {
    let cyclesPerMicrosecond = calibrate()
    GuestAPI.print("uncontended mutex, lock and unlock: \(text(mutex(), cyclesPerMicrosecond))")
    GuestAPI.print("a switch between two threads on one CPU,")
    let ways: [(String, (Int, Baton) -> Void)] = [
      ("passing the permit", { $1.pass($0) }), ("semaphores", { $1.post($0) }), ("condition", { $1.signal($0) }),
      ("yielding", { (_, _) in CurrentThread.yield() }),
    ]
    for (name, step) in ways {
      GuestAPI.print("  \(name): \(text(try duel(step), cyclesPerMicrosecond))")
    }
  }

  private static func text(_ cycles: UInt64, _ cyclesPerMicrosecond: UInt64) -> String {
    "\(cycles) cycles, \(cycles * 1_000 / cyclesPerMicrosecond) ns"
  }

  private static func calibrate() -> UInt64 {
    let time = Clock.monotonic
    let cycles = Clock.cycles
    while Clock.monotonic - time < 2_000_000 {}
    return max((Clock.cycles - cycles) * 1_000 / (Clock.monotonic - time), 1)
  }

  private static func mutex() -> UInt64 {
    let mutex = Mutex()
    var best: UInt64 = .max
    for _ in 0..<10 {
      let start = Clock.cycles
      for _ in 0..<rounds {
        mutex.lock()
        mutex.unlock()
      }
      best = min(best, (Clock.cycles - start) / UInt64(rounds))
    }
    return best
  }

  /// What two threads change places by.
  final class Baton: @unchecked Sendable {
    let semaphores = [Semaphore(1), Semaphore()]
    let mutex = Mutex()
    let changed = Condition()
    var turn = 0
    var permits: [ThreadPermit?] = [nil, nil]

    func pass(_ me: Int) {
      while turn != me { _ = ThreadPermit.wait() }
      turn = 1 - me
      permits[1 - me]?.pass()
    }

    func post(_ me: Int) {
      semaphores[me].wait()
      semaphores[1 - me].post()
    }

    func signal(_ me: Int) {
      mutex.lock()
      _ = changed.wait(mutex) { turn != me }
      turn = 1 - me
      changed.wakeOne()
      mutex.unlock()
    }
  }

  /// Two threads on CPU 0 take turns; cycles a turn.
  private static func duel(_ step: @escaping (Int, Baton) -> Void) throws(Errno) -> UInt64 {
    var best: UInt64 = .max
    for _ in 0..<5 {
      let baton = Baton()
      let ready = Semaphore()
      let go = [Semaphore(), Semaphore()]
      let body = { (me: Int) -> UInt64 in
        baton.permits[me] = CurrentThread.permit
        ready.post()
        go[me].wait()
        let start = Clock.cycles
        for _ in 0..<rounds { step(me, baton) }
        let cycles = Clock.cycles - start
        // Who is done first lets the other one go on.
        baton.permits[1 - me]?.wake()
        return cycles
      }
      let first = try Thread(affinity: 1) { body(0) }
      let second = try Thread(affinity: 1) { body(1) }
      ready.wait()
      ready.wait()
      go[1].post()
      go[0].post()
      let cycles = max(first.join(), second.join())
      best = min(best, cycles / UInt64(2 * rounds))
    }
    return best
  }
}
