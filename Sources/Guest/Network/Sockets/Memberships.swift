// The groups that a socket has joined, with the sources that it wants or does not want to hear (RFC 3376, RFC 3810).
//
// Not synchronised: guarded by the socket's lock. The nodes lie in the kernel heap.
import Base
import Pages

/// Groups of a socket.
struct Memberships: ~Copyable {
  private struct Node {
    var next: UnsafeMutablePointer<Node>?
    let group: IPAddress
    let interfaceIndex: UInt32
    /// The sources are those not to be heard; else the only ones.
    var excludes: Bool
    var sourceCount: Int
    var sources: [10 of IPAddress] = .init(repeating: .any6)

    func has(_ source: IPAddress) -> Int? {
      for index in 0..<sourceCount where sources[index] == source { return index }
      return nil
    }
  }

  /// igmp_max_memberships.
  private static var maximumCount: Int { 20 }
  /// igmp_max_msf.
  private static var maximumSources: Int { 10 }

  private var first: UnsafeMutablePointer<Node>?
  private var count = 0
  /// Some name sources.
  private(set) var hasSources = false

  init() {}

  deinit {
    var next = first
    while let node = next {
      next = node.pointee.next
      KernelHeap.free(node)
    }
  }

  private func find(_ group: IPAddress, _ interfaceIndex: UInt32) -> UnsafeMutablePointer<Node>? {
    var next = first
    while let node = next {
      if node.pointee.group == group, interfaceIndex == 0 || node.pointee.interfaceIndex == interfaceIndex {
        return node
      }
      next = node.pointee.next
    }
    return nil
  }

  /// Adds a group.
  /// - Throws: EADDRINUSE: it is there; ENOBUFS, ENOMEM.
  mutating func join(_ group: IPAddress, _ interfaceIndex: UInt32, only source: IPAddress? = nil) throws(Errno) {
    guard find(group, interfaceIndex) == nil else { throw .EADDRINUSE }
    guard !group.isV4 || count < Self.maximumCount else { throw .ENOBUFS }
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Node>.size) else { throw .ENOMEM }
    // SAFETY: fresh memory of that size, freed when the node is taken out.
    let node = memory.bindMemory(to: Node.self, capacity: 1)
    node.initialize(
      to: Node(next: first, group: group, interfaceIndex: interfaceIndex, excludes: source == nil, sourceCount: 0))
    if let source {
      node.pointee.sources[0] = source
      node.pointee.sourceCount = 1
      hasSources = true
    }
    first = node
    count &+= 1
  }

  /// Takes a group out.
  /// - Returns: the interface it was joined on; nil: it is not there.
  mutating func leave(_ group: IPAddress, _ interfaceIndex: UInt32) -> UInt32? {
    guard let wanted = find(group, interfaceIndex) else { return nil }
    let result = wanted.pointee.interfaceIndex
    if first == wanted {
      first = wanted.pointee.next
    } else {
      var before = first
      while let node = before, node.pointee.next != wanted { before = node.pointee.next }
      before?.pointee.next = wanted.pointee.next
    }
    KernelHeap.free(wanted)
    count &-= 1
    return result
  }

  /// Takes any group out.
  mutating func leaveAny() -> (group: IPAddress, interfaceIndex: UInt32)? {
    guard let node = first else { return nil }
    let result = (node.pointee.group, node.pointee.interfaceIndex)
    _ = leave(result.0, result.1)
    return result
  }

  /// Adds or removes a source that is not to be heard of a group that is heard from all others (`excludes`), or one that is of a group that is heard
  /// from few.
  /// - Throws: EINVAL: the group is heard the other way, or is not there; EADDRNOTAVAIL: the source is there already, or is not; ENOBUFS.
  mutating func change(
    _ group: IPAddress, _ interfaceIndex: UInt32, source: IPAddress, excludes: Bool, adds: Bool
  ) throws(Errno) {
    guard let node = find(group, interfaceIndex) else { throw .EINVAL }
    if node.pointee.excludes != excludes {
      // Nothing has been said about sources yet: now it is.
      guard node.pointee.sourceCount == 0, excludes == false, adds else { throw .EINVAL }
      node.pointee.excludes = false
    }
    let index = node.pointee.has(source)
    if adds {
      guard index == nil else { throw .EADDRNOTAVAIL }
      guard node.pointee.sourceCount < Self.maximumSources else { throw .ENOBUFS }
      node.pointee.sources[node.pointee.sourceCount] = source
      node.pointee.sourceCount &+= 1
      hasSources = true
    } else {
      guard let index else { throw .EADDRNOTAVAIL }
      node.pointee.sourceCount &-= 1
      node.pointee.sources[index] = node.pointee.sources[node.pointee.sourceCount]
    }
  }

  /// Whether the only source of a group that is heard from few has gone.
  func isSilent(_ group: IPAddress, _ interfaceIndex: UInt32) -> Bool {
    guard let node = find(group, interfaceIndex) else { return false }
    return !node.pointee.excludes && node.pointee.sourceCount == 0
  }

  /// Whether it is there.
  func contains(_ group: IPAddress, _ interfaceIndex: UInt32) -> Bool { find(group, interfaceIndex) != nil }

  /// Whether a packet to a group is wanted.
  /// - Parameter takesAll: what is said of groups that the socket has not joined.
  func accepts(_ group: IPAddress, _ interfaceIndex: UInt32, from source: IPAddress, takesAll: Bool) -> Bool {
    guard let node = find(group, interfaceIndex) else { return takesAll }
    return (node.pointee.has(source) != nil) != node.pointee.excludes
  }
}
