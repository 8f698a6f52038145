// CongestionControl: how much may be under way: slow start and congestion avoidance (RFC 5681), by Reno's rules or CUBIC's (RFC 9438).
//
// Windows are bytes. What happens to the window while a loss is repaired is recovery's business; this says what it comes down to and how it
// grows otherwise.
import Base

/// Which rules; the names are those of TCP_CONGESTION.
public enum CongestionAlgorithm: UInt8, Sendable {
  /// RFC 5681 with RFC 6582: "reno".
  case newReno
  /// RFC 9438: "cubic".
  case cubic

  /// All of them.
  public static var all: [CongestionAlgorithm] { [.newReno, .cubic] }

  /// Its name, as programs give it.
  public var name: StaticString { self == .newReno ? "reno" : "cubic" }
}

struct CongestionControl {
  /// No window is larger: sums of windows fit any number here.
  static var largest: Int { 1 << 30 }

  private(set) var algorithm: CongestionAlgorithm
  /// cwnd.
  private(set) var window: Int
  /// ssthresh.
  private(set) var threshold: Int = CongestionControl.largest
  private var credit = 0
  private var cubic = Cubic()

  /// Slow start with a window.
  init(_ algorithm: CongestionAlgorithm, window: Int) {
    self.algorithm = algorithm
    self.window = window
  }

  var isSlowStarting: Bool { window < threshold }

  /// Goes on by other rules.
  mutating func change(to algorithm: CongestionAlgorithm) {
    self.algorithm = algorithm
    cubic = Cubic()
    credit = 0
  }

  /// Sets the window, while a loss is repaired and after it.
  mutating func setWindow(_ bytes: Int, segmentSize: Int) {
    window = min(max(bytes, segmentSize), Self.largest)
  }

  /// Brings both back: the congestion was none.
  mutating func restore(window: Int, threshold: Int) {
    self.window = max(self.window, window)
    self.threshold = max(self.threshold, threshold)
  }

  /// The initial window (RFC 6928): ten segments, no more than 14,600 bytes or two of them.
  static func initialWindow(segmentSize: Int) -> Int {
    min(10 &* segmentSize, max(2 &* segmentSize, 14_600))
  }

  /// New data has been acknowledged while the window limited us, and no loss is being repaired.
  /// - Parameters:
  ///   - now: ns; `roundTrip`: ns.
  mutating func acknowledged(_ byteCount: Int, segmentSize: Int, now: UInt64, roundTrip: UInt64) {
    var left = byteCount
    if isSlowStarting {
      let step = min(left, threshold &- window)
      window &+= step
      left &-= step
      if left == 0 {
        window = min(window, Self.largest)
        return
      }
    }
    switch algorithm {
    case .newReno:
      // One segment a window (RFC 5681, 3.1, by bytes as RFC 3465 has it).
      credit &+= left
      while credit >= window {
        credit &-= window
        window &+= segmentSize
      }
    case .cubic:
      window = cubic.grown(
        window, acknowledged: left, segmentSize: segmentSize, now: now / 1_000_000, roundTrip: roundTrip / 1_000_000)
    }
    window = min(window, Self.largest)
  }

  /// Congestion has been met: sets the threshold.
  /// - Parameter flight: bytes under way.
  mutating func reduce(flight: Int, segmentSize: Int) {
    credit = 0
    switch algorithm {
    case .newReno: threshold = max(flight / 2, 2 &* segmentSize)
    case .cubic: threshold = cubic.reduced(from: min(window, max(flight, segmentSize)), segmentSize: segmentSize)
    }
  }

  /// A timeout: from one segment again.
  mutating func timedOut(segmentSize: Int) {
    cubic.timedOut()
    credit = 0
    window = segmentSize
  }

  /// Nothing was under way for so long, ns; `timeout`: the RTO (RFC 5681, 4.1: the window is not believed any more).
  mutating func idle(_ time: UInt64, timeout: UInt64, segmentSize: Int, restarts: Bool) {
    cubic.idle(time / 1_000_000)
    guard restarts, time > timeout else { return }
    // What was known is halved for each RTO (RFC 2861, 3.1), rather than forgotten at once; the threshold keeps most of it.
    threshold = max(threshold, min(window &* 3 / 4, Self.largest))
    let restart = min(window, Self.initialWindow(segmentSize: segmentSize))
    var left = time
    while left > timeout, window > restart {
      window = window / 2
      left &-= timeout
    }
    window = max(window, restart)
  }
}
