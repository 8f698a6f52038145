// The entropy device (virtio 1.2, 5.4): one queue of buffers to fill with random bytes.
import CSystemCalls
import Glibc
import VirtioABI
import VirtioPCI
import VirtioQueue

// SAFETY: the chain is touched with the queue's lock.
/// A virtio entropy source over the host's generator.
public final class VirtioEntropy: VirtioDevice, @unchecked Sendable {
  /// Most bytes for one request: a guest cannot keep us busy with one.
  public static let requestLimit = 4096

  // Guarded by the queue's lock.
  private let chain = DescriptorChain()

  /// An entropy source.
  public init() {}

  /// See `VirtioDevice`.
  public var deviceID: UInt32 { VirtioDeviceID.entropy }
  /// See `VirtioDevice`: not in any other class.
  public var pciClass: UInt32 { 0xff_0000 }
  /// See `VirtioDevice`.
  public var features: UInt64 { 0 }
  /// See `VirtioDevice`.
  public var queueCount: Int { 1 }
  /// See `VirtioDevice`.
  public var queueSize: UInt16 { 16 }

  /// See `VirtioDevice`: there is no configuration.
  public func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    for index in buffer.indices { buffer[index] = 0 }
  }

  /// See `VirtioDevice`.
  public func activate(host: any VirtioDeviceHost, features: UInt64) {}
  /// See `VirtioDevice`.
  public func reset() {}

  /// See `VirtioDevice`. A request without a writable byte breaks the rules.
  public func serve(queue index: Int, _ queue: SplitQueue) {
    repeat {
      while queue.pop(into: chain) {
        guard chain.writableByteCount > 0 else { return queue.fail(.badRequest) }
        queue.push(chain, written: fill())
      }
    } while queue.rearm()
  }

  private func fill() -> Int {
    var done = 0
    for piece in chain.writable {
      let wanted = min(piece.iov_len, Self.requestLimit - done)
      // SAFETY: within the piece, whose bounds the queue has checked.
      let count = wanted > 0 ? osv_getrandom(piece.iov_base, wanted) : 0
      if count == -Int(EINTR) { continue }
      guard count > 0 else { break }
      done += count
      guard count == piece.iov_len else { break }
    }
    return done
  }
}
