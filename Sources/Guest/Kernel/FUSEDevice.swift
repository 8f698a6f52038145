// Joins virtio-fs, which speaks FUSE over a transport, and the virtio device, which carries requests and replies.
#if GUEST
  import Base
  import Devices
  import VirtioFS

  /// The device's channel as the file system's transport. The two know nothing of each other, so calls are copied: five words each.
  final class FUSEDevice: FUSETransport {
    private let channel: FUSEChannel

    init(_ channel: FUSEChannel) { self.channel = channel }

    var maximumSegments: Int { channel.maximumSegments }
    /// As many as fit on a kernel stack.
    var maximumCalls: Int { min(channel.maximumCalls, 16) }

    func perform(_ calls: UnsafeMutableBufferPointer<FUSECall>) throws(Errno) {
      var copies: [16 of DeviceCall] = .init(
        repeating: DeviceCall(segments: Self.segments(calls[0].segments), readable: 1, writable: 0))
      for index in 0..<calls.count {
        copies[index] = DeviceCall(
          segments: Self.segments(calls[index].segments), readable: calls[index].readable,
          writable: calls[index].writable)
      }
      var failure: Errno?
      withUnsafeMutableBytes(of: &copies) { bytes in
        let all = UnsafeMutableBufferPointer(rebasing: bytes.bindMemory(to: DeviceCall.self)[..<calls.count])
        do throws(Errno) { try channel.perform(all) } catch { failure = error }
      }
      if let failure { throw failure }
      for index in 0..<calls.count { calls[index].replyCount = copies[index].replyCount }
    }

    func post(_ request: FUSESegment) { channel.post(DeviceSegment(address: request.address, count: request.count)) }

    /// Both segments are an address and a count.
    private static func segments(_ segments: UnsafeMutablePointer<FUSESegment>) -> UnsafeMutablePointer<DeviceSegment> {
      // SAFETY: the two structures have the same two fields in the same order.
      UnsafeMutableRawPointer(segments).assumingMemoryBound(to: DeviceSegment.self)
    }
  }
#endif
