// Frames from the backend to the guest. Used under the lock of its receive queue, by the pair's worker.
//
// Buffers are taken from the queue before there is a frame, as many as any frame may need (one, without mergeable buffers), and the backend
// reads straight into them; those that a frame did not need wait for the next. Where the guest gave less room than that, a frame comes
// into memory of our own first. If it does not fit it is held there until the guest gives more, and the frames behind it wait in the backend, as
// in any full queue: a sender of large segments would lose much by one that is dropped. A frame that can never fit is dropped. A
// frame's buffers are seen by the guest all at once.
import Glibc
import VirtioABI
import VirtioQueue

// SAFETY: see above: one thread at a time, with the queue's lock; `reset` while nobody has it (VirtioDevice.reset).
/// The receiving side of a pair.
final class Receiver: @unchecked Sendable {
  /// Why it stopped.
  enum Outcome: Equatable {
    /// There is no frame.
    case empty
    /// There may be more: its share is used up.
    case busy
    /// The guest has given no buffer, or its queue is not to be served any more.
    case starved
    /// The rate allows no more for so many nanoseconds.
    case limited(UInt64)
    /// There will never be a frame again.
    case ended
  }

  /// A buffer of the guest that waits for a frame.
  private struct Entry {
    var head: UInt16
    var pieceCount: Int
    var byteCount: Int
  }

  let counters = DirectionCounters()
  /// Frames that the last `run` has dealt with.
  private(set) var handled = 0
  /// Those of them that the guest may answer.
  private(set) var answerable = 0
  private let pair: Int
  private let backend: any NetworkBackend
  private let capture: (PacketCapture, Int)?
  private let chain = DescriptorChain()
  private var bucket: TokenBucket

  // The window: entries and their pieces, each from a first one to an end. The arrays are twice as large as the window, so that it moves
  // to their beginnings only now and then.
  private static let windowLimit = DescriptorChain.pieceLimit
  private let entries = UnsafeMutableBufferPointer<Entry>.allocate(capacity: 2 * Receiver.windowLimit)
  private let pieces = UnsafeMutableBufferPointer<iovec>.allocate(capacity: 2 * Receiver.windowLimit)
  private var firstEntry = 0
  private var entryEnd = 0
  private var firstPiece = 0
  private var pieceEnd = 0
  private var byteCount = 0
  /// There are more buffers than the window takes.
  private var isFull = false

  /// Memory of our own for a frame of any size; nil until it is needed.
  private var spare: UnsafeMutableRawBufferPointer?
  /// Bytes of the frame in it that waits for room; 0: none does.
  private var held = 0
  private let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: AnswerBatch.prefixByteCount, alignment: 8)

  init(pair: Int, backend: any NetworkBackend, rate: UInt64, capture: (PacketCapture, Int)?) {
    self.pair = pair
    self.backend = backend
    self.capture = capture
    bucket = TokenBucket(rate: rate, now: MonotonicClock.now)
  }

  deinit {
    entries.deallocate()
    pieces.deallocate()
    prefix.deallocate()
    spare?.deallocate()
  }

  /// Forgets the guest's buffers: its queue is gone.
  func reset() {
    (firstEntry, entryEnd, firstPiece, pieceEnd, byteCount) = (0, 0, 0, 0, 0)
    held = 0
  }

  /// Receives up to `budget` frames.
  func run(_ queue: SplitQueue, _ session: Session, filter: ReceiveFilter, budget: Int) -> Outcome {
    (handled, answerable) = (0, 0)
    queue.disarm()
    while handled < budget {
      let wait = bucket.wait(now: bucket.rate > 0 ? MonotonicClock.now : 0)
      if wait > 0 { return .limited(wait) }
      fill(queue, session)
      guard firstEntry < entryEnd, queue.fault == nil else { return .starved }
      switch take(session) {
      case .none: return .empty
      case .ended: return .ended
      case .frame(let count):
        let frame = count - VirtioNetworkHeader.byteCount
        guard frame >= FrameHeader.linkByteCount, count < session.roomByteCount else {
          handled += 1
          DirectionCounters.add(counters.refused)
          continue
        }
        let fits = count <= window(session).byteCount
        if !fits, session.isMergeable, !isFull, entryEnd - firstEntry < queue.size {
          // Nothing has been dealt with: whoever runs this may sleep until there are more buffers.
          held = count
          return .starved
        }
        handled += 1
        bucket.take(byteCount: frame)
        let beginning = beginning(session)
        guard fits, filter.isOpen || filter.accepts(beginning) else {
          DirectionCounters.add(counters.dropped)
          continue
        }
        if AnswerBatch.mayBeAnswered(UnsafeRawBufferPointer(rebasing: beginning.prefix(frame))) { answerable += 1 }
        if let (capture, interface) = capture {
          capture.record(
            interface: interface, isOutbound: false, window(session).pieces, skip: VirtioNetworkHeader.byteCount,
            byteCount: frame)
        }
        deliver(count, queue, session)
        DirectionCounters.add(counters.packets)
        DirectionCounters.add(counters.bytes, frame)
      }
    }
    return .busy
  }

  // MARK: The window

  /// What a frame may be read into: all of the window, or its first buffer.
  @inline(__always)
  private func window(_ session: Session) -> (pieces: UnsafeBufferPointer<iovec>, byteCount: Int) {
    let isWhole = session.isMergeable
    let count = isWhole ? pieceEnd - firstPiece : entries[firstEntry].pieceCount
    return (
      UnsafeBufferPointer(start: pieces.baseAddress! + firstPiece, count: count),
      isWhole ? byteCount : entries[firstEntry].byteCount
    )
  }

  /// Takes buffers until any frame has room, or there are no more.
  private func fill(_ queue: SplitQueue, _ session: Session) {
    isFull = false
    while session.isMergeable ? byteCount < session.roomByteCount : firstEntry == entryEnd {
      guard queue.pop(into: chain) else { return }
      guard chain.readableByteCount == 0, chain.writableByteCount >= VirtioNetworkHeader.byteCount else {
        return queue.fail(.badRequest)
      }
      let added = chain.writable
      guard pieceEnd - firstPiece + added.count <= Self.windowLimit else {
        isFull = true
        return queue.putBack(chain)
      }
      if pieceEnd + added.count > pieces.count || entryEnd == entries.count { compact() }
      for piece in added {
        pieces.initializeElement(at: pieceEnd, to: piece)
        pieceEnd += 1
      }
      entries.initializeElement(
        at: entryEnd, to: Entry(head: chain.head, pieceCount: added.count, byteCount: chain.writableByteCount))
      entryEnd += 1
      byteCount += chain.writableByteCount
    }
  }

  private func compact() {
    for index in firstEntry..<entryEnd { entries.initializeElement(at: index - firstEntry, to: entries[index]) }
    for index in firstPiece..<pieceEnd { pieces.initializeElement(at: index - firstPiece, to: pieces[index]) }
    entryEnd -= firstEntry
    pieceEnd -= firstPiece
    (firstEntry, firstPiece) = (0, 0)
  }

  // MARK: A frame

  /// Takes a frame from the backend into the window, or through memory of our own where the window is too small for some.
  private func take(_ session: Session) -> ReceiveOutcome {
    let window = window(session)
    if held > 0 { return takeHeld(window) }
    if window.byteCount >= session.roomByteCount { return backend.receive(pair: pair, into: window.pieces) }
    let spare =
      self.spare ?? .allocate(byteCount: VirtioNetworkHeader.byteCount + FrameHeader.frameLimit + 1, alignment: 16)
    self.spare = spare
    var piece = iovec(iov_base: spare.baseAddress, iov_len: session.roomByteCount)
    let outcome = withUnsafePointer(to: &piece) {
      backend.receive(pair: pair, into: UnsafeBufferPointer(start: $0, count: 1))
    }
    guard case .frame(let count) = outcome else { return outcome }
    held = count
    return takeHeld(window)
  }

  /// The frame in our own memory, in the window if it fits there.
  private func takeHeld(_ window: (pieces: UnsafeBufferPointer<iovec>, byteCount: Int)) -> ReceiveOutcome {
    let count = held
    if let spare, count <= window.byteCount {
      window.pieces.write(at: 0, from: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(spare)[..<count]))
    }
    held = 0
    return .frame(count)
  }

  /// The window's first bytes behind the header: a frame's beginning, and more if it is short.
  private func beginning(_ session: Session) -> UnsafeRawBufferPointer {
    let count = window(session).pieces.read(at: VirtioNetworkHeader.byteCount, into: prefix)
    return UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(prefix)[..<count])
  }

  /// Gives the buffers that the first `count` bytes of the window lie in to the guest.
  private func deliver(_ count: Int, _ queue: SplitQueue, _ session: Session) {
    var buffers = 1
    if session.isMergeable {
      var left = count - entries[firstEntry].byteCount
      while left > 0 {
        left -= entries[firstEntry + buffers].byteCount
        buffers += 1
      }
    }
    let pieces = window(session).pieces
    if session.takesChecksums {
      let number = UInt16(truncatingIfNeeded: buffers).littleEndian
      _ = withUnsafeBytes(of: number) { pieces.write(at: VirtioNetworkHeader.byteCount - 2, from: $0) }
    } else {
      var header = VirtioNetworkHeader()
      header.bufferCount = UInt16(truncatingIfNeeded: buffers)
      _ = withUnsafeBytes(of: header) { pieces.write(at: 0, from: $0) }
    }
    var left = count
    for _ in 0..<buffers {
      let entry = entries[firstEntry]
      let written = min(left, entry.byteCount)
      queue.stage(head: entry.head, written: written)
      left -= written
      byteCount -= entry.byteCount
      firstPiece += entry.pieceCount
      firstEntry += 1
    }
    queue.publish()
    if firstEntry == entryEnd { compact() }
  }
}
