// The device's end of a split virtqueue.
//
// The guest is not trusted. Indices and descriptors are loaded once (relaxed atomics, or copied by a call that is
// never inlined), checked, and only the copies are used. What breaks the rules stops the queue (`fault`), which its owner
// turns into DEVICE_NEEDS_RESET; nothing a guest writes makes a call take longer than the pieces of one chain.
// A queue exists from DRIVER_OK to reset; the three areas were looked up when it was made. All calls but `init` are made
// under one lock, the transport's.
import Synchronization
import VirtioABI

// SAFETY: all calls are made under one lock, the transport's.
/// A live virtqueue.
public final class SplitQueue: @unchecked Sendable {
  /// What the driver set up.
  public struct Configuration: Sendable {
    /// Entries, a power of two up to 32,768.
    public var size: UInt16
    /// Where the descriptor table is; 16-byte aligned.
    public var descriptors: GuestAddress
    /// Where the available ring is; 2-byte aligned.
    public var available: GuestAddress
    /// Where the used ring is; 4-byte aligned.
    public var used: GuestAddress
    /// The features agreed on.
    public var features: UInt64

    /// A configuration with all its fields.
    public init(size: UInt16, descriptors: GuestAddress, available: GuestAddress, used: GuestAddress, features: UInt64)
    {
      self.size = size
      self.descriptors = descriptors
      self.available = available
      self.used = used
      self.features = features
    }
  }

  /// What a guest did wrong.
  public enum Fault: Error, Equatable, Sendable {
    /// The size is no power of two, 0 or too large.
    case badSize
    /// A part of the queue is misaligned.
    case misaligned
    /// A part of the queue or of a buffer is not in memory, or in memory that it may not be in.
    case outsideMemory
    /// Parts of the queue overlap.
    case overlappingRings
    /// The available index is further ahead than there are entries.
    case indexJumped
    /// A descriptor index is not below the size of its table.
    case badDescriptorIndex
    /// A chain has more descriptors than its table: it runs in a circle.
    case endlessChain
    /// A readable piece follows a writable one.
    case readableAfterWritable
    /// An indirect table that was not agreed on, is nested, has a bad size or a chained successor.
    case badIndirectTable
    /// A chain of more than 4 GiB.
    case tooManyBytes
    /// A chain of more pieces than a device takes.
    case tooManyPieces
    /// A request that makes no sense to the device.
    case badRequest
  }

  /// Entries.
  public let size: Int
  private let mask: UInt16
  private let memory: GuestMemoryMap
  private let usesEventIndex: Bool
  private let usesIndirect: Bool
  // SAFETY: each points to as many bytes as its area has, looked up in `init`; memory of the map stays mapped.
  private let table: UnsafeMutableRawPointer
  private let available: UnsafeMutableRawPointer
  private let used: UnsafeMutableRawPointer
  private let indirect: UnsafeMutableBufferPointer<VirtqueueDescriptor>

  /// Number of the next available entry to take.
  private var nextAvailable: UInt16 = 0
  /// The guest's index when it was last looked at: entries below are there.
  private var knownAvailable: UInt16 = 0
  /// Number of the next used entry to fill.
  private var nextUsed: UInt16 = 0
  /// `nextUsed` when the question of an interrupt was last decided.
  private var decidedUsed: UInt16 = 0
  /// What the guest did wrong; from then on the queue gives nothing.
  public private(set) var fault: Fault?

  /// Looks the queue's areas up.
  /// - Throws: What is wrong with the configuration.
  public init(_ configuration: Configuration, memory: GuestMemoryMap) throws(Fault) {
    let size = Int(configuration.size)
    guard size > 0, size <= VirtqueueLayout.maximumSize, size & (size - 1) == 0 else { throw .badSize }
    guard configuration.descriptors.rawValue & 15 == 0, configuration.available.rawValue & 1 == 0,
      configuration.used.rawValue & 3 == 0
    else { throw .misaligned }
    let areas = [
      (configuration.descriptors.rawValue, VirtqueueLayout.tableByteCount(size)),
      (configuration.available.rawValue, VirtqueueLayout.availableByteCount(size)),
      (configuration.used.rawValue, VirtqueueLayout.usedByteCount(size)),
    ]
    guard
      let table = memory.range(at: configuration.descriptors, count: areas[0].1, forWriting: false),
      let available = memory.range(at: configuration.available, count: areas[1].1, forWriting: false),
      let used = memory.range(at: configuration.used, count: areas[2].1, forWriting: true)
    else { throw .outsideMemory }
    for (index, one) in areas.enumerated() {
      for other in areas[..<index] where one.0 < other.0 + UInt64(other.1) && other.0 < one.0 + UInt64(one.1) {
        throw .overlappingRings
      }
    }
    self.size = size
    mask = configuration.size - 1
    self.memory = memory
    usesEventIndex = configuration.features & VirtioFeature.eventIndex != 0
    usesIndirect = configuration.features & VirtioFeature.indirectDescriptors != 0
    self.table = table
    self.available = available
    self.used = used
    indirect = .allocate(capacity: DescriptorChain.pieceLimit)
  }

  deinit { indirect.deallocate() }

  // MARK: Loads and stores, each exactly one

  // SAFETY of all five: offsets are within the area by the callers' masks; areas are aligned for the type by `init`, and
  // host memory is aligned as guest memory (regions start at pages). Atomic and integer have the same layout.
  @inline(__always) private func load16(_ area: UnsafeMutableRawPointer, _ offset: Int) -> UInt16 {
    (area + offset).assumingMemoryBound(to: Atomic<UInt16>.self).pointee.load(ordering: .relaxed)
  }
  @inline(__always) private func loadIndex() -> UInt16 {
    (available + VirtqueueLayout.index).assumingMemoryBound(to: Atomic<UInt16>.self).pointee.load(ordering: .acquiring)
  }
  @inline(__always) private func store16(_ offset: Int, _ value: UInt16) {
    (used + offset).assumingMemoryBound(to: Atomic<UInt16>.self).pointee.store(value, ordering: .releasing)
  }
  @inline(__always) private func store32(_ offset: Int, _ value: UInt32) {
    (used + offset).assumingMemoryBound(to: Atomic<UInt32>.self).pointee.store(value, ordering: .relaxed)
  }
  @inline(__always) private func loadDescriptor(_ index: Int) -> VirtqueueDescriptor {
    let words = (table + index &* VirtqueueDescriptor.byteCount).assumingMemoryBound(to: Atomic<UInt64>.self)
    let address = words.pointee.load(ordering: .relaxed)
    let rest = (words + 1).pointee.load(ordering: .relaxed)
    return VirtqueueDescriptor(
      address: address, length: UInt32(truncatingIfNeeded: rest), flags: UInt16(truncatingIfNeeded: rest >> 32),
      nextIndex: UInt16(truncatingIfNeeded: rest >> 48))
  }

  // MARK: Requests

  /// Whether the guest has given a request that has not been taken.
  public func hasAvailable() -> Bool {
    if fault != nil { return false }
    if nextAvailable != knownAvailable { return true }
    let index = loadIndex()
    // Every request takes a descriptor at least, so no more of them can be open than there are entries.
    guard index &- nextUsed <= UInt16(size), index &- nextAvailable <= index &- nextUsed else {
      fail(.indexJumped)
      return false
    }
    knownAvailable = index
    return index != nextAvailable
  }

  /// How many requests the guest has given that have not been taken, as far as it has told: loaded anew.
  public func availableCount() -> Int {
    // As if all that was known of had been taken: the index is to be loaded.
    knownAvailable = nextAvailable
    return hasAvailable() ? Int(knownAvailable &- nextAvailable) : 0
  }

  /// Takes the guest's next request.
  /// - Returns: False if there is none, or if the guest broke the rules (`fault` says how).
  public func pop(into chain: DescriptorChain) -> Bool {
    guard hasAvailable() else { return false }
    let head = load16(available, VirtqueueLayout.entries + 2 * Int(nextAvailable & mask))
    if let fault = walk(from: head, into: chain) {
      fail(fault)
      return false
    }
    nextAvailable &+= 1
    return true
  }

  /// Gives the request that was taken last back, to be taken again.
  public func putBack(_ chain: DescriptorChain) {
    if fault == nil { nextAvailable &-= 1 }
  }

  private func walk(from head: UInt16, into chain: DescriptorChain) -> Fault? {
    chain.clear(head: head)
    var index = Int(head)
    var left = size
    while true {
      guard index < size else { return .badDescriptorIndex }
      guard left > 0 else { return .endlessChain }
      left -= 1
      let descriptor = loadDescriptor(index)
      if descriptor.flags & VirtqueueDescriptor.indirect != 0 {
        guard usesIndirect, descriptor.flags & VirtqueueDescriptor.next == 0 else { return .badIndirectTable }
        return walkTable(descriptor, into: chain)
      }
      if let fault = chain.append(descriptor, memory: memory) { return fault }
      guard descriptor.flags & VirtqueueDescriptor.next != 0 else { return nil }
      index = Int(descriptor.nextIndex)
    }
  }

  private func walkTable(_ descriptor: VirtqueueDescriptor, into chain: DescriptorChain) -> Fault? {
    let byteCount = Int(descriptor.length)
    let count = byteCount / VirtqueueDescriptor.byteCount
    guard count > 0, byteCount % VirtqueueDescriptor.byteCount == 0 else { return .badIndirectTable }
    guard count <= indirect.count else { return .tooManyPieces }
    let copy = UnsafeMutableRawBufferPointer(start: indirect.baseAddress, count: byteCount)
    guard memory.copy(from: GuestAddress(descriptor.address), into: copy) else { return .outsideMemory }
    var index = 0
    var left = count
    while true {
      guard index < count else { return .badDescriptorIndex }
      guard left > 0 else { return .endlessChain }
      left -= 1
      let piece = indirect[index]
      guard piece.flags & VirtqueueDescriptor.indirect == 0 else { return .badIndirectTable }
      if let fault = chain.append(piece, memory: memory) { return fault }
      guard piece.flags & VirtqueueDescriptor.next != 0 else { return nil }
      index = Int(piece.nextIndex)
    }
  }

  /// Hands a request back to the guest, done. Requests may be handed back in any order.
  /// - Parameter written: Bytes that the device wrote, from the front of the writable part.
  public func push(_ chain: DescriptorChain, written: Int = 0) {
    precondition(written >= 0 && written <= chain.writableByteCount)
    stage(head: chain.head, written: written)
    publish()
  }

  /// Hands a request back whose chain object may have been used again since, as `push` does, but the guest sees it only after `publish`:
  /// several that belong together are seen together.
  /// - Parameters:
  ///   - head: the request's, as its chain had it.
  ///   - written: bytes that the device wrote, no more than were writable.
  public func stage(head: UInt16, written: Int) {
    guard fault == nil else { return }
    let entry = VirtqueueLayout.entries + VirtqueueLayout.usedEntryByteCount * Int(nextUsed & mask)
    store32(entry, UInt32(head))
    store32(entry + 4, UInt32(truncatingIfNeeded: written))
    nextUsed &+= 1
  }

  /// Shows the guest what was staged.
  public func publish() {
    if fault == nil { store16(VirtqueueLayout.index, nextUsed) }
  }

  /// Stops the queue: the guest broke a rule that the device knows of.
  public func fail(_ fault: Fault) {
    if self.fault == nil { self.fault = fault }
  }

  // MARK: Events

  /// Asks the guest to notify when it gives the next request.
  /// - Returns: Whether one has come meanwhile, for which it may not have notified.
  public func rearm() -> Bool {
    if fault != nil { return false }
    if usesEventIndex {
      store16(VirtqueueLayout.availableEvent(size), nextAvailable)
    } else {
      store16(VirtqueueLayout.flags, 0)
    }
    // Our store before our load: the guest does the same the other way round, so one of us sees the other.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return hasAvailable()
  }

  /// Asks the guest not to notify for now (a hint). With event indices that is so by itself until `rearm`.
  public func disarm() {
    if !usesEventIndex && fault == nil { store16(VirtqueueLayout.flags, VirtqueueLayout.noNotification) }
  }

  /// Whether the guest wants an interrupt for what was handed back since the last call.
  public func takeInterrupt() -> Bool {
    guard fault == nil, nextUsed != decidedUsed else { return false }
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    let old = decidedUsed
    decidedUsed = nextUsed
    if usesEventIndex {
      let event = load16(available, VirtqueueLayout.usedEvent(size))
      return VirtqueueLayout.passes(event: event, new: nextUsed, old: old)
    }
    return load16(available, VirtqueueLayout.flags) & VirtqueueLayout.noInterrupt == 0
  }
}
