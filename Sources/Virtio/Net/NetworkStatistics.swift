// What a network device counts. Counters are only ever added to, by whoever holds the queue they belong to, and read at any time.
import Synchronization

/// One direction of one pair.
public final class DirectionCounters: Sendable {
  let packets = Atomic<UInt64>(0)
  let bytes = Atomic<UInt64>(0)
  let dropped = Atomic<UInt64>(0)
  let refused = Atomic<UInt64>(0)
  let batches = Atomic<UInt64>(0)
  let inlineBatches = Atomic<UInt64>(0)

  @inline(__always) static func add(_ counter: borrowing Atomic<UInt64>, _ count: Int = 1) {
    counter.add(UInt64(truncatingIfNeeded: count), ordering: .relaxed)
  }
}

/// What one direction of a device has done.
public struct DirectionReport: Equatable, Sendable {
  /// Frames that passed.
  public var packets: UInt64 = 0
  /// Their bytes, headers of virtio not included.
  public var bytes: UInt64 = 0
  /// Frames that were lost because there was no room for them, or that the driver's filter did not want.
  public var dropped: UInt64 = 0
  /// Frames that made no sense.
  public var refused: UInt64 = 0
  /// Looks at the queue that found something.
  public var batches: UInt64 = 0
  /// Those of them by a vCPU's own thread.
  public var inlineBatches: UInt64 = 0

  mutating func add(_ counters: DirectionCounters) {
    packets += counters.packets.load(ordering: .relaxed)
    bytes += counters.bytes.load(ordering: .relaxed)
    dropped += counters.dropped.load(ordering: .relaxed)
    refused += counters.refused.load(ordering: .relaxed)
    batches += counters.batches.load(ordering: .relaxed)
    inlineBatches += counters.inlineBatches.load(ordering: .relaxed)
  }

  var json: String {
    """
    {"packets": \(packets), "bytes": \(bytes), "dropped": \(dropped), "refused": \(refused), "batches": \(batches), \
    "inline_batches": \(inlineBatches)}
    """
  }
}

/// What a device has done, all pairs together.
public struct NetworkReport: Equatable, Sendable {
  /// To the guest.
  public var received = DirectionReport()
  /// From the guest.
  public var transmitted = DirectionReport()
  /// How often a worker went to sleep.
  public var sleeps: UInt64 = 0
  /// Pairs in use.
  public var pairs = 1

  /// As a JSON object.
  public var json: String {
    """
    {"received": \(received.json), "transmitted": \(transmitted.json), "sleeps": \(sleeps), "pairs": \(pairs)}
    """
  }
}
