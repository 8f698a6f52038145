// ReceiveQueue: the driver's end of a queue in which a device fills buffers by itself (a network interface's receiving side).
//
// One thread owns it: posts buffers, takes what the device has filled, sleeps. No lock, and nothing atomic but the ring and the sleep. Each
// buffer is one descriptor, whose number is the buffer's slot. Buffers are posted in batches and published once.
//
// The device is not trusted: a used entry must name a slot whose buffer it has, and count no more bytes than that has. Otherwise the queue
// has failed.
//
// Interrupts: `arm` asks for one when the next buffer is filled, and is called only to sleep; otherwise the event lies behind and
// the device raises none. The interrupt wakes whoever sleeps in `sleep`, and so does `poke`. An idle CPU may look in place of the interrupt
// (IdleWatch): the owner's, so that what it looks at does not change meanwhile.
import Base
import Locks
import Pages
import VirtioABI

/// A queue of buffers that the device fills.
final class ReceiveQueue: DeviceQueue {
  /// A buffer that the device has filled; the reference is the taker's.
  struct Filled {
    let memory: PacketMemory
    /// Bytes that the device says it wrote, at most the memory's.
    let count: Int
  }

  /// The memory that the device has.
  private var slots: SlotTable
  private var nextAvailable: UInt16 = 0
  private var published: UInt16 = 0
  private var lastUsed: UInt16 = 0
  private let sleeper = WaitQueue()
  private let pokes = Atomic<UInt32>(0)
  /// Whether the owner sleeps and has asked for an interrupt.
  private var isOwnerAsleep = false

  /// A queue over ring memory, as for `DeviceQueue`; nil if memory is out.
  init?(size: Int, memory: UnsafeMutableRawPointer) {
    guard let slots = SlotTable(size: size) else { return nil }
    self.slots = slots
    super.init(size: size, ring: memory)
  }

  // MARK: The owner's

  /// Buffers that the device has.
  var postedCount: Int { size &- slots.freeCount }
  /// How many more may be posted.
  var room: Int { slots.freeCount }

  /// Posts a buffer and takes over its reference; there is room. The device sees it after `publish`.
  func post(_ memory: PacketMemory) {
    let slot = slots.take(for: UInt(bitPattern: memory.start))
    descriptors[slot.int] = VirtqueueDescriptor(
      address: memory.devicePhysical.rawValue, length: memory.capacity.u32, flags: VirtqueueDescriptor.write)
    setAvailable(nextAvailable, slot)
    nextAvailable &+= 1
  }

  /// Gives the device what was posted, and tells it if it wants to hear of it.
  func publish() {
    let old = published
    if old == nextAvailable { return }
    published = nextAvailable
    publish(nextAvailable)
    if wantsNotification(from: old, to: nextAvailable) { notify() }
  }

  /// Whether there is something to take.
  @inline(__always) var hasFilled: Bool { usedIndex != lastUsed && !hasFailed }

  /// Takes the buffer that was filled first; nil if there is none, or the device broke the rules.
  func take() -> Filled? {
    guard usedIndex != lastUsed, !hasFailed else { return nil }
    let (slot, length) = usedEntry(lastUsed)
    guard let start = UnsafeMutableRawPointer(bitPattern: slots.word(slot.int)) else {
      fail()
      return nil
    }
    let memory = PacketMemory(start: start)
    guard length.int <= memory.capacity else {
      fail()
      return nil
    }
    lastUsed &+= 1
    slots.giveBack(slot.int)
    return Filled(memory: memory, count: length.int)
  }

  /// Sleeps until the device has filled a buffer, somebody pokes, the queue has failed, or the deadline.
  func sleep(until deadline: Deadline) {
    if arm(beyond: lastUsed) {
      isOwnerAsleep = true
      _ = sleeper.wait(until: deadline) {
        usedIndex == lastUsed && pokes.load(ordering: .acquiring) == 0 && !hasFailed
      }
      isOwnerAsleep = false
    }
    // An exchange, for its fence: what the poker had to say before this is seen by who looks behind it.
    _ = pokes.exchange(0, ordering: .sequentiallyConsistent)
  }

  /// Takes back the buffers that the device has, once it is stopped.
  func takeBack() {
    for slot in 0..<size {
      guard let start = UnsafeMutableRawPointer(bitPattern: slots.word(slot)) else { continue }
      slots.giveBack(slot)
      PacketMemory(start: start).release()
    }
  }

  // MARK: The CPU's on which the owner sleeps (IdleWatch)

  /// The owner need not be interrupted for now; false: it does not sleep.
  func beginWatch() -> Bool {
    guard isOwnerAsleep, !hasFailed else { return false }
    // An event that no index passes before it is set anew.
    usedEvent.pointee.store(lastUsed &- 1, ordering: .relaxed)
    return true
  }

  /// Asks for the interrupt again, unless there is something to take: then this is true, and nothing is asked for (the device, which looks after it
  /// has filled, would still interrupt for that).
  func endWatch() -> Bool { hasFilled || !arm(beyond: lastUsed) }

  // MARK: Everybody's

  /// Has the owner return from `sleep`, now or at its next call. Any context.
  func poke() {
    pokes.store(1, ordering: .sequentiallyConsistent)
    sleeper.wakeAll()
  }

  override func interrupted() { sleeper.wakeAll() }
  override func hasJustFailed() { sleeper.wakeAll() }
}
