// Files and directories that the guest holds open by handle: a bounded table. A handle is a place and a generation, so that
// a closed one never means another file. All access is under the server's lock.
import Glibc

/// The table.
struct HandleTable {
  /// One open file.
  struct Handle {
    let node: UInt64
    let descriptor: OpenDescriptor
    let isDirectory: Bool
    let generation: UInt32
  }

  private var handles: [Handle?] = []
  private var free: [Int] = []
  private var generation: UInt32 = 0
  private let limit: Int
  /// Open handles.
  private(set) var count = 0

  init(limit: Int) { self.limit = limit }

  /// Registers an open file; its handle is never 0.
  mutating func insert(_ node: UInt64, _ descriptor: OpenDescriptor, isDirectory: Bool) throws(HostError) -> UInt64 {
    guard count < limit else { throw HostError(code: ENFILE) }
    generation = generation == UInt32.max ? 1 : generation + 1
    let handle = Handle(node: node, descriptor: descriptor, isDirectory: isDirectory, generation: generation)
    count += 1
    if let place = free.popLast() {
      handles[place] = handle
      return UInt64(generation) << 32 | UInt64(place)
    }
    handles.append(handle)
    return UInt64(generation) << 32 | UInt64(handles.count - 1)
  }

  /// The open file of a handle, which must be of this node.
  func find(_ handle: UInt64, node: UInt64) throws(HostError) -> Handle {
    let place = Int(handle & 0xffff_ffff)
    guard place < handles.count, let found = handles[place], UInt64(found.generation) == handle >> 32,
      found.node == node
    else { throw HostError(code: EBADF) }
    return found
  }

  /// Closes a handle.
  mutating func remove(_ handle: UInt64, node: UInt64) throws(HostError) {
    _ = try find(handle, node: node)
    handles[Int(handle & 0xffff_ffff)] = nil
    free.append(Int(handle & 0xffff_ffff))
    count -= 1
  }
}
