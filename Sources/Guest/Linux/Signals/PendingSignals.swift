// Signals that wait to be delivered: a list of records in the order in which they came.
//
// Rules: not synchronised (its owner's lock is held). A record is made when a signal is sent; what the sender may not have
// (RLIMIT_SIGPENDING, counted for the process in `SignalCount`) or memory cannot give is refused, or, where Linux keeps the
// fact that a signal is pending, remembered without its details. A timer has a record of its own, which it lends to the list
// while its signal is pending: that signal cannot be lost. Whoever drops a queue calls `drop` before.
import Base
import Pages

/// How many records the signals of a process take, its timers' among them (RLIMIT_SIGPENDING).
struct SignalCount {
  /// Records now.
  var used = 0
  /// The most there may be.
  var limit = UInt64.max

  /// Whether one more may be made.
  var hasRoom: Bool { used.u64 < limit }
}

/// One signal in a queue.
struct QueuedSignal {
  fileprivate var next: QueuedSignalPointer?
  /// What the program will be told.
  var information: SignalInformation
  /// The timer that owns the record; nil: the queue does.
  let timer: Unmanaged<ProcessTimer>?
  /// Which setting of the timer it tells of.
  var setting: UInt64 = 0
  /// Whether it is in a queue.
  fileprivate(set) var isQueued = false
}

typealias QueuedSignalPointer = UnsafeMutablePointer<QueuedSignal>

extension UnsafeMutablePointer where Pointee == QueuedSignal {
  /// A record outside of any queue; nil if memory is out.
  static func make(_ information: SignalInformation, timer: Unmanaged<ProcessTimer>? = nil) -> QueuedSignalPointer? {
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<QueuedSignal>.stride) else { return nil }
    // SAFETY: fresh heap memory of the right size, aligned to 16.
    let record = memory.bindMemory(to: QueuedSignal.self, capacity: 1)
    record.initialize(to: QueuedSignal(next: nil, information: information, timer: timer))
    return record
  }

  /// Frees a record that is in no queue.
  func discard() { KernelHeap.free(UnsafeMutableRawPointer(self)) }
}

/// A signal that was taken out of its queue.
struct TakenSignal {
  var information: SignalInformation
  /// The timer that sent it, and which of its settings.
  var timer: Unmanaged<ProcessTimer>?
  var setting: UInt64 = 0

  /// What the program is told. Not under the process' lock: a timer says now how often it has expired meanwhile.
  func told() -> SignalInformation {
    guard let timer else { return information }
    var result = information
    let overruns = timer._withUnsafeGuaranteedRef { $0.deliver(setting: setting) }
    result.first = information.first | overruns.u64 &<< 32
    return result
  }
}

/// A queue of pending signals, of a thread or of a whole process.
struct PendingSignals: ~Copyable {
  /// What became of a signal.
  enum Addition { case queued, alreadyPending, refused }

  /// Which signals are pending.
  private(set) var set = SignalSet()
  private var first: QueuedSignalPointer?
  private var last: QueuedSignalPointer?

  /// An empty queue.
  init() {}

  /// Adds a signal. A real-time signal that finds no room is refused unless kill(2) sent it; of others without room the fact
  /// is kept that they are pending. The kernel's own standard signals need no room.
  mutating func add(_ signal: Signal, _ information: SignalInformation, _ count: inout SignalCount) -> Addition {
    if set.contains(signal) && !signal.isRealTime { return .alreadyPending }
    let isOverLimit = !count.hasRoom && (signal.isRealTime || information.code < 0)
    if !isOverLimit, let record = QueuedSignalPointer.make(information) {
      count.used &+= 1
      append(record)
    } else if signal.isRealTime, information.code != SignalInformation.Code.user {
      return .refused
    }
    set.insert(signal)
    return .queued
  }

  /// Adds a timer's own record, which is in no queue.
  mutating func add(_ signal: Signal, record: QueuedSignalPointer) {
    append(record)
    set.insert(signal)
  }

  private mutating func append(_ record: QueuedSignalPointer) {
    record.pointee.next = nil
    record.pointee.isQueued = true
    if let last { last.pointee.next = record } else { first = record }
    last = record
  }

  /// Takes out the first of `signal`, which is pending.
  mutating func take(_ signal: Signal, _ count: inout SignalCount) -> TakenSignal {
    var taken: TakenSignal?
    var hasMore = false
    removeRecords(&count) { record in
      guard record.pointee.information.number == signal.number.i32, !hasMore else { return false }
      guard taken == nil else {
        hasMore = true
        return false
      }
      taken = TakenSignal(
        information: record.pointee.information, timer: record.pointee.timer, setting: record.pointee.setting)
      return true
    }
    if !hasMore { set.remove(signal) }
    return taken ?? TakenSignal(information: SignalInformation(signal, code: SignalInformation.Code.user))
  }

  /// Forgets every pending signal of a set.
  mutating func discard(_ signals: SignalSet, _ count: inout SignalCount) {
    let found = set.intersection(signals)
    guard !found.isEmpty else { return }
    set = set.subtracting(found)
    removeRecords(&count) { record in
      guard let signal = Signal(record.pointee.information.number.int) else { return false }
      return found.contains(signal)
    }
  }

  /// Forgets every pending `signal`.
  mutating func discard(_ signal: Signal, _ count: inout SignalCount) {
    var only = SignalSet()
    only.insert(signal)
    discard(only, &count)
  }

  /// Takes a timer's record out, if it is in this queue.
  mutating func remove(_ wanted: QueuedSignalPointer, _ count: inout SignalCount) {
    let number = wanted.pointee.information.number
    var others = false
    removeRecords(&count) { record in
      if record == wanted { return true }
      if record.pointee.information.number == number { others = true }
      return false
    }
    if !wanted.pointee.isQueued, !others, let signal = Signal(number.int) { set.remove(signal) }
  }

  /// Forgets everything.
  mutating func drop(_ count: inout SignalCount) { discard(SignalSet(bits: .max), &count) }

  /// Takes out all records of which `condition` holds; what is a timer's goes back to it.
  private mutating func removeRecords(_ count: inout SignalCount, where condition: (QueuedSignalPointer) -> Bool) {
    var before: QueuedSignalPointer?
    var current = first
    while let record = current {
      current = record.pointee.next
      guard condition(record) else {
        before = record
        continue
      }
      if let before { before.pointee.next = current } else { first = current }
      if current == nil { last = before }
      record.pointee.isQueued = false
      if record.pointee.timer == nil {
        count.used &-= 1
        record.discard()
      }
    }
  }
}
