// A record of frames in the form of pcapng (draft-ietf-opsawg-pcapng), which Wireshark and tshark open.
//
// One section, a description for each interface (Ethernet, times in nanoseconds), and a block for each frame with its direction as the guest
// sees it. Frames are recorded as they pass the device: with offloads in use, checksums may be partial and segments large. A write
// that fails ends the record; the machine goes on.
import Glibc
import Synchronization

/// A record of one or more interfaces. Calls come from any thread.
public final class PacketCapture: Sendable {
  private enum Block {
    static let section: UInt32 = 0x0a0d_0d0a
    static let interface: UInt32 = 1
    static let packet: UInt32 = 6
  }
  private enum OptionCode {
    static let end: UInt16 = 0
    static let interfaceName: UInt16 = 2
    static let packetFlags: UInt16 = 2
    static let userApplication: UInt16 = 4
    static let timeResolution: UInt16 = 9
  }

  /// Pieces of a frame that are recorded at most: with the block's own ends they are one writev(2).
  private static let pieceLimit = 1000

  private let descriptor: CInt
  private let onFailure: @Sendable (CInt) -> Void
  /// Whether it still records; guards the file, too.
  private let isOpen = Mutex(true)

  /// Begins a record.
  /// - Parameters:
  ///   - descriptor: where it goes: a new file, or a pipe; it may block.
  ///   - interfaces: their names, in the order of their numbers.
  ///   - onFailure: called once with the error number of a write that failed.
  public init(
    descriptor: CInt, interfaces: [String], onFailure: @escaping @Sendable (_ code: CInt) -> Void = { _ in }
  ) {
    self.descriptor = descriptor
    self.onFailure = onFailure
    var head = BlockWriter(Block.section)
    head.append(UInt32(0x1a2b_3c4d))
    head.append(UInt16(1))
    head.append(UInt16(0))
    head.append(UInt64.max)
    head.append(option: OptionCode.userApplication, Array("osv-run".utf8))
    head.append(option: OptionCode.end, [])
    var bytes = head.finish()
    for name in interfaces {
      var block = BlockWriter(Block.interface)
      block.append(UInt16(1))
      block.append(UInt16(0))
      block.append(UInt32(0))
      block.append(option: OptionCode.interfaceName, Array(name.utf8))
      block.append(option: OptionCode.timeResolution, [9])
      block.append(option: OptionCode.end, [])
      bytes += block.finish()
    }
    bytes.withUnsafeMutableBytes { buffer in
      var piece = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
      withUnsafeMutablePointer(to: &piece) { write(UnsafeMutableBufferPointer(start: $0, count: 1)) }
    }
  }

  /// Records a frame.
  /// - Parameters:
  ///   - interface: its number.
  ///   - isOutbound: whether the guest has sent it.
  ///   - pieces: what holds it.
  ///   - skip: bytes in front of it.
  ///   - byteCount: bytes of it.
  func record(
    interface: Int, isOutbound: Bool, _ pieces: UnsafeBufferPointer<iovec>, skip: Int, byteCount: Int
  ) {
    withUnsafeTemporaryAllocation(of: iovec.self, capacity: Self.pieceLimit + 2) { list in
      let middle = UnsafeMutableBufferPointer(rebasing: list[1...Self.pieceLimit])
      var kept = 0
      var count = 0
      for piece in middle.fill(from: pieces, skip: skip) where kept < byteCount {
        let length = min(piece.iov_len, byteCount - kept)
        middle[count].iov_len = length
        kept += length
        count += 1
      }
      var time = timespec()
      clock_gettime(CLOCK_REALTIME, &time)
      let now = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)

      var block = BlockWriter(Block.packet)
      block.append(UInt32(interface))
      block.append(UInt32(truncatingIfNeeded: now >> 32))
      block.append(UInt32(truncatingIfNeeded: now))
      block.append(UInt32(kept))
      block.append(UInt32(byteCount))
      let padding = (4 - kept % 4) % 4
      var tail = BlockWriter(tailOf: block, foreignByteCount: kept + padding)
      tail.append(option: OptionCode.packetFlags, [isOutbound ? 2 : 1, 0, 0, 0])
      tail.append(option: OptionCode.end, [])
      var head = block.bytes
      var end = [UInt8](repeating: 0, count: padding) + tail.finish(head: &head)
      head.withUnsafeMutableBytes { head in
        end.withUnsafeMutableBytes { end in
          list.initializeElement(at: 0, to: iovec(iov_base: head.baseAddress, iov_len: head.count))
          list.initializeElement(at: count + 1, to: iovec(iov_base: end.baseAddress, iov_len: end.count))
          write(UnsafeMutableBufferPointer(rebasing: list[...(count + 1)]))
        }
      }
    }
  }

  /// Writes all pieces, one block or several, with nobody's between them.
  private func write(_ pieces: UnsafeMutableBufferPointer<iovec>) {
    let failure = isOpen.withLock { isOpen -> CInt in
      guard isOpen else { return 0 }
      var first = 0
      while first < pieces.count {
        // SAFETY: `first` is below the count.
        var done = writev(descriptor, pieces.baseAddress! + first, CInt(pieces.count - first))
        if done < 0 {
          if errno == EINTR { continue }
          isOpen = false
          return errno
        }
        while first < pieces.count, done >= pieces[first].iov_len {
          done -= pieces[first].iov_len
          first += 1
        }
        if done > 0 {
          pieces[first].iov_base = pieces[first].iov_base + done
          pieces[first].iov_len -= done
        }
      }
      return 0
    }
    if failure != 0 { onFailure(failure) }
  }
}

/// A block's bytes: its type, its length (again at its end), and what is between.
private struct BlockWriter {
  private(set) var bytes: [UInt8] = []
  /// Bytes of the block before `bytes`, nil for a block that begins here.
  private var before: Int?

  init(_ type: UInt32) {
    append(type)
    append(UInt32(0))
  }

  /// The end of a block whose first bytes are `head`, with `foreignByteCount` bytes from elsewhere between.
  init(tailOf head: BlockWriter, foreignByteCount: Int) { before = head.bytes.count + foreignByteCount }

  mutating func append<Value: FixedWidthInteger>(_ value: Value) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }

  mutating func append(option code: UInt16, _ value: [UInt8]) {
    append(code)
    append(UInt16(value.count))
    bytes += value + [UInt8](repeating: 0, count: (4 - value.count % 4) % 4)
  }

  private mutating func close() -> UInt32 {
    let length = UInt32((before ?? 0) + bytes.count + 4)
    append(length)
    return length
  }

  private static func set(length: UInt32, in bytes: inout [UInt8]) {
    for index in 0..<4 { bytes[4 + index] = UInt8(truncatingIfNeeded: length >> UInt32(8 * index)) }
  }

  /// The whole block.
  mutating func finish() -> [UInt8] {
    let length = close()
    Self.set(length: length, in: &bytes)
    return bytes
  }

  /// The end of a block whose length is put into `head`.
  mutating func finish(head: inout [UInt8]) -> [UInt8] {
    let length = close()
    Self.set(length: length, in: &head)
    return bytes
  }
}
