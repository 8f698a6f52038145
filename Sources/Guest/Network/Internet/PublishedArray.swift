// PublishedArray: a short array that is read without a lock while it is replaced as a whole.
//
// Readers go through the array that was published last, under RCU. Writers come one at a time (the caller's lock sees to that) and publish a new
// one; the old one is freed after a grace period.
//
// SAFETY of all: the pointer is nil or leads to a block made by `replace`: a header, and behind it as many elements as it says, which
// are trivial and not changed once published.
import Base
import Locks
import Pages
import Threads

/// An array of trivial elements, for many readers.
struct PublishedArray<Element: BitwiseCopyable>: ~Copyable {
  private struct Header: ~Copyable {
    var call = RCU.Call()
    let count: Int
    init(count: Int) { self.count = count }
  }

  private let pointer = RCUPointer<Header>(nil)

  /// An empty array.
  init() {}

  deinit { if let old = pointer.load() { KernelHeap.free(old) } }

  private static var elementsOffset: Int {
    MemoryLayout<Header>.size.alignedUp(to: max(MemoryLayout<Element>.alignment, 16))
  }

  @inline(__always) private static func elements(_ header: UnsafeMutablePointer<Header>) -> UnsafePointer<Element> {
    UnsafePointer((UnsafeMutableRawPointer(header) + elementsOffset).assumingMemoryBound(to: Element.self))
  }

  /// Gives the body the elements, as a reader under RCU: it must not sleep.
  @inline(__always) func read<R>(_ body: (UnsafeBufferPointer<Element>) -> R) -> R {
    RCU.read { body(current) }
  }

  /// The elements as they are now. Within a reader's section, or for the writer.
  @inline(__always) var current: UnsafeBufferPointer<Element> {
    guard let header = pointer.load() else { return UnsafeBufferPointer(start: nil, count: 0) }
    return UnsafeBufferPointer(start: Self.elements(header), count: header.pointee.count)
  }

  /// A copy, for whom allocation may not fail.
  var copy: [Element] {
    // What is copied under RCU must not allocate much there: the count may change in between.
    var result: [Element] = []
    var wanted = read { $0.count }
    while true {
      result.reserveCapacity(wanted)
      let count = read { elements -> Int in
        if elements.count <= result.capacity { for element in elements { result.append(element) } }
        return elements.count
      }
      if result.count == count { return result }
      wanted = count
      result.removeAll(keepingCapacity: true)
    }
  }

  /// Publishes other elements. A writer.
  /// - Throws: ENOMEM.
  func replace(_ elements: [Element]) throws(Errno) {
    var fresh: UnsafeMutablePointer<Header>?
    if !elements.isEmpty {
      let byteCount = Self.elementsOffset &+ elements.count &* MemoryLayout<Element>.stride
      guard let memory = KernelHeap.allocate(byteCount: byteCount) else { throw .ENOMEM }
      let header = memory.bindMemory(to: Header.self, capacity: 1)
      header.initialize(to: Header(count: elements.count))
      let place = (memory + Self.elementsOffset).bindMemory(to: Element.self, capacity: elements.count)
      for index in 0..<elements.count { (place + index).initialize(to: elements[index]) }
      fresh = header
    }
    guard let old = pointer.replace(fresh) else { return }
    RCU.later(
      withUnsafeMutablePointer(to: &old.pointee.call) { $0 }, { KernelHeap.free($0.unsafelyUnwrapped) }, old)
  }
}
