// The memory of one call: the request, a small reply and the list of pieces, in one block that is used again and again.
import Base
import Devices
import Pages
import VirtioABI

#if HOSTED
  import Glibc
#endif

/// Memory that the device may read and write.
enum MessageMemory {
  /// A block, page-aligned and contiguous, of undefined content; nil if memory is out.
  static func allocate(_ byteCount: Int) -> UnsafeMutableRawPointer? {
    #if HOSTED
      var block: UnsafeMutableRawPointer?
      return posix_memalign(&block, 4096, byteCount) == 0 ? block : nil
    #else
      return KernelHeap.allocate(byteCount: byteCount, alignment: 4096)
    #endif
  }

  /// Gives a block back.
  static func free(_ block: UnsafeMutableRawPointer) {
    #if HOSTED
      Glibc.free(block)
    #else
      KernelHeap.free(block)
    #endif
  }
}

/// One call's memory: 2 KiB of request, 2 KiB of reply, 4 KiB of pieces.
///
/// Fill it by `begin` and `append`, add what else is sent (`addPayload`), `end` it, say where the reply goes (`replyInPlace`, `addReply`), let the client perform it, and read the
/// reply by `reply`. Nothing the device wrote is read twice: a reply's structure is copied out, then checked.
final class FUSEMessage {
  static let requestCapacity = 2048
  static let replyCapacity = 2048
  static let segmentCapacity = 256

  private let block: UnsafeMutableRawPointer
  /// Pieces: the request and what `addPayload` added, then the out-header with the small reply and what `addReply` added.
  let segments: UnsafeMutablePointer<DeviceSegment>
  private(set) var requestCount = 0
  private(set) var segmentCount = 0
  private var readableCount = 1
  /// Bytes of `addPayload`.
  private(set) var payloadCount = 0
  private var unique: UInt64 = 0
  /// Room of the whole reply, header included.
  private var room = 0
  /// Bytes of the reply's body, once it has been checked.
  private(set) var bodyCount = 0
  /// In the pool's list.
  var next: FUSEMessage?

  /// Nil if memory is out.
  init?() {
    guard let block = MessageMemory.allocate(8192) else { return nil }
    self.block = block
    // SAFETY: the second page holds 256 pieces of 16 bytes, which are trivial.
    segments = (block + 4096).bindMemory(to: DeviceSegment.self, capacity: FUSEMessage.segmentCapacity)
  }

  deinit { MessageMemory.free(block) }

  private var reply: UnsafeMutableRawPointer { block + FUSEMessage.requestCapacity }

  /// Starts a request.
  func begin(_ opcode: UInt32, node: UInt64, unique: UInt64) {
    var header = FUSEInHeader()
    header.opcode = opcode
    header.nodeID = node
    header.unique = unique
    self.unique = unique
    requestCount = 0
    append(header)
    segmentCount = 0
    readableCount = 1
    payloadCount = 0
    room = 0
    bodyCount = 0
  }

  /// Appends an argument.
  @inline(__always) func append<Value: BitwiseCopyable>(_ value: Value) {
    // SAFETY: arguments have at most 64 bytes and names 256, far below the 2 KiB there are.
    (block + requestCount).storeBytes(of: value, as: Value.self)
    requestCount &+= MemoryLayout<Value>.size
  }

  /// Appends a name of at most 255 bytes, and its NUL.
  func append(name: UnsafeRawBufferPointer) throws(Errno) {
    guard name.count <= FUSE.nameMax else { throw .ENAMETOOLONG }
    if let base = name.baseAddress { (block + requestCount).copyMemory(from: base, byteCount: name.count) }
    (block + (requestCount &+ name.count)).storeBytes(of: 0, as: UInt8.self)
    requestCount &+= name.count &+ 1
  }

  /// Sends bytes of another place behind the arguments, before `end`. They stay there until the reply. Pieces that touch become one.
  /// - Returns: False where there is no more room in the list: the reply needs a piece too.
  func addPayload(_ address: UnsafeMutableRawPointer, _ count: Int, limit: Int) -> Bool {
    let last = readableCount &- 1
    if last > 0, segments[last].address + segments[last].count == address {
      segments[last].count &+= count
    } else {
      guard readableCount &+ 1 < min(limit, FUSEMessage.segmentCapacity) else { return false }
      segments[readableCount] = DeviceSegment(address: address, count: count)
      readableCount &+= 1
    }
    payloadCount &+= count
    return true
  }

  /// Ends the request and gives the reply room for `body` bytes in the message itself (0 to 2,032).
  func end(replyBody body: Int) {
    let header = MemoryLayout<FUSEOutHeader>.size
    block.storeBytes(of: (requestCount &+ payloadCount).u32, as: UInt32.self)
    segments[0] = DeviceSegment(address: block, count: requestCount)
    segments[readableCount] = DeviceSegment(address: reply, count: header &+ body)
    segmentCount = readableCount &+ 1
    room = header &+ body
  }

  /// Lets the reply go on in another place. Pieces that touch become one.
  /// - Returns: False where there is no more room in the list.
  func addReply(_ address: UnsafeMutableRawPointer, _ count: Int, limit: Int) -> Bool {
    let last = segmentCount &- 1
    if last > readableCount, segments[last].address + segments[last].count == address {
      segments[last].count &+= count
    } else {
      guard segmentCount < limit, segmentCount < FUSEMessage.segmentCapacity else { return false }
      segments[segmentCount] = DeviceSegment(address: address, count: count)
      segmentCount &+= 1
    }
    room &+= count
    return true
  }

  /// Sets the size in the arguments of a READ, which stand right behind the header.
  func setReadSize(_ size: UInt32) {
    // SAFETY: `FUSEReadIn.size` is 16 bytes into the arguments, which follow the header.
    (block + (MemoryLayout<FUSEInHeader>.size &+ 16)).storeBytes(of: size, as: UInt32.self)
  }

  /// Sets the size in the arguments of a WRITE, likewise.
  func setWriteSize(_ size: UInt32) { setReadSize(size) }

  /// The call for the transport.
  var call: DeviceCall {
    DeviceCall(segments: segments, readable: readableCount, writable: segmentCount &- readableCount)
  }

  /// Checks a reply's header: afterwards `bodyCount` is at most the room that was given.
  /// - Throws: What the server says; EIO for a header that is not a reply to this request.
  func check(replyCount: Int) throws(Errno) {
    let headerCount = MemoryLayout<FUSEOutHeader>.size
    guard replyCount >= headerCount, replyCount <= room else { throw .EIO }
    let header = reply.loadUnaligned(as: FUSEOutHeader.self)
    guard header.unique == unique, header.length.int == replyCount else { throw .EIO }
    if header.error != 0 {
      guard header.error < 0, header.error > -4096, replyCount == headerCount else { throw .EIO }
      throw Errno(rawValue: 0 &- header.error) ?? .EIO
    }
    bodyCount = replyCount &- headerCount
  }

  /// A structure of the reply, `offset` bytes into its body.
  func result<Value: BitwiseCopyable>(_ type: Value.Type, at offset: Int) throws(Errno) -> Value {
    guard offset &+ MemoryLayout<Value>.size <= bodyCount else { throw .EIO }
    return (reply + (MemoryLayout<FUSEOutHeader>.size &+ offset)).loadUnaligned(as: type)
  }

  /// The reply's structure, which must be all of it.
  func result<Value: BitwiseCopyable>(_ type: Value.Type) throws(Errno) -> Value {
    guard bodyCount == MemoryLayout<Value>.size else { throw .EIO }
    return (reply + MemoryLayout<FUSEOutHeader>.size).loadUnaligned(as: type)
  }
}
