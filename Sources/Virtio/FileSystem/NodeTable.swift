// The nodes that the guest knows: what they are called, what they are, and how often they were looked up.
//
// A node is (parent, name, device, inode, birth time). It holds no descriptor: whoever needs one opens the path beneath the
// root and compares the identity, so a tree of any size costs 56 bytes and its name a node and nothing else. A node lives while the guest
// has lookups of it or while it is the parent of a living node. Its id is its place in the table and a generation, so an id that was
// freed never means another file (30 bits of generation: the descriptor cache packs it). All access is under the server's lock.
import CSystemCalls
import Glibc

/// One node. The name is allocated by malloc and owned by the table.
struct NodeRecord {
  var inode: UInt64 = 0
  var birth: Int64 = 0
  /// Lookups that the guest has not given back.
  var lookups: UInt64 = 0
  var name: UnsafeMutablePointer<UInt8>?
  /// Place of the parent; the root's is itself.
  var parent: UInt32 = 0
  /// Nodes whose parent this is.
  var children: UInt32 = 0
  var generation: UInt32 = 0
  /// Next in the bucket of the same hash, or in the list of free places.
  var next: UInt32 = NodeTable.none
  /// Index into `devices`.
  var device: UInt16 = 0
  /// Type bits of the mode, divided by 4096; 0 while free.
  var type: UInt8 = 0
  var nameLength: UInt8 = 0
}

/// The table.
struct NodeTable: ~Copyable {
  static let none = UInt32.max
  static let root: UInt32 = 0

  private var records: [NodeRecord] = []
  private var buckets: [UInt32]
  private var free = NodeTable.none
  private(set) var devices: [UInt64] = []
  private let limit: Int
  /// Living nodes, the root included.
  private(set) var count = 0
  /// Ids of nodes that have been freed: whoever keeps descriptors for them takes them from here.
  private var freed: [UInt64] = []

  /// A table with the root only. `limit`: most nodes at a time.
  init(root: osv_attributes, limit: Int) {
    self.limit = limit
    buckets = [UInt32](repeating: NodeTable.none, count: 1024)
    devices.append(root.device)
    var record = NodeRecord()
    record.inode = root.inode
    record.birth = FileIdentity(root).birth
    record.type = UInt8(truncatingIfNeeded: root.type >> 12)
    records.append(record)
    count = 1
    link(0)
  }

  deinit {
    for record in records { Glibc.free(record.name) }
  }

  /// The id under which the guest knows a node.
  func id(of place: UInt32) -> UInt64 { UInt64(records[Int(place)].generation) << 32 | (UInt64(place) + 1) }

  /// The place of a node that the guest names.
  func place(of id: UInt64) throws(HostError) -> UInt32 {
    let place = (id & 0xffff_ffff) &- 1
    guard place < UInt64(records.count) else { throw .noEntry }
    let record = records[Int(place)]
    guard record.type != 0, record.generation == UInt32(truncatingIfNeeded: id >> 32) else { throw .stale }
    return UInt32(truncatingIfNeeded: place)
  }

  /// Where the node is found: its parent, and whether it is a directory.
  func parent(of place: UInt32) -> UInt32 { records[Int(place)].parent }
  func isDirectory(_ place: UInt32) -> Bool { records[Int(place)].type == UInt8(S_IFDIR >> 12) }

  /// What the node must be when its name is looked up again.
  func identity(of place: UInt32) -> FileIdentity {
    let record = records[Int(place)]
    return FileIdentity(device: devices[Int(record.device)], inode: record.inode, birth: record.birth)
  }

  /// The node's name, NUL-terminated.
  func name(of place: UInt32) -> [UInt8] {
    let record = records[Int(place)]
    var name = [UInt8](UnsafeBufferPointer(start: record.name, count: Int(record.nameLength)))
    name.append(0)
    return name
  }

  /// The path beneath the root in pieces that openat2 takes (below 4,000 bytes each, NUL-terminated), first to last.
  func path(of place: UInt32) -> [[UInt8]] {
    var chain: [UInt32] = []
    var walk = place
    while walk != NodeTable.root {
      chain.append(walk)
      walk = records[Int(walk)].parent
    }
    var pieces: [[UInt8]] = []
    var piece: [UInt8] = []
    for node in chain.reversed() {
      let record = records[Int(node)]
      if piece.count + Int(record.nameLength) + 2 > 4000 {
        piece.append(0)
        pieces.append(piece)
        piece = []
      }
      if !piece.isEmpty { piece.append(0x2f) }
      piece.append(contentsOf: UnsafeBufferPointer(start: record.name, count: Int(record.nameLength)))
    }
    piece.append(0)
    pieces.append(piece)
    return pieces
  }

  /// Counts a lookup of what `name` in `parent` turned out to be, and gives its place.
  ///
  /// A file that is known under another name or parent (moved, or a hard link) keeps its node and takes the newer name.
  mutating func enter(_ attributes: osv_attributes, name: UnsafeBufferPointer<UInt8>, parent: UInt32)
    throws(HostError) -> UInt32
  {
    let identity = FileIdentity(attributes)
    let device = try deviceIndex(identity.device)
    let known = find(identity, device: device)
    if known == NodeTable.root { throw HostError(code: ELOOP) }  // The root, mounted again beneath itself.
    if known != NodeTable.none {
      let type = UInt8(truncatingIfNeeded: attributes.type >> 12)
      guard records[Int(known)].type == type else { throw .stale }
      rename(known, to: name, parent: parent)
      records[Int(known)].lookups &+= 1
      return known
    }
    let place = try allocate()
    records[Int(place)].inode = identity.inode
    records[Int(place)].birth = identity.birth
    records[Int(place)].device = device
    records[Int(place)].type = UInt8(truncatingIfNeeded: attributes.type >> 12)
    records[Int(place)].lookups = 1
    records[Int(place)].parent = parent
    setName(place, name)
    records[Int(parent)].children += 1
    link(place)
    count += 1
    return place
  }

  /// The place of a file, if the guest knows it.
  func known(_ attributes: osv_attributes) -> UInt32? {
    let identity = FileIdentity(attributes)
    guard let device = devices.firstIndex(of: identity.device) else { return nil }
    let place = find(identity, device: UInt16(truncatingIfNeeded: device))
    return place == NodeTable.none ? nil : place
  }

  /// Whether a node's place in the tree is that of `name` (NUL-terminated) in `parent`.
  func isAt(_ place: UInt32, _ name: [UInt8], parent: UInt32) -> Bool {
    let record = records[Int(place)]
    guard place != NodeTable.root, record.parent == parent, Int(record.nameLength) == name.count - 1 else {
      return false
    }
    return memcmp(record.name!, name, name.count - 1) == 0
  }

  /// Follows a file to another name (NUL-terminated), if the guest knows it.
  mutating func moved(_ attributes: osv_attributes, to name: [UInt8], parent: UInt32) {
    guard let place = known(attributes), place != NodeTable.root else { return }
    name.withUnsafeBufferPointer { rename(place, to: UnsafeBufferPointer(rebasing: $0.dropLast()), parent: parent) }
  }

  /// Ids that were freed since the last call.
  mutating func takeFreed() -> [UInt64] {
    guard !freed.isEmpty else { return [] }
    defer { freed.removeAll(keepingCapacity: true) }
    return freed
  }

  /// Gives lookups back; more than there were are as good as all. The root stays.
  mutating func forget(_ id: UInt64, count: UInt64) {
    guard let place = try? place(of: id), place != NodeTable.root else { return }
    let lookups = records[Int(place)].lookups
    records[Int(place)].lookups = lookups > count ? lookups - count : 0
    release(place)
  }

  /// The index of a device of the host, a new one where it was not seen before.
  mutating func deviceIndex(_ device: UInt64) throws(HostError) -> UInt16 {
    for (index, known) in devices.enumerated() where known == device { return UInt16(truncatingIfNeeded: index) }
    guard devices.count < 0x7fff else { throw HostError(code: ENFILE) }
    devices.append(device)
    return UInt16(truncatingIfNeeded: devices.count - 1)
  }

  /// Frees a node that nobody needs, and then its parents as far as that holds.
  private mutating func release(_ start: UInt32) {
    var place = start
    while place != NodeTable.root, records[Int(place)].lookups == 0, records[Int(place)].children == 0 {
      let parent = records[Int(place)].parent
      freed.append(id(of: place))
      unlink(place)
      Glibc.free(records[Int(place)].name)
      let generation = records[Int(place)].generation
      records[Int(place)] = NodeRecord()
      // A place whose generations are used up is never used again.
      if generation < 0x3fff_ffff {
        records[Int(place)].generation = generation + 1
        records[Int(place)].next = free
        free = place
      }
      count -= 1
      records[Int(parent)].children -= 1
      place = parent
    }
  }

  private mutating func rename(_ place: UInt32, to name: UnsafeBufferPointer<UInt8>, parent: UInt32) {
    let record = records[Int(place)]
    let same = record.parent == parent && record.nameLength == UInt8(truncatingIfNeeded: name.count)
    if same, name.count == 0 || memcmp(record.name!, name.baseAddress!, name.count) == 0 { return }
    // Names may be older than the directories they were seen in: never let a node become its own ancestor. Its
    // stale name then stays, and whoever uses it is told ESTALE.
    var walk = parent
    while walk != NodeTable.root {
      if walk == place { return }
      walk = records[Int(walk)].parent
    }
    setName(place, name)
    if record.parent != parent {
      records[Int(parent)].children += 1
      records[Int(place)].parent = parent
      records[Int(record.parent)].children -= 1
      release(record.parent)
    }
  }

  private mutating func setName(_ place: UInt32, _ name: UnsafeBufferPointer<UInt8>) {
    // SAFETY: the record owns the block; a name has at most 255 bytes (HostName, or the host's own directory).
    let block = malloc(max(name.count, 1))!.assumingMemoryBound(to: UInt8.self)
    if name.count > 0 { memcpy(block, name.baseAddress!, name.count) }
    Glibc.free(records[Int(place)].name)
    records[Int(place)].name = block
    records[Int(place)].nameLength = UInt8(truncatingIfNeeded: name.count)
  }

  private mutating func allocate() throws(HostError) -> UInt32 {
    guard count < limit else { throw HostError(code: ENFILE) }
    if free != NodeTable.none {
      let place = free
      free = records[Int(place)].next
      return place
    }
    guard records.count < limit else { throw HostError(code: ENFILE) }
    records.append(NodeRecord())
    if records.count > buckets.count { grow() }
    return UInt32(truncatingIfNeeded: records.count - 1)
  }

  // MARK: The index by identity: buckets of chains through `next`.

  private func bucket(_ inode: UInt64, _ device: UInt16) -> Int {
    let mixed = (inode ^ UInt64(device) << 48) &* 0x9e37_79b9_7f4a_7c15
    return Int(truncatingIfNeeded: mixed >> 32) & (buckets.count - 1)
  }

  private func find(_ identity: FileIdentity, device: UInt16) -> UInt32 {
    var place = buckets[bucket(identity.inode, device)]
    while place != NodeTable.none {
      let record = records[Int(place)]
      if record.inode == identity.inode, record.device == device, record.birth == identity.birth { return place }
      place = record.next
    }
    return NodeTable.none
  }

  private mutating func link(_ place: UInt32) {
    let bucket = bucket(records[Int(place)].inode, records[Int(place)].device)
    records[Int(place)].next = buckets[bucket]
    buckets[bucket] = place
  }

  private mutating func unlink(_ place: UInt32) {
    let bucket = bucket(records[Int(place)].inode, records[Int(place)].device)
    if buckets[bucket] == place {
      buckets[bucket] = records[Int(place)].next
      return
    }
    var walk = buckets[bucket]
    while walk != NodeTable.none {
      let next = records[Int(walk)].next
      if next == place {
        records[Int(walk)].next = records[Int(place)].next
        return
      }
      walk = next
    }
  }

  private mutating func grow() {
    buckets = [UInt32](repeating: NodeTable.none, count: buckets.count * 2)
    for place in records.indices where records[place].type != 0 { link(UInt32(truncatingIfNeeded: place)) }
  }
}
