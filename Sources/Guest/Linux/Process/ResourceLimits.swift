// What a process may use.
import Base
import Files
import Locks
import Memory

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
  static let cpuTime = 0
  static let fileSize = 1
  static let data = 2
  static let stack = 3
  static let core = 4
  static let openFiles = 7
  /// The most that `openFiles` can be (Linux's fs.nr_open).
  static let mostOpenFiles: UInt64 = 1 << 20
  static let lockedMemory = 8
  static let addressSpace = 9
  static let pendingSignals = 11
  static let nice = 13
  static let realTimePriority = 14

  private var values: [16 of ResourceLimit] = .init(repeating: ResourceLimit())

  /// Linux's defaults.
  init() {
    values[Self.stack].current = 8 << 20
    values[Self.core].current = 0
    values[Self.lockedMemory] = ResourceLimit(current: 8 << 20, maximum: 8 << 20)
    values[Self.openFiles] = ResourceLimit(current: 1024, maximum: Self.mostOpenFiles)
    values[Self.pendingSignals] = ResourceLimit(current: 4096, maximum: 4096)
    values[Self.nice] = ResourceLimit(current: 0, maximum: 0)
    values[Self.realTimePriority] = ResourceLimit(current: 0, maximum: 0)
  }

  /// The limit with this number, 0 to `count` - 1.
  subscript(index: Int) -> ResourceLimit {
    get { values[index] }
    set { values[index] = newValue }
  }
}

extension Process {
  /// Tells those who keep a limit of it.
  func applyLimit(_ resource: Int, _ value: UInt64) {
    switch resource {
    case ResourceLimits.cpuTime: setCPULimitTimers()
    case ResourceLimits.fileSize:
      fileSizeLimit.store(value, ordering: .relaxed)
      if value != ResourceLimit.infinity { FileSizeLimit.use() }
    case ResourceLimits.data: addressSpace.limits.data = value
    case ResourceLimits.stack: addressSpace.limits.stack = value
    case ResourceLimits.addressSpace: addressSpace.limits.addressSpace = value
    case ResourceLimits.lockedMemory:
      // Root may lock what it likes (CAP_IPC_LOCK).
      addressSpace.limits.locked = credentials.isPrivileged ? .max : value
    case ResourceLimits.openFiles: descriptors.limit = value.clampedInt
    case ResourceLimits.pendingSignals: lock.withLock { signalCount.limit = value }
    default: return
    }
  }
}
