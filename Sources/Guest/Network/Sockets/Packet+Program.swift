// From the program's memory into packets, and back.
import Base
import Devices
import Memory

extension PacketMemory {
  /// Memory for what a program sends. Thread context, holding nothing: if memory is short, what others can do without is given back first,
  /// as for a program's own.
  static func allocateForProgram(capacity: Int) -> PacketMemory? {
    if let memory = allocate(capacity: capacity) { return memory }
    return Reclaim.run(pages: 64, .noLocks) ? allocate(capacity: capacity) : nil
  }
}

extension Packet {
  /// A packet of the program's next bytes with room for headers in front: pages, or less where less will do.
  /// - Throws: ENOBUFS, EFAULT.
  static func filled(_ transfer: inout Transfer, _ count: Int, headroom: Int) throws(Errno) -> Packet {
    let page = PacketMemory.pageCapacity
    let first = min(count, page &- headroom)
    guard let memory = PacketMemory.allocateForProgram(capacity: headroom &+ first),
      var packet = Packet(PacketSlice(memory: memory, offset: headroom, count: 0))
    else { throw .ENOBUFS }
    try packet.fill(&transfer, first)
    var left = count &- first
    while left > 0 {
      let step = min(left, page)
      guard let memory = PacketMemory.allocateForProgram(capacity: step),
        packet.append(PacketSlice(memory: memory, offset: 0, count: 0))
      else { throw .ENOBUFS }
      try packet.fill(&transfer, step)
      left &-= step
    }
    return packet
  }

  /// Copies the program's next bytes behind the last ones, where there must be room.
  private mutating func fill(_ transfer: inout Transfer, _ count: Int) throws(Errno) {
    guard let place = extend(count) else { throw .ENOBUFS }
    let moved = try transfer.copyIn(into: UnsafeMutableRawBufferPointer(start: place, count: count))
    // The program has shortened its vector meanwhile.
    if moved < count { throw .EFAULT }
  }
}

extension Transfer {
  /// Copies a packet's bytes to the memory of the transfer, as much as remains.
  /// - Returns: bytes copied.
  mutating func copyOut(_ packet: borrowing Packet) throws(Errno) -> Int {
    let before = copied
    for index in 0..<packet.sliceCount {
      if remaining == 0 { break }
      try copyOut(from: packet.slice(index).bytes)
    }
    return copied &- before
  }
}
