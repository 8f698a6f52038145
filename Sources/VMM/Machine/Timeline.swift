// `--trace boot`: when each step of the start was over, by the time-stamp counter.

import CKVM

/// Steps of the start and the counter's value at the end of each.
public struct Timeline: Sendable {
  private var marks: [(name: String, stamp: UInt64, exits: Int)] = []
  private let start: UInt64
  /// Counter ticks a second; 0 while unknown.
  var frequency: UInt64 = 0

  /// Starts the clock.
  public init() { start = ckvm_rdtsc() }

  /// A step is over.
  public mutating func mark(_ name: String) { mark(name, exits: 0) }

  /// A step is over, after so many exits of the guest.
  mutating func mark(_ name: String, exits: Int) { marks.append((name, ckvm_rdtsc(), exits)) }

  /// The steps as a JSON list of objects with microseconds since the start.
  var json: String {
    let items = marks.map { mark in
      let time = frequency == 0 ? 0 : (mark.stamp &- start) &* 1_000_000 / frequency
      return "{\"step\": \"\(StatusReport.escape(mark.name))\", \"us\": \(time), \"exits\": \(mark.exits)}"
    }
    return "[" + items.joined(separator: ", ") + "]"
  }

  /// A line a step: microseconds since the start, microseconds of the step, its name.
  public var report: String {
    guard frequency > 0 else { return "" }
    func microseconds(_ ticks: UInt64) -> UInt64 { ticks &* 1_000_000 / frequency }
    func padded(_ value: UInt64) -> String {
      let text = String(value)
      return String(repeating: " ", count: max(0, 8 - text.count)) + text
    }
    var text = "osv-run: start, in microseconds (since main, this step; exits of the guest)\n"
    var last = start
    for mark in marks {
      text += "\(padded(microseconds(mark.stamp &- start)))\(padded(microseconds(mark.stamp &- last)))  \(mark.name)"
      text += mark.exits > 0 ? "; \(mark.exits) exits\n" : "\n"
      last = mark.stamp
    }
    return text
  }
}
