// ReceiveQueue: data that has come in order and that no reader has taken.
//
// Memory is bounded by what the window promises: a packet that holds much more memory than data is copied behind the one before it, or
// begins a page that those after it fill. So the queue's memory is at most `PacketPacking.factor` times its data, and a page.
import Base
import Devices

/// How received packets are kept from holding much memory for little data.
enum PacketPacking {
  /// Memory for each byte of data, at most, that a packet may keep from others.
  static var factor: Int { 4 }
  /// The room that makes a page worth keeping for those that follow.
  static var copyLimit: Int { 1024 }

  /// Whether a packet is better copied than kept. A large one is seldom: only what was cut down, so the copy is no more than a quarter of
  /// the largest packet.
  @inline(__always) static func isLoose(_ packet: borrowing Packet) -> Bool {
    packet.byteCount &* factor < packet.footprint
  }

  /// Copies the data of `packet` behind that of the list's last one, if there is room that is that one's alone.
  static func copy(_ packet: borrowing Packet, behind list: inout PacketList) -> Bool {
    let count = packet.byteCount
    guard let place = list.extendLast(count) else { return false }
    // There are so many bytes.
    _ = packet.copy(from: 0, into: UnsafeMutableRawBufferPointer(start: place, count: count))
    return true
  }

  /// A copy of the data in memory of that capacity at least; nil if memory is out.
  static func copy(_ packet: borrowing Packet, capacity: Int) -> Packet? {
    let count = packet.byteCount
    guard var result = Packet(headroom: 0, capacity: max(capacity, count)), let place = result.extend(count) else {
      return nil
    }
    _ = packet.copy(from: 0, into: UnsafeMutableRawBufferPointer(start: place, count: count))
    result.receivedAt = packet.receivedAt
    return result
  }
}

extension Packet {
  /// Whether nobody else refers to the memory of its last slice.
  var isLastSliceUnshared: Bool { sliceCount > 0 && slice(sliceCount &- 1).memory.isUnshared }
}

struct ReceiveQueue: ~Copyable {
  private var packets = PacketList()
  /// Bytes of memory held.
  private(set) var footprint = 0

  var isEmpty: Bool { packets.isEmpty }
  /// Bytes of data.
  var byteCount: Int { packets.byteCount }

  /// Adds data at the end.
  mutating func append(_ packet: consuming Packet) {
    if PacketPacking.isLoose(packet) {
      if PacketPacking.copy(packet, behind: &packets) { return }
      // Its own memory has room for those that follow, unless others share it, or there is little left, or far too much.
      let last = packet.slice(packet.sliceCount &- 1)
      let room = last.memory.capacity &- last.offset.int &- last.count.int
      let isLarge = packet.footprint > 2 &* PacketMemory.pageCapacity
      if room < PacketPacking.copyLimit || isLarge || !packet.isLastSliceUnshared,
        let copy = PacketPacking.copy(packet, capacity: PacketMemory.pageCapacity)
      {
        return keep(copy)
      }
    }
    keep(packet)
  }

  private mutating func keep(_ packet: consuming Packet) {
    footprint &+= packet.footprint
    packets.append(packet)
  }

  /// Moves packets to the end of another list, in order, until they have `count` bytes or there are no more.
  mutating func take(_ count: Int, into list: inout PacketList) {
    var taken = 0
    while taken < count, let packet = packets.removeFirst() {
      footprint &-= packet.footprint
      taken &+= packet.byteCount
      list.append(packet)
    }
  }

  /// Drops everything.
  mutating func removeAll() {
    packets.removeAll()
    footprint = 0
  }
}
