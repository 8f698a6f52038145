// A guest in plain memory, for tests of the devices: it writes rings by hand, right or wrong.
import Glibc
import VirtioABI
import VirtioPCI
import VirtioQueue

/// Guest memory with a bump allocator.
public final class TestGuest: @unchecked Sendable {
  /// Guest-physical address of the first byte.
  public static let start: UInt64 = 0x10_0000
  /// Bytes.
  public static let byteCount = 1 << 20

  /// The devices' view of it.
  public let map = GuestMemoryMap()
  // SAFETY: mapped for the life of this object.
  /// The memory.
  public let memory: UnsafeMutableRawPointer
  private var next = TestGuest.start

  /// One megabyte of zeros.
  public init() {
    memory = mmap(nil, Self.byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    map.add(start: GuestAddress(Self.start), byteCount: UInt64(Self.byteCount), host: memory)
  }

  deinit { munmap(memory, Self.byteCount) }

  /// Unused memory.
  public func allocate(_ count: Int, alignment: UInt64 = 16) -> UInt64 {
    next = (next + alignment - 1) & ~(alignment - 1)
    defer { next += UInt64(count) }
    precondition(next + UInt64(count) <= Self.start + UInt64(Self.byteCount))
    return next
  }

  /// Makes all memory unused and zero again.
  public func rewind() {
    memset(memory, 0, Int(next - Self.start))
    next = Self.start
  }

  /// The host's address of a guest address.
  public func pointer(_ address: UInt64) -> UnsafeMutableRawPointer { memory + Int(address - Self.start) }

  /// Stores a value.
  public func store<Value: BitwiseCopyable>(_ value: Value, at address: UInt64) {
    pointer(address).storeBytes(of: value, as: Value.self)
  }

  /// Loads a value.
  public func load<Value: BitwiseCopyable>(_ type: Value.Type, at address: UInt64) -> Value {
    pointer(address).loadUnaligned(as: type)
  }

  /// Memory holding these bytes.
  public func place(_ bytes: [UInt8]) -> UInt64 {
    let address = allocate(max(bytes.count, 1))
    bytes.withUnsafeBytes { source in
      if let base = source.baseAddress { pointer(address).copyMemory(from: base, byteCount: source.count) }
    }
    return address
  }

  /// The bytes at an address.
  public func bytes(_ address: UInt64, _ count: Int) -> [UInt8] {
    Array(UnsafeRawBufferPointer(start: pointer(address), count: count))
  }
}

/// The driver's end of a queue, without any care.
public final class TestQueue {
  /// Whose memory.
  public let guest: TestGuest
  /// Entries.
  public let size: Int
  /// Address of the descriptor table.
  public var descriptors: UInt64
  /// Address of the available ring.
  public var available: UInt64
  /// Address of the used ring.
  public var used: UInt64
  /// Number of the next available entry.
  public var nextAvailable: UInt16 = 0
  /// Number of the next used entry to look at.
  public var nextUsed: UInt16 = 0

  /// A queue in fresh memory.
  public init(_ guest: TestGuest, size: Int) {
    self.guest = guest
    self.size = size
    descriptors = guest.allocate(VirtqueueLayout.tableByteCount(size))
    available = guest.allocate(VirtqueueLayout.availableByteCount(size))
    used = guest.allocate(VirtqueueLayout.usedByteCount(size))
  }

  /// What the device is told of it.
  public func configuration(features: UInt64) -> SplitQueue.Configuration {
    SplitQueue.Configuration(
      size: UInt16(truncatingIfNeeded: size), descriptors: GuestAddress(descriptors),
      available: GuestAddress(available), used: GuestAddress(used), features: features)
  }

  /// Sets a descriptor.
  public func set(_ index: Int, _ address: UInt64, _ length: Int, flags: UInt16 = 0, next: Int = 0) {
    guest.store(
      VirtqueueDescriptor(
        address: address, length: UInt32(truncatingIfNeeded: length), flags: flags,
        nextIndex: UInt16(truncatingIfNeeded: next)),
      at: descriptors + UInt64(16 * index))
  }

  /// Makes the chain that starts at a descriptor available.
  public func offer(_ head: Int) {
    guest.store(
      UInt16(truncatingIfNeeded: head), at: available + 4 + 2 * UInt64(Int(nextAvailable) % size))
    nextAvailable &+= 1
    setIndex(nextAvailable)
  }

  /// Sets the available index.
  public func setIndex(_ index: UInt16) { guest.store(index, at: available + 2) }

  /// The device's used index.
  public var usedIndex: UInt16 { guest.load(UInt16.self, at: used + 2) }

  /// The next used entry, if there is one.
  public func takeUsed() -> (head: Int, written: Int)? {
    guard usedIndex != nextUsed else { return nil }
    let entry = used + 4 + 8 * UInt64(Int(nextUsed) % size)
    nextUsed &+= 1
    return (Int(guest.load(UInt32.self, at: entry)), Int(guest.load(UInt32.self, at: entry + 4)))
  }

  /// Sets `used_event`.
  public func setUsedEvent(_ event: UInt16) {
    guest.store(event, at: available + UInt64(VirtqueueLayout.usedEvent(size)))
  }

  /// The device's `avail_event`.
  public var availableEvent: UInt16 {
    guest.load(UInt16.self, at: used + UInt64(VirtqueueLayout.availableEvent(size)))
  }

  /// Offers one readable piece by descriptor `index`.
  public func send(_ bytes: [UInt8], index: Int = 0) {
    set(index, guest.place(bytes), bytes.count)
    offer(index)
  }

  /// Offers one writable piece by descriptor `index`; says where it is.
  @discardableResult public func post(_ count: Int, index: Int = 0) -> UInt64 {
    let address = guest.allocate(max(count, 1))
    set(index, address, count, flags: VirtqueueDescriptor.write)
    offer(index)
    return address
  }
}

/// A foreign driver: sets a function up through its registers, as the specification says.
public final class TestDriver {
  /// The device.
  public let function: PCIFunction
  /// Its queues.
  public let queues: [TestQueue]

  /// Starts the device with all its queues.
  public init(
    _ function: PCIFunction, _ guest: TestGuest, queueCount: Int, queueSize: Int = 16,
    features: UInt64 = VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
  ) {
    self.function = function
    queues = (0..<queueCount).map { _ in TestQueue(guest, size: queueSize) }
    negotiate(features)
    for index in queues.indices { enable(index) }
    function.writeBAR(at: 20, count: 1, 15)
  }

  /// The device status.
  public var status: UInt8 { UInt8(function.readBAR(at: 20, count: 1)) }

  /// Steps 1 to 6 of the initialisation.
  public func negotiate(_ features: UInt64) {
    function.writeBAR(at: 20, count: 1, 0)
    function.writeBAR(at: 20, count: 1, 1)
    function.writeBAR(at: 20, count: 1, 3)
    for half: UInt64 in 0..<2 {
      function.writeBAR(at: 8, count: 4, half)
      function.writeBAR(at: 12, count: 4, features >> (32 * half) & 0xffff_ffff)
    }
    function.writeBAR(at: 20, count: 1, 11)
  }

  /// Sets a queue up.
  public func enable(_ index: Int) {
    let queue = queues[index]
    function.writeBAR(at: 22, count: 2, UInt64(index))
    function.writeBAR(at: 24, count: 2, UInt64(queue.size))
    for (offset, address) in [(32, queue.descriptors), (40, queue.available), (48, queue.used)] {
      function.writeBAR(at: UInt64(offset), count: 4, address & 0xffff_ffff)
      function.writeBAR(at: UInt64(offset + 4), count: 4, address >> 32)
    }
    function.writeBAR(at: 28, count: 2, 1)
  }

  /// Notifies a queue.
  public func kick(_ index: Int) { function.writeBAR(at: 0x1000 + 4 * UInt64(index), count: 2, UInt64(index)) }
}

/// A small generator with a seed, so that failures repeat.
public struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  /// A sequence of its own for each seed.
  public init(_ seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 }
  /// The next word.
  public mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var word = state
    word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
    word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
    return word ^ (word >> 31)
  }
}
