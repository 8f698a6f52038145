// The rewritten sites of one mapping. One thread at a time adds to it; anybody reads it at any moment without a lock,
// because a site that has been added is never changed, moved or removed.
import Base
import Pages
import Synchronization

/// Sites in the order in which they were found.
struct SiteTable: ~Copyable {
  private static let chunkCapacity = 32
  private var chunks: [32 of UnsafeMutablePointer<RewrittenSite>?] = .init(repeating: nil)
  private let published = Atomic<Int>(0)

  init() {}

  deinit {
    for index in 0..<32 { if let chunk = chunks[index] { KernelHeap.free(UnsafeMutableRawPointer(chunk)) } }
  }

  /// How many sites there are.
  var count: Int { published.load(ordering: .acquiring) }

  /// A site that is there.
  subscript(index: Int) -> RewrittenSite {
    chunks[index / Self.chunkCapacity].unsafelyUnwrapped[index % Self.chunkCapacity]
  }

  /// Adds a site; false if the table is full or memory is out.
  mutating func add(_ site: RewrittenSite) -> Bool {
    let index = count
    let number = index / Self.chunkCapacity
    guard number < 32 else { return false }
    if chunks[number] == nil {
      guard let memory = KernelHeap.allocate(byteCount: Self.chunkCapacity &* MemoryLayout<RewrittenSite>.stride) else {
        return false
      }
      chunks[number] = memory.bindMemory(to: RewrittenSite.self, capacity: Self.chunkCapacity)
    }
    // SAFETY: the chunk has room for `chunkCapacity` sites, and readers do not look beyond `published`.
    (chunks[number].unsafelyUnwrapped + index % Self.chunkCapacity).initialize(to: site)
    published.store(index &+ 1, ordering: .releasing)
    return true
  }
}
