// Epoll: see below.
import Base
import Locks

/// The epolls that an open file is in.
final class EpollLinks {
  /// The file's last descriptor is gone: all epolls forget it.
  func removeAll() {}
}
