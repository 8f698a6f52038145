// Packet: bytes on their way, as slices of packet memory, with what is known of them.
//
// A packet has one owner and is moved, never shared; what it is made of may be (`PacketSlice`). Its record lies in the kernel heap: a
// few slices fit in, a larger record takes its place when there are more. No operation sleeps, or takes of the kernel's reserve; where memory
// is out it says so, and the caller drops the packet and counts it.
//
// Places of headers are kept as places in the memory of the first slice, which therefore stays the first one as long as bytes are dropped
// in front: it becomes empty at most, and what has been dropped can still be looked at (`networkHeader`). Other slices that
// become empty are let go.
import Base
import Locks
import Pages

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
    guard let memory = KernelHeap.allocateAtOnce(byteCount: byteCount, use: .packet) else { return nil }
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
    guard headroom >= 0, capacity >= 0, let memory = PacketMemory.allocate(capacity: headroom &+ capacity) else {
      return nil
    }
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

  /// Bytes of memory that the packet keeps from others: what a queue of packets should count.
  public var footprint: Int {
    var sum = Self.slicesOffset &+ record.pointee.sliceCapacity.int &* 16
    for index in 0..<sliceCount { sum &+= slices[index].memory.capacity &+ PacketMemory.headerByteCount }
    return sum
  }

  /// A larger record takes the place of this one; false if there is none, or memory is out.
  @inline(never) mutating func grow() -> Bool {
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
