// FlowTable: the classifier's table of flows, searched under RCU, without a lock, while flows come and go and the table grows.
//
// An entry is a key and a flow, of which it has a reference; its memory and that reference are given up after a grace period. Whoever finds a flow
// may use it until its reader's section ends, or takes a reference within. Writers take `lock`, under which nothing else is
// taken. The hash is SipHash with the boot's key.
//
// SAFETY of all: owners in the table are addresses of entries, whose memory is freed a grace period after they were taken out; an
// entry's flow is kept by the reference that the entry has.
import Base
import Devices
import Locks
import Pages
import Threads

/// Keys to flows.
public final class FlowTable {
  private struct Entry: ~Copyable {
    var node: RCUTableNode<LiveWord>
    var key: FlowKey
    let flow: Unmanaged<Flow>
    /// It is between two addresses of this machine: no packet for it comes by a wire.
    let isInternal: Bool
    var call = RCU.Call()
  }

  private struct OldBuckets: ~Copyable {
    var call = RCU.Call()
    let memory: UnsafeMutablePointer<LiveWord>
    let table: Unmanaged<FlowTable>
  }

  private static var firstSize: Int { 64 }

  private let table: RCUTable
  private let key: SipKey
  private let lock = Mutex()

  /// An empty table.
  public init(key: SipKey) {
    self.key = key
    guard let memory = Self.buckets(Self.firstSize) else { fatalError("no memory for the table of flows") }
    table = RCUTable(memory, size: Self.firstSize)
  }

  private static func buckets(_ size: Int) -> UnsafeMutablePointer<LiveWord>? {
    let count = RCUTable.wordCount(size: size)
    return KernelHeap.allocate(byteCount: count &* MemoryLayout<LiveWord>.stride, alignment: 16)?
      .bindMemory(to: LiveWord.self, capacity: count)
  }

  /// How many keys there are.
  public var count: Int { table.count }

  /// The hash by which a key is found.
  @inline(__always) public func hash(_ key: FlowKey) -> UInt64 { key.hash(self.key) }

  // MARK: Finding

  @inline(__always) private static func at(_ word: UInt) -> UnsafeMutablePointer<Entry> {
    UnsafeMutablePointer(bitPattern: word).unsafelyUnwrapped
  }

  /// A flow that was found, and whether it is between two addresses of this machine.
  struct Found {
    let flow: Unmanaged<Flow>
    let isInternal: Bool
  }

  /// The flow of a key with that hash. Only in `RCU.read`, until whose end the flow is there.
  @inline(__always) func find(_ key: FlowKey, hash: UInt64) -> Found? {
    guard let word = table.find(hash.uint, where: { Self.at($0).pointee.key == key }) else { return nil }
    return Found(flow: Self.at(word).pointee.flow, isInternal: Self.at(word).pointee.isInternal)
  }

  /// The flow of a key. Only in `RCU.read`, until whose end the flow is there; retain it there to keep it.
  @inline(__always) public func find(_ key: FlowKey) -> Unmanaged<Flow>? { find(key, hash: hash(key))?.flow }

  /// The flow of a key. Anywhere.
  public func findRetained(_ key: FlowKey) -> Flow? { RCU.read { find(key)?.takeUnretainedValue() } }

  // MARK: Changing

  /// Enters a flow under a key; it may have several.
  /// - Parameter isInternal: both ends are addresses of this machine: packets for it are taken from loopback alone.
  /// - Throws: EADDRINUSE: there is a flow with this key; ENOMEM.
  public func insert(_ key: FlowKey, _ flow: Flow, isInternal: Bool = false) throws(Errno) {
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Entry>.size, alignment: 16) else { throw .ENOMEM }
    let hash = hash(key).uint
    lock.lock()
    if table.find(hash, where: { Self.at($0).pointee.key == key }) != nil {
      lock.unlock()
      KernelHeap.free(memory)
      throw .EADDRINUSE
    }
    let entry = memory.bindMemory(to: Entry.self, capacity: 1)
    entry.initialize(
      to: Entry(
        node: RCUTableNode(hash: hash, owner: UInt(bitPattern: memory)), key: key,
        flow: Unmanaged.passRetained(flow), isInternal: isInternal))
    table.insert(Self.node(entry))
    growIfWanted()
    lock.unlock()
  }

  /// Takes a flow's key out. Afterwards readers that are under way may still find the flow, until a grace period has passed.
  /// - Returns: false if the key was not there, or was another's.
  @discardableResult public func remove(_ key: FlowKey, _ flow: Flow) -> Bool {
    let hash = hash(key).uint
    let wanted = Unmanaged.passUnretained(flow).toOpaque()
    lock.lock()
    let word = table.find(hash) { Self.at($0).pointee.key == key && Self.at($0).pointee.flow.toOpaque() == wanted }
    if let word { table.remove(Self.node(Self.at(word))) }
    lock.unlock()
    guard let word else { return false }
    let entry = Self.at(word)
    RCU.later(
      withUnsafeMutablePointer(to: &entry.pointee.call) { $0 },
      { context in
        let entry = context.unsafelyUnwrapped.assumingMemoryBound(to: Entry.self)
        entry.pointee.flow.release()
        entry.deinitialize(count: 1)
        KernelHeap.free(entry)
      }, entry)
    return true
  }

  /// Gives the body every key with its flow; the body must neither sleep nor change the table. Those that come or go meanwhile may be missing.
  public func forEach(_ body: (FlowKey, Flow) -> Void) {
    RCU.read {
      table.forEach { word in
        Self.at(word).pointee.flow._withUnsafeGuaranteedRef { body(Self.at(word).pointee.key, $0) }
      }
    }
  }

  @inline(__always)
  private static func node(_ entry: UnsafeMutablePointer<Entry>) -> UnsafeMutablePointer<RCUTableNode<LiveWord>> {
    withUnsafeMutablePointer(to: &entry.pointee.node) { $0 }
  }

  /// With the lock. A table that cannot grow for lack of memory is only slower.
  private func growIfWanted() {
    guard let size = table.wantedSize,
      let record = KernelHeap.allocate(byteCount: MemoryLayout<OldBuckets>.size, alignment: 16)
    else { return }
    guard let memory = Self.buckets(size) else {
      KernelHeap.free(record)
      return
    }
    let old = record.bindMemory(to: OldBuckets.self, capacity: 1)
    old.initialize(to: OldBuckets(memory: table.grow(memory, size: size), table: Unmanaged.passRetained(self)))
    RCU.later(
      withUnsafeMutablePointer(to: &old.pointee.call) { $0 },
      { context in
        let old = context.unsafelyUnwrapped.assumingMemoryBound(to: OldBuckets.self)
        KernelHeap.free(old.pointee.memory)
        old.pointee.table._withUnsafeGuaranteedRef { $0.table.hasGrown() }
        old.pointee.table.release()
        old.deinitialize(count: 1)
        KernelHeap.free(old)
      }, old)
  }
}
