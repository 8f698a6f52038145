// The bytes of a packet: looked at, added, dropped, shared and copied, without regard to what they mean.
//
// Counts and offsets may come from the network or a device, by way of headers: one that makes no sense (negative, or beyond what is there)
// changes nothing and reaches nothing outside the packet's slices.
import Base

extension Packet {
  /// Bytes of all slices.
  @inline(__always) public var byteCount: Int { record.pointee.byteCount.int }

  /// How many slices there are.
  @inline(__always) public var sliceCount: Int { record.pointee.sliceCount.int }

  /// A slice; takes no reference. `index` is below `sliceCount`.
  @inline(__always) public func slice(_ index: Int) -> PacketSlice { slices[index] }

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
    guard count >= 0 else { return nil }
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

  /// Drops bytes in front, `byteCount` at most; none if there is less than none to be dropped.
  public mutating func dropFirst(_ count: Int) {
    let dropped = min(max(count, 0), byteCount)
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

  /// Drops bytes at the end, likewise.
  public mutating func dropLast(_ count: Int) {
    var left = min(max(count, 0), byteCount)
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
  /// - Returns: how many bytes there were.
  @discardableResult @inline(__always)
  public func visit(from offset: Int, count: Int, _ body: (PacketSlice) -> Void) -> Int {
    guard offset >= 0, count > 0 else { return 0 }
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
}
