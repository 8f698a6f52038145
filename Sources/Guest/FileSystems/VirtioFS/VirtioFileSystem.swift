// virtio-fs in the guest: a mounted directory of the host.
//
// The file system owns the table of nodes: one `VirtioNode` for each node of the server that the guest knows, with the number of
// lookups it owes. A node that nobody else refers to may leave the table when there are too many; the server then gets its lookups
// back, many nodes to a message. `lock` guards the table, the lookup counts and the cached attributes; nothing sleeps under it.
//
// SAFETY of all: the spare buffer is `bufferByteCount` bytes and belongs to whoever has taken it out under `lock`, one at a
// time. A bucket's list is unwrapped only where it was not nil.
import Base
import Files
import Locks
import Pages
import Platform
import Synchronization
import Threads
import VirtioABI

/// When a request was sent: what its answer says may be older than a change that was made since.
struct RequestTime {
  /// ns of the file system's clock.
  let time: UInt64
  /// How many changes of ours were over.
  let stamp: UInt64
}

/// A mounted directory of the host.
public final class VirtioFileSystem: FileSystem {
  /// Its requests.
  public let client: FUSEClient
  /// Time, ns; passed in by tests.
  let clock: () -> UInt64
  let lock = Mutex()
  /// The buckets of the table, a power of two of segments, so that growing needs no long run of memory.
  private var segments: [[VirtioNode?]]
  private var hand = 0
  /// Nodes that have ever come into the table.
  private var births: UInt32 = 0
  /// Nodes in the table.
  public private(set) var nodeCount = 0
  /// More nodes than this are not kept without need.
  public let nodeLimit: Int
  private var owed: [FUSEForgetOne] = []
  /// Handles that nobody uses any more.
  private var owedHandles: [OwedHandle] = []
  /// Changes of ours that are over.
  private let changes = Atomic<UInt64>(0)
  /// Whom files belong to that the server makes: what their owner may do, it may.
  let serverUser = Atomic<UInt64>(.max)
  let dirty = DirtyNodes()
  /// Nodes whose contents wait: at most this many, a ring.
  private var waitingNodes = [UInt64](repeating: 0, count: 64)
  private var waitingNext = 0
  private var spareBuffer: UnsafeMutableRawPointer?
  /// Whether small writes wait for others.
  var delaysWrites = false
  /// How long the server lets us believe attributes, ns; for what has no time of its own.
  private(set) var validity: UInt64 = 0

  /// Bytes of the buffer for directories, links and extended attributes.
  static let bufferByteCount = 65_536

  /// Negotiates with the server and looks at its root.
  /// - Throws: EPROTO for a server we cannot use, EIO, ENOMEM.
  public init(
    transport: any FUSETransport, nodeLimit: Int = 16_384, clock: @escaping () -> UInt64 = { Clock.now() }
  ) throws(Errno) {
    client = FUSEClient(transport: transport)
    self.clock = clock
    self.nodeLimit = nodeLimit
    segments = Self.newSegments(4)
    super.init(kind: "virtiofs", magic: 0x6573_5546)
    owed.reserveCapacity(FUSEClient.forgetLimit)
    try client.initialise()
    let now = ask()
    let root = try client.getattr(FUSE.rootNodeID)
    var entry = FUSEEntryOut()
    entry.nodeID = FUSE.rootNodeID
    entry.attributes = root.attributes
    entry.attributesValid = root.valid
    entry.attributesValidNanoseconds = root.validNanoseconds
    let node = try enter(entry, asked: now)
    guard node.isDirectory else { throw .EIO }
    validity = VirtioFileSystem.expiry(0, root.valid, root.validNanoseconds)
    // With cache=none nothing is believed on either side, for however short a time.
    delaysWrites = client.isWritable && validity > 0
    setRoot(node)
  }

  deinit {
    if let spareBuffer { MessageMemory.free(spareBuffer) }
  }

  public override func statistics() throws(Errno) -> FileSystemStatistics {
    let answer = try client.statfs(FUSE.rootNodeID)
    var result = FileSystemStatistics()
    result.blockByteCount = max(answer.fragmentSize, 1).u64
    result.blockCount = answer.blocks
    result.freeBlockCount = answer.blocksFree
    result.availableBlockCount = answer.blocksAvailable
    result.fileCount = answer.files
    result.freeFileCount = answer.filesFree
    result.maximumNameByteCount = min(answer.nameMax, FUSE.nameMax.u32).u64
    return result
  }

  // MARK: Changes of ours

  /// The time of a request that is about to be sent.
  func ask() -> RequestTime { RequestTime(time: clock(), stamp: changes.load(ordering: .acquiring)) }

  /// A change is over: the number by which answers to older requests are known.
  func changeEnded() -> UInt64 { changes.add(1, ordering: .acquiringAndReleasing).newValue }

  // MARK: The table of nodes

  private static var segmentShift: Int { 8 }
  private var bucketCount: Int { segments.count &<< Self.segmentShift }

  /// Segments of empty buckets, each with memory of its own.
  private static func newSegments(_ count: Int) -> [[VirtioNode?]] {
    var segments: [[VirtioNode?]] = []
    segments.reserveCapacity(count)
    for _ in 0..<count { segments.append([VirtioNode?](repeating: nil, count: 1 &<< segmentShift)) }
    return segments
  }

  private subscript(place: Int) -> VirtioNode? {
    get { segments[place &>> Self.segmentShift][place & (1 &<< Self.segmentShift &- 1)] }
    set { segments[place &>> Self.segmentShift][place & (1 &<< Self.segmentShift &- 1)] = newValue }
  }

  private func bucket(_ node: UInt64) -> Int {
    ((node &* 0x9e37_79b9_7f4a_7c15) &>> 32).int & (bucketCount &- 1)
  }

  /// The node of a number, if it is in the table.
  func find(_ node: UInt64) -> VirtioNode? {
    lock.withLock { findLocked(node) }
  }

  /// The same, if it is the one that was born so.
  func find(_ node: UInt64, birth: UInt32) -> VirtioNode? {
    guard let found = find(node), found.birth == birth else { return nil }
    return found
  }

  private func findLocked(_ node: UInt64) -> VirtioNode? {
    var found = self[bucket(node)]
    while let candidate = found {
      if candidate.node == node {
        candidate.isUsed = true
        return candidate
      }
      found = candidate.hashNext
    }
    return nil
  }

  /// Takes note of an entry that the server has looked up for us: its lookup is counted, its attributes are cached.
  /// - Parameter asked: when the request was sent.
  /// - Throws: EIO for an entry that cannot be.
  func enter(_ entry: FUSEEntryOut, asked: RequestTime) throws(Errno) -> VirtioNode {
    try VirtioFileSystem.check(entry.attributes)
    let type = FileType(mode: entry.attributes.mode)
    let expires = VirtioFileSystem.expiry(asked.time, entry.attributesValid, entry.attributesValidNanoseconds)
    let known = lock.withLock { () -> VirtioNode? in
      if let known = findLocked(entry.nodeID) {
        if known.type == type { known.lookups &+= 1 }
        return known
      }
      return nil
    }
    if let known {
      guard known.type == type else { throw .EIO }
      known.update(entry.attributes, asked: asked, expires: expires)
      return known
    }
    let fresh = VirtioNode(self, entry.nodeID, entry.attributes, expires: expires)
    makeRoom()
    return lock.withLock {
      // Another thread may have been told of the same node meanwhile.
      if let known = findLocked(entry.nodeID) {
        known.lookups &+= 1
        return known
      }
      births &+= 1
      fresh.birth = births
      let place = bucket(entry.nodeID)
      fresh.hashNext = self[place]
      self[place] = fresh
      nodeCount &+= 1
      // Longer chains do while memory is short.
      if nodeCount > bucketCount && Frames.hasRoom { grow() }
      return fresh
    }
  }

  /// What no honest server says about a file.
  static func check(_ attributes: FUSEAttributes) throws(Errno) {
    guard FileType(mode: attributes.mode) != .unknown, attributes.size <= Int64.max.u64 else { throw .EIO }
  }

  /// A time of validity as a time of expiry.
  static func expiry(_ asked: UInt64, _ seconds: UInt64, _ nanoseconds: UInt32) -> UInt64 {
    // 30 years are for ever; the rest cannot overflow.
    let span = min(seconds, 1_000_000_000) &* 1_000_000_000 &+ min(nanoseconds, 999_999_999).u64
    return asked &+ span
  }

  private func grow() {
    let old = bucketCount
    segments += Self.newSegments(segments.count)
    for place in 0..<old {
      var next = self[place]
      self[place] = nil
      while let node = next {
        next = node.hashNext
        let place = bucket(node.node)
        node.hashNext = self[place]
        self[place] = node
      }
    }
  }

  // MARK: Giving nodes back

  /// Lets some nodes go that nobody uses, if there are too many: second chance, a few buckets at a time.
  private func makeRoom() {
    guard nodeCount >= nodeLimit else { return }
    var batch: [FUSEForgetOne] = []
    var handles: [OwedHandle] = []
    lock.lock()
    var looked = 0
    while looked < 256, nodeCount >= nodeLimit {
      looked &+= 1
      hand = (hand &+ 1) & (bucketCount &- 1)
      sweep(hand)
    }
    if owed.count >= FUSEClient.forgetLimit { takeOwed(&batch, &handles, nodesFirst: client.isWritable) }
    lock.unlock()
    send(batch, handles)
  }

  /// Memory is short: names go, and then the nodes that nobody else refers to any more.
  public override func shrink(_ limit: Int) -> Int {
    dirty.hurry()
    let names = super.shrink(limit)
    var batch: [FUSEForgetOne] = []
    var handles: [OwedHandle] = []
    guard lock.tryLock() else { return names }
    let before = nodeCount
    var turns = bucketCount
    while turns > 0, before &- nodeCount < limit, owed.count < FUSEClient.forgetLimit {
      turns &-= 1
      hand = (hand &+ 1) & (bucketCount &- 1)
      sweep(hand)
    }
    let given = before &- nodeCount
    if owed.count >= FUSEClient.forgetLimit { takeOwed(&batch, &handles, nodesFirst: client.isWritable) }
    lock.unlock()
    send(batch, handles)
    return names &+ given
  }

  /// Takes the unused nodes out of one bucket. Under the lock.
  private func sweep(_ place: Int) {
    var kept: VirtioNode?
    var rest = self[place]
    self[place] = nil
    while rest != nil {
      let next = rest.unsafelyUnwrapped.hashNext
      rest.unsafelyUnwrapped.hashNext = nil
      // The only reference is ours: nobody can get another one but from the table, which is locked.
      if isKnownUniquelyReferenced(&rest), let node = rest, !node.isUsed, node.node != FUSE.rootNodeID {
        owe(node)
        nodeCount &-= 1
      } else if let node = rest {
        node.isUsed = false
        node.hashNext = kept
        kept = node
      }
      rest = next
    }
    self[place] = kept
  }

  /// The server is to hear that a node is not needed any more. Under the lock.
  private func owe(_ node: VirtioNode) {
    var one = FUSEForgetOne()
    one.nodeID = node.node
    one.lookupCount = node.lookups
    owed.append(one)
    if node.handle != 0 { owedHandles.append(OwedHandle(node: node.node, handle: node.handle, isDirectory: false)) }
    node.handle = 0
    if let handle = node.readingHandleKept {
      owedHandles.append(OwedHandle(node: node.node, handle: handle, isDirectory: node.isDirectory))
    }
    node.readingHandleKept = nil
  }

  /// Takes what is owed, for it to be sent without the lock. Under the lock.
  /// - Parameter nodesFirst: handles, whose requests are waited for, may stay owed: our own server knows them without their nodes.
  private func takeOwed(_ batch: inout [FUSEForgetOne], _ handles: inout [OwedHandle], nodesFirst: Bool = false) {
    swap(&batch, &owed)
    owed.reserveCapacity(FUSEClient.forgetLimit)
    if nodesFirst { return }
    swap(&handles, &owedHandles)
    if !handles.isEmpty { owedHandles.reserveCapacity(FUSEClient.forgetLimit) }
  }

  /// Takes a node out of the table whose file has no name any more, so that it ends with its last user.
  func orphan(_ node: VirtioNode) {
    lock.lock()
    defer { lock.unlock() }
    let place = bucket(node.node)
    var before: VirtioNode?
    var next = self[place]
    while let current = next {
      next = current.hashNext
      if current === node {
        if let before { before.hashNext = next } else { self[place] = next }
        node.hashNext = nil
        nodeCount &-= 1
        node.isOrphan = true
        return
      }
      before = current
    }
  }

  /// Puts a node back whose file has got a name again.
  func adopt(_ node: VirtioNode) {
    lock.lock()
    defer { lock.unlock() }
    guard node.isOrphan else { return }
    node.isOrphan = false
    let place = bucket(node.node)
    node.hashNext = self[place]
    self[place] = node
    nodeCount &+= 1
  }

  /// The end of an orphan. Any context in which a thread may sleep for a short lock.
  func orphanEnds(_ node: VirtioNode) {
    lock.withLock { owe(node) }
    dirty.wake()
  }

  /// A handle that nobody uses any more.
  func owe(handle: UInt64, of node: UInt64) {
    lock.withLock { owedHandles.append(OwedHandle(node: node, handle: handle, isDirectory: false)) }
    dirty.wake()
  }

  /// Sends what is owed, if it is a good deal, or `always`.
  func settle(always: Bool = false) {
    var batch: [FUSEForgetOne] = []
    var handles: [OwedHandle] = []
    lock.withLock {
      guard always || owed.count >= FUSEClient.forgetLimit / 2 || !owedHandles.isEmpty else { return }
      takeOwed(&batch, &handles)
    }
    send(batch, handles)
  }

  /// The server has no descriptor left for a file without a name: what it keeps for us goes, as far as nobody needs it.
  func giveBackAll() {
    // A node is spared when it was used since the last look.
    for _ in 0..<2 {
      var rest = nodeCount &+ 1
      while rest > 0, shrink(.max) > 0 { rest &-= 1 }
      // Names that were forgotten keep their nodes until no walk can have them.
      RCU.barrier()
      settle(always: true)
    }
  }

  private func send(_ batch: [FUSEForgetOne], _ handles: [OwedHandle]) {
    // Before their nodes: a server may look a handle up by its node.
    for one in handles { client.release(one) }
    batch.withUnsafeBufferPointer { all in
      var start = 0
      while start < all.count {
        let end = min(start &+ FUSEClient.forgetLimit, all.count)
        client.forget(UnsafeBufferPointer(rebasing: all[start..<end]))
        start = end
      }
    }
  }

  /// Writes what is dirty and has the server make everything durable.
  public override func synchronise() throws(Errno) {
    settle(always: true)
    let failure = writeBackDirty()
    if client.isWritable { try client.syncFileSystem() }
    if let failure { throw failure }
  }

  /// Writes what is dirty. The first error is told, the rest is written all the same; so is ESTALE if there ever was something that
  /// could not be written and cannot any more.
  ///
  /// Who still stores meanwhile, in another process perhaps, is not waited for without end.
  public override func writeBack() throws(Errno) {
    var failure: Errno?
    var passes = 0
    repeat {
      passes &+= 1
      failure = writeBackDirty()
      // What others are writing back just now.
      dirty.underWay.writeLock()
      dirty.underWay.writeUnlock()
    } while !dirty.isEmpty && passes < (failure == nil ? VirtioFileSystem.lastPasses : 2)
    if let failure { throw failure }
    if dirty.isLost.load(ordering: .relaxed) { throw .ESTALE }
  }

  /// Passes over the dirty files before the machine ends.
  static let lastPasses = 8

  // MARK: Files read ahead

  /// The directory that a node was listed in, if it is still known.
  func parent(of node: VirtioNode) -> (node: VirtioNode, place: Int)? {
    lock.withLock {
      let (directory, place) = node.listedIn
      guard directory != 0, let parent = findLocked(directory) else { return nil }
      return (parent, place)
    }
  }

  /// Notes where a node was listed.
  func note(_ node: VirtioNode, in directory: VirtioNode, place: Int) {
    lock.withLock { node.listedIn = (directory.node, place) }
  }

  /// Lets contents wait for their file; the file that has waited longest gives its place.
  func keep(_ contents: WaitingContents, for number: UInt64, asked: RequestTime) {
    let oldest = lock.withLock { () -> UInt64 in
      let oldest = waitingNodes[waitingNext]
      waitingNodes[waitingNext] = number
      waitingNext = (waitingNext &+ 1) & (waitingNodes.count &- 1)
      return oldest
    }
    if oldest != 0, oldest != number, let old = find(oldest)?.takeWaiting() { MessageMemory.free(old.buffer) }
    let node = find(number)
    if let surplus = node == nil ? contents : node?.setWaiting(contents, asked: asked) {
      MessageMemory.free(surplus.buffer)
    }
  }

  // MARK: The buffer: one is kept, more are made when several threads need one.

  /// Runs a body with a buffer of `bufferByteCount` bytes.
  /// - Throws: ENOMEM, what the body throws.
  func withBuffer<R>(_ body: (UnsafeMutableRawBufferPointer) throws(Errno) -> R) throws(Errno) -> R {
    let spare = lock.withLock { () -> UnsafeMutableRawPointer? in
      defer { spareBuffer = nil }
      return spareBuffer
    }
    guard let block = spare ?? MessageMemory.allocate(VirtioFileSystem.bufferByteCount) else { throw .ENOMEM }
    defer {
      let surplus = lock.withLock { () -> UnsafeMutableRawPointer? in
        if spareBuffer != nil { return block }
        spareBuffer = block
        return nil
      }
      if let surplus { MessageMemory.free(surplus) }
    }
    return try body(UnsafeMutableRawBufferPointer(start: block, count: VirtioFileSystem.bufferByteCount))
  }
}
