// The pages of a memory object by number: a radix tree of 64 words a node, as high as the largest number needs.
//
// Nodes are records of the kernel heap; making one can fail. The tree does not know what its words mean, except that
// 0 is nothing. Users lock.
import Base
import Pages

/// A word about one page: its frame, and what is going on with it.
struct PageWord: Equatable {
  var rawValue: UInt64

  @inline(__always) init(_ rawValue: UInt64) { self.rawValue = rawValue }
  /// A page with contents.
  @inline(__always) static func present(_ frame: PhysicalAddress, isDirty: Bool) -> PageWord {
    PageWord(frame.rawValue | 1 | 8 | (isDirty ? 4 : 0))
  }
  /// A page whose contents are on their way.
  @inline(__always) static func filling(_ frame: PhysicalAddress) -> PageWord { PageWord(frame.rawValue | 2) }

  static var presentBit: UInt64 { 1 }
  static var fillingBit: UInt64 { 2 }
  static var dirtyBit: UInt64 { 4 }
  static var usedBit: UInt64 { 8 }

  @inline(__always) var isPresent: Bool { rawValue & Self.presentBit != 0 }
  @inline(__always) var isFilling: Bool { rawValue & Self.fillingBit != 0 }
  @inline(__always) var isDirty: Bool { rawValue & Self.dirtyBit != 0 }
  /// Whether it was used since the last look of the shrinker.
  @inline(__always) var isUsed: Bool { rawValue & Self.usedBit != 0 }
  @inline(__always) var frame: PhysicalAddress { PhysicalAddress(rawValue & ~0xfff) }
}

/// Words by page number.
struct PageIndex: ~Copyable {
  typealias Node = UnsafeMutablePointer<UInt64>
  private static let shift: UInt64 = 6
  private static let width = 64

  private var root: Node?
  /// Levels: a tree of height h has numbers below 64^h.
  private var height: UInt64 = 0

  init() {}

  deinit {
    if let root { Self.free(root, height) }
  }

  /// The place of a number's word, nil if no node for it exists.
  @inline(__always)
  func slot(_ number: UInt64) -> Node? {
    guard var node = root, height >= 11 || number >> (height &* Self.shift) == 0 else { return nil }
    var level = height
    while level > 1 {
      level &-= 1
      let word = node[((number >> (level &* Self.shift)) & 63).int]
      guard let next = Node(bitPattern: word.uint) else { return nil }
      node = next
    }
    return node + (number & 63).int
  }

  /// The word of a number, 0 if there is none.
  @inline(__always)
  func word(_ number: UInt64) -> PageWord { PageWord(slot(number)?.pointee ?? 0) }

  /// The place of a number's word, with the nodes it needs; nil if memory is out.
  mutating func slotMakingNodes(_ number: UInt64) -> Node? {
    if root == nil {
      guard let node = Self.makeNode() else { return nil }
      root = node
      height = 1
    }
    while height < 11 && number >> (height &* Self.shift) != 0 {
      guard let node = Self.makeNode() else { return nil }
      node[0] = UInt(bitPattern: root).u64
      root = node
      height &+= 1
    }
    var node = root.unsafelyUnwrapped
    var level = height
    while level > 1 {
      level &-= 1
      let index = ((number >> (level &* Self.shift)) & 63).int
      if node[index] == 0 {
        guard let made = Self.makeNode() else { return nil }
        node[index] = UInt(bitPattern: made).u64
      }
      node = Node(bitPattern: node[index].uint).unsafelyUnwrapped
    }
    return node + (number & 63).int
  }

  /// Calls `body` with the number and the place of every word in a range that is not 0, in order, until it returns false.
  func forEach(from: UInt64 = 0, to: UInt64 = .max, _ body: (UInt64, Node) -> Bool) {
    guard let root else { return }
    _ = Self.walk(root, height, 0, from, to, body)
  }

  private static func walk(
    _ node: Node, _ level: UInt64, _ base: UInt64, _ from: UInt64, _ to: UInt64, _ body: (UInt64, Node) -> Bool
  ) -> Bool {
    let span = UInt64(1) << ((level &- 1) &* shift)
    var index = from > base ? min((from &- base) / span, 63).int : 0
    while index < width {
      let start = base &+ index.u64 &* span
      guard start < to else { return true }
      if node[index] != 0 && start &+ (span &- 1) >= from {
        if level == 1 {
          guard body(start, node + index) else { return false }
        } else {
          // SAFETY: words of inner nodes are 0 or addresses of nodes.
          let next = Node(bitPattern: node[index].uint).unsafelyUnwrapped
          guard walk(next, level &- 1, start, from, to, body) else { return false }
        }
      }
      index &+= 1
    }
    return true
  }

  private static func makeNode() -> Node? {
    // SAFETY: a fresh, zeroed record of 64 words.
    KernelHeap.allocateZeroed(byteCount: width &* 8)?.bindMemory(to: UInt64.self, capacity: width)
  }

  private static func free(_ node: Node, _ level: UInt64) {
    if level > 1 {
      for index in 0..<width {
        if let next = Node(bitPattern: node[index].uint) { free(next, level &- 1) }
      }
    }
    KernelHeap.free(UnsafeMutableRawPointer(node))
  }
}
