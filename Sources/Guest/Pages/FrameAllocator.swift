// The buddy allocator: blocks of 2^order frames, 4 KiB to 1 GiB, over any number of ranges of RAM.
//
// Memory above a range's frontier was never used: it is in no list, its descriptors are not written, and it is
// still zero, unless another monitor than osv-run has not promised that. A request that the lists cannot meet takes a chunk from the frontier, so that starting on any
// amount of RAM touches a handful of pages, and the lowest addresses are used first. Free blocks remember whether they are zero.
//
// Blocks of 2 MiB and more that are zero have lists of their own, joined only with their like, and are used last: the host has
// memory for the others already, while a zero block of that size was never touched or was given back to it. What is in the other
// lists of those sizes is the surplus, which the host could have (FrameSurplus).
//
// All functions here expect the caller to hold the allocator's lock (`Frames` does), except those that only look at
// descriptors of blocks the caller owns.
import Base
import Platform
import Synchronization

/// One contiguous piece of RAM and the table of its descriptors.
struct FrameRange {
  /// First frame that can be handed out.
  var first: UInt32 = 0
  /// One behind the last frame.
  var end: UInt32 = 0
  /// First frame that was never handed out.
  var frontier: UInt32 = 0
  /// Descriptor of frame `first`.
  var descriptors: UnsafeMutablePointer<FrameDescriptor>?
}

/// Physical memory as blocks of 2^order frames.
struct FrameAllocator: ~Copyable {
  /// Largest order: 1 GiB.
  static let maximumOrder = 18
  /// Order of what small requests take from the frontier: as many frames as one page of descriptors describes.
  static let chunkOrder = 7
  /// Ranges there can be: the first memory slot, later ones, and their parts around the hole below 4 GiB.
  static let maximumRanges = 16

  private var ranges: InlineArray<16, FrameRange>
  private let rangeCount = Atomic<Int>(0)
  private var heads: InlineArray<19, UInt32>
  /// Zero blocks of 2 MiB and more, by order - `surplusOrder`.
  private var zeroHeads: InlineArray<10, UInt32>
  /// Whether memory above the frontiers is known to be zero.
  private let isFreshZero: Bool
  /// Frames that are in lists or above a frontier.
  private(set) var freeFrames: Int = 0
  /// Frames of all ranges, without those of the descriptor tables.
  private(set) var totalFrames: Int = 0
  /// Frames of free blocks of 2 MiB and more that are not zero.
  private(set) var surplusFrames: Int = 0
  /// The least that `surplusFrames` has been since somebody set this.
  var leastSurplus: Int = 0
  /// Order of the smallest blocks that count as surplus: 2 MiB.
  static let surplusOrder = 9

  init(isFreshZero: Bool = true) {
    self.isFreshZero = isFreshZero
    ranges = InlineArray(repeating: FrameRange())
    heads = InlineArray(repeating: 0)
    zeroHeads = InlineArray(repeating: 0)
  }

  // MARK: Ranges

  /// Takes over the frames `first..<end`, unused: the table of descriptors goes to their start.
  /// - Returns: false if there are too many ranges or the range is too small to be of use.
  mutating func add(first: UInt32, end: UInt32) -> Bool {
    let count = rangeCount.load(ordering: .relaxed)
    guard count < Self.maximumRanges, end > first else { return false }
    let frames = (end &- first).int
    let tableFrames = (frames &* MemoryLayout<FrameDescriptor>.stride &+ 4095) >> 12
    guard frames > tableFrames &+ 8 else { return false }
    let table = LinearMap.pointer(PhysicalAddress(first.u64 << frameShift))
    let usable = first &+ tableFrames.u32
    var range = FrameRange()
    range.first = usable
    range.end = end
    range.frontier = usable
    // SAFETY: the table lies in the range itself, which nobody uses yet, and all-zero bytes are valid descriptors.
    if !isFreshZero { clearMemory(table, byteCount: tableFrames &<< 12) }
    range.descriptors = table.bindMemory(to: FrameDescriptor.self, capacity: frames &- tableFrames)
    ranges[count] = range
    freeFrames &+= (end &- usable).int
    totalFrames &+= (end &- usable).int
    rangeCount.store(count &+ 1, ordering: .releasing)
    return true
  }

  /// The descriptor of a frame, nil if it lies in no range (device memory, files in memory, the kernel image).
  @inline(__always)
  func descriptor(_ frame: UInt32) -> UnsafeMutablePointer<FrameDescriptor>? {
    let count = rangeCount.load(ordering: .acquiring)
    var index = 0
    while index < count {
      let range = ranges[index]
      if frame >= range.first && frame < range.end {
        return range.descriptors.unsafelyUnwrapped + (frame &- range.first).int
      }
      index &+= 1
    }
    return nil
  }

  // MARK: Blocks

  /// A block of 2^order frames with one reference.
  /// - Returns: its first frame and whether it is known to be zero; nil if there is none.
  mutating func take(order: Int) -> (frame: UInt32, isZero: Bool)? {
    var found = find(order: order)
    if found < 0 && advanceFrontier(order: order) { found = find(order: order) }
    if found < 0 && order > Self.surplusOrder {
      joinAll()
      found = find(order: order)
    }
    guard found >= 0 else { return nil }
    let head = heads[found]
    let block = claim(head != 0 ? head : zeroHeads[found &- Self.surplusOrder], order: found, as: order)
    leastSurplus = min(leastSurplus, surplusFrames)
    return block
  }

  /// A block that is not known to be zero, with one reference; 0 if there is none at a short look. (Smaller blocks are mixed in their
  /// lists, larger ones are not.)
  mutating func takeUnzeroed(order: Int) -> UInt32 {
    var found = order
    while found <= Self.maximumOrder {
      var frame = heads[found]
      var looks = 8
      while frame != 0 && looks > 0 {
        let record = descriptor(frame).unsafelyUnwrapped
        if record.pointee.isZero == 0 {
          _ = claim(frame, order: found, as: order)
          leastSurplus = min(leastSurplus, surplusFrames)
          return frame
        }
        frame = record.pointee.next
        looks &-= 1
      }
      found &+= 1
    }
    return 0
  }

  /// A block of the surplus for the host to have: of 2^`maximumOrder` frames at most, from the largest there are. `leastSurplus`
  /// takes no notice.
  mutating func takeSurplus(maximumOrder: Int) -> (frame: UInt32, order: Int)? {
    var found = Self.maximumOrder
    while found >= Self.surplusOrder && heads[found] == 0 { found &-= 1 }
    guard found >= Self.surplusOrder else { return nil }
    let order = min(found, maximumOrder)
    return (claim(heads[found], order: found, as: order).frame, order)
  }

  /// The order of a list with blocks of at least 2^order frames, zero ones last; -1 if there is none.
  private func find(order: Int) -> Int {
    var found = order
    while found <= Self.maximumOrder {
      if heads[found] != 0 { return found }
      found &+= 1
    }
    found = max(order, Self.surplusOrder)
    while found <= Self.maximumOrder {
      if zeroHeads[found &- Self.surplusOrder] != 0 { return found }
      found &+= 1
    }
    return -1
  }

  /// Takes a free block out of its list and gives back what is too much of it.
  private mutating func claim(_ frame: UInt32, order: Int, as wanted: Int) -> (frame: UInt32, isZero: Bool) {
    let record = descriptor(frame).unsafelyUnwrapped
    unlink(frame, record, order: order)
    let isZero = record.pointee.isZero != 0
    var found = order
    while found > wanted {
      found &-= 1
      let half = frame &+ (1 << found.u32)
      link(half, order: found, isZero: isZero)
    }
    record.pointee.kind = FrameKind.allocated
    record.pointee.order = wanted.u8
    record.pointee.references.store(1, ordering: .relaxed)
    freeFrames &-= 1 << wanted
    return (frame, isZero)
  }

  /// Forgets which large blocks are zero, so that they join with others: somebody needs a larger one.
  private mutating func joinAll() {
    var order = Self.surplusOrder
    while order <= Self.maximumOrder {
      let frame = zeroHeads[order &- Self.surplusOrder]
      if frame == 0 {
        order &+= 1
        continue
      }
      unlink(frame, descriptor(frame).unsafelyUnwrapped, order: order)
      freeFrames &-= 1 << order
      give(frame, order: order, isZero: false)
    }
  }

  /// Gives a block back and joins it with its free neighbours.
  mutating func give(_ first: UInt32, order firstOrder: Int, isZero: Bool) {
    var frame = first
    var order = firstOrder
    var zero = isZero
    freeFrames &+= 1 << order
    if let record = descriptor(frame) { record.pointee.kind = FrameKind.part }
    while order < Self.maximumOrder {
      let buddy = frame ^ (1 << order.u32)
      guard let record = descriptor(buddy), record.pointee.kind == FrameKind.free, record.pointee.order.int == order,
        order < Self.surplusOrder || zero == (record.pointee.isZero != 0)
      else { break }
      unlink(buddy, record, order: order)
      zero = zero && record.pointee.isZero != 0
      if buddy < frame { frame = buddy }
      order &+= 1
    }
    link(frame, order: order, isZero: zero)
  }

  /// Makes 2^order single frames with a reference each of an allocated block: parts of it may then be freed.
  func split(_ frame: UInt32, order: Int) {
    let use = descriptor(frame).unsafelyUnwrapped.pointee.sizeClass
    var index: UInt32 = 0
    while index < 1 << order.u32 {
      let record = descriptor(frame &+ index).unsafelyUnwrapped
      record.pointee.kind = FrameKind.allocated
      record.pointee.sizeClass = use
      record.pointee.order = 0
      record.pointee.references.store(1, ordering: .relaxed)
      index &+= 1
    }
  }

  // MARK: Lists and frontier

  /// Whether free blocks of that kind are in a list of `zeroHeads`.
  @inline(__always) private static func isApart(order: Int, isZero: Bool) -> Bool { isZero && order >= surplusOrder }

  private func head(order: Int, isZero: Bool) -> UInt32 {
    Self.isApart(order: order, isZero: isZero) ? zeroHeads[order &- Self.surplusOrder] : heads[order]
  }

  private mutating func setHead(_ frame: UInt32, order: Int, isZero: Bool) {
    if Self.isApart(order: order, isZero: isZero) {
      zeroHeads[order &- Self.surplusOrder] = frame
    } else {
      heads[order] = frame
    }
  }

  private mutating func link(_ frame: UInt32, order: Int, isZero: Bool) {
    let record = descriptor(frame).unsafelyUnwrapped
    let next = head(order: order, isZero: isZero)
    record.pointee.kind = FrameKind.free
    record.pointee.order = order.u8
    record.pointee.isZero = isZero ? 1 : 0
    record.pointee.next = next
    record.pointee.previous = 0
    if next != 0 { descriptor(next).unsafelyUnwrapped.pointee.previous = frame }
    setHead(frame, order: order, isZero: isZero)
    if order >= Self.surplusOrder && !isZero { surplusFrames &+= 1 << order }
  }

  private mutating func unlink(_ frame: UInt32, _ record: UnsafeMutablePointer<FrameDescriptor>, order: Int) {
    let next = record.pointee.next
    let previous = record.pointee.previous
    let isZero = record.pointee.isZero != 0
    if next != 0 { descriptor(next).unsafelyUnwrapped.pointee.previous = previous }
    if previous != 0 {
      descriptor(previous).unsafelyUnwrapped.pointee.next = next
    } else {
      setHead(next, order: order, isZero: isZero)
    }
    record.pointee.kind = FrameKind.part
    if order >= Self.surplusOrder && !isZero { surplusFrames &-= 1 << order }
  }

  /// Puts a block of at least 2^order frames from a frontier into the lists.
  /// - Returns: false if no range has so much left.
  private mutating func advanceFrontier(order: Int) -> Bool {
    let count = rangeCount.load(ordering: .relaxed)
    var wanted = order > Self.chunkOrder ? order : Self.chunkOrder
    while wanted >= order {
      var index = 0
      while index < count {
        let frontier = ranges[index].frontier
        let mask: UInt32 = (1 << wanted.u32) &- 1
        let start = (frontier &+ mask) & ~mask
        let end = ranges[index].end
        if start < end && end &- start >= 1 << wanted.u32 {
          if start > frontier {
            // What lies below the next border may do: then its descriptors are the only ones touched.
            linkAll(from: frontier, to: start)
            ranges[index].frontier = start
            if find(order: order) >= 0 { return true }
          }
          link(start, order: wanted, isZero: isFreshZero)
          ranges[index].frontier = start &+ (1 << wanted.u32)
          return true
        }
        index &+= 1
      }
      wanted &-= 1
    }
    return false
  }

  /// Puts frames that an aligned request skipped into the lists, in the largest blocks they make.
  private mutating func linkAll(from: UInt32, to: UInt32) {
    var frame = from
    while frame < to {
      var order = frame == 0 ? Self.maximumOrder : min(frame.trailingZeroBitCount, Self.maximumOrder)
      while frame &+ (1 << order.u32) > to { order &-= 1 }
      link(frame, order: order, isZero: isFreshZero)
      frame = frame &+ (1 << order.u32)
    }
  }

  /// Recounts the lists: for tests and the debug build.
  /// - Returns: frames in lists plus frames above frontiers, or -1 if a list or the count of the surplus is damaged.
  func audit() -> Int {
    var total = 0
    var surplus = 0
    for order in 0...Self.maximumOrder {
      for isZero in [false, true] where !isZero || order >= Self.surplusOrder {
        var frame = head(order: order, isZero: isZero)
        var previous: UInt32 = 0
        while frame != 0 {
          guard let record = descriptor(frame), record.pointee.kind == FrameKind.free,
            record.pointee.order.int == order, record.pointee.previous == previous,
            frame & ((1 << order.u32) &- 1) == 0,
            order < Self.surplusOrder || isZero == (record.pointee.isZero != 0)
          else { return -1 }
          total &+= 1 << order
          if order >= Self.surplusOrder && !isZero { surplus &+= 1 << order }
          previous = frame
          frame = record.pointee.next
        }
      }
    }
    for index in 0..<rangeCount.load(ordering: .relaxed) {
      total &+= (ranges[index].end &- ranges[index].frontier).int
    }
    return surplus == surplusFrames ? total : -1
  }
}
