// What several tests of this module need: work that waits for readers, packets of a number.
import Base
import Devices
import Pages
import Threads

enum TestThreads {
  /// Has what is deferred behind readers be done, for tests that count what is left.
  static func begin() {
    HostedArena.prepare()
    try! WorkQueue.begin()
  }
}

struct NoPacket: Error {}

/// What `#require` does for what cannot be copied.
func need(_ packet: consuming Packet?) throws -> Packet {
  guard let packet else { throw NoPacket() }
  return packet
}

extension Packet {
  /// A packet with these bytes and room in front.
  static func of(_ bytes: [UInt8], headroom: Int = Packet.headroom) throws -> Packet {
    var packet = try need(Packet(headroom: headroom, capacity: max(bytes.count, 1)))
    guard let place = packet.extend(bytes.count) else { throw NoPacket() }
    bytes.withUnsafeBytes { if let start = $0.baseAddress { place.copyMemory(from: start, byteCount: bytes.count) } }
    return packet
  }

  /// All its bytes.
  var allBytes: [UInt8] {
    var result = [UInt8](repeating: 0, count: byteCount)
    let isDone = result.withUnsafeMutableBytes { copy(from: 0, into: $0) }
    return isDone ? result : []
  }
}
