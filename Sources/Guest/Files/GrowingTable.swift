// GrowingTable: entries by small numbers, in one block of memory whose growth can fail.
//
// For tables whose size a program decides: memory being out is an error for it, where an array would trap. Not synchronised.
import Base
import Pages

/// Entries 0 to `count` - 1; a multiple of 64, so that a bit map over them has whole words.
struct GrowingTable<Element>: ~Copyable {
  /// How many entries there are.
  private(set) var count = 0
  private let blank: Element
  private var entries: UnsafeMutablePointer<Element>?

  /// An empty table; what it grows by is `blank`.
  init(blank: Element) { self.blank = blank }

  deinit {
    guard let entries else { return }
    entries.deinitialize(count: count)
    KernelHeap.free(UnsafeMutableRawPointer(entries))
  }

  /// The entry with that number, which must be below `count`.
  subscript(number: Int) -> Element {
    @inline(__always) get {
      // SAFETY: `count` entries are initialised.
      entries.unsafelyUnwrapped[number]
    }
    @inline(__always) set { entries.unsafelyUnwrapped[number] = newValue }
  }

  /// Makes room for the numbers below `wanted`, and for as many again if memory allows.
  /// - Throws: ENOMEM; nothing has changed then.
  mutating func grow(to wanted: Int) throws(Errno) {
    guard wanted > count else { return }
    let least = (wanted &+ 63) & ~63
    var size = max(least, count &* 2)
    var memory = KernelHeap.allocate(byteCount: size &* MemoryLayout<Element>.stride)
    if memory == nil, size > least {
      size = least
      memory = KernelHeap.allocate(byteCount: size &* MemoryLayout<Element>.stride)
    }
    guard let memory else { throw .ENOMEM }
    // SAFETY: room for `size` entries; the old ones move, the others are made, before anybody looks.
    let fresh = memory.bindMemory(to: Element.self, capacity: size)
    if let entries {
      fresh.moveInitialize(from: entries, count: count)
      KernelHeap.free(UnsafeMutableRawPointer(entries))
    }
    (fresh + count).initialize(repeating: blank, count: size &- count)
    entries = fresh
    count = size
  }
}

extension GrowingTable where Element == OpenFile? {
  // SAFETY: an optional reference is its object's address, or 0.
  /// The open file with that number, which must be below `count`, uncounted.
  @inline(__always) func uncounted(_ number: Int) -> Unmanaged<OpenFile>? {
    guard let place = entries else { return nil }
    let word = UnsafeRawPointer(place + number).load(as: UnsafeRawPointer?.self)
    return word.map { Unmanaged.fromOpaque($0) }
  }
}
