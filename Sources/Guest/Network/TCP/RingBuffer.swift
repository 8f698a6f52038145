// RingBuffer: a queue of small values in one piece of heap memory, with access by index; it grows, and may be refused to.
//
// Invariant: elements lie from `head` on, `count` of them, around the end of a power-of-two capacity. Not synchronised.
import Base
import Pages

/// Values in order: added at the end, taken out in front, inserted and removed anywhere.
struct RingBuffer<Element: BitwiseCopyable>: ~Copyable {
  // SAFETY: memory of the kernel heap for `capacity` elements, this value's alone; elements are trivial.
  private var storage: UnsafeMutablePointer<Element>?
  private(set) var capacity = 0
  private var head = 0
  private(set) var count = 0
  /// The fewest elements that there is room for once there is any.
  private static var smallest: Int { 4 }

  /// Nothing; allocates nothing.
  @inline(__always) init() {}

  deinit { if let storage { KernelHeap.free(storage) } }

  @inline(__always) var isEmpty: Bool { count == 0 }

  @inline(__always) private func place(_ index: Int) -> UnsafeMutablePointer<Element> {
    storage.unsafelyUnwrapped + ((head &+ index) & (capacity &- 1))
  }

  /// The element with that index, which is in `0..<count`.
  subscript(index: Int) -> Element {
    @inline(__always) get {
      assert(index >= 0 && index < count)
      return place(index).pointee
    }
    @inline(__always) nonmutating set {
      assert(index >= 0 && index < count)
      place(index).pointee = newValue
    }
  }

  /// Lets the body change the element with that index.
  @inline(__always) func change(_ index: Int, _ body: (inout Element) -> Void) {
    assert(index >= 0 && index < count)
    body(&place(index).pointee)
  }

  /// Sees to it that `extra` elements can be added without memory; false if there is none.
  mutating func reserve(_ extra: Int) -> Bool {
    if count &+ extra <= capacity { return true }
    return setCapacity(1 &<< (max(count &+ extra, Self.smallest)).uint.log2Ceiling)
  }

  @inline(never) private mutating func setCapacity(_ wanted: Int) -> Bool {
    guard let memory = KernelHeap.allocate(byteCount: wanted &* MemoryLayout<Element>.stride) else { return false }
    // SAFETY: fresh memory of that size, aligned to 16.
    let fresh = memory.bindMemory(to: Element.self, capacity: wanted)
    for index in 0..<count { (fresh + index).initialize(to: place(index).pointee) }
    if let storage { KernelHeap.free(storage) }
    (storage, capacity, head) = (fresh, wanted, 0)
    return true
  }

  /// Adds one at the end; false if memory is out.
  mutating func append(_ element: Element) -> Bool {
    guard reserve(1) else { return false }
    count &+= 1
    place(count &- 1).initialize(to: element)
    return true
  }

  /// Puts one before the element with that index (`0...count`); false if memory is out. The shorter side moves.
  mutating func insert(_ element: Element, at index: Int) -> Bool {
    assert(index >= 0 && index <= count)
    guard reserve(1) else { return false }
    count &+= 1
    if index &* 2 < count {
      head = (head &- 1) & (capacity &- 1)
      for moved in 0..<index { place(moved).initialize(to: place(moved &+ 1).pointee) }
    } else {
      var moved = count &- 1
      while moved > index {
        place(moved).initialize(to: place(moved &- 1).pointee)
        moved &-= 1
      }
    }
    place(index).initialize(to: element)
    return true
  }

  /// Takes out the elements from that index on, so many. The shorter side moves.
  mutating func remove(at index: Int, count removed: Int = 1) {
    assert(index >= 0 && removed >= 0 && index &+ removed <= count)
    if index &* 2 < count &- removed {
      var moved = index &- 1
      while moved >= 0 {
        place(moved &+ removed).pointee = place(moved).pointee
        moved &-= 1
      }
      head = (head &+ removed) & (capacity &- 1)
    } else if removed > 0 {
      for moved in index..<(count &- removed) { place(moved).pointee = place(moved &+ removed).pointee }
    }
    count &-= removed
  }

  /// Takes out the first elements.
  @inline(__always) mutating func removeFirst(_ removed: Int = 1) {
    assert(removed <= count)
    if removed == 0 { return }
    head = (head &+ removed) & (capacity &- 1)
    count &-= removed
  }

  /// Takes out all, and gives back memory for more than a few.
  mutating func removeAll() {
    (head, count) = (0, 0)
    if capacity > 16, let storage {
      KernelHeap.free(storage)
      (self.storage, capacity) = (nil, 0)
    }
  }

  /// The first index whose element does not lie before what is looked for; elements are in that order.
  @inline(__always) func partition(_ isBefore: (Element) -> Bool) -> Int {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low &+ high) &>> 1
      if isBefore(place(middle).pointee) { low = middle &+ 1 } else { high = middle }
    }
    return low
  }
}
