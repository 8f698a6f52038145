// Packet: bytes on their way, as slices of packet memory, with what is known of them.
//
// A packet has one owner and is moved, never shared; what it is made of may be (`PacketSlice`). Its record lies in the kernel heap: a
// few slices fit in, a larger record takes its place when there are more. No operation sleeps; where memory is out it says so,
// and the caller drops the packet and counts it.
//
// Places of headers are kept as places in the memory of the first slice, which therefore stays the first one as long as bytes are dropped
// in front: it becomes empty at most, and what has been dropped can still be looked at (`networkHeader`). Other slices that
// become empty are let go.
import Base
import Locks
import Pages

/// What is known of the checksum of a packet's TCP, UDP or ICMPv6 part.
public enum PacketChecksum: Equatable, Sendable {
  /// Nothing: it is there, and the receiver checks it.
  case none
  /// It is right, or nobody needs to look (the bytes never left this machine).
  case verified
  /// To be completed by the device or in software: the checksum field at `start + offset` holds the sum of the pseudo header, and
  /// the sum from byte `start` on to the packet's end belongs there. Both count from the packet's first byte, as it is now.
  case partial(start: Int, offset: Int)
}

/// A packet that stands for several.
public struct PacketSegmentation: Equatable, BitwiseCopyable, Sendable {
  /// How it falls into parts; the numbers are those of virtio (VIRTIO_NET_HDR_GSO_*).
  public enum Kind: UInt8, BitwiseCopyable, Sendable {
    /// It is one packet.
    case none = 0
    /// TCP segments over IPv4.
    case tcp4 = 1
    /// TCP segments over IPv6.
    case tcp6 = 4
    /// UDP datagrams of equal size, the last one shorter perhaps, over either.
    case udp = 5
  }
  /// How.
  public var kind: Kind
  /// TCP: CWR is set in the first segment only.
  public var hasCongestionMark: Bool
  /// Bytes of payload of each part.
  public var segmentByteCount: UInt16

  /// A packet of parts.
  @inline(__always) public init(_ kind: Kind, segmentByteCount: Int, hasCongestionMark: Bool = false) {
    self.kind = kind
    self.segmentByteCount = segmentByteCount.u16
    self.hasCongestionMark = hasCongestionMark
  }

  /// One packet.
  @inline(__always) public static var none: PacketSegmentation { PacketSegmentation(.none, segmentByteCount: 0) }
}

/// To whom a frame was sent, as sockets hear of it (`sockaddr_ll.sll_pkttype`).
public enum PacketDestination: UInt8, Sendable {
  /// To us.
  case host = 0
  /// To everybody.
  case broadcast = 1
  /// To a group.
  case multicast = 2
  /// To somebody else.
  case other = 3
  /// By us.
  case outgoing = 4
}

/// A packet.
@frozen public struct Packet: ~Copyable {
  /// The most slices: 64 KiB in pages, and headers.
  public static var maximumSlices: Int { 18 }
  private static var usualSlices: Int { 4 }
  /// Room for link and network headers that who builds a packet for sending leaves in front.
  public static var headroom: Int { 128 }

  struct Record {
    /// The next packet's record in a list or queue of the owner's.
    var next: UInt = 0
    var receivedAt: UInt64 = 0
    var byteCount: UInt32 = 0
    var sliceCount: UInt8 = 0
    var sliceCapacity: UInt8
    var checksum: UInt8 = 0
    var destination = PacketDestination.host
    var segmentation = PacketSegmentation.none
    var flowHash: UInt32 = 0
    // Places in the first slice's memory.
    var link: UInt32 = 0
    var network: UInt32 = 0
    var transport: UInt32 = 0
    var checksumStart: UInt32 = 0
    var checksumOffset: UInt16 = 0
    var protocolNumber: UInt16 = 0
    var queuePair: UInt16 = 0
    var interfaceIndex: UInt32 = 0
    /// Free for whoever has the packet.
    var tag: UInt64 = 0
  }
  private static var slicesOffset: Int { 80 }

  // SAFETY: a record of the kernel heap that is this packet's alone, with room for `sliceCapacity` slices behind it.
  private var start: UnsafeMutableRawPointer

  @inline(__always) var record: UnsafeMutablePointer<Record> { start.assumingMemoryBound(to: Record.self) }

  @inline(__always) var slices: UnsafeMutablePointer<PacketSlice> {
    (start + Self.slicesOffset).assumingMemoryBound(to: PacketSlice.self)
  }

  @inline(__always) private init(record: UnsafeMutablePointer<Record>) { start = UnsafeMutableRawPointer(record) }

  private static func makeRecord(slices: Int) -> UnsafeMutablePointer<Record>? {
    let byteCount = slicesOffset &+ slices &* MemoryLayout<PacketSlice>.stride
    guard let memory = KernelHeap.allocate(byteCount: byteCount) else { return nil }
    // SAFETY: fresh memory of that size.
    let record = memory.bindMemory(to: Record.self, capacity: 1)
    record.initialize(to: Record(sliceCapacity: slices.u8))
    return record
  }

  // MARK: Making and giving

  /// A packet without any bytes; nil if memory is out.
  public init?() {
    guard let record = Self.makeRecord(slices: Self.usualSlices) else { return nil }
    start = UnsafeMutableRawPointer(record)
  }

  /// A packet with one slice of fresh memory and nothing in it yet: `headroom` bytes may be prepended, `capacity` bytes appended.
  public init?(headroom: Int, capacity: Int) {
    guard let memory = PacketMemory.allocate(capacity: headroom &+ capacity) else { return nil }
    self.init(PacketSlice(memory: memory, offset: headroom, count: 0))
  }

  /// A packet of one slice, whose reference it takes over, also if there is no memory for it (then nil).
  public init?(_ slice: PacketSlice) {
    guard let record = Self.makeRecord(slices: Self.usualSlices) else {
      slice.memory.release()
      return nil
    }
    start = UnsafeMutableRawPointer(record)
    record.pointee.sliceCount = 1
    record.pointee.byteCount = slice.count
    record.pointee.link = slice.offset
    record.pointee.network = slice.offset
    record.pointee.transport = slice.offset
    slices.initialize(to: slice)
  }

  deinit {
    for index in 0..<record.pointee.sliceCount.int { slices[index].memory.release() }
    KernelHeap.free(start)
  }

  /// The packet as a word, for rings and lists: it lives until somebody adopts it.
  @inline(__always) public consuming func leak() -> UInt {
    let word = UInt(bitPattern: start)
    discard self
    return word
  }

  /// The packet that was leaked as this word; once.
  @inline(__always) public init(adopting word: UInt) {
    // SAFETY: the caller has the word from `leak`.
    start = UnsafeMutableRawPointer(bitPattern: word).unsafelyUnwrapped
  }

  /// The link of a leaked packet, for lists of them.
  @inline(__always) public static func next(of word: UInt) -> UInt {
    // SAFETY: the caller has the word from `leak`, and so the packet.
    UnsafeMutablePointer<Record>(bitPattern: word).unsafelyUnwrapped.pointee.next
  }

  /// Sets it.
  @inline(__always) public static func setNext(of word: UInt, _ next: UInt) {
    // SAFETY: as above.
    UnsafeMutablePointer<Record>(bitPattern: word).unsafelyUnwrapped.pointee.next = next
  }

  /// Another packet of the same bytes, which both share; nil if memory is out. Neither may write to what is shared.
  public func clone() -> Packet? {
    let count = record.pointee.sliceCount.int
    let wanted = max(count, Self.usualSlices)
    guard let copy = Self.makeRecord(slices: wanted) else { return nil }
    copy.pointee = record.pointee
    copy.pointee.next = 0
    copy.pointee.sliceCapacity = wanted.u8
    let result = Packet(record: copy)
    for index in 0..<count {
      slices[index].memory.retain()
      (result.slices + index).initialize(to: slices[index])
    }
    return result
  }

  // MARK: Bytes

  /// Bytes of all slices.
  @inline(__always) public var byteCount: Int { record.pointee.byteCount.int }

  /// How many slices there are.
  @inline(__always) public var sliceCount: Int { record.pointee.sliceCount.int }

  /// A slice; takes no reference. `index` is below `sliceCount`.
  @inline(__always) public func slice(_ index: Int) -> PacketSlice { slices[index] }

  /// Bytes of memory that the packet keeps from others: what a queue of packets should count.
  public var footprint: Int {
    var sum = Self.slicesOffset &+ record.pointee.sliceCapacity.int &* 16
    for index in 0..<sliceCount { sum &+= slices[index].memory.capacity &+ PacketMemory.headerByteCount }
    return sum
  }

  /// The first slice: all headers lie in it, or the packet is not looked at (`pull`).
  @inline(__always) public var head: UnsafeRawBufferPointer {
    sliceCount == 0 ? UnsafeRawBufferPointer(start: nil, count: 0) : slices[0].bytes
  }

  /// The first slice, for writing: only in memory that nobody shares.
  @inline(__always) public var mutableHead: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(mutating: head)
  }

  /// Adds a slice at the end and takes over its reference; false, and the reference is let go, if there is no room.
  public mutating func append(_ slice: PacketSlice) -> Bool {
    if sliceCount == record.pointee.sliceCapacity.int, !grow() {
      slice.memory.release()
      return false
    }
    if sliceCount == 0 {
      record.pointee.link = slice.offset
      record.pointee.network = slice.offset
      record.pointee.transport = slice.offset
    }
    (slices + sliceCount).initialize(to: slice)
    record.pointee.sliceCount &+= 1
    record.pointee.byteCount &+= slice.count
    return true
  }

  /// Adds the bytes from `offset` on of another packet, which then share them; false if there is no room, and some may have been added.
  public mutating func append(_ other: borrowing Packet, from offset: Int, count: Int) -> Bool {
    var hasRoom = true
    let found = other.visit(from: offset, count: count) { part in
      guard hasRoom else { return }
      part.memory.retain()
      hasRoom = append(part)
    }
    return hasRoom && found == count
  }

  /// Adds bytes at the end of the last slice, where its memory has room behind it: where to write them. Only in memory that nobody
  /// shares, like that of a packet just made.
  public mutating func extend(_ count: Int) -> UnsafeMutableRawPointer? {
    guard sliceCount > 0 else { return nil }
    let last = slices + (sliceCount &- 1)
    let end = last.pointee.offset.int &+ last.pointee.count.int
    guard count >= 0, last.pointee.memory.capacity &- end >= count else { return nil }
    last.pointee.count &+= count.u32
    record.pointee.byteCount &+= count.u32
    return last.pointee.memory.bytes + end
  }

  /// Adds bytes in front: where to write them. In the room before the first slice, if nobody shares its memory, else in fresh memory;
  /// nil if there is none. Places of headers are lost in that case.
  public mutating func prepend(_ count: Int) -> UnsafeMutableRawPointer? {
    if sliceCount > 0, slices[0].offset.int >= count, slices[0].memory.isUnshared {
      slices[0].offset &-= count.u32
      slices[0].count &+= count.u32
      record.pointee.byteCount &+= count.u32
      return slices[0].start
    }
    return prependSlice(count)
  }

  @inline(never) private mutating func prependSlice(_ count: Int) -> UnsafeMutableRawPointer? {
    if sliceCount == record.pointee.sliceCapacity.int, !grow() { return nil }
    guard let memory = PacketMemory.allocate(capacity: count &+ Self.headroom) else { return nil }
    var index = sliceCount
    while index > 0 {
      slices[index] = slices[index &- 1]
      index &-= 1
    }
    // What is known in places of the old first slice is that far behind the new first byte.
    let old = sliceCount > 0 ? slices[1].offset.int : 0
    let new = Self.headroom &+ count
    slices[0] = PacketSlice(memory: memory, offset: Self.headroom, count: count)
    record.pointee.sliceCount &+= 1
    record.pointee.byteCount &+= count.u32
    record.pointee.link = moved(record.pointee.link, old, new)
    record.pointee.network = moved(record.pointee.network, old, new)
    record.pointee.transport = moved(record.pointee.transport, old, new)
    record.pointee.checksumStart = moved(record.pointee.checksumStart, old, new)
    return slices[0].start
  }

  @inline(__always) private func moved(_ place: UInt32, _ old: Int, _ new: Int) -> UInt32 {
    (place.int &- old &+ new).u32
  }

  /// Drops bytes in front, `byteCount` at most.
  public mutating func dropFirst(_ count: Int) {
    let dropped = min(count, byteCount)
    record.pointee.byteCount &-= dropped.u32
    advance(by: dropped, from: 0)
  }

  /// Takes bytes, which are there, away in front of the slices from `first` on; those that are empty then are let go, but not the first of all.
  private mutating func advance(by count: Int, from first: Int) {
    var left = count
    var index = first
    while left > 0 {
      let step = min(left, slices[index].count.int)
      slices[index].offset &+= step.u32
      slices[index].count &-= step.u32
      left &-= step
      if slices[index].count == 0 { index &+= 1 }
    }
    if index > 1 { removeSlices(from: 1, to: index) }
  }

  /// Drops bytes at the end, `byteCount` at most.
  public mutating func dropLast(_ count: Int) {
    var left = min(count, byteCount)
    record.pointee.byteCount &-= left.u32
    while left > 0 {
      let last = sliceCount &- 1
      let step = min(left, slices[last].count.int)
      slices[last].count &-= step.u32
      left &-= step
      if slices[last].count == 0 && last > 0 { removeSlices(from: last, to: last &+ 1) }
    }
  }

  private mutating func removeSlices(from start: Int, to end: Int) {
    for index in start..<end { slices[index].memory.release() }
    var index = end
    while index < sliceCount {
      slices[start &+ index &- end] = slices[index]
      index &+= 1
    }
    record.pointee.sliceCount &-= (end &- start).u8
  }

  /// Takes the first slice out, with its reference, and its bytes; nil if there is none. Places of headers mean nothing afterwards.
  public mutating func takeFirstSlice() -> PacketSlice? {
    guard sliceCount > 0 else { return nil }
    let slice = slices[0]
    for index in 1..<max(sliceCount, 1) { slices[index &- 1] = slices[index] }
    record.pointee.sliceCount &-= 1
    record.pointee.byteCount &-= slice.count
    return slice
  }

  /// Sees to it that the first slice has at least `count` bytes, if the packet has: copies into fresh memory if need be.
  /// - Returns: false if the packet is shorter or memory is out.
  @inline(__always) public mutating func pull(_ count: Int) -> Bool {
    head.count >= count ? true : pullCopying(count)
  }

  @inline(never) private mutating func pullCopying(_ count: Int) -> Bool {
    guard byteCount >= count, sliceCount > 0 else { return false }
    let first = slices[0]
    let before = first.offset.int  // What was dropped stays where it is.
    guard let memory = PacketMemory.allocate(capacity: before &+ count) else { return false }
    memory.bytes.copyMemory(from: first.memory.bytes, byteCount: before)
    let target = UnsafeMutableRawBufferPointer(start: memory.bytes + before, count: count)
    guard copy(from: 0, into: target) else { return false }
    slices[0] = PacketSlice(memory: memory, offset: before, count: count)
    first.memory.release()
    advance(by: count &- first.count.int, from: 1)
    return true
  }

  /// Sees to it that nobody shares the memory of the first slice: copies it into fresh memory if need be.
  /// - Returns: false: there is no first slice, or memory is out.
  public mutating func unshareHead() -> Bool {
    guard sliceCount > 0 else { return false }
    let first = slices[0]
    if first.memory.isUnshared { return true }
    // What was dropped in front stays where it is.
    let count = first.offset.int &+ first.count.int
    guard let memory = PacketMemory.allocate(capacity: count) else { return false }
    memory.bytes.copyMemory(from: first.memory.bytes, byteCount: count)
    slices[0] = PacketSlice(memory: memory, offset: first.offset.int, count: first.count.int)
    first.memory.release()
    return true
  }

  /// Copies bytes from `offset` on: as many as the buffer has room for. False, and nothing of use is in it, if there are not so many.
  public func copy(from offset: Int, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    guard let target = buffer.baseAddress else { return buffer.count == 0 }
    var done = 0
    visit(from: offset, count: buffer.count) { part in
      // SAFETY: the parts have no more bytes in all than the buffer.
      (target + done).copyMemory(from: part.start, byteCount: part.count.int)
      done &+= part.count.int
    }
    return done == buffer.count
  }

  /// Calls the body with the parts of the slices that bytes from `offset` on lie in, `count` bytes in all at most; takes no reference.
  /// - Returns: How many bytes there were.
  @discardableResult @inline(__always)
  public func visit(from offset: Int, count: Int, _ body: (PacketSlice) -> Void) -> Int {
    var (skipped, left) = (offset, count)
    for index in 0..<sliceCount {
      if left == 0 { break }
      var part = slices[index]
      if skipped >= part.count.int {
        skipped &-= part.count.int
        continue
      }
      part.offset &+= skipped.u32
      part.count = min(part.count.int &- skipped, left).u32
      skipped = 0
      left &-= part.count.int
      body(part)
    }
    return count &- left
  }

  /// A larger record takes the place of this one; false if there is none, or memory is out.
  @inline(never) private mutating func grow() -> Bool {
    guard record.pointee.sliceCapacity.int < Self.maximumSlices,
      let larger = Self.makeRecord(slices: Self.maximumSlices)
    else { return false }
    larger.pointee = record.pointee
    larger.pointee.sliceCapacity = Self.maximumSlices.u8
    let old = start
    let oldSlices = slices
    start = UnsafeMutableRawPointer(larger)
    for index in 0..<sliceCount { (slices + index).initialize(to: oldSlices[index]) }
    KernelHeap.free(old)
    return true
  }
}
