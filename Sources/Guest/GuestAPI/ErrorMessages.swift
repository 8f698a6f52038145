// What an error number means, in words.
import Base

extension Errno {
  /// Linux's number of the error.
  public var number: Int { rawValue.int }

  /// A short sentence; "error N" for the rarer ones.
  public var message: String {
    switch self {
    case .EPERM: "not permitted"
    case .ENOENT: "no such file or directory"
    case .EINTR: "interrupted"
    case .EIO: "input/output error"
    case .EBADF: "not open for this"
    case .EAGAIN: "try again"
    case .ENOMEM: "out of memory"
    case .EACCES: "permission denied"
    case .EEXIST: "exists already"
    case .ENOTDIR: "not a directory"
    case .EISDIR: "is a directory"
    case .EINVAL: "invalid argument"
    case .ENOSPC: "no space left"
    case .EROFS: "read-only file system"
    case .EPIPE: "nobody reads any more"
    case .ENAMETOOLONG: "name too long"
    case .ENOSYS: "not supported"
    case .ELOOP: "too many symbolic links"
    case .ETIMEDOUT: "timed out"
    default: "error \(rawValue)"
    }
  }
}
