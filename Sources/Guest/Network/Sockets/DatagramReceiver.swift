// DatagramReceiver: what has arrived for a socket whose messages are single packets, until the program takes it.
//
// Packets come by the flow's ring. Whoever takes one, or looks whether there is one, first moves what lies in the ring into the queue, whose
// size SO_RCVBUF bounds; so does who fills the ring by half, if nobody else is at it. What a packet is worth is found out only when
// it is the first in the queue: by then it is in the cache of the CPU whose thread will read it.
//
// `lock` guards the queue and makes its holder the ring's consumer. It comes after the socket's; nothing is taken under it.
import Base
import Devices
import Files
import Locks

/// The flow of a socket of datagrams.
class DatagramReceiver: Flow {
  /// What a packet costs besides its bytes, as Linux counts it.
  private static var overhead: Int { 768 }

  let lock = Mutex()
  private let source: PollSource
  /// Bytes that the queue may have.
  let limit = Atomic<Int>(212_992)
  /// What has been dropped because the queue was full, or worth nothing.
  let refusedCount = Atomic<UInt64>(0)
  /// Somebody connected: errors about single packets are the connection's.
  let isConnected = Atomic<Bool>(false)
  let errors: SocketErrors
  /// The program runs on packets (SO_ATTACH_FILTER). Guarded by `lock`.
  private var filter: PacketFilter?
  private var queue = PacketList()
  private var charge = 0

  init?(_ source: PollSource, _ errors: SocketErrors, ringCapacity: Int = 256) {
    self.source = source
    self.errors = errors
    super.init(ringCapacity: ringCapacity)
  }

  private static func charge(of packet: borrowing Packet) -> Int { packet.byteCount &+ overhead }

  override func packetsArrived(_ unattended: UnattendedFlows) {
    if ring.isHalfFull, lock.tryLock() {
      collect()
      lock.unlock()
    }
    source.notify(.readable)
  }

  override func drain(now: UInt64) { lock.withLock { collect() } }

  /// Moves what lies in the ring into the queue. With the lock.
  private func collect() {
    while let packet = ring.pop() { enqueue(packet) }
  }

  private func enqueue(_ packet: consuming Packet) {
    let cost = Self.charge(of: packet)
    // One is always taken, however large.
    guard queue.isEmpty || charge &+ cost <= limit.load(ordering: .relaxed) else {
      refusedCount.wrappingAdd(1, ordering: .relaxed)
      return
    }
    charge &+= cost
    queue.append(packet)
  }

  /// Takes a packet that did not come by the ring. Thread context, holding nothing; the caller tells.
  func take(_ packet: consuming Packet) {
    lock.lock()
    collect()
    enqueue(packet)
    lock.unlock()
  }

  /// Tells who waits that there is a packet.
  func tell() { source.notify(.readable) }

  override func errorArrived(_ error: InternetError, _ key: FlowKey, quoted: UnsafeRawBufferPointer) {
    let isV4 = key.local.isV4
    if errors.wants(isV4: isV4) {
      let skipped = min(headerByteCount, quoted.count)
      errors.add(
        ErrorReport(error, isV4: isV4, about: InternetEndpoint(key.remote, port: key.remotePort)),
        about: UnsafeRawBufferPointer(rebasing: quoted[skipped...]))
    } else if isConnected.load(ordering: .relaxed), error.isHard || error.kind == .packetTooBig {
      errors.set(error.errno)
    }
  }

  /// Bytes of the transport's header, which programs are not told of.
  var headerByteCount: Int { 0 }

  /// Whether a packet is whole, before anything else is asked of it; what is not is dropped. With the lock.
  func isValid(_ packet: inout Packet) -> Bool { true }

  /// Whether a packet may be given to the program, once it is the first; what is not is dropped. May change it: from then on it is what `isWorthy` has
  /// made of it. With the lock.
  func isWorthy(_ packet: inout Packet) -> Bool { true }

  /// Makes the first packet one that may be given to the program. With the lock.
  /// - Returns: false: there is none.
  private func prepare() -> Bool {
    collect()
    while true {
      guard var packet = queue.removeFirst() else { return false }
      if packet.isPrepared { return restore(packet) }
      charge &-= Self.charge(of: packet)
      var isWanted = isValid(&packet)
      if isWanted, let filter {
        // The transport's header stays.
        let run = filter.run(packet)
        let kept = run == 0 ? 0 : max(run, headerByteCount)
        if kept == 0 { isWanted = false } else { packet.dropLast(max(packet.byteCount &- kept, 0)) }
      }
      if isWanted, isWorthy(&packet) {
        charge &+= Self.charge(of: packet)
        packet.isPrepared = true
        return restore(packet)
      }
      refusedCount.wrappingAdd(1, ordering: .relaxed)
    }
  }

  private func restore(_ packet: consuming Packet) -> Bool {
    queue.prepend(packet)
    return true
  }

  /// Takes the first packet, or a copy that shares its bytes; nil if there is none (or no memory for a copy).
  func next(keeps: Bool) -> Packet? {
    lock.lock()
    defer { lock.unlock() }
    guard prepare() else { return nil }
    if keeps {
      guard let packet = queue.removeFirst() else { return nil }
      let copy = packet.clone()
      queue.prepend(packet)
      return copy
    }
    guard let packet = queue.removeFirst() else { return nil }
    charge &-= Self.charge(of: packet)
    return packet
  }

  /// A copy, which shares its bytes, of what a packet has from byte `offset` of all that are queued on; nil if there are not so many.
  func peek(at offset: Int) -> Packet? {
    lock.lock()
    defer { lock.unlock() }
    var before = PacketList()
    var left = offset
    var found: Packet?
    while prepare(), let packet = queue.removeFirst() {
      if packet.byteCount > left {
        found = packet.clone()
        queue.prepend(packet)
        break
      }
      left &-= packet.byteCount
      before.append(packet)
    }
    before.append(&queue)
    queue.append(&before)
    found?.dropFirst(left)
    return found
  }

  /// Puts back what is left of a packet that was taken.
  func putBack(_ packet: consuming Packet) {
    lock.lock()
    charge &+= Self.charge(of: packet)
    queue.prepend(packet)
    lock.unlock()
  }

  /// Bytes of the first packet; nil if there is none.
  var nextByteCount: Int? {
    lock.withLock { prepare() ? queue.withFirst { $0.byteCount } : nil }
  }

  /// Lets a program choose packets, or takes it away.
  func setFilter(_ filter: PacketFilter?) {
    // The old one goes without the lock.
    let old = lock.withLock { () -> PacketFilter? in
      let old = self.filter
      self.filter = filter
      return old
    }
    withExtendedLifetime(old) {}
  }

  /// Whether there is nothing to take, as far as one can tell without looking closer.
  var isEmpty: Bool { lock.withLock { ring.isEmpty && queue.isEmpty } }

  /// Bytes that are queued, as SO_RCVBUF counts them.
  var queuedByteCount: Int {
    lock.withLock {
      collect()
      return charge
    }
  }

  /// Drops everything.
  func removeAll() {
    lock.withLock {
      collect()
      queue.removeAll()
      charge = 0
    }
  }
}

extension Packet {
  /// A mark in the tag of a packet that has been found worthy.
  private static var preparedBit: UInt64 { 1 << 63 }

  var isPrepared: Bool {
    get { tag & Self.preparedBit != 0 }
    nonmutating set { tag = newValue ? tag | Self.preparedBit : tag & ~Self.preparedBit }
  }
}
