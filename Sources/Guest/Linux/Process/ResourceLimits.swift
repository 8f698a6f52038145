// What a process may use.
import Base

/// One resource limit (struct rlimit64).
struct ResourceLimit {
  static let infinity = UInt64.max
  /// What is enforced.
  var current: UInt64 = infinity
  /// How far an unprivileged process may raise it.
  var maximum: UInt64 = infinity
}

/// The resource limits of a process, by Linux's numbers.
struct ResourceLimits {
  /// How many there are (RLIM_NLIMITS).
  static let count = 16
  static let stack = 3
  static let core = 4
  static let openFiles = 7
  static let pendingSignals = 11

  private var values: [16 of ResourceLimit] = .init(repeating: ResourceLimit())

  /// Linux's defaults.
  init() {
    values[Self.stack].current = 8 << 20
    values[Self.core].current = 0
    values[Self.openFiles] = ResourceLimit(current: 1024, maximum: 1 << 20)
    values[Self.pendingSignals] = ResourceLimit(current: 64, maximum: 64)
  }

  /// The limit with this number, 0 to `count` - 1.
  subscript(index: Int) -> ResourceLimit {
    get { values[index] }
    set { values[index] = newValue }
  }
}
