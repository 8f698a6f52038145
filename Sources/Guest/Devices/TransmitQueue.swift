// TransmitQueue: the driver's end of a queue of packets that a device reads and nobody waits for.
//
// Any thread adds; a spin lock, held for some dozens of instructions, keeps them apart (each CPU has a queue of its own if there are enough,
// and then it is free but when a thread was moved). A packet is the queue's until the device is done with it, which is looked at lazily: by who
// adds the next ones, and by the owner of the receiving side before it sleeps. The device never interrupts for that, but when the
// queue is full and packets wait for room (`isWaiting`).
//
// A packet of one slice is one descriptor; one of several has an indirect table, which each slot has room for. Its slot is its descriptor.
//
// The device is not trusted: a used entry must name a slot that has a packet; otherwise the queue has failed.
import Base
import Locks
import Pages
import VirtioABI

/// A queue of packets on their way to the device.
final class TransmitQueue: DeviceQueue {
  /// Packets that are done with and freed in one go, so that none waits long for the lock.
  private static var reapLimit: Int { 16 }
  private static var tableCount: Int { Packet.maximumSlices &+ 1 }

  private let lock = SpinLock()
  // Guarded by `lock`, all below.
  /// The packets that the device has.
  private var slots: SlotTable
  // SAFETY: `tableCount` descriptors for each slot.
  private let tables: UnsafeMutablePointer<VirtqueueDescriptor>
  private var nextAvailable: UInt16 = 0
  private var lastKick: UInt16 = 0
  private var lastUsed: UInt16 = 0
  private var waiting = PacketList()
  /// What interrupts for room were last asked for, while packets wait.
  private var armedEvent: UInt16?
  /// Called when there is room again for packets that waited, and when the queue has failed; any context. Set before the device starts.
  var onRoom: (() -> Void)?

  /// Packets that wait for room at most; further ones are dropped.
  static let waitingLimit = 512

  /// A queue over ring memory, as for `DeviceQueue`; nil if memory is out.
  init?(size: Int, memory: UnsafeMutableRawPointer) {
    let tableByteCount = size &* Self.tableCount &* VirtqueueDescriptor.byteCount
    // Its pages are touched as slots with several slices are used, the same slots again and again.
    guard let slots = SlotTable(size: size), let tables = KernelHeap.allocate(byteCount: tableByteCount) else {
      return nil
    }
    self.slots = slots
    self.tables = tables.bindMemory(to: VirtqueueDescriptor.self, capacity: size &* Self.tableCount)
    super.init(size: size, ring: memory)
  }

  /// What became of a packet.
  enum Outcome {
    /// The device has it, or it waits for room.
    case taken
    /// Too many wait, or the queue has failed.
    case dropped
  }

  /// Adds a packet, whose first slice begins with the device's header, and tells the device if it wants to hear of it.
  func add(_ packet: consuming Packet) -> Outcome {
    let word = packet.leak()
    var done = PacketList()
    var outcome = Outcome.taken
    let isWanted = lock.withLock { () -> Bool in
      takeDone(&done, limit: Self.reapLimit)
      if hasFailed {
        outcome = .dropped
        return false
      }
      if slots.freeCount > 0 && waiting.isEmpty {
        put(word)
      } else if waiting.count < Self.waitingLimit {
        waiting.append(Packet(adopting: word))
        moveWaiting(&done)
      } else {
        outcome = .dropped
      }
      return isKickWanted()
    }
    if outcome == .dropped { _ = Packet(adopting: word) }
    if isWanted { notify() }
    return outcome
  }

  /// Frees packets that the device is done with, and gives it those that waited for room.
  /// - Returns: packets that it still has.
  @discardableResult func reap() -> Int {
    while true {
      var done = PacketList()
      var left = 0
      let isWanted = lock.withLock { () -> Bool in
        takeDone(&done, limit: Self.reapLimit)
        if !waiting.isEmpty { moveWaiting(&done) }
        left = size &- slots.freeCount
        return isKickWanted()
      }
      if isWanted { notify() }
      if done.count < Self.reapLimit { return left }
    }
  }

  /// Whether packets wait for room; a hint.
  var isFull: Bool { lock.withLock { !waiting.isEmpty } }

  // MARK: With the lock

  private func put(_ word: UInt) {
    let slot = slots.take(for: word)
    let packet = Packet(adopting: word)
    if packet.sliceCount == 1 {
      descriptors[slot.int] = descriptor(packet.slice(0), next: 0)
    } else {
      let table = tables + slot.int &* Self.tableCount
      var count = 0
      for index in 0..<packet.sliceCount where packet.slice(index).count > 0 {
        table[count] = descriptor(packet.slice(index), next: count &+ 1)
        count &+= 1
      }
      table[count &- 1].flags = 0
      descriptors[slot.int] = VirtqueueDescriptor(
        address: KernelHeap.devicePhysical(of: table).rawValue, length: count.u32 &* 16,
        flags: VirtqueueDescriptor.indirect)
    }
    _ = packet.leak()
    setAvailable(nextAvailable, slot)
    nextAvailable &+= 1
    publish(nextAvailable)
  }

  @inline(__always) private func descriptor(_ slice: PacketSlice, next: Int) -> VirtqueueDescriptor {
    VirtqueueDescriptor(
      address: slice.memory.devicePhysical.rawValue &+ slice.offset.u64, length: slice.count,
      flags: next == 0 ? 0 : VirtqueueDescriptor.next, nextIndex: next.u16)
  }

  private func takeDone(_ done: inout PacketList, limit: Int) {
    while done.count < limit, usedIndex != lastUsed, !hasFailed {
      let slot = usedEntry(lastUsed).descriptor
      let word = slots.word(slot.int)
      guard word != 0 else { return fail() }
      lastUsed &+= 1
      slots.giveBack(slot.int)
      done.append(Packet(adopting: word))
    }
  }

  /// Gives the device packets that wait. If some must wait on, it interrupts when it is done with one more.
  private func moveWaiting(_ done: inout PacketList) {
    while !hasFailed {
      while slots.freeCount > 0, let packet = waiting.removeFirst() { put(packet.leak()) }
      if waiting.isEmpty {
        armedEvent = nil
        return
      }
      // It is still to come.
      if let armedEvent, (armedEvent &- lastUsed).int < size, usedIndex == lastUsed { return }
      // With an event some way on, room comes for several at once.
      let event = lastUsed &+ min(size / 4, size &- slots.freeCount &- 1).u16
      armedEvent = event
      if arm(beyond: event, last: lastUsed) { return }
      takeDone(&done, limit: .max)
    }
  }

  private func isKickWanted() -> Bool {
    if nextAvailable == lastKick { return false }
    let old = lastKick
    lastKick = nextAvailable
    return wantsNotification(from: old, to: nextAvailable)
  }

  /// What the device had, once it is stopped, and what waited.
  func takeBack() {
    var dropped = PacketList()
    lock.withLock {
      for slot in 0..<size {
        let word = slots.word(slot)
        if word == 0 { continue }
        slots.giveBack(slot)
        dropped.append(Packet(adopting: word))
      }
      dropped.append(&waiting)
    }
  }

  override func wasStarted() { lock.withLock { lastKick = nextAvailable } }
  override func interrupted() { onRoom?() }
  override func hasJustFailed() { onRoom?() }
}
