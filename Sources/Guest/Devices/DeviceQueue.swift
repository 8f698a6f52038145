// DeviceQueue: what all drivers' ends of a split virtqueue have in common (virtio 1.2, 2.7): the ring's memory, and what a function needs
// of a queue. Subclasses say who adds, who reaps and who sleeps.
//
// The device is not trusted. It may write to all of the ring's memory: nothing there is read back but the used ring and the event field beside
// it, and what is read there is checked before it is used.
import Base
import Locks
import Pages
import VirtioABI

/// A queue of a device, the driver's end.
class DeviceQueue {
  /// Entries, a power of two.
  final let size: Int
  final let mask: UInt16
  // SAFETY: areas of the memory given to `init`, each as large as the layout says for `size`.
  final let descriptors: UnsafeMutablePointer<VirtqueueDescriptor>
  final let available: UnsafeMutableRawPointer
  final let used: UnsafeMutableRawPointer
  final unowned(unsafe) var function: VirtioFunction?
  private final var index = 0
  private final let failed = Atomic<Bool>(false)

  /// Bytes of ring memory for a queue of `size` entries; a multiple of 16.
  static func byteCount(size: Int) -> Int { usedOffset(size) &+ VirtqueueLayout.usedByteCount(size).alignedUp(to: 16) }

  private static func usedOffset(_ size: Int) -> Int {
    (VirtqueueLayout.tableByteCount(size) &+ VirtqueueLayout.availableByteCount(size)).alignedUp(to: 16)
  }

  /// A queue over ring memory, which is zero, aligned to 16, in the linear map, and the queue's for good.
  init(size: Int, ring memory: UnsafeMutableRawPointer) {
    self.size = size
    mask = (size &- 1).u16
    descriptors = memory.assumingMemoryBound(to: VirtqueueDescriptor.self)
    available = memory + VirtqueueLayout.tableByteCount(size)
    used = memory + Self.usedOffset(size)
    // An event that no index passes before it is set anew: no interrupts so far.
    usedEvent.pointee.store(UInt16.max, ordering: .relaxed)
  }

  final var descriptorsPhysical: PhysicalAddress { KernelHeap.devicePhysical(of: descriptors) }
  final var availablePhysical: PhysicalAddress { KernelHeap.devicePhysical(of: available) }
  final var usedPhysical: PhysicalAddress { KernelHeap.devicePhysical(of: used) }

  final func attach(to function: VirtioFunction, index: Int) {
    self.function = function
    self.index = index
  }

  // MARK: The ring

  // SAFETY of all: offsets are inside the area; 16-bit and 32-bit fields are aligned by the layout.
  @inline(__always) final func field(in area: UnsafeMutableRawPointer, _ offset: Int) -> UnsafeMutablePointer<
    Atomic<UInt16>
  > { (area + offset).assumingMemoryBound(to: Atomic<UInt16>.self) }

  /// Our event: the device interrupts when its index passes it.
  @inline(__always) final var usedEvent: UnsafeMutablePointer<Atomic<UInt16>> {
    field(in: available, VirtqueueLayout.usedEvent(size))
  }

  /// How many entries of the used ring the device has filled, counted round.
  @inline(__always) final var usedIndex: UInt16 {
    field(in: used, VirtqueueLayout.index).pointee.load(ordering: .acquiring)
  }

  /// An entry of the used ring: which descriptor, and how many bytes the device says it wrote. Each is read once.
  @inline(__always) final func usedEntry(_ number: UInt16) -> (descriptor: UInt32, length: UInt32) {
    let offset = VirtqueueLayout.entries &+ VirtqueueLayout.usedEntryByteCount &* (number & mask).int
    let entry = (used + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
    return (entry[0].load(ordering: .relaxed), entry[1].load(ordering: .relaxed))
  }

  /// Writes an entry of the available ring; it is not yet the device's.
  @inline(__always) final func setAvailable(_ number: UInt16, _ descriptor: UInt16) {
    field(in: available, VirtqueueLayout.entries &+ 2 &* (number & mask).int).pointee
      .store(descriptor, ordering: .relaxed)
  }

  /// Gives the device the entries of the available ring before that number.
  @inline(__always) final func publish(_ number: UInt16) {
    field(in: available, VirtqueueLayout.index).pointee.store(number, ordering: .releasing)
  }

  /// Whether the device wants to hear that entries from `old` up to before `new`, which are published, are there.
  @inline(__always) final func wantsNotification(from old: UInt16, to new: UInt16) -> Bool {
    // The index before the event: the device does it the other way round.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    let event = field(in: used, VirtqueueLayout.availableEvent(size)).pointee.load(ordering: .relaxed)
    return VirtqueueLayout.passes(event: event, new: new, old: old)
  }

  /// Asks for an interrupt once the device's index is beyond `last`; false: it is already.
  @inline(__always) final func arm(beyond last: UInt16) -> Bool { arm(beyond: last, last: last) }

  /// Asks for an interrupt once the device's index is beyond `event`; false: it is beyond `last` already.
  @inline(__always) final func arm(beyond event: UInt16, last: UInt16) -> Bool {
    usedEvent.pointee.store(event, ordering: .relaxed)
    // Our event before the device's index: the device does it the other way round.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return usedIndex == last
  }

  /// Tells the device; an exit.
  @inline(__always) final func notify() { function?.notify(queue: index) }

  // MARK: What the function calls

  /// Whether the device broke the rules or was stopped.
  @inline(__always) final var hasFailed: Bool { failed.load(ordering: .acquiring) }

  /// The queue has failed. Any context.
  final func fail() {
    if failed.exchange(true, ordering: .sequentiallyConsistent) { return }
    hasJustFailed()
  }

  /// The device has interrupted. Any context.
  func interrupted() {}
  /// The device has been started, and looks by itself at what was added before.
  func wasStarted() {}
  /// Everybody who waits is to be woken.
  func hasJustFailed() {}
}
