// One direction out: what a port transmits goes to a file descriptor, all of it and in order.
import Glibc
import Synchronization

/// Writes a port's output. `write` is called under the lock of the port's queue.
final class ConsoleOutput: Sendable {
  private let descriptor: CInt
  private let code = Atomic<CInt>(0)

  /// Why output is dropped from now on: an error number, 0 as long as it is not.
  var failure: CInt { code.load(ordering: .relaxed) }

  init(_ descriptor: CInt) { self.descriptor = descriptor }

  /// Writes all pieces, waiting where the descriptor is full. After a failure everything is dropped.
  func write(_ pieces: UnsafeBufferPointer<iovec>) {
    var index = 0
    var offset = 0
    while index < pieces.count, failure == 0 {
      let piece = pieces[index]
      // SAFETY: the queue has checked the pieces; the offset is below the piece's length.
      let count =
        offset > 0
        ? Glibc.write(descriptor, piece.iov_base + offset, piece.iov_len - offset)
        : writev(descriptor, pieces.baseAddress! + index, CInt(pieces.count - index))
      if count < 0 {
        recover()
        continue
      }
      offset += count
      while index < pieces.count, offset >= pieces[index].iov_len {
        offset -= pieces[index].iov_len
        index += 1
      }
    }
  }

  private func recover() {
    switch errno {
    case EINTR: break
    case EAGAIN:
      var wait = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
      _ = poll(&wait, 1, -1)
    default: code.store(errno, ordering: .relaxed)
    }
  }
}
