// A record of frames in the form of pcapng (draft-ietf-opsawg-pcapng), which Wireshark and tshark open.
//
// One section, a description for each interface (Ethernet, times in nanoseconds), and a block for each frame with its direction as the guest
// sees it. Frames are recorded as they pass the device: with offloads in use, checksums may be partial and segments large. A write
// that fails ends the record; the machine goes on.
//
// A pipe that does not block never holds up a frame on its way: one for which it has no room is left out, as a whole, and the next one of its
// interface says how many were (epb_dropcount). What a pipe has taken a part of is kept and given to it first, so that blocks stay whole.
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
    static let packetDropCount: UInt16 = 4
    static let userApplication: UInt16 = 4
    static let timeResolution: UInt16 = 9
  }

  /// Pieces of a frame that are recorded at most: with the block's own ends they are one writev(2).
  private static let pieceLimit = 1000

  private let descriptor: CInt
  private let onFailure: @Sendable (CInt) -> Void
  private let onLoss: @Sendable () -> Void

  /// What has become of the record; guards the file, too.
  private struct State {
    /// Whether it still records.
    var isOpen = true
    /// The end of what the file has taken the beginning of, from `restStart` on.
    var rest: [UInt8] = []
    var restStart = 0
    /// Frames of each interface that were left out since its last one that was not.
    var lost: [UInt64]
    var hasLost = false
  }
  private let state: Mutex<State>

  /// Begins a record.
  /// - Parameters:
  ///   - descriptor: where it goes: a new file, or a pipe. If it does not block, no frame is ever held up, but some may be left out.
  ///   - interfaces: their names, in the order of their numbers.
  ///   - onFailure: called once with the error number of a write that failed.
  ///   - onLoss: called once, when a frame is left out for the first time.
  public init(
    descriptor: CInt, interfaces: [String], onFailure: @escaping @Sendable (_ code: CInt) -> Void = { _ in },
    onLoss: @escaping @Sendable () -> Void = {}
  ) {
    self.descriptor = descriptor
    self.onFailure = onFailure
    self.onLoss = onLoss
    state = Mutex(State(lost: [UInt64](repeating: 0, count: interfaces.count)))
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
      let failure = withUnsafeMutablePointer(to: &piece) { piece in
        state.withLock { state -> CInt in
          let failure = write(UnsafeMutableBufferPointer(start: piece, count: 1), &state)
          guard failure == EAGAIN else { return failure }
          // Without it nothing else would make sense.
          state.rest = Array(buffer)
          return 0
        }
      }
      if failure != 0 { onFailure(failure) }
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
    let (failure, isFirstLoss) = state.withLock { state -> (CInt, Bool) in
      guard state.isOpen else { return (0, false) }
      let failure = flush(&state)
      guard failure == 0 else { return (failure, false) }
      guard state.rest.isEmpty else { return (0, lose(interface, &state)) }
      return write(interface, isOutbound: isOutbound, pieces, skip: skip, byteCount: byteCount, &state)
    }
    if failure != 0 { onFailure(failure) }
    if isFirstLoss { onLoss() }
  }

  /// Leaves a frame out; true for the first one.
  private func lose(_ interface: Int, _ state: inout State) -> Bool {
    state.lost[interface] += 1
    defer { state.hasLost = true }
    return !state.hasLost
  }

  /// Writes a frame's block.
  private func write(
    _ interface: Int, isOutbound: Bool, _ pieces: UnsafeBufferPointer<iovec>, skip: Int, byteCount: Int,
    _ state: inout State
  ) -> (failure: CInt, isFirstLoss: Bool) {
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
      let lost = state.lost[interface]
      if lost > 0 {
        tail.append(option: OptionCode.packetDropCount, withUnsafeBytes(of: lost.littleEndian) { Array($0) })
      }
      tail.append(option: OptionCode.end, [])
      var head = block.bytes
      var end = [UInt8](repeating: 0, count: padding) + tail.finish(head: &head)
      return head.withUnsafeMutableBytes { head in
        end.withUnsafeMutableBytes { end in
          list.initializeElement(at: 0, to: iovec(iov_base: head.baseAddress, iov_len: head.count))
          list.initializeElement(at: count + 1, to: iovec(iov_base: end.baseAddress, iov_len: end.count))
          let failure = write(UnsafeMutableBufferPointer(rebasing: list[...(count + 1)]), &state)
          if failure == EAGAIN { return (0, lose(interface, &state)) }
          state.lost[interface] = 0
          return (failure, false)
        }
      }
    }
  }

  /// Writes what is left over, as far as there is room.
  private func flush(_ state: inout State) -> CInt {
    while state.restStart < state.rest.count {
      let count = state.rest.withUnsafeBytes { bytes in
        Glibc.write(descriptor, bytes.baseAddress! + state.restStart, bytes.count - state.restStart)
      }
      if count >= 0 {
        state.restStart += count
      } else if errno == EAGAIN {
        return 0
      } else if errno != EINTR {
        state.isOpen = false
        return errno
      }
    }
    (state.rest, state.restStart) = ([], 0)
    return 0
  }

  /// Writes all pieces, one block or several, with nobody's between them. What there is no room for is kept, unless that is all.
  /// - Returns: 0; an error number, and the record has ended; EAGAIN: there is no room at all.
  private func write(_ pieces: UnsafeMutableBufferPointer<iovec>, _ state: inout State) -> CInt {
    var first = 0
    var hasBegun = false
    while first < pieces.count {
      // SAFETY: `first` is below the count.
      var done = writev(descriptor, pieces.baseAddress! + first, CInt(pieces.count - first))
      if done < 0 {
        if errno == EINTR { continue }
        if errno == EAGAIN {
          guard hasBegun else { return EAGAIN }
          for piece in pieces[first...] {
            state.rest += UnsafeRawBufferPointer(start: piece.iov_base, count: piece.iov_len)
          }
          return 0
        }
        state.isOpen = false
        return errno
      }
      hasBegun = true
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
