// Frames: physical memory for everybody, in blocks of 2^order 4 KiB frames.
//
// Single frames come from a magazine of the CPU, filled and drained in batches, by way of a lock-free depot if it has what is wanted
// (Depots); larger blocks from the buddy allocator under its lock. Idle CPUs keep zeroed ones in stock (ZeroedFrames). Usable from every context, interrupt handlers included. Failure is a value: requests
// for programs fail while a reserve is left, so that the kernel's own small needs still succeed.
import Base
import Platform
import Synchronization
import VirtioABI

/// Who asks for memory, and for what.
public enum FrameUse: UInt8, Sendable {
  /// The kernel's own structures, which have no other word here. Like all but the last four they may use up the reserve.
  case kernel
  /// Page tables.
  case table
  /// Kernel stacks.
  case stack
  /// Objects of the kernel heap.
  case heap
  /// Anonymous memory of programs, private copies of files among it: refused, as the next three, once only the reserve is left.
  case program
  /// Contents of files that can be read again.
  case file
  /// Contents that are nowhere else: the RAM file system, shared memory.
  case shared
  /// Packets: refused like a program's memory, since it is peers who decide how many there are.
  case packet

  /// How many there are.
  static let count = 8
  /// Whether only the kernel's reserve is out of its reach.
  @inline(__always) var isForPrograms: Bool { rawValue >= FrameUse.program.rawValue }
}

/// Where all frames are, at one moment: the sum of all but `total` is `total`.
public struct FrameAccount {
  /// Frames of all RAM that can be handed out.
  public var total = 0
  /// Frames that the buddy allocator has.
  public var free = 0
  /// Frames in the magazines of CPUs and in the depots.
  public var inMagazines = 0
  var used = InlineArray<8, Int>(repeating: 0)
  /// Frames in use for something.
  public subscript(use: FrameUse) -> Int { used[use.rawValue.int] }
  /// Whether all was read at one moment; otherwise CPUs were too busy to be caught at rest.
  public var isExact = false
}

/// A snapshot of physical memory, in frames.
public struct FrameStatistics {
  /// Frames of all RAM that can be handed out, without those in stashes.
  public var total: Int
  /// Frames free now, those in magazines included.
  public var free: Int
}

/// The allocator of physical memory.
public enum Frames {
  // SAFETY: set once, before a second CPU starts and before anything allocates; what is behind it has locks of its own.
  nonisolated(unsafe) private static var installed: UnsafeMutablePointer<FrameState>?

  @inline(__always)
  static var state: UnsafeMutablePointer<FrameState>? {
    #if HOSTED
      return installed ?? HostedArena.state
    #else
      return installed
    #endif
  }

  /// Brings the allocator up.
  ///
  /// - Parameters:
  ///   - start: first free byte; rounded up to a frame. Memory from here on is unused.
  ///   - byteCount: bytes of RAM that are there, counted from address 0 without the hole below 4 GiB.
  ///   - cpuCount: CPUs that will use the allocator.
  ///   - isZero: whether that memory is zero.
  public static func initialise(start: PhysicalAddress, byteCount: UInt64, cpuCount: Int, isZero: Bool = true) {
    let low = min(byteCount, AddressMap.lowMemoryEnd.rawValue)
    installed = FrameState.make(
      start: start, end: PhysicalAddress(low), cpuCount: cpuCount, isFreshZero: isZero)
    installed.unsafelyUnwrapped.pointee.knownByteCount.store(byteCount, ordering: .relaxed)
    memoryGrew(from: low, to: byteCount)
  }

  /// Takes over RAM that osv-run has added since the last look.
  public static func adoptNewMemory() {
    #if GUEST
      guard let state else { return }
      let present = Boot.presentMemoryByteCount
      let known = state.pointee.knownByteCount.load(ordering: .relaxed)
      guard present > known,
        state.pointee.knownByteCount.compareExchange(
          expected: known, desired: present, ordering: .acquiringAndReleasing
        ).exchanged
      else { return }
      memoryGrew(from: known, to: present)
    #endif
  }

  /// Whether osv-run still has RAM to add: what is free now is not all that there will be.
  public static var awaitsMemory: Bool {
    #if GUEST
      return Boot.presentMemoryByteCount < Boot.information.pointee.memoryByteCountFinal
    #else
      return false
    #endif
  }

  /// Takes over RAM that has appeared: unused and zero, in the linear map already.
  public static func addMemory(_ range: PhysicalRange) {
    guard let state else { return }
    let first = range.start.alignedUp().frameNumber
    let end = range.end.frameNumber
    state.pointee.lock.withLock {
      _ = state.pointee.allocator.add(first: first, end: end)
      state.setReserve()
    }
  }

  /// Takes over what lies between two readings of `ClockPage.memoryByteCount`: RAM from 3 GiB on appears at 4 GiB.
  /// - Parameters:
  ///   - old: bytes of RAM known so far.
  ///   - new: bytes of RAM now.
  public static func memoryGrew(from old: UInt64, to new: UInt64) {
    let added = grownRanges(from: old, to: new)
    if let low = added.low { addMemory(low) }
    if let high = added.high { addMemory(high) }
  }

  /// The physical ranges, below and above the hole, by which RAM has grown.
  static func grownRanges(from old: UInt64, to new: UInt64) -> (low: PhysicalRange?, high: PhysicalRange?) {
    let low = AddressMap.lowMemoryEnd.rawValue
    let below =
      old < low && old < new ? PhysicalRange(start: PhysicalAddress(old), end: PhysicalAddress(min(new, low))) : nil
    guard new > low && old < new else { return (below, nil) }
    let start = AddressMap.physical(ofMemoryOffset: max(old, low))
    return (below, PhysicalRange(start: start, end: AddressMap.highMemoryStart + (new &- low)))
  }

  /// Bytes that programs may be promised: all RAM there will be, also what osv-run has not added yet.
  public static var promisedByteCount: UInt64 {
    #if GUEST
      return max(statistics.total.u64 << frameShift, Boot.information.pointee.memoryByteCountFinal)
    #else
      return statistics.total.u64 << frameShift
    #endif
  }

  // MARK: Allocation

  /// A block of 2^order frames, physically contiguous and aligned to its size, with one reference.
  /// - Parameters:
  ///   - order: 0 (4 KiB) to 18 (1 GiB).
  ///   - zeroed: whether every byte must be zero; costs nothing for memory never used before.
  ///   - use: who asks.
  /// - Returns: the address of its first frame, nil if memory is out.
  public static func allocate(order: Int = 0, zeroed: Bool = false, use: FrameUse = .kernel) -> PhysicalAddress? {
    guard let state else { return nil }
    if use.isForPrograms && state.pointee.allocator.freeFrames &- (1 << order) < state.pointee.lowMark {
      guard mayTake(state, 1 << order) else { return nil }
    }
    var entry: UInt32
    if order == 0 {
      entry = state.popFrame(use, zeroed: zeroed)
    } else {
      guard let block = state.takeBlock(order: order, use) else { return nil }
      entry = block.frame | (block.isZero ? FrameState.zeroBit : 0)
    }
    guard entry != 0 else { return nil }
    let isZero = entry & FrameState.zeroBit != 0
    entry &= ~FrameState.zeroBit
    let address = PhysicalAddress(entry.u64 << frameShift)
    if state.pointee.checksFrames { FramePoison.check(address, order: order, isZero: isZero) }
    if zeroed && !isZero {
      // SAFETY: the block was just taken, so nobody else uses these bytes.
      clearMemory(LinearMap.pointer(address), byteCount: 4096 << order)
    }
    return address
  }

  /// Whether so much more may be taken for a use now: for programs not of the reserve.
  @inline(__always) static func allows(_ use: FrameUse, byteCount: Int) -> Bool {
    guard let state, use.isForPrograms else { return true }
    let count = byteCount &>> 12 &+ 1
    return state.pointee.allocator.freeFrames &- count >= state.pointee.lowMark || mayTake(state, count)
  }

  /// Whether a program may have so many of the last frames; wakes who gives some back.
  @inline(never) private static func mayTake(_ state: UnsafeMutablePointer<FrameState>, _ count: Int) -> Bool {
    adoptNewMemory()
    // What was just reclaimed may all lie in a magazine.
    let left = state.availableCount &- count
    if left < state.pointee.lowMark, let wakeReclaimer { wakeReclaimer() }
    return left >= state.pointee.reserve
  }

  // SAFETY: a C function pointer, set once at boot.
  /// Called when few frames are left for programs, in any context that allocates for them. Installed once, at boot.
  nonisolated(unsafe) public static var wakeReclaimer: (@convention(c) () -> Void)?

  /// Whether more is left for programs than is wanted in a hurry: below that nothing large should be begun.
  public static var hasRoom: Bool {
    guard let state else { return true }
    return state.availableCount >= state.pointee.lowMark
  }

  /// Frames that are missing until there is room again.
  public static var shortage: Int {
    guard let state else { return 0 }
    return max(state.pointee.highMark &- state.availableCount, 0)
  }

  /// Frees a block whose only holder the caller is.
  /// - Parameters:
  ///   - frame: its first frame, as `allocate` returned it.
  ///   - order: its order.
  ///   - zeroed: whether the caller knows that every byte of it is zero.
  public static func free(_ frame: PhysicalAddress, order: Int = 0, zeroed: Bool = false) {
    guard let state else { return }
    let number = frame.frameNumber
    if state.pointee.checksFrames {
      if zeroed { FramePoison.check(frame, order: order, isZero: true) } else { FramePoison.fill(frame, order: order) }
    }
    if order == 0 {
      state.pushFrame(number, isZero: zeroed)
    } else {
      state.pointee.lock.withLock { state.give(number, order: order, isZero: zeroed) }
    }
  }

  // MARK: References

  /// Whether a frame is RAM of this allocator; others (files in memory, devices) are not counted.
  public static func isManaged(_ frame: PhysicalAddress) -> Bool {
    guard let state else { return false }
    return state.record(frame) != nil
  }

  /// One more holder of an allocated block (given by its first frame). Nothing happens to frames that are not managed.
  public static func retain(_ frame: PhysicalAddress) {
    guard let state, let record = state.record(frame) else { return }
    record.pointee.references.add(1, ordering: .relaxed)
  }

  /// One holder less; the last one frees the block. Nothing happens to frames that are not managed.
  public static func release(_ frame: PhysicalAddress) {
    guard let state, let record = state.record(frame) else { return }
    let order = record.pointee.order.int
    if record.pointee.references.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
      free(frame, order: order)
    }
  }

  /// Holders of an allocated block; more than 1 means that writing to it needs a copy. 0 for frames that are not managed.
  public static func references(_ frame: PhysicalAddress) -> Int {
    guard let state, let record = state.record(frame) else { return 0 }
    return record.pointee.references.load(ordering: .acquiring).int
  }

  /// Turns a block into single frames with a reference each, so that they can be freed one by one.
  public static func split(_ frame: PhysicalAddress, order: Int) {
    guard let state else { return }
    state.pointee.allocator.split(frame.frameNumber, order: order)
  }

  /// Frames that only the kernel may use.
  public static var reserve: Int { state?.pointee.reserve ?? 0 }

  /// Frames that are missing to a comfortable reserve for the kernel's own objects: 0 unless more than a quarter of it is gone.
  @inline(__always) public static var reserveShortage: Int {
    guard let state else { return 0 }
    let reserve = state.pointee.reserve
    return state.sharedCount < reserve &- reserve &>> 2 ? countedShortage(state) : 0
  }

  @inline(never) private static func countedShortage(_ state: UnsafeMutablePointer<FrameState>) -> Int {
    let (free, reserve) = (state.availableCount, state.pointee.reserve)
    return free < reserve &- reserve &>> 2 ? reserve &- free : 0
  }

  /// Whether half of the reserve is there.
  public static var hasHalfReserve: Bool {
    guard let state else { return true }
    return state.sharedCount >= state.pointee.reserve &>> 1
  }

  /// Where all frames are. Exact, or marked as not.
  public static func account() -> FrameAccount {
    adoptNewMemory()
    return state?.account() ?? FrameAccount()
  }

  /// How much memory there is.
  public static var statistics: FrameStatistics {
    adoptNewMemory()
    guard let state else { return FrameStatistics(total: 0, free: 0) }
    let stashed = state.pointee.stashedFrames.load(ordering: .relaxed)
    return FrameStatistics(total: state.pointee.allocator.totalFrames &- stashed, free: state.freeCount)
  }
}

extension PhysicalAddress {
  /// The number of the frame that the address lies in.
  var frameNumber: UInt32 { pageNumber.u32 }
}
