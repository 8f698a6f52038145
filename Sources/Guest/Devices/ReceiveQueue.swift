// ReceiveQueue: the driver's end of a queue in which a device fills buffers by itself (a network interface's receiving side).
//
// One thread owns it: posts buffers, takes what the device has filled, sleeps. No lock, and nothing atomic but the ring and the sleep. Each
// buffer is one descriptor, whose number is the buffer's slot. Buffers are posted in batches and published once.
//
// The device is not trusted: a used entry must name a slot whose buffer it has, and count no more bytes than that has. Otherwise the queue
// has failed.
//
// Interrupts: `arm` asks for one when the next buffer is filled, and is called only to sleep; otherwise the event lies behind and
// the device raises none. The interrupt wakes whoever sleeps in `sleep`, and so does `poke`.
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

  // SAFETY: `size` words: the memory in each slot, or 0.
  private let buffers: UnsafeMutablePointer<UInt>
  // SAFETY: `size` numbers, of which the first `freeCount` are free slots.
  private let free: UnsafeMutablePointer<UInt16>
  private var freeCount: Int
  private var nextAvailable: UInt16 = 0
  private var published: UInt16 = 0
  private var lastUsed: UInt16 = 0
  private let sleeper = WaitQueue()
  private let pokes = Atomic<UInt32>(0)

  /// A queue over ring memory, as for `DeviceQueue`; nil if memory is out.
  init?(size: Int, memory: UnsafeMutableRawPointer) {
    guard let heap = KernelHeap.allocateZeroed(byteCount: size &* 10) else { return nil }
    buffers = heap.bindMemory(to: UInt.self, capacity: size)
    free = (heap + size &* 8).bindMemory(to: UInt16.self, capacity: size)
    freeCount = size
    // The first slots are taken first.
    for slot in 0..<size { free[slot] = (size &- 1 &- slot).u16 }
    super.init(size: size, ring: memory)
  }

  // MARK: The owner's

  /// Buffers that the device has.
  var postedCount: Int { size &- freeCount }
  /// How many more may be posted.
  var room: Int { freeCount }

  /// Posts a buffer and takes over its reference; there is room. The device sees it after `publish`.
  func post(_ memory: PacketMemory) {
    freeCount &-= 1
    let slot = free[freeCount]
    buffers[slot.int] = UInt(bitPattern: memory.start)
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

  override func wasStarted() {}

  /// Whether there is something to take.
  @inline(__always) var hasFilled: Bool { usedIndex != lastUsed && !hasFailed }

  /// Takes the buffer that was filled first; nil if there is none, or the device broke the rules.
  func take() -> Filled? {
    guard usedIndex != lastUsed, !hasFailed else { return nil }
    let (slot, length) = usedEntry(lastUsed)
    guard slot < size.u32, let start = UnsafeMutableRawPointer(bitPattern: buffers[slot.int]) else {
      fail()
      return nil
    }
    let memory = PacketMemory(start: start)
    guard length.int <= memory.capacity else {
      fail()
      return nil
    }
    lastUsed &+= 1
    buffers[slot.int] = 0
    free[freeCount] = slot.u16
    freeCount &+= 1
    return Filled(memory: memory, count: length.int)
  }

  /// Sleeps until the device has filled a buffer, somebody pokes, the queue has failed, or the deadline.
  func sleep(until deadline: Deadline) {
    if arm(beyond: lastUsed) {
      _ = sleeper.wait(until: deadline) {
        usedIndex == lastUsed && pokes.load(ordering: .acquiring) == 0 && !hasFailed
      }
    }
    pokes.store(0, ordering: .releasing)
  }

  /// Takes back the buffers that the device has, once it is stopped.
  func takeBack() {
    for slot in 0..<size {
      guard let start = UnsafeMutableRawPointer(bitPattern: buffers[slot]) else { continue }
      buffers[slot] = 0
      free[freeCount] = slot.u16
      freeCount &+= 1
      PacketMemory(start: start).release()
    }
  }

  // MARK: Everybody's

  /// Has the owner return from `sleep`, now or at its next call. Any context.
  func poke() {
    pokes.store(1, ordering: .sequentiallyConsistent)
    sleeper.wakeAll()
  }

  override func interrupted() { sleeper.wakeAll() }
  override func hasJustFailed() { sleeper.wakeAll() }
}
