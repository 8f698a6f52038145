// TimeWait: what stands in for connections that have ended until no segment of theirs can be under way any more (RFC 9293, 3.6.1): small records,
// found by the ends.
//
// A record answers what the peer repeats, keeps the ends from being used again too early, and lets a new connection begin between the same ends
// where numbers or timestamps tell old segments from new ones (RFC 6191; RFC 1122, 4.2.2.13). A reset does not end it (RFC 1337). All
// wait equally long, so the oldest expires first. Their number is bounded: a connection for which there is no room has none.
//
// The lock is a leaf, taken under connections' locks and that of the table of ports.
import Base
import Locks
import Pages

struct TimeWaitRecord: ~Copyable {
  var next: UnsafeMutablePointer<TimeWaitRecord>?
  var newer: UnsafeMutablePointer<TimeWaitRecord>?
  var older: UnsafeMutablePointer<TimeWaitRecord>?
  var expiresAt: UInt64 = 0
  var answeredAt: UInt64 = 0
  let key: FlowKey
  /// SND.NXT, RCV.NXT.
  let sendNext: SequenceNumber
  let receiveNext: SequenceNumber
  /// The window as headers say it.
  let window: UInt16
  let usesTimestamps: Bool
  let timestampOffset: UInt32
  var recentTimestamp: UInt32
  var recentTimestampAt: UInt64
  /// Written as IPv6's; by whom.
  let isIPv6: Bool
  let user: UInt32
  /// The right to the port, which goes with the record; nil: nobody had one.
  let claim: Unmanaged<PortClaim>?
}

final class TimeWaitTable {
  private static var chainCount: Int { 4096 }

  private let lock = Mutex()
  private let key: SipKey
  // Guarded by `lock`.
  // SAFETY: records are the table's, each in one chain and in the list, until they are taken out and freed.
  private var chains: UnsafeMutablePointer<UnsafeMutablePointer<TimeWaitRecord>?>?
  private var oldest: UnsafeMutablePointer<TimeWaitRecord>?
  private var newest: UnsafeMutablePointer<TimeWaitRecord>?
  private(set) var count = 0

  init(key: SipKey) { self.key = key }

  deinit {
    while let record = oldest { free(record, nil) }
    if let chains { KernelHeap.free(chains) }
  }

  private func chain(_ key: FlowKey) -> Int { (key.hash(self.key) & (Self.chainCount &- 1).u64).int }

  private func find(_ key: FlowKey) -> UnsafeMutablePointer<TimeWaitRecord>? {
    guard let chains else { return nil }
    var next = chains[chain(key)]
    while let record = next, record.pointee.key != key { next = record.pointee.next }
    return next
  }

  // MARK: Coming and going

  /// Enters a record.
  /// - Returns: when it expires; nil: there is no room or memory, and the claim is still the caller's.
  func insert(_ record: consuming TimeWaitRecord, until time: UInt64, limit: Int) -> UInt64? {
    lock.lock()
    defer { lock.unlock() }
    if chains == nil {
      let byteCount = Self.chainCount &* MemoryLayout<UInt>.stride
      chains = KernelHeap.allocateZeroed(byteCount: byteCount)?
        .bindMemory(to: UnsafeMutablePointer<TimeWaitRecord>?.self, capacity: Self.chainCount)
    }
    guard count < limit, let chains,
      let memory = KernelHeap.allocate(byteCount: MemoryLayout<TimeWaitRecord>.stride, alignment: 16)
    else { return nil }
    let place = memory.bindMemory(to: TimeWaitRecord.self, capacity: 1)
    let chain = chain(record.key)
    place.initialize(to: record)
    place.pointee.next = chains[chain]
    chains[chain] = place
    append(place, until: time)
    count &+= 1
    return time
  }

  private func append(_ record: UnsafeMutablePointer<TimeWaitRecord>, until time: UInt64) {
    record.pointee.expiresAt = time
    (record.pointee.older, record.pointee.newer) = (newest, nil)
    if let newest { newest.pointee.newer = record } else { oldest = record }
    newest = record
  }

  private func unlink(_ record: UnsafeMutablePointer<TimeWaitRecord>) {
    let (older, newer) = (record.pointee.older, record.pointee.newer)
    if let older { older.pointee.newer = newer } else { oldest = newer }
    if let newer { newer.pointee.older = older } else { newest = older }
  }

  private func take(_ record: UnsafeMutablePointer<TimeWaitRecord>) {
    unlink(record)
    count &-= 1
    guard let chains else { return }
    let chain = chain(record.pointee.key)
    var before: UnsafeMutablePointer<TimeWaitRecord>?
    var next = chains[chain]
    while let other = next, other != record { (before, next) = (other, other.pointee.next) }
    if let before { before.pointee.next = record.pointee.next } else { chains[chain] = record.pointee.next }
  }

  private func free(_ record: UnsafeMutablePointer<TimeWaitRecord>, _ ports: PortTable?) {
    if ports == nil { unlink(record) }
    if let claim = record.pointee.claim {
      ports?.release(claim.takeUnretainedValue())
      claim.release()
    }
    record.deinitialize(count: 1)
    KernelHeap.free(record)
  }

  /// Takes out those whose time is over.
  /// - Returns: when the next one's is; `.max`: there is none.
  func expire(now: UInt64, _ ports: PortTable) -> UInt64 {
    while true {
      lock.lock()
      guard let record = oldest, record.pointee.expiresAt <= now else {
        let next = oldest?.pointee.expiresAt ?? .max
        lock.unlock()
        return next
      }
      take(record)
      lock.unlock()
      free(record, ports)
    }
  }

  /// Lets the body look at each. It must not call the table.
  func forEach(_ body: (borrowing TimeWaitRecord) -> Void) {
    lock.withLock {
      var next = oldest
      while let record = next {
        body(record.pointee)
        next = record.pointee.newer
      }
    }
  }

  // MARK: Beginning again

  /// What a new connection between the ends of a record goes on from.
  struct Reuse: BitwiseCopyable {
    /// The first number that is surely new.
    var initialSend: SequenceNumber
  }

  /// Whether we may connect between ends: nothing is left there, or the peer can tell new from old by timestamps (RFC 6191).
  enum Vacancy {
    case free
    case reusable(Reuse)
    case busy
  }

  func vacancy(_ key: FlowKey, now: UInt64) -> Vacancy {
    lock.withLock {
      guard let record = find(key) else { return .free }
      guard record.pointee.usesTimestamps, now &- record.pointee.recentTimestampAt > 1_000_000_000 else { return .busy }
      return .reusable(Self.reuse(record))
    }
  }

  /// Takes a record out, since a new connection begins in its place. Without the table of ports' lock.
  func remove(_ key: FlowKey, _ ports: PortTable) {
    lock.lock()
    guard let record = find(key) else { return lock.unlock() }
    take(record)
    lock.unlock()
    free(record, ports)
  }

  private static func reuse(_ record: UnsafeMutablePointer<TimeWaitRecord>) -> Reuse {
    Reuse(initialSend: record.pointee.sendNext + 65_537)
  }

  // MARK: Segments

  /// What a segment for a record asks for.
  enum Arrival {
    /// There is no record.
    case none
    /// Nothing.
    case ignored
    /// To be answered so.
    case answer(TCPHeaderFields, TCPOptions)
    /// It may begin a new connection.
    case opens(Reuse)
  }

  /// A segment has come that no connection is there for (RFC 9293, 3.10.7.4; RFC 6191, 2).
  func segmentArrived(_ key: FlowKey, _ header: TCPHeader, now: UInt64, lifetime: UInt64) -> Arrival {
    if count == 0 { return .none }
    lock.lock()
    defer { lock.unlock() }
    guard let record = find(key) else { return .none }
    if header.flags.contains(.reset) { return .ignored }
    let hasTimestamp = record.pointee.usesTimestamps && header.options.hasTimestamp
    let difference = (header.options.timestamp &- record.pointee.recentTimestamp).i32
    if header.flags.contains(.synchronize), !header.flags.contains(.acknowledge) {
      if hasTimestamp
        ? difference > 0 || difference == 0 && header.sequence > record.pointee.receiveNext
        : header.sequence > record.pointee.receiveNext
      {
        return .opens(Self.reuse(record))
      }
    } else if header.sequence == record.pointee.receiveNext, header.end == header.sequence,
      !hasTimestamp || difference >= 0
    {
      if hasTimestamp {
        (record.pointee.recentTimestamp, record.pointee.recentTimestampAt) = (header.options.timestamp, now)
      }
      return .ignored
    } else if header.flags.contains(.finish), header.end == record.pointee.receiveNext {
      // Our last acknowledgement was lost: it begins anew.
      unlink(record)
      append(record, until: now &+ lifetime)
      record.pointee.answeredAt = 0
    }
    // Not more often than twice a second, for what is not as it should be (RFC 5961, 7).
    if record.pointee.answeredAt != 0, now &- record.pointee.answeredAt < 500_000_000 { return .ignored }
    record.pointee.answeredAt = max(now, 1)
    var fields = TCPHeaderFields(from: key.localPort, to: key.remotePort)
    fields.sequence = record.pointee.sendNext
    fields.acknowledgement = record.pointee.receiveNext
    fields.flags = .acknowledge
    fields.window = record.pointee.window
    var options = TCPOptions()
    if record.pointee.usesTimestamps {
      options.hasTimestamp = true
      options.timestamp = (now / 1_000_000).u32 &+ record.pointee.timestampOffset
      options.timestampEcho = record.pointee.recentTimestamp
    }
    return .answer(fields, options)
  }
}
