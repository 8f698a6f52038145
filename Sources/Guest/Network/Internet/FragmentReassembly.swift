// FragmentReassembly: datagrams put together from their fragments (RFC 791, 3.2; RFC 8200, 4.5), within bounds.
//
// All fragments of all datagrams take so much memory at most, each datagram has so many, and each waits so long; when there is no room the oldest
// datagram goes. Fragments that overlap, or do not fit together otherwise, end their datagram (RFC 5722; nobody honest sends such over IPv4
// either), but an exact copy of one that is there. Time is passed in.
//
// SAFETY of all: datagrams are made by `make`, lie in one list under `lock`, and are freed when taken out of it.
import Base
import Devices
import Locks
import Pages

/// Datagrams of which parts have come.
final class FragmentReassembly {
  /// Memory of all fragments at most, bytes.
  static var memoryLimit: Int { 4 << 20 }
  /// Datagrams at most.
  static var datagramLimit: Int { 256 }
  /// Fragments of a datagram at most: 64 KiB in the smallest that a link may have, doubled.
  static var fragmentLimit: Int { 256 }
  /// How long a datagram waits for the rest of its fragments, ns.
  static func patience(isV4: Bool) -> UInt64 { isV4 ? 30_000_000_000 : 60_000_000_000 }

  /// What tells datagrams apart.
  struct Key: Equatable, BitwiseCopyable {
    var source: IPAddress
    var destination: IPAddress
    var identification: UInt32
    /// IPv4's protocol; 0 for IPv6, where it says nothing.
    var protocolNumber: UInt8
    var interfaceIndex: UInt32
  }

  struct Datagram: ~Copyable {
    let key: Key
    let deadline: UInt64
    /// In order; the place of each in its `tag`: offset and count of its data, and how many bytes lie before that.
    var fragments = PacketList()
    var fragmentCount = 0
    var dataByteCount = 0
    /// Bytes of all data; -1 while the last fragment is missing.
    var total = -1
    var footprint = 0
    var next: UnsafeMutablePointer<Datagram>?
    init(_ key: Key, deadline: UInt64) {
      self.key = key
      self.deadline = deadline
    }
  }

  private let lock = Mutex()
  // Guarded by `lock`: the oldest first.
  private var first: UnsafeMutablePointer<Datagram>?
  private var count = 0
  private var footprint = 0

  init(key: SipKey) {}

  deinit { while let datagram = first { remove(datagram) } }

  /// What became of a fragment.
  struct Outcome: ~Copyable {
    /// The fragments of a datagram that is whole, in order.
    var fragments = PacketList()
    /// Bytes of the datagram's data.
    var total = 0
    /// Datagrams given up.
    var failed = 0
    /// When something is to be done.
    var deadline: UInt64 = .max
  }

  /// A fragment's place: its data's offset and count, and the bytes of headers before the data in its packet.
  static func tag(offset: Int, count: Int, headers: Int) -> UInt64 {
    offset.u64 &<< 32 | count.u64 &<< 16 | headers.u64
  }
  static func offset(_ tag: UInt64) -> Int { (tag &>> 32).int }
  static func count(_ tag: UInt64) -> Int { (tag &>> 16 & 0xffff).int }
  static func headers(_ tag: UInt64) -> Int { (tag & 0xffff).int }

  /// A fragment has come.
  /// - Parameters:
  ///   - packet: from IP's header on.
  ///   - offset: where its data lies in the datagram.
  ///   - headers: bytes before the data.
  func enter(
    _ packet: consuming Packet, _ key: Key, offset: Int, headers: Int, hasMore: Bool, now: UInt64
  ) -> Outcome {
    var outcome = Outcome()
    let dataCount = packet.byteCount &- headers
    let size = packet.footprint
    lock.lock()
    defer { lock.unlock() }
    guard let datagram = find(key) ?? make(key, now: now, &outcome) else {
      outcome.failed &+= 1
      return outcome
    }
    // All but the last have a multiple of 8 bytes, none is empty, and none reaches beyond what a datagram can have: IPv4's length counts its
    // header, IPv6's does not.
    let limit = key.source.isV4 ? 65_535 &- headers : 65_535
    guard dataCount > 0, !hasMore || dataCount & 7 == 0, offset &+ dataCount <= limit,
      datagram.pointee.fragmentCount < Self.fragmentLimit,
      fits(datagram, offset, dataCount, hasMore: hasMore)
    else {
      if isCopy(datagram, offset, dataCount) { return outcome }
      remove(datagram)
      outcome.failed &+= 1
      return outcome
    }
    while footprint &+ size > Self.memoryLimit, let oldest = first {
      if oldest == datagram {
        remove(datagram)
        outcome.failed &+= 1
        return outcome
      }
      remove(oldest)
      outcome.failed &+= 1
    }
    packet.tag = Self.tag(offset: offset, count: dataCount, headers: headers)
    insert(datagram, packet, offset)
    datagram.pointee.fragmentCount &+= 1
    datagram.pointee.dataByteCount &+= dataCount
    datagram.pointee.footprint &+= size
    footprint &+= size
    if !hasMore { datagram.pointee.total = offset &+ dataCount }
    outcome.deadline = first?.pointee.deadline ?? .max
    if datagram.pointee.dataByteCount == datagram.pointee.total {
      outcome.total = datagram.pointee.total
      outcome.fragments.append(&datagram.pointee.fragments)
      remove(datagram)
    }
    return outcome
  }

  /// Whether data fits between what is there.
  private func fits(_ datagram: UnsafeMutablePointer<Datagram>, _ offset: Int, _ count: Int, hasMore: Bool) -> Bool {
    let total = datagram.pointee.total
    if total >= 0 && (offset &+ count > total || !hasMore) { return false }
    var isFree = true
    datagram.pointee.fragments.forEach { other in
      let start = Self.offset(other.tag)
      let end = start &+ Self.count(other.tag)
      if offset < end && start < offset &+ count { isFree = false }
      if !hasMore && end > offset &+ count { isFree = false }
    }
    return isFree
  }

  /// Whether there is a fragment of just that place: then it is the network that has doubled it.
  private func isCopy(_ datagram: UnsafeMutablePointer<Datagram>, _ offset: Int, _ count: Int) -> Bool {
    var isThere = false
    datagram.pointee.fragments.forEach { other in
      if Self.offset(other.tag) == offset && Self.count(other.tag) == count { isThere = true }
    }
    return isThere
  }

  private func insert(_ datagram: UnsafeMutablePointer<Datagram>, _ packet: consuming Packet, _ offset: Int) {
    // They mostly come in order.
    var before = PacketList()
    var rest = PacketList()
    rest.append(&datagram.pointee.fragments)
    while rest.withFirst({ Self.offset($0.tag) < offset }) ?? false, let other = rest.removeFirst() {
      before.append(other)
    }
    before.append(packet)
    before.append(&rest)
    datagram.pointee.fragments.append(&before)
  }

  private func find(_ key: Key) -> UnsafeMutablePointer<Datagram>? {
    var next = first
    while let datagram = next {
      if datagram.pointee.key == key { return datagram }
      next = datagram.pointee.next
    }
    return nil
  }

  private func make(_ key: Key, now: UInt64, _ outcome: inout Outcome) -> UnsafeMutablePointer<Datagram>? {
    if count >= Self.datagramLimit, let oldest = first {
      remove(oldest)
      outcome.failed &+= 1
    }
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Datagram>.size, alignment: 16) else { return nil }
    let datagram = memory.bindMemory(to: Datagram.self, capacity: 1)
    datagram.initialize(to: Datagram(key, deadline: now &+ Self.patience(isV4: key.source.isV4)))
    // In the order of their deadlines.
    if let head = first, head.pointee.deadline <= datagram.pointee.deadline {
      var before = head
      while let next = before.pointee.next, next.pointee.deadline <= datagram.pointee.deadline { before = next }
      datagram.pointee.next = before.pointee.next
      before.pointee.next = datagram
    } else {
      datagram.pointee.next = first
      first = datagram
    }
    count &+= 1
    return datagram
  }

  private func remove(_ datagram: UnsafeMutablePointer<Datagram>) {
    if first == datagram {
      first = datagram.pointee.next
    } else {
      var before = first
      while let other = before, other.pointee.next != datagram { before = other.pointee.next }
      before?.pointee.next = datagram.pointee.next
    }
    count &-= 1
    footprint &-= datagram.pointee.footprint
    datagram.deinitialize(count: 1)
    KernelHeap.free(datagram)
  }

  /// A datagram that was given up.
  struct Expired: ~Copyable {
    let isV4: Bool
    /// Its first fragment, if that has come.
    let packet: Packet?
  }

  /// Takes a datagram whose time is over: its first fragment, if that has come, for the sender is told then.
  /// - Returns: nil: there is none, and `deadline` says when there may be.
  func takeExpired(now: UInt64, _ deadline: inout UInt64) -> Expired? {
    lock.lock()
    defer { lock.unlock() }
    guard let datagram = first, datagram.pointee.deadline <= now else {
      deadline = first?.pointee.deadline ?? .max
      return nil
    }
    let isV4 = datagram.pointee.key.source.isV4
    let hasFirst = datagram.pointee.fragments.withFirst { Self.offset($0.tag) == 0 } ?? false
    let packet = hasFirst ? datagram.pointee.fragments.removeFirst() : nil
    remove(datagram)
    return Expired(isV4: isV4, packet: packet)
  }

  /// Datagrams and bytes of memory that wait; for tests.
  var usage: (datagrams: Int, footprint: Int) { lock.withLock { (count, footprint) } }
}

extension NetworkStack {
  /// Takes an IPv4 fragment.
  /// - Returns: the datagram, with a header as if it had never been in parts, if it is whole now.
  func reassemble(_ packet: consuming Packet, _ header: IPv4Header, _ link: NetworkInterface) -> Packet? {
    let key = FragmentReassembly.Key(
      source: header.source, destination: header.destination, identification: header.identification.u32,
      protocolNumber: header.protocolNumber, interfaceIndex: link.index)
    var named: UInt8 = 0
    guard
      var whole = join(
        packet, key, offset: header.fragmentOffset, headers: header.headerByteCount, hasMore: header.hasMoreFragments,
        &named)
    else { return nil }
    var first = IPv4Header()
    first.trafficClass = header.trafficClass
    first.identification = header.identification
    first.hopLimit = header.hopLimit
    first.protocolNumber = header.protocolNumber
    (first.source, first.destination) = (header.source, header.destination)
    first.totalByteCount = IPv4Header.byteCount &+ whole.byteCount
    guard first.totalByteCount <= 65_535, let start = whole.prepend(IPv4Header.byteCount) else { return nil }
    first.write(to: start)
    whole.networkOffset = 0
    return whole
  }

  /// Takes an IPv6 fragment; `extensions` ends at its fragment header.
  func reassemble(
    _ packet: consuming Packet, _ header: IPv6Header, _ extensions: IPv6Extensions, _ link: NetworkInterface
  ) -> Packet? {
    guard let head = packet.head.baseAddress else { return nil }
    let fragment = IPv6FragmentHeader(reading: head + extensions.offset)
    let headers = extensions.offset &+ IPv6FragmentHeader.byteCount
    if fragment.hasMoreFragments && (packet.byteCount &- headers) & 7 != 0 {
      // RFC 8200, 4.5.
      count(.reassemblyFailed, isV4: false)
      sendError(about: packet, type: 4, code: 0, info: 4, link)
      return nil
    }
    let key = FragmentReassembly.Key(
      source: header.source, destination: header.destination, identification: fragment.identification,
      protocolNumber: 0,
      interfaceIndex: link.index)
    var first = IPv6Header()
    first.trafficClass = header.trafficClass
    first.flowLabel = header.flowLabel
    first.hopLimit = header.hopLimit
    first.nextHeader = fragment.nextHeader
    (first.source, first.destination) = (header.source, header.destination)
    let isWholeAlready = fragment.fragmentOffset == 0 && !fragment.hasMoreFragments
    var whole: Packet
    if isWholeAlready {
      // A fragment that is all there is (RFC 6946): apart from all others.
      packet.dropFirst(headers)
      whole = packet
    } else {
      guard
        let joined = join(
          packet, key, offset: fragment.fragmentOffset, headers: headers, hasMore: fragment.hasMoreFragments,
          &first.nextHeader)
      else { return nil }
      whole = joined
    }
    // Extension headers before the fragment header are not needed any more: they were looked at in each part.
    first.payloadByteCount = whole.byteCount
    guard whole.byteCount <= 65_535, let start = whole.prepend(IPv6Header.byteCount) else { return nil }
    first.write(to: start)
    whole.networkOffset = 0
    return whole
  }

  /// - Parameter nextHeader: what the first fragment says of it, of IPv6 (RFC 8200, 4.5): what others say does not count.
  private func join(
    _ packet: consuming Packet, _ key: FragmentReassembly.Key, offset: Int, headers: Int, hasMore: Bool,
    _ nextHeader: inout UInt8
  ) -> Packet? {
    let isV4 = key.source.isV4
    let (kind, receivedAt, destination) = (packet.protocolNumber, packet.receivedAt, packet.destination)
    var outcome = reassembly.enter(
      packet, key, offset: offset, headers: headers, hasMore: hasMore, now: environment.now())
    if outcome.failed > 0 { count(.reassemblyFailed, isV4: isV4, outcome.failed.u64) }
    wake(by: outcome.deadline)
    guard outcome.total > 0 else { return nil }
    // Copied into one piece: fragments are many and small, and packets have few slices.
    guard var whole = Packet(headroom: Packet.headroom, capacity: outcome.total),
      let start = whole.extend(outcome.total)
    else {
      count(.ipDiscarded, isV4: isV4)
      return nil
    }
    var fragments = PacketList()
    fragments.append(&outcome.fragments)
    while let fragment = fragments.removeFirst() {
      let tag = fragment.tag
      let target = UnsafeMutableRawBufferPointer(
        start: start + FragmentReassembly.offset(tag), count: FragmentReassembly.count(tag))
      guard fragment.copy(from: FragmentReassembly.headers(tag), into: target) else { return nil }
      if FragmentReassembly.offset(tag) == 0, !isV4 {
        let place = FragmentReassembly.headers(tag) &- IPv6FragmentHeader.byteCount
        guard withUnsafeMutableBytes(of: &nextHeader, { fragment.copy(from: place, into: $0) }) else { return nil }
      }
    }
    count(.reassembled, isV4: isV4)
    whole.protocolNumber = kind
    whole.receivedAt = receivedAt
    whole.interfaceIndex = key.interfaceIndex
    whole.destination = destination
    return whole
  }

  /// Gives up datagrams whose time is over.
  func runReassemblyTimers(now: UInt64) -> UInt64 {
    var deadline: UInt64 = .max
    while let expired = reassembly.takeExpired(now: now, &deadline) {
      let isV4 = expired.isV4
      count(.reassemblyTimedOut, isV4: isV4)
      count(.reassemblyFailed, isV4: isV4)
      guard let packet = expired.packet, let link = interface(index: packet.interfaceIndex) else { continue }
      sendError(about: packet, type: isV4 ? 11 : 3, code: 1, info: 0, link)
    }
    return deadline
  }
}
