// NeighbourCache: the neighbours of all links, for IPv4 and IPv6 (RFC 4861, 7.3; RFC 1122, 2.3.2).
//
// Bounded: whoever makes up addresses displaces others of which nothing is known, and then those that nobody uses; routes' gateways go last.
// Packets that wait are few. Time is passed in. Nothing is sent and nobody called with the lock: what is to be done is told to the
// caller, who does it after.
//
// SAFETY of all: entries are made by `insert` and lie in chains under `lock`; they are freed after a grace period, and outside of the
// lock referred to only as `Neighbour` says.
import Base
import Devices
import Locks
import Pages
import Threads

/// The neighbours.
final class NeighbourCache {
  typealias Entry = UnsafeMutablePointer<Neighbour>

  /// Entries at most.
  static var limit: Int { 1024 }
  /// Entries at most whose link address is not known: who has us look for machines that are not there displaces none that are.
  static var unresolvedLimit: Int { 512 }
  /// Packets that wait for a neighbour at most, and their bytes: the fragments of one datagram do. The oldest give way.
  static var waitingLimit: Int { 64 }
  static var waitingByteLimit: Int { 72_000 }
  static var solicitations: Int { 3 }
  static var retransmission: UInt64 { 1_000_000_000 }
  static var reachableTime: UInt64 { 30_000_000_000 }
  static var firstProbeDelay: UInt64 { 5_000_000_000 }
  private static var buckets: Int { 64 }

  private unowned(unsafe) let stack: NetworkStack
  private let key: SipKey
  private let lock = Mutex()
  // Guarded by `lock`.
  private var chains = InlineArray<64, Entry?>(repeating: nil)
  private var count = 0
  private var unresolvedCount = 0
  private var earliest: UInt64 = .max

  init(_ stack: NetworkStack, key: SipKey) {
    self.stack = stack
    self.key = key
  }

  deinit {
    for index in 0..<Self.buckets {
      var next = chains[index]
      while let entry = next {
        next = entry.pointee.next
        entry.deinitialize(count: 1)
        KernelHeap.free(entry)
      }
    }
  }

  // MARK: Entries; with the lock

  private func bucket(_ address: IPAddress, _ interface: UInt32) -> Int {
    var hasher = SipHasher(key)
    hasher.combineShort(address.high)
    hasher.combineShort(address.low ^ interface.u64 &<< 56)
    return (hasher.finishShort() & (Self.buckets &- 1).u64).int
  }

  private func search(_ address: IPAddress, _ interface: UInt32) -> Entry? {
    var next = chains[bucket(address, interface)]
    while let entry = next {
      if entry.pointee.address == address && entry.pointee.interfaceIndex == interface { return entry }
      next = entry.pointee.next
    }
    return nil
  }

  private func insert(_ address: IPAddress, _ interface: UInt32, now: UInt64) -> Entry? {
    if unresolvedCount >= Self.unresolvedLimit { _ = displace(upTo: .unresolved) }
    if count >= Self.limit, !displace(upTo: .gateway) { return nil }
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Neighbour>.size, alignment: 16) else { return nil }
    let entry = memory.bindMemory(to: Neighbour.self, capacity: 1)
    entry.initialize(to: Neighbour(address, on: interface))
    entry.pointee.usedAt = now
    let bucket = bucket(address, interface)
    entry.pointee.next = chains[bucket]
    chains[bucket] = entry
    count &+= 1
    unresolvedCount &+= 1
    return entry
  }

  private func find(_ address: IPAddress, _ interface: UInt32, now: UInt64) -> Entry? {
    guard let entry = search(address, interface) ?? insert(address, interface, now: now) else { return nil }
    entry.pointee.usedAt = now
    return entry
  }

  /// Makes room: of the ones that can best be done without, the one that was not used for the longest time goes.
  private func displace(upTo most: Neighbour.Worth) -> Bool {
    var victim: Entry?
    var least = most
    for index in 0..<Self.buckets {
      var next = chains[index]
      while let entry = next {
        next = entry.pointee.next
        guard var worth = entry.pointee.worth, worth <= least else { continue }
        if let known = victim, worth == least, known.pointee.usedAt <= entry.pointee.usedAt { continue }
        if stack.isGateway(entry.pointee.address, on: entry.pointee.interfaceIndex) {
          worth = .gateway
          guard worth <= least else { continue }
          if let known = victim, known.pointee.usedAt <= entry.pointee.usedAt { continue }
        }
        (victim, least) = (entry, worth)
      }
    }
    guard let victim else { return false }
    remove(victim)
    return true
  }

  /// Changes the state of an entry.
  private func enter(_ entry: Entry, _ state: Neighbour.State, _ link: LinkAddress, deadline: UInt64) {
    if entry.pointee.isUnresolved { unresolvedCount &-= 1 }
    entry.pointee.enter(state, link, deadline: deadline)
    if entry.pointee.isUnresolved { unresolvedCount &+= 1 }
  }

  private func remove(_ entry: Entry) {
    let bucket = bucket(entry.pointee.address, entry.pointee.interfaceIndex)
    if chains[bucket] == entry {
      chains[bucket] = entry.pointee.next
    } else {
      var before = chains[bucket]
      while let other = before, other.pointee.next != entry { before = other.pointee.next }
      before?.pointee.next = entry.pointee.next
    }
    count &-= 1
    if entry.pointee.isUnresolved { unresolvedCount &-= 1 }
    let waiting = entry.pointee.waiting.count
    if waiting > 0 { stack.count(.ipSendDiscarded, isV4: entry.pointee.address.isV4, waiting.u64) }
    entry.pointee.waiting.removeAll()
    // Ways that lead to it are out of date from here on; who has looked before is a reader that the freeing waits for.
    stack.raiseGeneration()
    RCU.later(
      withUnsafeMutablePointer(to: &entry.pointee.call) { $0 },
      { context in
        let entry = context.unsafelyUnwrapped.assumingMemoryBound(to: Neighbour.self)
        entry.deinitialize(count: 1)
        KernelHeap.free(entry)
      }, entry)
  }

  /// When something is to be done next; the stack is told.
  private func mind(_ deadline: UInt64) {
    if deadline < earliest { earliest = deadline }
  }

  private func reachableUntil(_ now: UInt64) -> UInt64 {
    // A random factor keeps machines from asking in step (RFC 4861, 6.3.4).
    now &+ Self.reachableTime / 2 &+ stack.environment.random(upTo: Self.reachableTime)
  }

  // MARK: For who sends

  /// The entry of a neighbour, for a way; nil if there is no room or memory.
  func entry(_ address: IPAddress, on interface: UInt32) -> Entry? {
    let now = stack.environment.now()
    return lock.withLock { find(address, interface, now: now) }
  }

  /// What became of a packet that was to wait.
  struct Waited: ~Copyable {
    /// The packet, if the address is known by now.
    var packet: Packet?
    var link = LinkAddress.zero
    var isDropped = false
  }

  /// Has an IP packet wait for the address of a neighbour, and asks for that if nobody has yet.
  /// - Returns: the packet again, and where to send it, if the address is known by now; `isDropped`: there is no room.
  func wait(
    _ packet: consuming Packet, for address: IPAddress, on interface: UInt32
  ) -> Waited {
    let now = stack.environment.now()
    var dropped = PacketList()
    var isAsking = false
    lock.lock()
    guard let entry = find(address, interface, now: now) else {
      lock.unlock()
      return Waited(packet: nil, isDropped: true)
    }
    if entry.pointee.word.load(ordering: .relaxed) & Neighbour.isUsable != 0 {
      let link = entry.pointee.link
      lock.unlock()
      return Waited(packet: packet, link: link)
    }
    entry.pointee.waiting.append(packet)
    while Self.isTooMuch(entry.pointee.waiting), let oldest = entry.pointee.waiting.removeFirst() {
      dropped.append(oldest)
    }
    if entry.pointee.state == .unknown {
      enter(entry, .incomplete, .zero, deadline: now &+ Self.retransmission)
      entry.pointee.probes = 1
      mind(entry.pointee.deadline)
      isAsking = true
    }
    let next = earliest
    lock.unlock()
    if !dropped.isEmpty { stack.count(.ipSendDiscarded, isV4: address.isV4, dropped.count.u64) }
    dropped.removeAll()
    if isAsking {
      stack.wake(by: next)
      stack.solicit(address, on: interface, from: nil)
    }
    return Waited(packet: nil)
  }

  private static func isTooMuch(_ waiting: borrowing PacketList) -> Bool {
    waiting.count > waitingLimit || waiting.byteCount > waitingByteLimit
  }

  /// A neighbour of which it is not known whether it is still there was sent something.
  func used(_ address: IPAddress, on interface: UInt32) {
    let now = stack.environment.now()
    lock.lock()
    if let entry = search(address, interface), entry.pointee.state == .stale {
      entry.pointee.usedAt = now
      enter(entry, .delay, entry.pointee.link, deadline: now &+ Self.firstProbeDelay)
      mind(entry.pointee.deadline)
    }
    let next = earliest
    lock.unlock()
    stack.wake(by: next)
  }

  /// Something above says that a neighbour answers (RFC 4861, 7.3.1).
  func confirm(_ address: IPAddress, on interface: UInt32) {
    let now = stack.environment.now()
    let until = reachableUntil(now)
    lock.lock()
    if let entry = search(address, interface), entry.pointee.state == .delay || entry.pointee.state == .probe {
      (entry.pointee.confirmedAt, entry.pointee.usedAt) = (now, now)
      enter(entry, .reachable, entry.pointee.link, deadline: until)
      mind(until)
    }
    lock.unlock()
  }

  // MARK: For who hears of neighbours

  /// A message has told a neighbour's link address.
  func learn(_ address: IPAddress, on link: NetworkInterface, _ linkAddress: LinkAddress, _ news: NeighbourNews) {
    let now = stack.environment.now()
    let until = reachableUntil(now)
    var waiting = PacketList()
    lock.lock()
    var found = search(address, link.index)
    if found == nil && news.isNew { found = insert(address, link.index, now: now) }
    if let entry = found { update(entry, linkAddress, news, now: now, until: until, &waiting) }
    let next = earliest
    lock.unlock()
    stack.wake(by: next)
    while let packet = waiting.removeFirst() { stack.sendWaiting(packet, to: linkAddress, on: link) }
  }

  private func update(
    _ entry: Entry, _ link: LinkAddress, _ news: NeighbourNews, now: UInt64, until: UInt64, _ waiting: inout PacketList
  ) {
    if let isRouter = news.isRouter { entry.pointee.isRouter = isRouter }
    if news.isSolicited { entry.pointee.confirmedAt = now }
    switch entry.pointee.state {
    case .permanent: return
    case .unknown, .incomplete:
      enter(entry, news.isSolicited ? .reachable : .stale, link, deadline: news.isSolicited ? until : .max)
      waiting.append(&entry.pointee.waiting)
      if !waiting.isEmpty && !news.isSolicited {
        // What waited is a use.
        enter(entry, .delay, link, deadline: now &+ Self.firstProbeDelay)
      }
    case .reachable, .stale, .delay, .probe:
      let isSame = entry.pointee.link == link
      if !isSame && !news.isOverride {
        if entry.pointee.state == .reachable { enter(entry, .stale, entry.pointee.link, deadline: .max) }
        return
      }
      if news.isSolicited {
        enter(entry, .reachable, link, deadline: until)
      } else if !isSame {
        enter(entry, .stale, link, deadline: .max)
      }
    }
    mind(entry.pointee.deadline)
  }

  // MARK: Time

  /// What is to be done for a neighbour whose time has come.
  private enum Step {
    case ask(IPAddress, UInt32, LinkAddress?)
    case failed(IPAddress)
    case nothing
  }

  /// Does what is due.
  /// - Returns: when to come again.
  func runTimers(now: UInt64) -> UInt64 {
    if lock.withLock({ earliest }) > now { return lock.withLock { earliest } }
    while true {
      var lost = PacketList()
      let step = lock.withLock { nextStep(now: now, &lost) }
      switch step {
      case .ask(let address, let interface, let link): stack.solicit(address, on: interface, from: link)
      case .failed: while let packet = lost.removeFirst() { stack.neighbourFailed(packet) }
      case .nothing: return lock.withLock { earliest }
      }
    }
  }

  private func nextStep(now: UInt64, _ lost: inout PacketList) -> Step {
    var first: UInt64 = .max
    for index in 0..<Self.buckets {
      var next = chains[index]
      while let entry = next {
        next = entry.pointee.next
        if entry.pointee.deadline <= now { return advance(entry, now: now, &lost) }
        first = min(first, entry.pointee.deadline)
      }
    }
    earliest = first
    return .nothing
  }

  /// `earliest` is not brought up to date until there is nothing more to do.
  private func advance(_ entry: Entry, now: UInt64, _ lost: inout PacketList) -> Step {
    let link = entry.pointee.link
    switch entry.pointee.state {
    case .reachable:
      enter(entry, .stale, link, deadline: .max)
      return .failed(entry.pointee.address)  // Nothing is lost: go on.
    case .delay:
      entry.pointee.probes = 0
      fallthrough
    case .probe:
      if entry.pointee.probes < Self.solicitations {
        entry.pointee.probes &+= 1
        enter(entry, .probe, link, deadline: now &+ Self.retransmission)
        return .ask(entry.pointee.address, entry.pointee.interfaceIndex, link)
      }
    case .incomplete:
      if entry.pointee.probes < Self.solicitations {
        entry.pointee.probes &+= 1
        entry.pointee.deadline = now &+ Self.retransmission
        return .ask(entry.pointee.address, entry.pointee.interfaceIndex, nil)
      }
    case .unknown, .stale, .permanent:
      entry.pointee.deadline = .max
      return .failed(entry.pointee.address)
    }
    enter(entry, .unknown, .zero, deadline: .max)
    lost.append(&entry.pointee.waiting)
    return .failed(entry.pointee.address)
  }

  // MARK: For people

  /// A copy of what is known.
  func describe() -> [NeighbourDescription] {
    var result: [NeighbourDescription] = []
    result.reserveCapacity(lock.withLock { count } &+ 8)
    lock.lock()
    for index in 0..<Self.buckets {
      var next = chains[index]
      while let entry = next {
        next = entry.pointee.next
        if result.count == result.capacity { break }
        result.append(
          NeighbourDescription(
            address: entry.pointee.address, interfaceIndex: entry.pointee.interfaceIndex, link: entry.pointee.link,
            state: entry.pointee.state.number, isRouter: entry.pointee.isRouter))
      }
    }
    lock.unlock()
    return result
  }

  /// Whether packets wait until it is known where their neighbours are.
  var hasWaiting: Bool {
    lock.withLock {
      for index in 0..<Self.buckets {
        var next = chains[index]
        while let entry = next {
          if !entry.pointee.waiting.isEmpty { return true }
          next = entry.pointee.next
        }
      }
      return false
    }
  }

  /// Enters a neighbour for good, or forgets one (link nil).
  /// - Throws: ENOBUFS; ENOENT: there is none to forget.
  func set(_ address: IPAddress, on link: NetworkInterface, _ linkAddress: LinkAddress?) throws(Errno) {
    let now = stack.environment.now()
    var waiting = PacketList()
    lock.lock()
    if let linkAddress {
      guard let entry = find(address, link.index, now: now) else {
        lock.unlock()
        throw .ENOBUFS
      }
      enter(entry, .permanent, linkAddress, deadline: .max)
      waiting.append(&entry.pointee.waiting)
    } else {
      guard let entry = search(address, link.index) else {
        lock.unlock()
        throw .ENOENT
      }
      remove(entry)
    }
    lock.unlock()
    if let linkAddress {
      while let packet = waiting.removeFirst() { stack.sendWaiting(packet, to: linkAddress, on: link) }
    }
  }
}
