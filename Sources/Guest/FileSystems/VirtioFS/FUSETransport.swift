// What carries FUSE messages: the device's request queues in the guest, the server itself in the tests.
import Base
import Devices

/// A blocking channel to a FUSE server. Used by many threads at a time.
public protocol FUSETransport: AnyObject {
  /// Most pieces of one call, 8 or more.
  var maximumSegments: Int { get }
  /// Entries of the queue that a call goes to: the most pieces that a chain may have by the standard.
  var queueSize: Int { get }
  /// Most calls that may be performed together, 1 or more.
  var maximumCalls: Int { get }

  /// Sends calls with one notification and waits until the device is done with all of them. Not interruptible: the
  /// device may write to the pieces until the end.
  /// - Throws: EIO if the device is broken, ENOMEM; in any case the device no longer touches the pieces.
  func perform(_ calls: UnsafeMutableBufferPointer<DeviceCall>) throws(Errno)

  /// Sends a request that has no reply by the queue of high priority. Returns when the piece may be used again; a broken device is not told of.
  func post(_ request: DeviceSegment)
}

extension FUSEChannel: FUSETransport {}

extension VirtioFileSystem {
  /// The file system of a virtio-fs device.
  /// - Throws: ENODEV if the device is none or refuses, EPROTO for a server we cannot use, EIO, ENOMEM.
  public convenience init(device: VirtioFunction) throws(Errno) {
    try self.init(transport: try FUSEChannel(device))
  }
}
