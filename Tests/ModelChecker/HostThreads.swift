// Real threads of the host, beside the checker's: for stress tests of what it has checked on a small scale.
import Glibc
import Locks

/// Real threads of the host, for stress.
public enum HostThreads {
  private final class Start: Sendable {
    let index: Int
    let body: @Sendable (Int) -> Void
    init(_ index: Int, _ body: @escaping @Sendable (Int) -> Void) {
      self.index = index
      self.body = body
    }
  }

  /// Runs the body on that many threads, each with its number, and waits for all.
  /// - Parameter stackByteCount: what each has of stack; nil: as much as usual.
  public static func run(_ count: Int, stackByteCount: Int? = nil, _ body: @escaping @Sendable (Int) -> Void) {
    var threads: [pthread_t] = []
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    if let stackByteCount { pthread_attr_setstacksize(&attributes, stackByteCount) }
    for index in 0..<count {
      var thread = pthread_t()
      pthread_create(
        &thread, &attributes,
        { argument in
          let start = Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
          start.body(start.index)
          return nil
        }, Unmanaged.passRetained(Start(index, body)).toOpaque())
      threads.append(thread)
    }
    for thread in threads { pthread_join(thread, nil) }
  }

  /// A deadline that many milliseconds from now.
  public static func deadline(milliseconds: UInt64) -> Deadline {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Deadline(nanoseconds: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec) + milliseconds * 1_000_000)
  }
}
