// SendQueue: bytes that a program has sent and the peer has not acknowledged, as pieces of packet memory.
//
// Segments, first ones and repeated ones, refer to the same memory: nothing is copied twice but small amounts, which are cheaper copied
// into the header's packet than described. Small writes are gathered in the room behind the last piece: that room is this queue's alone,
// for segments refer only to bytes that are there already.
//
// Invariants: pieces follow each other without gaps from `start` on; each has a byte at least and one reference of this queue.
import Base
import Devices
import Pages

struct SendQueue: ~Copyable {
  private struct Piece: BitwiseCopyable {
    var slice: PacketSlice
    /// The number of its first byte.
    var start: SequenceNumber
  }

  /// Bytes of memory for small writes that are likely to be followed by others.
  private static var gatheringCapacity: Int { 2048 - 16 }
  /// Writes up to here are copied behind the last piece if there is room.
  static var gatheringLimit: Int { 1024 }
  /// Segments' data up to here is copied rather than referred to.
  static var copyLimit: Int { 512 }
  /// What a piece costs besides the bytes of its memory.
  private static var overhead: Int { 64 }

  private var pieces = RingBuffer<Piece>()
  /// The number of the first byte.
  private(set) var start = SequenceNumber(0)
  private(set) var byteCount = 0
  /// Bytes of memory held.
  private(set) var footprint = 0
  /// Room behind the last piece, which is this queue's.
  private var tailRoom = 0

  deinit { for index in 0..<pieces.count { pieces[index].slice.memory.release() } }

  @inline(__always) var isEmpty: Bool { byteCount == 0 }
  /// The number behind the last byte.
  @inline(__always) var end: SequenceNumber { start + byteCount }

  /// Numbers an empty queue.
  mutating func begin(at number: SequenceNumber) {
    assert(isEmpty)
    start = number
  }

  /// Sees to it that one more piece can be added; false if memory is out.
  mutating func reserve() -> Bool { pieces.reserve(1) }

  /// Adds bytes in memory that the queue takes over, with a reference; nobody writes to it any more. False, and the reference is let
  /// go, if memory is out.
  mutating func append(_ slice: PacketSlice) -> Bool {
    guard slice.count > 0, pieces.append(Piece(slice: slice, start: end)) else {
      slice.memory.release()
      return slice.count == 0
    }
    byteCount &+= slice.count.int
    footprint &+= slice.memory.capacity &+ Self.overhead
    tailRoom = slice.memory.capacity &- slice.offset.int &- slice.count.int
    return true
  }

  /// Adds a copy of bytes: behind the last piece, and the rest in fresh memory.
  /// - Returns: how many; fewer than there are if memory is out.
  mutating func append(copying bytes: UnsafeRawBufferPointer) -> Int {
    var done = 0
    while done < bytes.count {
      let source = UnsafeRawBufferPointer(rebasing: bytes[done...])
      if tailRoom > 0, !pieces.isEmpty {
        let count = min(tailRoom, source.count)
        pieces.change(pieces.count &- 1) { piece in
          let end = piece.slice.start + piece.slice.count.int
          UnsafeMutableRawBufferPointer(start: end, count: count).copyMemory(
            from: UnsafeRawBufferPointer(rebasing: source[..<count]))
          piece.slice.count &+= count.u32
        }
        tailRoom &-= count
        byteCount &+= count
        done &+= count
        continue
      }
      // Who leaves bytes unsent will come again soon; who does not, has said it all.
      let wanted = isEmpty && done == 0 ? source.count : max(source.count, Self.gatheringCapacity)
      let capacity = min(wanted, PacketMemory.pageCapacity &* 8)
      guard let memory = PacketMemory.allocate(capacity: capacity) else { return done }
      let count = min(memory.capacity, source.count)
      memory.bytes.copyMemory(from: source.baseAddress.unsafelyUnwrapped, byteCount: count)
      guard append(PacketSlice(memory: memory, offset: 0, count: count)) else { return done }
      done &+= count
    }
    return done
  }

  /// Lets go of the bytes before `number`, which lies in `start...end`.
  mutating func acknowledge(to number: SequenceNumber) {
    var left = number - start
    assert(left >= 0 && left <= byteCount)
    start = number
    byteCount &-= left
    var gone = 0
    while left > 0 {
      let piece = pieces[gone]
      if piece.slice.count.int <= left {
        left &-= piece.slice.count.int
        footprint &-= piece.slice.memory.capacity &+ Self.overhead
        piece.slice.memory.release()
        gone &+= 1
      } else {
        pieces.change(gone) {
          $0.slice.offset &+= left.u32
          $0.slice.count &-= left.u32
          $0.start += left
        }
        left = 0
      }
    }
    pieces.removeFirst(gone)
    if pieces.isEmpty {
      tailRoom = 0
      pieces.removeAll()
    }
  }

  /// Adds `count` bytes from `number` on, which there are, to a packet: copied into its last slice if they are few, and else as slices.
  /// - Returns: false if memory is out; some may have been added.
  func add(to packet: inout Packet, from number: SequenceNumber, count: Int) -> Bool {
    if count == 0 { return true }
    var index = pieces.partition { $0.start <= number } &- 1
    var skipped = number - pieces[index].start
    if count <= Self.copyLimit, let room = packet.extend(count) {
      var target = room
      var left = count
      while left > 0 {
        let slice = pieces[index].slice
        let step = min(slice.count.int &- skipped, left)
        target.copyMemory(from: slice.start + skipped, byteCount: step)
        target += step
        left &-= step
        skipped = 0
        index &+= 1
      }
      return true
    }
    // As many slices as a packet may have? Many small pieces are copied instead.
    var (needed, reached) = (0, -skipped)
    while reached < count, needed &+ packet.sliceCount <= Packet.maximumSlices {
      reached &+= pieces[index &+ needed].slice.count.int
      needed &+= 1
    }
    if needed &+ packet.sliceCount > Packet.maximumSlices {
      return addCopy(to: &packet, index, skipped, count)
    }
    var left = count
    while left > 0 {
      var slice = pieces[index].slice
      slice.offset &+= skipped.u32
      slice.count = min(slice.count.int &- skipped, left).u32
      slice.memory.retain()
      left &-= slice.count.int
      guard packet.append(slice) else { return false }
      skipped = 0
      index &+= 1
    }
    return true
  }

  private func addCopy(to packet: inout Packet, _ first: Int, _ firstSkipped: Int, _ count: Int) -> Bool {
    guard let memory = PacketMemory.allocate(capacity: count) else { return false }
    var (index, skipped, done) = (first, firstSkipped, 0)
    while done < count {
      let slice = pieces[index].slice
      let step = min(slice.count.int &- skipped, count &- done)
      (memory.bytes + done).copyMemory(from: slice.start + skipped, byteCount: step)
      done &+= step
      skipped = 0
      index &+= 1
    }
    return packet.append(PacketSlice(memory: memory, offset: 0, count: count))
  }

  /// Lets go of everything.
  mutating func removeAll() {
    for index in 0..<pieces.count { pieces[index].slice.memory.release() }
    pieces.removeAll()
    start = end
    (byteCount, footprint, tailRoom) = (0, 0, 0)
  }
}
