// Depots: batches of frames, and of free heap objects, that CPUs hand on to one another without a lock.
//
// What one CPU frees another may want: a batch goes from the magazine of the one into the depot, and from there into the magazine of
// the other. Only where a depot has no batch left, or no room for one more, do the lists behind it, and their locks, come in.
//
// A batch lies in a numbered node. Nodes are in one of three places: in a stack of full ones (of frames one, of objects one a size
// class), in the stack of empty ones, or with the CPU that fills or empties it; those never used so far follow `fresh`. The
// stacks are lock-free (`TaggedStack`: the invariants are there); what a node holds is its holder's, and written before it is pushed.
// All is zero at the start, and the memory of nodes is not touched before they are used.
//
// A CPU that takes or puts a batch counts that as a change of its own area (`beginChange`), so that accounts stay exact.
import Base
import Locks
import Platform
import Synchronization

/// The nodes of a depot, and which are empty.
struct DepotNodes: ~Copyable {
  private let empty = TaggedStack<LiveWord>()
  private let fresh = LiveWord(0)
  /// How many there are.
  let capacity: UInt32
  /// One word a node, for all the stacks of these nodes.
  let links: UnsafeMutablePointer<LiveWord>

  /// Nodes whose links lie in zero memory.
  init(capacity: UInt32, links: UnsafeMutablePointer<LiveWord>) {
    self.capacity = capacity
    self.links = links
  }

  /// An empty node; nil if all are in use.
  func take() -> UInt32? {
    if let node = empty.pop(links) { return node }
    while true {
      let next = fresh.load()
      guard next < capacity.uint else { return nil }
      if fresh.compareExchange(next, next &+ 1) { return next.u32 }
    }
  }

  /// Gives an emptied node back.
  func give(_ node: UInt32) { empty.push(node, links) }
}

/// Full batches of single frames.
struct FrameDepot: ~Copyable {
  /// Frames in a batch, and their logarithm.
  static let batch = 32
  static let batchOrder = 5
  let nodes: DepotNodes
  private let full = TaggedStack<LiveWord>()
  /// Batches in it.
  private let batches = Atomic<Int>(0)
  /// `batch` entries a node, as in magazines.
  private let entries: UnsafeMutablePointer<UInt32>

  /// Bytes of the memory of so many nodes.
  static func byteCount(capacity: UInt32) -> Int { capacity.int &* (8 &+ 4 &* batch) }

  /// An empty depot in zero memory of that size.
  init(capacity: UInt32, memory: UnsafeMutableRawPointer) {
    // SAFETY: the caller gives the memory for good; zero bytes are valid words and entries.
    nodes = DepotNodes(capacity: capacity, links: memory.bindMemory(to: LiveWord.self, capacity: capacity.int))
    let behind = memory + capacity.int &* 8
    entries = behind.bindMemory(to: UInt32.self, capacity: capacity.int &* Self.batch)
  }

  /// Frames in it.
  var frameCount: Int { batches.load(ordering: .relaxed) &* Self.batch }
  /// Batches in it.
  var batchCount: Int { batches.load(ordering: .relaxed) }
  /// Whether there is nothing to take, at a glance.
  @inline(__always) var isEmpty: Bool { full.isEmpty() }

  /// The entries of a node that the caller holds.
  @inline(__always) func entries(of node: UInt32) -> UnsafeMutablePointer<UInt32> {
    entries + node.int &* Self.batch
  }

  /// Puts a node in that the caller has filled.
  func put(_ node: UInt32) {
    batches.add(1, ordering: .relaxed)
    full.push(node, nodes.links)
  }

  /// Takes a full node, to be emptied and given back; nil if there is none.
  func take() -> UInt32? {
    guard let node = full.pop(nodes.links) else { return nil }
    batches.subtract(1, ordering: .relaxed)
    return node
  }

  /// Puts a batch in; false if there is no room.
  func put(copying source: UnsafePointer<UInt32>) -> Bool {
    guard let node = nodes.take() else { return false }
    entries(of: node).update(from: source, count: Self.batch)
    put(node)
    return true
  }

  /// Takes a batch out; false if there is none.
  func take(into target: UnsafeMutablePointer<UInt32>) -> Bool {
    guard let node = take() else { return false }
    target.update(from: entries(of: node), count: Self.batch)
    nodes.give(node)
    return true
  }
}

/// Lists of free heap objects, by size class.
struct ObjectDepot: ~Copyable {
  private let nodes: DepotNodes
  private let full: UnsafeMutablePointer<TaggedStack<LiveWord>>
  private let lists: UnsafeMutablePointer<ObjectCache>
  /// Lists of a class at most; a class that is freed much leaves room for the others.
  private let mostOfClass: Int
  private let counts: UnsafeMutablePointer<Atomic<Int>>

  /// Bytes of the memory of so many nodes.
  static func byteCount(capacity: UInt32) -> Int {
    capacity.int &* (8 &+ MemoryLayout<ObjectCache>.stride) &+ SizeClass.count &* 16
  }

  /// An empty depot in zero memory of that size.
  init(capacity: UInt32, mostOfClass: Int, memory: UnsafeMutableRawPointer) {
    self.mostOfClass = mostOfClass
    // SAFETY: the caller gives the memory for good; zero bytes are valid words, stacks, counts and lists.
    nodes = DepotNodes(capacity: capacity, links: memory.bindMemory(to: LiveWord.self, capacity: capacity.int))
    var place = memory + capacity.int &* 8
    full = place.bindMemory(to: TaggedStack<LiveWord>.self, capacity: SizeClass.count)
    place += SizeClass.count &* 8
    counts = place.bindMemory(to: Atomic<Int>.self, capacity: SizeClass.count)
    place += SizeClass.count &* 8
    lists = place.bindMemory(to: ObjectCache.self, capacity: capacity.int)
  }

  /// Puts a list in; false if there is no room.
  func put(_ list: ObjectCache, _ sizeClass: Int) -> Bool {
    guard counts[sizeClass].load(ordering: .relaxed) < mostOfClass, let node = nodes.take() else { return false }
    lists[node.int] = list
    counts[sizeClass].add(1, ordering: .relaxed)
    full[sizeClass].push(node, nodes.links)
    return true
  }

  /// Takes a list out; nil if there is none of that class.
  func take(_ sizeClass: Int) -> ObjectCache? {
    guard let node = full[sizeClass].pop(nodes.links) else { return nil }
    counts[sizeClass].subtract(1, ordering: .relaxed)
    let list = lists[node.int]
    nodes.give(node)
    return list
  }
}
