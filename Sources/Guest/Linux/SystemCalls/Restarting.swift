// Which calls are called again after a signal has cut them short (signal(7)).
import Base

extension SystemCall {
  /// Whether call `number` is repeated behind a handler with SA_RESTART. Waits with a time-out are not: from the start again,
  /// they would never end under a timer that is quicker. Nor are waits for readiness.
  func mayRestart(_ number: UInt64) -> Bool {
    switch number {
    // connect, accept, sendto, recvfrom, sendmsg, recvmsg, accept4, recvmmsg, sendmmsg
    case 42, 43, 44, 45, 46, 47, 288, 299, 307: true
    // read, write, open, ioctl, pread64, pwrite64, readv, writev, wait4, fcntl, flock, openat, waitid, splice, tee, vmsplice, preadv,
    // pwritev, getrandom, futex_waitv
    case 0, 1, 2, 16, 17, 18, 19, 20, 61, 72, 73, 257, 247, 275, 276, 278, 295, 296, 318, 449: true
    // futex: FUTEX_WAIT and FUTEX_WAIT_BITSET only without a time-out.
    case 202: argument3 == 0 || argument1 & 0x7f != 0 && argument1 & 0x7f != 9
    default: false
    }
  }

  /// Whether call `number` is repeated if no handler ran: whoever interrupted it took the signal back, or it did nothing.
  func restartsUnhandled(_ number: UInt64) -> Bool {
    switch number {
    // select, pause, rt_sigsuspend, futex, pselect6, ppoll: those with time-outs have stored what is left of them, and
    // futex's callers look at the time themselves.
    case 23, 34, 130, 202, 270, 271: true
    // poll: only if it waits for ever.
    case 7: argument2.i32 < 0
    default: mayRestart(number)
    }
  }
}
