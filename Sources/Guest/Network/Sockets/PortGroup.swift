// PortGroup: sockets that share an address and a port, as one flow to the classifier: SO_REUSEPORT, SO_REUSEADDR of datagrams, sockets that
// are bound to different interfaces.
//
// State. `members`: a block with the members, read under RCU, replaced as a whole by writers, who come one at a time (`lock`). A block
// has a reference of each of its members; block and references are given up a grace period after the block was replaced.
//
// The lock comes after the sockets' and before that of the table of flows.
import Base
import Devices
import Locks
import Pages
import Platform
import Threads

/// Flows with the same key.
final class PortGroup: Flow {
  /// A member, and whether it shares by SO_REUSEPORT.
  private struct Member {
    let flow: Unmanaged<Flow>
    let reusesPort: Bool

    var interfaceIndex: UInt32 { flow._withUnsafeGuaranteedRef { $0.boundInterface.load(ordering: .relaxed) } }
  }

  private struct Block: ~Copyable {
    var call = RCU.Call()
    let count: Int

    static var membersOffset: Int { MemoryLayout<Block>.size.alignedUp(to: 16) }
    static func byteCount(_ count: Int) -> Int { membersOffset &+ count &* MemoryLayout<Member>.stride }
  }
  private typealias BlockPointer = UnsafeMutablePointer<Block>

  private static let lock = Mutex()
  private let members = RCUPointer<Block>(nil)
  /// When somebody has come or gone last, by `Clock.now`.
  let changedAt = Atomic<UInt64>(0)

  private init?() { super.init(ringCapacity: 1, isGroup: true) }

  deinit { if let block = members.load() { Self.free(block) } }

  // SAFETY: blocks are made here with room for their members, all of which are initialised, and are freed once, behind a grace period.
  @inline(__always) private static func members(of block: BlockPointer) -> UnsafeMutablePointer<Member> {
    (UnsafeMutableRawPointer(block) + Block.membersOffset).assumingMemoryBound(to: Member.self)
  }

  private static func makeBlock(_ count: Int) -> BlockPointer? {
    guard let memory = KernelHeap.allocate(byteCount: Block.byteCount(count), alignment: 16) else { return nil }
    let block = memory.bindMemory(to: Block.self, capacity: 1)
    block.initialize(to: Block(count: count))
    return block
  }

  private static func free(_ block: BlockPointer) {
    let members = members(of: block)
    for index in 0..<block.pointee.count { members[index].flow.release() }
    block.deinitialize(count: 1)
    KernelHeap.free(block)
  }

  private func replace(_ block: BlockPointer?) {
    changedAt.store(Clock.now(), ordering: .relaxed)
    guard let old = members.replace(block) else { return }
    RCU.later(
      withUnsafeMutablePointer(to: &old.pointee.call) { $0 },
      { PortGroup.free($0.unsafelyUnwrapped.assumingMemoryBound(to: Block.self)) }, old)
  }

  // MARK: Entering and leaving

  /// Enters a flow under a key, together with others that share it.
  /// - Throws: EADDRINUSE: somebody has it who shares it with nobody; ENOMEM.
  static func enter(_ key: FlowKey, _ flow: Flow, reusesPort: Bool, in table: FlowTable) throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    if let found = table.findRetained(key) {
      guard let group = found as? PortGroup else { throw .EADDRINUSE }
      return try group.add(flow, reusesPort)
    }
    guard let group = PortGroup() else { throw .ENOMEM }
    try group.add(flow, reusesPort)
    try table.insert(key, group)
  }

  /// Takes a flow out that was entered under a key, by itself or with others.
  static func leave(_ key: FlowKey, _ flow: Flow, in table: FlowTable) {
    if table.remove(key, flow) { return }
    lock.lock()
    defer { lock.unlock() }
    guard let group = table.findRetained(key) as? PortGroup else { return }
    if group.remove(flow) == 0 { table.remove(key, group) }
  }

  private func add(_ flow: Flow, _ reusesPort: Bool) throws(Errno) {
    let old = members.load()
    let count = old?.pointee.count ?? 0
    guard let block = Self.makeBlock(count &+ 1) else { throw .ENOMEM }
    let target = Self.members(of: block)
    if let old {
      let source = Self.members(of: old)
      for index in 0..<count {
        _ = source[index].flow.retain()
        (target + index).initialize(to: source[index])
      }
    }
    (target + count).initialize(to: Member(flow: Unmanaged.passRetained(flow), reusesPort: reusesPort))
    replace(block)
  }

  /// - Returns: how many are left.
  private func remove(_ flow: Flow) -> Int {
    guard let old = members.load() else { return 0 }
    let source = Self.members(of: old)
    let wanted = Unmanaged.passUnretained(flow).toOpaque()
    let count = old.pointee.count
    var left = 0
    for index in 0..<count where source[index].flow.toOpaque() != wanted { left &+= 1 }
    if left == count { return count }
    guard left > 0, let block = Self.makeBlock(left) else {
      // Without memory for a smaller block the member goes nowhere: it stays, closed, and what comes for it is lost.
      if left == 0 { replace(nil) }
      return left
    }
    let target = Self.members(of: block)
    var place = 0
    for index in 0..<count where source[index].flow.toOpaque() != wanted {
      _ = source[index].flow.retain()
      (target + place).initialize(to: source[index])
      place &+= 1
    }
    replace(block)
    return left
  }

  // MARK: Choosing

  override func select(_ packet: borrowing Packet) -> Flow? {
    member(packet.flowHash, interfaceIndex: packet.interfaceIndex)
  }

  /// Keeps what it gives: the body may sleep.
  private var all: [Flow] {
    RCU.read {
      guard let block = members.load() else { return [] }
      var result: [Flow] = []
      for index in 0..<block.pointee.count {
        result.append(Self.members(of: block)[index].flow.takeUnretainedValue())
      }
      return result
    }
  }

  override func forEachReceiver(_ packet: borrowing Packet, _ body: (Flow) -> Void) {
    for flow in all {
      let bound = flow.boundInterface.load(ordering: .relaxed)
      if bound == 0 || bound == packet.interfaceIndex { body(flow) }
    }
  }

  override func errorArrived(_ error: InternetError, _ key: FlowKey, quoted: UnsafeRawBufferPointer) {
    for flow in all { flow.errorArrived(error, key, quoted: quoted) }
  }

  /// The member for a packet with that hash that came by an interface: of those that are bound to it, else to none, the one that has come
  /// last, or, if that shares by SO_REUSEPORT, the one that the hash falls on among those that do. Only in `RCU.read`.
  func member(_ hash: UInt32, interfaceIndex: UInt32) -> Flow? {
    choose(hash, boundTo: interfaceIndex) ?? choose(hash, boundTo: 0)
  }

  private func choose(_ hash: UInt32, boundTo interfaceIndex: UInt32) -> Flow? {
    guard let block = members.load() else { return nil }
    let all = Self.members(of: block)
    let count = block.pointee.count
    var (last, sharing): (Int?, UInt64) = (nil, 0)
    for index in 0..<count where all[index].interfaceIndex == interfaceIndex {
      last = index
      if all[index].reusesPort { sharing &+= 1 }
    }
    guard let last else { return nil }
    guard all[last].reusesPort else { return all[last].flow.takeUnretainedValue() }
    var left = (hash.u64 &* sharing) &>> 32
    for index in 0..<count where all[index].interfaceIndex == interfaceIndex && all[index].reusesPort {
      if left == 0 { return all[index].flow.takeUnretainedValue() }
      left &-= 1
    }
    return nil
  }
}
