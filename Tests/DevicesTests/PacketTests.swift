// Packets: bytes dropped, added and shared, against an array that the same was done to; memory that comes back.
import Base
import Pages
import Testing

@testable import Devices

/// A packet of these bytes in slices of these sizes, each in memory of its own.
func makePacket(_ bytes: [UInt8], slices sizes: [Int]) -> Packet? {
  guard var packet = Packet() else { return nil }
  var at = 0
  for size in sizes {
    guard let memory = PacketMemory.allocate(capacity: 32 + size) else { return nil }
    for index in 0..<size { memory.bytes.storeBytes(of: bytes[at + index], toByteOffset: 16 + index, as: UInt8.self) }
    guard packet.append(PacketSlice(memory: memory, offset: 16, count: size)) else { return nil }
    at += size
  }
  return packet
}

struct NoPacket: Error {}

/// What `#require` does for what can be copied.
func need(_ packet: consuming Packet?) throws -> Packet {
  guard let packet else { throw NoPacket() }
  return packet
}

func need<Value>(_ value: Value?) throws -> Value {
  guard let value else { throw NoPacket() }
  return value
}

func bytes(of packet: borrowing Packet) -> [UInt8] {
  var result = [UInt8](repeating: 0, count: packet.byteCount)
  let isDone = result.withUnsafeMutableBytes { packet.copy(from: 0, into: $0) }
  return isDone ? result : []
}

private func numbers(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) } }

/// Suites that count the machine's frames of packets: one after the other.
@Suite(.serialized) enum CountingFrames {
  /// Whether something does with the count of packets' frames what it says; tests of other modules take and give frames meanwhile, so it has
  /// several tries.
  static func eventually(_ body: (_ before: Int) throws -> Bool) rethrows -> Bool {
    for _ in 0..<40 where try body(Frames.account()[.packet]) { return true }
    return false
  }
}

extension CountingFrames {
  @Suite struct PacketTests {
    init() { HostedArena.prepare() }

    @Test(arguments: [1, 16, 100, 1000, 2032, 2033, 4080, 4081, 20_000, 65_536])
    func memoryIsAsLargeAsAskedForAndComesBack(capacity: Int) throws {
      let memory = try #require(PacketMemory.allocate(capacity: capacity))
      #expect(memory.capacity >= capacity && memory.isUnshared)
      memory.bytes.initializeMemory(as: UInt8.self, repeating: 0xa5, count: memory.capacity)
      memory.retain()
      #expect(!memory.isUnshared)
      memory.release()
      #expect(memory.isUnshared)
      memory.release()
      #expect(PacketMemory.allocate(capacity: PacketMemory.maximumCapacity + 1) == nil)
    }

    @Test func framesOfPacketsAreCountedAndComeBack() throws {
      let isCounted = try CountingFrames.eventually { before in
        var packet = try need(Packet(headroom: Packet.headroom, capacity: 3000))
        let first = Frames.account()[.packet]
        let (place, more) = (packet.extend(3000), packet.extend(3000))
        #expect(place != nil && more == nil)
        let copy = try need(packet.clone())
        _ = consume packet
        let second = Frames.account()[.packet]
        _ = consume copy
        return first == before + 1 && second == before + 1 && Frames.account()[.packet] == before
      }
      #expect(isCounted)
    }

    @Test func headersArePrependedInPlace() throws {
      var packet = try need(Packet(headroom: 64, capacity: 100))
      let data = try need(packet.extend(3))
      for index in 0..<3 { data.storeBytes(of: UInt8(index), toByteOffset: index, as: UInt8.self) }
      packet.transportOffset = 0
      packet.checksum = .partial(start: 0, offset: 2)
      let header = try need(packet.prepend(20))
      header.initializeMemory(as: UInt8.self, repeating: 9, count: 20)
      packet.networkOffset = 0
      #expect(packet.sliceCount == 1 && packet.byteCount == 23)
      #expect(packet.transportOffset == 20 && packet.checksum == .partial(start: 20, offset: 2))
      #expect(bytes(of: packet) == [UInt8](repeating: 9, count: 20) + [0, 1, 2])
      packet.dropFirst(20)
      #expect(packet.networkOffset == -20 && packet.transportOffset == 0)
      #expect(packet.networkHeader.load(as: UInt8.self) == 9)
    }

    @Test func sharedMemoryIsNotWrittenInFrontOf() throws {
      var packet = try need(Packet(headroom: 64, capacity: 100))
      try need(packet.extend(4)).initializeMemory(as: UInt8.self, repeating: 1, count: 4)
      packet.transportOffset = 0
      packet.checksum = .partial(start: 1, offset: 2)
      let copy = try need(packet.clone())
      try need(packet.prepend(2)).initializeMemory(as: UInt8.self, repeating: 7, count: 2)
      #expect(packet.sliceCount == 2)
      #expect(bytes(of: packet) == [7, 7, 1, 1, 1, 1] && bytes(of: copy) == [1, 1, 1, 1])
      #expect(packet.transportOffset == 2 && packet.checksum == .partial(start: 3, offset: 2))
      let isPulled = packet.pull(6)
      #expect(isPulled && packet.sliceCount == 1)
      #expect(bytes(of: packet) == [7, 7, 1, 1, 1, 1])
      #expect(packet.checksum == .partial(start: 3, offset: 2))
    }

    @Test func aPacketHoldsSoManySlicesAndNoMore() throws {
      let sizes = [Int](repeating: 10, count: Packet.maximumSlices)
      var packet = try need(makePacket(numbers(180), slices: sizes))
      #expect(bytes(of: packet) == numbers(180))
      let memory = try #require(PacketMemory.allocate(capacity: 16))
      let isIn = packet.append(PacketSlice(memory: memory, offset: 0, count: 1))
      #expect(!isIn)
      #expect(packet.sliceCount == Packet.maximumSlices && packet.byteCount == 180)
      let place = packet.prepend(100)
      #expect(place == nil)
    }

    @Test func whatWasDroppedCanStillBeRead() throws {
      var packet = try need(makePacket(numbers(30), slices: [10, 10, 10]))
      packet.networkOffset = 2
      packet.dropFirst(25)
      #expect(packet.sliceCount == 2 && packet.head.count == 0)
      #expect(packet.networkHeader.load(as: UInt8.self) == numbers(30)[2])
      #expect(bytes(of: packet) == Array(numbers(30)[25...]))
      let isPulled = packet.pull(5)
      #expect(isPulled && packet.head.count == 5)
      #expect(packet.networkHeader.load(as: UInt8.self) == numbers(30)[2])
    }

    /// Counts that headers lead to may be anything: less than nothing is nothing.
    @Test func countsThatMakeNoSenseChangeNothing() throws {
      var packet = try need(makePacket(numbers(30), slices: [10, 20]))
      for count in [-1, -31, Int.min, -(1 << 32) - 1] {
        packet.dropFirst(count)
        packet.dropLast(count)
        let (front, end) = (packet.prepend(count), packet.extend(count))
        #expect(front == nil && end == nil)
        #expect(packet.visit(from: count, count: 10) { _ in } == 0)
        #expect(packet.visit(from: 0, count: count) { _ in } == 0)
        var byte: UInt8 = 0
        let isCopied = withUnsafeMutableBytes(of: &byte) { packet.copy(from: count, into: $0) }
        #expect(!isCopied)
        var part = try need(Packet())
        let (isBefore, isLess) = (
          part.append(packet, from: count, count: 1), part.append(packet, from: 0, count: count)
        )
        #expect(!isBefore && !isLess && part.byteCount == 0)
        #expect(packet.byteCount == 30 && packet.sliceCount == 2 && bytes(of: packet) == numbers(30))
        #expect(Packet(headroom: count, capacity: 10) == nil && Packet(headroom: 10, capacity: count) == nil)
        #expect(PacketMemory.allocate(capacity: count) == nil)
      }
      packet.dropLast(31)
      packet.dropFirst(.max)
      #expect(packet.byteCount == 0)
    }

    @Test func aPacketWithoutSlicesHasNoBytes() throws {
      var packet = try need(Packet())
      #expect(packet.head.count == 0 && packet.mutableHead.count == 0 && packet.head.baseAddress == nil)
      packet.dropFirst(1)
      packet.dropLast(1)
      let (isPulled, isUnshared, end, taken) = (
        packet.pull(1), packet.unshareHead(), packet.extend(1), packet.takeFirstSlice()
      )
      #expect(!isPulled && !isUnshared && end == nil && taken == nil)
      let front = packet.prepend(4)
      #expect(front != nil && packet.byteCount == 4)
    }

    /// What a block says it has was asked for: a debugging heap gives no byte more.
    @Test(arguments: [0, 1, 15, 16, 17, 100, 2032]) func memoryHasNoMoreThanWasAskedFor(capacity: Int) throws {
      let memory = try #require(PacketMemory.allocate(capacity: capacity))
      #expect(memory.capacity + PacketMemory.headerByteCount == PacketMemory.objectByteCount(capacity))
      #expect(memory.capacity >= capacity && memory.capacity < capacity + 16)
      memory.release()
    }

    @Test func listsKeepOrder() throws {
      var list = PacketList()
      for size in 1...5 { list.append(try need(makePacket(numbers(size), slices: [size]))) }
      list.prepend(try need(makePacket(numbers(9), slices: [4, 5])))
      #expect(list.count == 6 && list.byteCount == 24)
      #expect(list.withFirst { $0.byteCount } == 9)
      var other = PacketList()
      other.append(try need(makePacket([1], slices: [1])))
      other.append(&list)
      #expect(list.isEmpty && other.count == 7)
      var sizes: [Int] = []
      while let packet = other.removeFirst() { sizes.append(packet.byteCount) }
      #expect(sizes == [1, 9, 1, 2, 3, 4, 5] && other.byteCount == 0)
    }

    @Test func randomChangesAreThoseOfAnArray() throws {
      var random = SystemRandomNumberGenerator()
      for _ in 0..<2000 {
        let sizes = (0..<Int.random(in: 1...10, using: &random)).map { _ in Int.random(in: 1...300, using: &random) }
        var model = (0..<sizes.reduce(0, +)).map { _ in UInt8.random(in: 0...255, using: &random) }
        var packet = try need(makePacket(model, slices: sizes))
        for _ in 0..<12 {
          switch Int.random(in: 0..<6, using: &random) {
          case 0:
            let count = Int.random(in: 0...model.count, using: &random) / 3
            packet.dropFirst(count)
            model.removeFirst(count)
          case 1:
            let count = Int.random(in: 0...model.count, using: &random) / 3
            packet.dropLast(count)
            model.removeLast(count)
          case 2:
            let count = Int.random(in: 0...40, using: &random)
            guard let place = packet.prepend(count) else { break }
            place.initializeMemory(as: UInt8.self, repeating: 0x77, count: count)
            model.insert(contentsOf: [UInt8](repeating: 0x77, count: count), at: 0)
          case 3:
            let count = Int.random(in: 0...(model.count + 2), using: &random)
            let isPulled = packet.pull(count)
            #expect(isPulled == (count <= model.count))
            if count <= model.count { #expect(packet.head.count >= count) }
          case 4:
            let from = Int.random(in: 0...model.count, using: &random)
            let count = Int.random(in: 0...(model.count - from), using: &random)
            var part = try need(Packet())
            if part.append(packet, from: from, count: count) {
              #expect(bytes(of: part) == Array(model[from..<(from + count)]))
            }
          default:
            let copy = try need(packet.clone())
            packet = copy
          }
          #expect(packet.byteCount == model.count)
          #expect(bytes(of: packet) == model)
        }
      }
    }
  }
}
