// Signals that wait to be delivered: one record each, real-time ones queued up to a limit.
//
// Rules: not synchronised (its owner's lock is held), and never allocates after its making: a sender must not be
// able to make the kernel run out of memory.
import Base

/// A queue of pending signals, of a thread or of a whole process.
struct PendingSignals {
  /// Records it can hold; a process' whole RLIMIT_SIGPENDING.
  static let capacity = 64

  /// Which signals are pending.
  private(set) var set = SignalSet()
  private var records: [SignalInformation] = []

  /// An empty queue.
  init() {}

  /// Adds a signal. False if it is a real-time signal and the queue is full; a full queue never loses the fact that
  /// a standard signal is pending, only its details.
  mutating func add(_ signal: Signal, _ information: SignalInformation) -> Bool {
    if set.contains(signal) && !signal.isRealTime { return true }
    if records.count < Self.capacity {
      if records.isEmpty { records.reserveCapacity(Self.capacity) }
      records.append(information)
    } else if signal.isRealTime {
      return false
    }
    set.insert(signal)
    return true
  }

  /// Whether one of the records is such.
  func hasRecord(_ condition: (SignalInformation) -> Bool) -> Bool { records.contains(where: condition) }

  /// Takes out the first of `signal`, which is pending.
  mutating func take(_ signal: Signal) -> SignalInformation {
    var found: Int? = nil
    var isLast = true
    for index in 0..<records.count where records[index].number == Int32(truncatingIfNeeded: signal.number) {
      if found == nil {
        found = index
      } else {
        isLast = false
        break
      }
    }
    if isLast { set.remove(signal) }
    guard let found else { return SignalInformation(signal, code: SignalInformation.Code.user) }
    return records.remove(at: found)
  }

  /// Forgets every pending signal of a set.
  mutating func discard(_ signals: SignalSet) {
    let found = set.intersection(signals)
    guard !found.isEmpty else { return }
    set = set.subtracting(found)
    records.removeAll { record in
      guard let signal = Signal(record.number.int) else { return false }
      return found.contains(signal)
    }
  }

  /// Forgets every pending `signal`.
  mutating func discard(_ signal: Signal) {
    guard set.contains(signal) else { return }
    set.remove(signal)
    records.removeAll { $0.number == Int32(truncatingIfNeeded: signal.number) }
  }
}
