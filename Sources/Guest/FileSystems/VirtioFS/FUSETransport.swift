// What carries FUSE messages: the device's request queues in the guest, the server itself in the tests.
import Base

/// A piece of kernel memory that the device reads or writes: in the linear map, contiguous.
public struct FUSESegment {
  /// First byte.
  public var address: UnsafeMutableRawPointer
  /// Bytes, 1 or more.
  public var count: Int
  /// A piece.
  public init(address: UnsafeMutableRawPointer, count: Int) {
    self.address = address
    self.count = count
  }
}

/// One request and the places for its reply. The memory belongs to the caller and stays as it is until the call is over.
public struct FUSECall {
  /// `readable` pieces of the request, then `writable` ones for the reply.
  public var segments: UnsafeMutablePointer<FUSESegment>
  /// Pieces that the device reads, 1 or more.
  public var readable: Int
  /// Pieces that the device writes, 0 or more.
  public var writable: Int
  /// Bytes that the device says it wrote; set by the transport, believed by nobody.
  public var replyCount = 0
  /// A call.
  public init(segments: UnsafeMutablePointer<FUSESegment>, readable: Int, writable: Int) {
    self.segments = segments
    self.readable = readable
    self.writable = writable
  }
}

/// A blocking channel to a FUSE server. Used by many threads at a time.
public protocol FUSETransport: AnyObject {
  /// Most pieces of one call, 8 or more.
  var maximumSegments: Int { get }
  /// Most calls that may be performed together, 1 or more.
  var maximumCalls: Int { get }

  /// Sends calls with one notification and waits until the device is done with all of them. Not interruptible: the
  /// device may write to the pieces until the end.
  /// - Throws: EIO if the device is broken; then it no longer touches the pieces.
  func perform(_ calls: UnsafeMutableBufferPointer<FUSECall>) throws(Errno)

  /// Sends a request that has no reply by the queue of high priority. Returns when the piece may be used again; a broken device is not told of.
  func post(_ request: FUSESegment)
}
