// Time: the TSC, made nanoseconds by the clock page that the monitor keeps.
// SAFETY of all: the page is osv-run's, laid down before the kernel starts, for good. What may change is read between two
// looks at its sequence number; `cycles(at:)` reads the base and the rate alone, which do not. `timerShortestCycles` and `timerCountsPerCycle`
// are set at boot by the only CPU; `hostedTimerDeadline` is for the one unit test that looks at it.
import Base
import Instructions
import VirtioABI

#if HOSTED
  import Glibc
#endif

/// The clocks.
public enum Clock {
  /// Nanoseconds since the virtual machine started; never goes back on one CPU.
  public static func now() -> UInt64 {
    #if HOSTED
      return hostedTime(CLOCK_MONOTONIC)
    #else
      return read().nanoseconds
    #endif
  }

  /// Nanoseconds since the epoch (1970, UTC). Follows the host's clock as the monitor last saw it.
  public static func realtime() -> UInt64 {
    #if HOSTED
      return hostedTime(CLOCK_REALTIME)
    #else
      let reading = read()
      return reading.nanoseconds &+ reading.realtimeOffset
    #endif
  }

  /// The raw counter, for measuring short spans.
  @inline(__always) public static func cycles() -> UInt64 { instruction_rdtsc() }

  #if HOSTED
    private static func hostedTime(_ clock: clockid_t) -> UInt64 {
      var time = timespec()
      clock_gettime(clock, &time)
      return time.tv_sec.u64 &* 1_000_000_000 &+ time.tv_nsec.u64
    }
  #else
    /// One consistent reading of the clock page with the TSC.
    private static func read() -> (nanoseconds: UInt64, realtimeOffset: UInt64) {
      let page = Boot.clockPage
      while true {
        let before = loadSequence(page)
        instruction_compiler_barrier()
        let elapsed = instruction_rdtsc() &- page.pointee.baseTSC
        let nanoseconds = page.pointee.baseNanoseconds &+ elapsed.scaled(by: page.pointee.multiplier)
        let offset = page.pointee.realtimeOffset
        instruction_compiler_barrier()
        if before & 1 == 0 && loadSequence(page) == before { return (nanoseconds, offset) }
        instruction_pause()
      }
    }

    /// The page's sequence number, loaded anew each time.
    @inline(__always) private static func loadSequence(_ page: UnsafeMutablePointer<ClockPage>) -> UInt64 {
      instruction_load64(UnsafeRawPointer(page))
    }

    /// The TSC value at time `nanoseconds`; a time before the clock's base gives the base.
    static func cycles(at nanoseconds: UInt64) -> UInt64 {
      let page = Boot.clockPage
      let base = page.pointee.baseNanoseconds
      guard nanoseconds > base else { return page.pointee.baseTSC }
      let span = nanoseconds &- base
      // span * 2^32 / multiplier: the quotient fits where the high half is below the divisor.
      let high = span &>> 32
      guard high < page.pointee.multiplier else { return UInt64.max }
      return page.pointee.baseTSC &+ instruction_divide128(high, span &<< 32, page.pointee.multiplier)
    }
  #endif
}

extension UInt64 {
  /// The product with a 32.32 fixed-point factor.
  @inline(__always) func scaled(by multiplier: UInt64) -> UInt64 {
    let product = multipliedFullWidth(by: multiplier)
    return product.high &<< 32 | product.low &>> 32
  }
}

/// The one-shot timer of the current CPU; it interrupts with `BootVectors.timer`.
public enum LocalTimer {
  /// Arms it for time `nanoseconds` of `Clock.now`, in place of what was armed. A time that is past or nearer than
  /// `shortestDelay` comes after that delay: a timer that always fires at once would leave the program no time at all.
  /// Interrupts must be disabled, or the caller must not mind which CPU's timer it is.
  public static func arm(at nanoseconds: UInt64) {
    #if HOSTED
      hostedTimerDeadline = nanoseconds
    #else
      let now = instruction_rdtsc()
      let earliest = now &+ timerShortestCycles
      let deadline = max(Clock.cycles(at: nanoseconds), earliest)
      if timerCountsPerCycle == 0 {
        ModelSpecificRegister.write(.timerDeadline, deadline)
      } else {
        // Too far away for its 32 bits, it comes early, and whoever asked finds nothing to do and arms it again.
        let counts = min(deadline &- now, 1 &<< 48).scaled(by: timerCountsPerCycle)
        ModelSpecificRegister.write(.timerCount, min(counts &+ 1, UInt32.max.u64))
      }
    #endif
  }

  /// Disarms it. An interrupt that is already on its way may still come.
  public static func disarm() {
    #if HOSTED
      hostedTimerDeadline = nil
    #else
      ModelSpecificRegister.write(timerCountsPerCycle == 0 ? .timerDeadline : .timerCount, 0)
    #endif
  }

  /// The shortest delay in nanoseconds.
  public static var shortestDelay: UInt64 {
    #if HOSTED
      0
    #else
      platformIsPVM ? 20_000 : 2_000
    #endif
  }

  #if HOSTED
    /// What a unit test sees armed.
    public static var armedDeadline: UInt64? { hostedTimerDeadline }
  #endif
}

#if HOSTED
  nonisolated(unsafe) private var hostedTimerDeadline: UInt64? = nil
#else
  nonisolated(unsafe) var timerShortestCycles: UInt64 = 50_000
  /// Counts of the timer a TSC cycle, times 2^32; 0: it takes deadlines.
  nonisolated(unsafe) var timerCountsPerCycle: UInt64 = 0
#endif
