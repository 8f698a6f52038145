// The driver's end of a split virtqueue.
//
// Every request takes one descriptor of the ring, which is the request's slot; a request of several pieces has an indirect
// table. The device is not trusted: what it may write to (and nothing keeps it to that) is never read back but for the used ring,
// whose entries must name a request that is open and count no more bytes than it was given. Otherwise the queue has failed.
//
// Who does what:
//  * `add` and `kick` take the mutex: threads only. The exit of a kick happens outside of it.
//  * `reap` takes used entries; in any context, without a lock: whoever raises `reapers` from 0 does it until it has seen
//    every call, the others leave. Only the one who reaps touches `lastUsed`, the event field, and open slots.
//  * A slot goes from free to open (`add`), to done (`reap`), to free (`release`, by whoever added it).
// Interrupts: `used_event` is moved forward only while somebody sleeps (`sleepers`); otherwise it lags behind and the device
// raises none. A sleeper raises `sleepers`, then reaps, so that either the reaper sees it and arms, or the reaper looks again.
import Base
import Locks
import Pages
import Platform
import VirtioABI

/// A piece of kernel memory that a device reads or writes: in the linear map, contiguous.
@frozen public struct DeviceSegment {
  /// First byte.
  public var address: UnsafeMutableRawPointer
  /// Bytes, 1 or more (0 only in a console's probe).
  public var count: Int
  /// A piece.
  @inline(__always) public init(address: UnsafeMutableRawPointer, count: Int) {
    self.address = address
    self.count = count
  }
}

/// A queue of requests to a device.
final class Virtqueue: DeviceQueue {
  /// Pieces of a request for which no memory is allocated.
  static let smallTableCount = 4
  /// Most pieces of a request.
  static let maximumSegments = 512

  struct Slot: ~Copyable {
    let state = Atomic<UInt32>(0)
    /// Bytes that the device said it wrote.
    var length: UInt32 = 0
    /// Bytes that it might have written.
    var capacity: UInt32 = 0
    /// The next free slot, -1 at the end of the list.
    var nextFree: Int32 = -1
    /// A larger indirect table, kept for the next request.
    var table: UnsafeMutablePointer<VirtqueueDescriptor>?
    var tableCount = 0
    let waiters = WaitQueue()

    static var free: UInt32 { 0 }
    static var open: UInt32 { 1 }
    static var done: UInt32 { 2 }
  }

  // SAFETY: `size` slots and as many small tables, in the allocation made by `init`.
  private let slots: UnsafeMutablePointer<Slot>
  private let smallTables: UnsafeMutablePointer<VirtqueueDescriptor>

  /// Called by the reaper, in any context, for each slot that is done, in the device's order; with slot -1 when the queue has
  /// failed. Set before the device starts.
  var onCompletion: ((_ slot: Int, _ length: Int) -> Void)?

  private let lock = Mutex()
  // Guarded by `lock`.
  private var nextAvailable: UInt16 = 0
  private var lastKick: UInt16 = 0
  private var firstFree: Int32 = -1
  private var freshSlots = 0

  private let freeCount: Atomic<Int>
  private let freed = WaitQueue()
  private let reapers = Atomic<Int>(0)
  private let sleepers = Atomic<Int>(0)
  private let lastUsed = Atomic<UInt16>(0)

  /// A queue over ring memory, which is zero, aligned to 16, in the linear map, and the queue's for good; nil if memory is out.
  init?(size: Int, memory: UnsafeMutableRawPointer) {
    let slotsByteCount = MemoryLayout<Slot>.stride &* size
    let tablesByteCount = Self.smallTableCount &* VirtqueueDescriptor.byteCount &* size
    guard let heap = KernelHeap.allocate(byteCount: slotsByteCount &+ tablesByteCount, alignment: 16) else {
      return nil
    }
    // SAFETY: the allocation has room for both; slots are initialised when they are first taken.
    slots = heap.assumingMemoryBound(to: Slot.self)
    smallTables = (heap + slotsByteCount).assumingMemoryBound(to: VirtqueueDescriptor.self)
    freeCount = Atomic(size)
    super.init(size: size, ring: memory)
  }

  // MARK: Adding requests; threads only

  /// Puts a request into the queue, without telling the device.
  /// - Parameters:
  ///   - segments: pieces the device reads, then pieces it writes; 1 to `maximumSegments` together.
  /// - Returns: the slot; nil if all are taken.
  /// - Throws: EIO if the queue has failed, ENOMEM if there is no memory for the table.
  func add(_ segments: UnsafePointer<DeviceSegment>, readable: Int, writable: Int) throws(Errno) -> Int? {
    lock.lock()
    defer { lock.unlock() }
    if hasFailed { throw .EIO }
    guard let slot = takeSlot() else { return nil }
    let count = readable &+ writable
    var capacity: UInt32 = 0
    for index in readable..<count { capacity &+= segments[index].count.u32 }
    slots[slot].capacity = capacity
    if count == 1 {
      descriptors[slot] = descriptor(segments[0], flags: writable == 1 ? VirtqueueDescriptor.write : 0, next: 0)
    } else {
      guard let table = table(slot, count) else {
        putBack(slot)
        throw .ENOMEM
      }
      for index in 0..<count {
        let flags = index < readable ? 0 : VirtqueueDescriptor.write
        let isLast = index &+ 1 == count
        table[index] = descriptor(
          segments[index], flags: isLast ? flags : flags | VirtqueueDescriptor.next, next: isLast ? 0 : index &+ 1)
      }
      descriptors[slot] = VirtqueueDescriptor(
        address: KernelHeap.devicePhysical(of: table).rawValue, length: count.u32 &* 16,
        flags: VirtqueueDescriptor.indirect)
    }
    slots[slot].state.store(Slot.open, ordering: .releasing)
    setAvailable(nextAvailable, slot.u16)
    nextAvailable &+= 1
    publish(nextAvailable)
    return slot
  }

  @inline(__always)
  private func descriptor(_ segment: DeviceSegment, flags: UInt16, next: Int) -> VirtqueueDescriptor {
    VirtqueueDescriptor(
      address: KernelHeap.devicePhysical(of: segment.address).rawValue, length: segment.count.u32, flags: flags,
      nextIndex: next.u16)
  }

  private func table(_ slot: Int, _ count: Int) -> UnsafeMutablePointer<VirtqueueDescriptor>? {
    if count <= Self.smallTableCount { return smallTables + Self.smallTableCount &* slot }
    if slots[slot].tableCount < count {
      guard let memory = KernelHeap.allocate(byteCount: count &* VirtqueueDescriptor.byteCount) else { return nil }
      if let old = slots[slot].table { KernelHeap.free(old) }
      // SAFETY: `count` descriptors of 16 bytes; the device is done with the old table, since the slot was free.
      slots[slot].table = memory.assumingMemoryBound(to: VirtqueueDescriptor.self)
      slots[slot].tableCount = count
    }
    return slots[slot].table
  }

  private func takeSlot() -> Int? {
    if firstFree >= 0 {
      let slot = firstFree.int
      firstFree = slots[slot].nextFree
      freeCount.subtract(1, ordering: .relaxed)
      return slot
    }
    guard freshSlots < size else { return nil }
    (slots + freshSlots).initialize(to: Slot())
    freshSlots &+= 1
    freeCount.subtract(1, ordering: .relaxed)
    return freshSlots &- 1
  }

  /// The slot that the next request will take, nil if all are taken; for callers who are the only ones to add.
  var nextSlot: Int? {
    lock.withLock { firstFree >= 0 ? firstFree.int : freshSlots < size ? freshSlots : nil }
  }

  private func putBack(_ slot: Int) {
    slots[slot].nextFree = firstFree
    firstFree = slot.i32
    freeCount.add(1, ordering: .sequentiallyConsistent)
  }

  override func wasStarted() { lock.withLock { lastKick = nextAvailable } }

  /// Tells the device of what was added, if it wants to hear of it.
  func kick() {
    let isWanted = lock.withLock { () -> Bool in
      guard nextAvailable != lastKick else { return false }
      let old = lastKick
      lastKick = nextAvailable
      return wantsNotification(from: old, to: nextAvailable)
    }
    if isWanted { notify() }
  }

  // MARK: Requests that are done

  /// Whether the device is done with the slot's request.
  @inline(__always) func isDone(_ slot: Int) -> Bool { slots[slot].state.load(ordering: .acquiring) == Slot.done }

  /// Whether the device has the slot's request.
  @inline(__always) private func isOpen(_ slot: Int) -> Bool {
    slots[slot].state.load(ordering: .acquiring) == Slot.open
  }

  /// Bytes that the device wrote for a slot that is done.
  func length(_ slot: Int) -> Int { slots[slot].length.int }

  /// Sleeps until the request is done (or has been, and its slot is free again), the queue has failed, or the deadline has passed.
  /// - Returns: `.interrupted` only if `interruptible`; then and after the deadline the request is still open.
  func wait(for slot: Int, interruptible: Bool = false, until deadline: Deadline = .never) -> WaitResult {
    reap()
    if !isOpen(slot) { return .woken }
    beginSleep()
    defer { endSleep() }
    return slots[slot].waiters.wait(until: deadline, interruptible: interruptible) { isOpen(slot) && !hasFailed }
  }

  /// Asks for interrupts until as many calls of `endSleep`. What the device did meanwhile has been taken when this returns (or
  /// is being taken by another).
  func beginSleep() {
    sleepers.add(1, ordering: .sequentiallyConsistent)
    reap()
  }

  /// Undoes one `beginSleep`.
  func endSleep() { sleepers.subtract(1, ordering: .relaxed) }

  /// Frees a slot whose request is done, or any once the device is stopped; threads only.
  /// - Returns: bytes that the device wrote, at most as many as it might.
  @discardableResult func release(_ slot: Int) -> Int {
    let length = slots[slot].length.int
    lock.withLock {
      slots[slot].state.store(Slot.free, ordering: .relaxed)
      putBack(slot)
    }
    freed.wakeOne()
    return length
  }

  /// Sleeps until a slot is free (perhaps no longer when this returns) or the queue has failed.
  func waitForSlot() { _ = freed.wait { freeCount.load(ordering: .relaxed) == 0 && !hasFailed } }

  override func interrupted() { reap() }

  /// Takes what the device has done. Any context.
  func reap() {
    Preemption.disable()
    if reapers.add(1, ordering: .sequentiallyConsistent).oldValue == 0 {
      var seen = 1
      while true {
        takeUsed()
        let before = reapers.subtract(seen, ordering: .sequentiallyConsistent).oldValue
        if before == seen { break }
        seen = before &- seen
      }
    }
    Preemption.enable()
  }

  private func takeUsed() {
    var last = lastUsed.load(ordering: .relaxed)
    while !hasFailed {
      let index = usedIndex
      while last != index {
        let entry = usedEntry(last)
        let (slot, length) = (entry.descriptor.int, entry.length)
        guard slot < size, slot < freshSlots, slots[slot].state.load(ordering: .acquiring) == Slot.open,
          length <= slots[slot].capacity
        else { return fail() }
        slots[slot].length = length
        last &+= 1
        lastUsed.store(last, ordering: .relaxed)
        slots[slot].state.store(Slot.done, ordering: .releasing)
        onCompletion?(slot, length.int)
        slots[slot].waiters.wakeAll()
      }
      if sleepers.load(ordering: .sequentiallyConsistent) == 0 { return }
      if arm(beyond: last) { return }
    }
  }

  /// Everybody who waits is woken and gets EIO.
  override func hasJustFailed() {
    for slot in 0..<freshSlots { slots[slot].waiters.wakeAll() }
    freed.wakeAll()
    onCompletion?(-1, 0)
  }

  /// Sends one request and waits for it.
  /// - Returns: bytes that the device wrote.
  /// - Throws: EIO if the device is at fault (it is stopped then, and touches the pieces no more), ENOMEM.
  func perform(_ segments: UnsafePointer<DeviceSegment>, readable: Int, writable: Int) throws(Errno) -> Int {
    var slot = try add(segments, readable: readable, writable: writable)
    while slot == nil {
      waitForSlot()
      slot = try add(segments, readable: readable, writable: writable)
    }
    guard let slot else { throw .EIO }
    kick()
    _ = wait(for: slot)
    guard isDone(slot) else {
      function?.stop()
      throw .EIO
    }
    return release(slot)
  }
}
