// One direction out: what a port transmits goes to a file descriptor, all of it and in order.
//
// Nothing here waits for room in a pipe, socket or terminal: the queue's owner does, where it may (RoomWatch). Such descriptors are
// often shared with others, so that they may not be made non-blocking; a write is told not to wait instead, or, where the kernel
// has no such write, is no longer than what poll(2) promises room for. Files are written to as they are.
import CSystemCalls
import Glibc
import Synchronization

// SAFETY: all but the atomic `code` and what never changes is touched with the lock of the port's queue.
/// Writes a port's output. All but `failure` is used under the lock of the port's queue.
final class ConsoleOutput: @unchecked Sendable {
  /// How to write without waiting for whoever reads.
  private enum Kind {
    /// A pipe or a socket: the kernel can be told not to wait.
    case stream
    /// A terminal, or a stream of an older kernel: only as much as poll(2) promises room for.
    case polled
    /// Anything else: a write waits for a disk at most.
    case file
  }

  /// POSIX promises that a pipe that is ready takes so much at once.
  private static let promisedByteCount = 4096

  let descriptor: CInt
  private var kind: Kind
  private let code = Atomic<CInt>(0)
  /// How far the request being written has come: the first piece that is not out, and the bytes of it that are.
  private var index = 0
  private var offset = 0
  /// Whether a request waits for room; its owner's business.
  var isHeldBack = false

  /// Why output is dropped from now on: EPIPE if nobody reads, 0 as long as it is not.
  var failure: CInt { code.load(ordering: .relaxed) }

  /// What came of a write.
  enum Result: Equatable {
    /// All of it is out, or nobody reads any more.
    case done
    /// There is no room for the rest at the moment: `proceed` again when there is.
    case full
    /// The rest cannot be written, for this reason; the next request is tried again.
    case failed(CInt)
  }

  init(_ descriptor: CInt) {
    self.descriptor = descriptor
    var status = stat()
    let type = fstat(descriptor, &status) == 0 ? status.st_mode & S_IFMT : 0
    kind = type == S_IFIFO || type == S_IFSOCK ? .stream : isatty(descriptor) == 1 ? .polled : .file
  }

  /// A new request is to be written.
  func begin() {
    index = 0
    offset = 0
  }

  /// Writes the request's pieces, from where the last call has left off. After EPIPE everything is dropped.
  func proceed(_ pieces: UnsafeBufferPointer<iovec>) -> Result {
    while index < pieces.count, failure == 0 {
      let count = write(pieces)
      if count >= 0 {
        advance(pieces, by: count)
        continue
      }
      switch errno {
      case EINTR: break
      case EAGAIN: return .full
      case EPIPE: code.store(EPIPE, ordering: .relaxed)
      default: return .failed(errno)
      }
    }
    return .done
  }

  private func advance(_ pieces: UnsafeBufferPointer<iovec>, by count: Int) {
    offset += count
    while index < pieces.count, offset >= pieces[index].iov_len {
      offset -= pieces[index].iov_len
      index += 1
    }
  }

  /// Writes some of what is left; negative with `errno`.
  private func write(_ pieces: UnsafeBufferPointer<iovec>) -> Int {
    // SAFETY: the queue has checked the pieces; the offset is below the piece's length.
    var first = iovec(iov_base: pieces[index].iov_base + offset, iov_len: pieces[index].iov_len - offset)
    switch kind {
    case .file:
      return offset > 0
        ? Glibc.write(descriptor, first.iov_base, first.iov_len)
        : writev(descriptor, pieces.baseAddress! + index, CInt(pieces.count - index))
    case .stream:
      let count =
        offset > 0
        ? osv_write_now(descriptor, &first, 1)
        : osv_write_now(descriptor, pieces.baseAddress! + index, CInt(pieces.count - index))
      guard count < 0, errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL else { return count }
      kind = .polled
      return write(pieces)
    case .polled:
      var room = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
      guard poll(&room, 1, 0) == 1 else {
        errno = EAGAIN
        return -1
      }
      return Glibc.write(descriptor, first.iov_base, min(first.iov_len, Self.promisedByteCount))
    }
  }
}
