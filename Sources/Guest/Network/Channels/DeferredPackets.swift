// DeferredPackets: received packets that somebody will look at who holds nothing: those that loopback's senders leave, since they may hold
// a connection's lock, and those of receiving threads that are for no flow.
//
// Bounded: a sender who never lets anybody look loses packets.
import Base
import Devices
import Locks
import Pages

/// A queue of packets for the slow path.
final class DeferredPackets {
  static var limit: Int { 1024 }

  private let lock = SpinLock()
  // Guarded by `lock`.
  private var packets = PacketList()
  private let isWaiting = Atomic<Bool>(false)
  private let isServed = Atomic<Bool>(false)

  /// Whether there is something to do, at a glance.
  @inline(__always) var isEmpty: Bool { !isWaiting.load(ordering: .acquiring) }

  /// Leaves a packet.
  /// - Returns: whether it is the first one; nil: there is no room, and it is dropped.
  func append(_ packet: consuming Packet) -> Bool? {
    let word = packet.leak()
    let isFirst = lock.withLock { () -> Bool? in
      guard packets.count < Self.limit else { return nil }
      packets.append(Packet(adopting: word))
      return !isWaiting.exchange(true, ordering: .sequentiallyConsistent)
    }
    if isFirst == nil { _ = Packet(adopting: word) }
    return isFirst
  }

  /// Gives the body one packet after the other until none is left; returns at once if another thread (or the caller, further out) is at
  /// it. Holding nothing.
  func serve(_ body: (consuming Packet) -> Void) {
    while !isEmpty {
      if isServed.exchange(true, ordering: .sequentiallyConsistent) { return }
      while true {
        var taken = PacketList()
        lock.withLock {
          taken.append(&packets)
          isWaiting.store(false, ordering: .sequentiallyConsistent)
        }
        if taken.isEmpty { break }
        while let packet = taken.removeFirst() { body(packet) }
      }
      // Who has added meanwhile and found this at work is seen by the next look.
      isServed.store(false, ordering: .sequentiallyConsistent)
    }
  }
}
