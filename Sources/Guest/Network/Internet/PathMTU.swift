// PathMTU: which sizes of packets are known to be too large for the way to a destination (RFC 1191, 8201).
//
// A small table of fixed size: somebody who sends many false messages displaces entries, and makes packets smaller than they need be, but never
// smaller than the least that IP guarantees, and nothing else. Entries are forgotten after ten minutes, so that a larger MTU is found.
import Base
import Locks

/// Path MTUs by destination.
final class PathMTUCache {
  private struct Entry {
    var destination = IPAddress.any6
    var mtu: UInt32 = 0
    var validUntil: UInt64 = 0
  }

  /// The least MTU that is believed of IPv4 (Linux' min_pmtu) and of IPv6 (RFC 8200, 5).
  static func least(isV4: Bool) -> Int { isV4 ? 552 : 1280 }
  static var lifetime: UInt64 { 600_000_000_000 }
  private static var waysOfSet: Int { 4 }
  private static var sets: Int { 64 }

  private let lock = Mutex()
  private let key: SipKey
  /// Made at the first message: most machines never get one. Guarded by `lock`.
  private var entries: [Entry] = []
  private let count = Atomic<Int>(0)

  init(key: SipKey) { self.key = key }

  private func first(_ destination: IPAddress) -> Int {
    var hasher = SipHasher(key)
    hasher.combineShort(destination.high)
    hasher.combineShort(destination.low)
    return (hasher.finishShort() & (Self.sets &- 1).u64).int &* Self.waysOfSet
  }

  /// What is known of a destination; nil: nothing.
  func find(_ destination: IPAddress, now: UInt64) -> Int? {
    if count.load(ordering: .relaxed) == 0 { return nil }
    return lock.withLock {
      let start = first(destination)
      for index in start..<start &+ Self.waysOfSet
      where entries[index].destination == destination && entries[index].validUntil > now {
        return entries[index].mtu.int
      }
      return nil
    }
  }

  /// A packet of more than `mtu` bytes did not pass.
  /// - Returns: whether that is news.
  func learn(_ destination: IPAddress, mtu: Int, now: UInt64) -> Bool {
    let mtu = max(mtu, Self.least(isV4: destination.isV4))
    return lock.withLock {
      if entries.isEmpty { entries = [Entry](repeating: Entry(), count: Self.sets &* Self.waysOfSet) }
      let start = first(destination)
      var place = start
      for index in start..<start &+ Self.waysOfSet {
        if entries[index].destination == destination && entries[index].validUntil > now {
          if entries[index].mtu.int <= mtu { return false }
          place = index
          break
        }
        if entries[index].validUntil < entries[place].validUntil { place = index }
      }
      entries[place] = Entry(destination: destination, mtu: mtu.u32, validUntil: now &+ Self.lifetime)
      count.store(1, ordering: .relaxed)
      return true
    }
  }
}
