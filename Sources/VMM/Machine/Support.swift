// Small things without a home of their own: threads and hexadecimal numbers.

import CKVM
import Jail
import KVM

#if canImport(Glibc)
  import Glibc
#endif

/// Detached threads of this process; they take no signals.
enum Thread {
  private final class Body {
    let run: () -> Void
    let name: String
    init(_ name: String, _ run: @escaping () -> Void) {
      self.name = name
      self.run = run
    }
  }

  /// Starts a thread; its name (15 bytes at most) shows in the host's tools.
  static func start(_ name: String, _ run: @escaping @Sendable () -> Void) {
    let body = Unmanaged.passRetained(Body(name, run))
    var thread = pthread_t()
    let result = Signals.blocked {
      pthread_create(
        &thread, nil,
        { argument in
          // SAFETY: the one reference that `start` retained is taken over here.
          let body = Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue()
          ckvm_name_thread(body.name)
          body.run()
          return nil
        }, body.toOpaque())
    }
    guard result == 0 else {
      StandardStreams.report(
        "osv-run: error E12: the host cannot start a thread (\(name)): \(String(cString: strerror(result)))\n")
      _exit(125)
    }
    pthread_detach(thread)
  }
}

extension Thread {
  /// Restricts the calling thread to what its kind needs; ends the process if that fails.
  static func restrict(
    _ kind: ThreadKind, requests: [UInt32], listener: CInt? = nil, sockets: [CInt] = [], accounts: [CInt] = []
  ) {
    do throws(JailError) {
      try Jail.restrict(kind, requests: requests, listener: listener, sockets: sockets, accounts: accounts)
    } catch {
      StandardStreams.report("osv-run: error E17: \(error.step) failed: \(StandardStreams.message(error.code))\n")
      _exit(125)
    }
  }
}

/// Numbers in base 16.
enum Hexadecimal {
  /// At least `digits` lower-case digits.
  static func text(_ value: UInt64, digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
  }

  /// The value of a digit.
  static func digit(_ byte: UInt8) -> UInt64? {
    switch byte {
    case 0x30...0x39: UInt64(byte - 0x30)
    case 0x41...0x46: UInt64(byte - 0x41 + 10)
    case 0x61...0x66: UInt64(byte - 0x61 + 10)
    default: nil
    }
  }
}
