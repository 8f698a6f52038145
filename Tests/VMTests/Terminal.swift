// A terminal for the programs that tests start: a pseudo-terminal whose other end the test types at and reads.
//
// The program is the leader of a session of its own and the terminal its controlling one, as under a terminal emulator. Nothing waits for
// ever: what does not come within `patience` fails the test with all that came instead.
import Foundation
import Glibc
import Testing

/// A program on a terminal.
final class TerminalSession {
  private let leader: Int32
  /// The terminal's modes before the program could change them.
  let modesAtStart: [UInt8]
  private let child: pid_t
  /// Everything that the terminal has shown.
  private(set) var shown = ""
  private var seen = ""
  private var hasEnded = false
  static let patience: Double = 30

  /// Starts a command on a new terminal of 80 by 24.
  init(_ command: [String]) throws {
    leader = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)
    try #require(leader >= 0)
    // TIOCSPTLCK and TIOCGPTN.
    var number: Int32 = 0
    try #require(ioctl(leader, 0x4004_5431, &number) == 0 && ioctl(leader, 0x8004_5430, &number) == 0)
    var size = winsize(ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0)
    _ = ioctl(leader, UInt(TIOCSWINSZ), &size)
    let terminal = "/dev/pts/\(number)"
    modesAtStart = Self.modes(of: leader)
    // 0x80: POSIX_SPAWN_SETSID.
    child = try start(
      command, environment: ["PATH=/usr/bin:/bin", "TERM=xterm", "PS1=$ ", "LANG=C"], flags: 0x80
    ) { actions in
      // The leader of a session gets the first terminal it opens.
      posix_spawn_file_actions_addopen(&actions, 0, terminal, O_RDWR, 0)
      posix_spawn_file_actions_adddup2(&actions, 0, 1)
      posix_spawn_file_actions_adddup2(&actions, 0, 2)
    }
  }

  deinit {
    if !hasEnded {
      kill(child, SIGKILL)
      waitpid(child, nil, 0)
    }
    close(leader)
  }

  /// Types characters.
  func type(_ text: String) {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
      let count = bytes.withUnsafeBytes { write(leader, $0.baseAddress, $0.count) }
      if count > 0 { bytes = bytes.dropFirst(count) } else if errno != EAGAIN { return }
    }
  }

  /// Another size, as when a window is dragged.
  func resize(columns: UInt16, rows: UInt16) {
    var size = winsize(ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
    _ = ioctl(leader, UInt(TIOCSWINSZ), &size)
  }

  /// The terminal's modes now.
  var modes: [UInt8] { Self.modes(of: leader) }

  private static func modes(of leader: Int32) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 36)
    _ = ioctl(leader, 0x5401, &bytes)
    return bytes
  }

  /// Sends the program a signal.
  func signal(_ number: Int32) { kill(child, number) }

  private func take(until end: Date) -> Bool {
    var wait = pollfd(fd: leader, events: Int16(POLLIN), revents: 0)
    guard poll(&wait, 1, Int32(max(0, end.timeIntervalSinceNow * 1000))) > 0 else { return false }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = read(leader, &bytes, bytes.count)
    guard count > 0 else { return count < 0 && errno == EAGAIN }
    let text = String(decoding: bytes.prefix(count), as: UTF8.self)
    shown += text
    seen += text
    return true
  }

  /// Waits until the terminal shows a text, after what was waited for before.
  func expect(_ text: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let end = Date(timeIntervalSinceNow: Self.patience)
    while true {
      if let found = seen.firstRange(of: text) {
        seen = String(seen[found.upperBound...])
        return
      }
      if Date() > end || !take(until: end) { break }
    }
    try #require(Bool(false), "no '\(text)' came, but:\n\(shown)", sourceLocation: sourceLocation)
  }

  /// Whether the terminal shows something within the time.
  func shows(_ text: String, within seconds: Double) -> Bool {
    let end = Date(timeIntervalSinceNow: seconds)
    while !seen.contains(text) { if !take(until: end) { return false } }
    return true
  }

  /// The program's end: its status as a shell reports it, nil if it does not end.
  func finish() -> Int32? {
    let end = Date(timeIntervalSinceNow: Self.patience)
    var result: Int32 = 0
    while Date() < end {
      // The terminal is read to its end, so that nobody waits to write to it.
      _ = take(until: Date(timeIntervalSinceNow: 0.01))
      guard waitpid(child, &result, WNOHANG) == child else { continue }
      hasEnded = true
      while take(until: Date()) {}
      return result & 0x7f == 0 ? result >> 8 & 0xff : 128 + result & 0x7f
    }
    return nil
  }
}
