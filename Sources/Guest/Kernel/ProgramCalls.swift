// What programs that are linked with the kernel call directly (Boot/program_calls.S): parking, from which their locks are made.
//
// These run on the calling thread's kernel stack, with interrupts enabled, and must not touch program memory. A program made a
// function call, so its vector registers need not be kept while another such thread runs.
#if GUEST
  import Base
  import Locks
  import Platform
  import Threads

  /// Sleeps until the thread's permit comes, the deadline (ns of `osv_now`) passes or a signal comes. Returns a `WaitResult`'s number.
  @c func program_park(_ deadline: UInt64) -> Int {
    Thread.asFunctionCall { number(Parking.park(until: Deadline(nanoseconds: deadline), interruptible: true)) }
  }

  /// Gives the thread of that name its permit.
  @c func program_unpark(_ parker: UInt) { Parking.unpark(Parker(rawValue: parker)) }

  /// Gives that thread its permit, and sleeps until the caller's own comes: what a thread does that answers another.
  @c func program_pass(_ parker: UInt, _ deadline: UInt64) -> Int {
    Thread.asFunctionCall {
      number(Thread.pass(to: Parker(rawValue: parker), until: Deadline(nanoseconds: deadline)))
    }
  }

  /// Lets other threads of this CPU run.
  @c func program_yield() { Thread.asFunctionCall { Thread.yield() } }

  /// Nanoseconds on the monotonic clock.
  @c func program_now() -> UInt64 { Clock.now() }

  private func number(_ result: WaitResult) -> Int {
    switch result {
    case .woken: 0
    case .timedOut: 1
    case .interrupted: 2
    }
  }
#endif
