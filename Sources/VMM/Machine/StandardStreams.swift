// The monitor's own standard streams, as the guest needs to know them.

import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

/// Standard input, output and error of this process.
public enum StandardStreams {
  // Set once, before there is a second thread.
  // SAFETY: set once, before there is a second thread.
  nonisolated(unsafe) private static var closed: UInt32 = 0

  /// Gives streams that the caller has closed to /dev/null, so that no file opened later passes for one of them; the program finds them
  /// closed. To be called first of all.
  public static func fillClosed() {
    for descriptor: CInt in 0...2 where fcntl(descriptor, F_GETFD) < 0 {
      closed |= BootFlags.inputIsClosed << UInt32(descriptor)
      _ = open("/dev/null", descriptor == 0 ? O_RDONLY : O_WRONLY)
    }
  }

  /// The `BootFlags` bits that describe them.
  static var flags: UInt32 {
    var bits = closed
    for (descriptor, bit) in [
      (CInt(0), BootFlags.inputIsTerminal), (1, BootFlags.outputIsTerminal), (2, BootFlags.errorIsTerminal),
    ] where isatty(descriptor) == 1 { bits |= bit }
    if terminalInput >= 0 { bits |= BootFlags.terminalInput }
    var status = stat()
    if fstat(0, &status) != 0 || (status.st_mode & S_IFMT == S_IFCHR && status.st_rdev == 0x103) {
      bits |= BootFlags.inputIsEmpty  // closed, or /dev/null (1, 3)
    }
    return bits
  }

  /// What reads the terminal where standard input does not: output or error, if they are open for reading too, as a shell leaves them;
  /// else the controlling terminal. -1 if there is none, or no need. Opened at the first look: before the process gives up that right.
  static let terminalInput: CInt = {
    guard isatty(0) != 1 else { return -1 }
    let terminals = ([1, 2] as [CInt]).filter { isatty($0) == 1 }
    if terminals.isEmpty { return -1 }
    for descriptor in terminals where fcntl(descriptor, F_GETFL) & O_ACCMODE == O_RDWR { return descriptor }
    return open("/dev/tty", O_RDONLY | O_CLOEXEC | O_NOCTTY)
  }()

  /// Columns and rows of the terminal behind any of them, 0 without one.
  static var terminalSize: (UInt16, UInt16) {
    for descriptor: CInt in [1, 0, 2] {
      var size = winsize()
      if ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 { return (size.ws_col, size.ws_row) }
    }
    return (0, 0)
  }

  /// The process's file-mode creation mask.
  static var fileCreationMask: UInt32 {
    let mask = Glibc.umask(0)
    _ = Glibc.umask(mask)
    return mask
  }

  /// Writes all of `bytes` to a descriptor; errors end it silently, for there is nobody left to tell.
  static func write(_ bytes: UnsafeRawBufferPointer, to descriptor: CInt) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = Glibc.write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
      if count > 0 { rest = rest.dropFirst(count) } else if count < 0, errno != EINTR { return }
    }
  }

  /// The usual text of an error number.
  static func message(_ code: CInt) -> String { String(cString: strerror(code)) }

  /// Writes text, to standard error if nothing else is said.
  static func report(_ text: String, to descriptor: CInt = 2) {
    var text = text
    text.withUTF8 { write(UnsafeRawBufferPointer($0), to: descriptor) }
  }
}
