// NetworkDriver: frames. Receiving, for the thread that owns the pair; transmitting, for any.
import Base
import Locks
import Memory
import Pages
import Platform
import Threads
import VirtioABI

extension NetworkDriver {
  // MARK: Receiving; the owner of the pair

  /// The next frame that the device has received on this pair, with what the device says of its checksum and segmentation; nil if there is
  /// none. Frames that make no sense, or that there is no memory for, are counted and passed over. Also with preemption off: a device
  /// that turns out to break the rules is stopped by the next `sleep`.
  public func receive(_ pair: Int) -> Packet? {
    let queue = pairs[pair].receive
    while let filled = queue.take() {
      if let packet = assemble(filled, queue) {
        packet.queuePair = pair.u16 &+ 1
        return packet
      }
      pairs[pair].counts.receivedErrors &+= 1
    }
    return nil
  }

  private func assemble(_ first: ReceiveQueue.Filled, _ queue: ReceiveQueue) -> Packet? {
    guard first.count >= VirtioNetworkHeader.byteCount else {
      first.memory.release()
      return nil
    }
    let header = first.memory.bytes.loadUnaligned(as: VirtioNetworkHeader.self)
    let others = hasMergeableBuffers ? header.bufferCount.int &- 1 : 0
    let offset = VirtioNetworkHeader.byteCount
    var packet = Packet(PacketSlice(memory: first.memory, offset: offset, count: first.count &- offset))
    var isGood = others >= 0 && packet != nil
    var left = others
    while left > 0 {
      // All buffers of a frame are there when the first is (virtio 1.2, 5.1.6.4).
      guard let next = queue.take() else {
        queue.fail()
        return nil
      }
      left &-= 1
      if isGood {
        isGood = packet?.append(PacketSlice(memory: next.memory, offset: 0, count: next.count)) ?? false
      } else {
        next.memory.release()
      }
    }
    guard isGood, let packet = packet.take(), adopt(header, packet) else { return nil }
    return packet
  }

  /// Notes what the header says; false if that makes no sense.
  private func adopt(_ header: VirtioNetworkHeader, _ packet: borrowing Packet) -> Bool {
    if header.flags & VirtioNetworkHeader.needsChecksum != 0 {
      let (start, offset) = (header.checksumStart.int, header.checksumOffset.int)
      guard features & VirtioNetworkABI.guestChecksum != 0, start &+ offset &+ 2 <= packet.byteCount else {
        return false
      }
      packet.checksum = .partial(start: start, offset: offset)
    } else if header.flags & VirtioNetworkHeader.dataValid != 0, features & VirtioNetworkABI.guestChecksum != 0 {
      // A device with which checksums were not agreed on says nothing about them (5.1.6.4.1).
      packet.checksum = .verified
    }
    if header.segmentation == VirtioNetworkHeader.none { return true }
    let hasMark = header.segmentation & VirtioNetworkHeader.ecn != 0
    guard let kind = PacketSegmentation.Kind(rawValue: header.segmentation & ~VirtioNetworkHeader.ecn),
      kind != .none, header.segmentByteCount > 0, features & Self.feature(kind) != 0
    else { return false }
    packet.segmentation = PacketSegmentation(
      kind, segmentByteCount: header.segmentByteCount.int, hasCongestionMark: hasMark)
    return true
  }

  private static func feature(_ kind: PacketSegmentation.Kind) -> UInt64 {
    switch kind {
    case .none: 0
    case .tcp4: VirtioNetworkABI.guestTCP4
    case .tcp6: VirtioNetworkABI.guestTCP6
    case .udp: VirtioNetworkABI.guestUDP4 | VirtioNetworkABI.guestUDP6
    }
  }

  /// Whether there is something to receive.
  @inline(__always) public func hasReceived(_ pair: Int) -> Bool { pairs[pair].receive.hasFilled }

  /// Posts buffers in place of those that were filled. If most were used up since the last time, more than before. As many as there
  /// is memory for: with none at all the interface is deaf until the next call.
  public func refill(_ pair: Int) {
    let queue = pairs[pair].receive
    var wanted = pairs[pair].wanted
    let hasPosted = pairs[pair].counts.postedBuffers != 0
    if hasPosted && queue.postedCount &* 4 < wanted && wanted < queue.size {
      wanted = min(wanted &* 2, queue.size)
      pairs[pair].wanted = wanted
    }
    while queue.postedCount < wanted, let memory = PacketMemory.allocate(capacity: PacketMemory.pageCapacity) {
      queue.post(memory)
    }
    if queue.postedCount.u64 > pairs[pair].counts.postedBuffers {
      pairs[pair].counts.postedBuffers = queue.postedCount.u64
    }
    queue.publish()
  }

  /// Whether the device has fewer buffers than it should: `refill` again when there is memory.
  public func isShort(_ pair: Int) -> Bool { pairs[pair].receive.postedCount < pairs[pair].wanted }

  /// Sleeps until the device has received something on this pair, `poke`, or the deadline. Frees before what was transmitted; if the
  /// device still has some of that, it sleeps for a while at most, so that nothing stays with it for long. A device that has broken the
  /// rules in either queue is stopped, and then this returns at once. Thread context.
  public func sleep(_ pair: Int, until deadline: Deadline) {
    let isBusy = pairs[pair].transmit.reap() > 0
    if stopIfFailed(pair) { return }
    pairs[pair].counts.sleeps &+= 1
    let soon = Deadline.after(Self.reapPatience)
    pairs[pair].receive.sleep(until: isBusy && soon < deadline ? soon : deadline)
    _ = stopIfFailed(pair)
  }

  /// How long what was transmitted may lie with the device that is done with it, ns.
  private static var reapPatience: UInt64 { 10_000_000 }

  /// Has the owner of a pair return from `sleep`. Any context.
  public func poke(_ pair: Int) { pairs[pair].receive.poke() }

  #if GUEST
    /// What the CPU of the pair's owner looks at while it is idle. Valid for ever.
    public func idleWatch(_ pair: Int) -> IdleWatch {
      // SAFETY of all: the context is a queue of a function that is never freed.
      IdleWatch(
        context: Unmanaged.passUnretained(pairs[pair].receive).toOpaque(),
        begin: { Unmanaged<ReceiveQueue>.fromOpaque($0)._withUnsafeGuaranteedRef { $0.beginWatch() } },
        isDue: { Unmanaged<ReceiveQueue>.fromOpaque($0)._withUnsafeGuaranteedRef { $0.hasFilled } },
        end: { Unmanaged<ReceiveQueue>.fromOpaque($0)._withUnsafeGuaranteedRef { $0.endWatch() } },
        wake: { Unmanaged<ReceiveQueue>.fromOpaque($0)._withUnsafeGuaranteedRef { $0.interrupted() } })
    }
  #endif

  /// What a pair has counted.
  public func counts(_ pair: Int) -> NetworkQueueCounts { pairs[pair].counts }

  /// Resets a device that has broken the rules in one of the pair's queues; the owners of the others are woken.
  private func stopIfFailed(_ pair: Int) -> Bool {
    guard pairs[pair].receive.hasFailed || pairs[pair].transmit.hasFailed else { return false }
    function.stop()
    takeBack(pair)
    return true
  }

  /// Takes back what a device that has failed (`hasFailed`) had of this pair, and all that it was to transmit. The owner of the pair does so
  /// before it leaves it for good. Thread context.
  public func takeBack(_ pair: Int) {
    pairs[pair].receive.takeBack()
    for index in 0..<pairCount { pairs[index].transmit.takeBack() }
  }

  // MARK: Transmitting

  /// Transmits a frame, on the queue that it names or this CPU's. Any thread; does not sleep, nor wait for the device.
  /// - Parameter packet: a frame within the MTU, or one that falls into such by what the device offers.
  /// - Returns: false: it is dropped: too many wait, memory is out, or the device is broken.
  public func transmit(_ packet: consuming Packet) -> Bool {
    let header = header(of: packet)
    guard let place = packet.prepend(VirtioNetworkHeader.byteCount) else { return false }
    place.storeBytes(of: header, as: VirtioNetworkHeader.self)
    let named = packet.queuePair.int
    let pair = pairCount == 1 ? 0 : (named > 0 ? named &- 1 : CPU.current) % pairCount
    return pairs[pair].transmit.add(packet) == .taken
  }

  private func header(of packet: borrowing Packet) -> VirtioNetworkHeader {
    var header = VirtioNetworkHeader()
    if case .partial(let start, let offset) = packet.checksum {
      header.flags = VirtioNetworkHeader.needsChecksum
      header.checksumStart = start.u16
      header.checksumOffset = offset.u16
    }
    let segmentation = packet.segmentation
    guard segmentation.kind != .none else { return header }
    header.segmentation = segmentation.kind.rawValue | (segmentation.hasCongestionMark ? VirtioNetworkHeader.ecn : 0)
    header.segmentByteCount = segmentation.segmentByteCount
    let start = packet.transportOffset
    let transport =
      segmentation.kind == .udp
      ? 8 : (packet.transportHeader.load(fromByteOffset: 12, as: UInt8.self) &>> 4).int &* 4
    header.headerByteCount = (start &+ transport).u16
    return header
  }

  /// Frees what the device has transmitted on all queues, by whoever comes along.
  /// - Returns: packets that it still has.
  @discardableResult public func reapTransmitted() -> Int {
    var left = 0
    for index in 0..<pairCount { left &+= pairs[index].transmit.reap() }
    return left
  }
}
