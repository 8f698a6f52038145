// What the console device needs of the terminal behind it. The terminal itself belongs to whoever makes the console.
import Glibc
import VirtioABI

/// Whether a terminal may be read now.
public enum ConsoleReadPermission: Sendable {
  /// Yes.
  case granted
  /// Another process group has it: ask again when something has changed, or after a while.
  case later
  /// It never will: treat it as ended.
  case refused
}

/// The terminal behind a console. Calls come from any thread.
public protocol ConsoleTerminal: AnyObject, Sendable {
  /// Carries out one of `VirtioConsoleTerminal`'s actions.
  /// - Parameter state: what the guest sent, which is not to be trusted; afterwards how the terminal is, with the same tag.
  /// - Returns: 0 or an error number of Linux.
  func perform(_ action: UInt16, _ state: inout VirtioConsoleTerminal) -> CInt
  /// Whether its input may be read. Not being allowed to may have consequences, as for any process that tries (SIGTTIN).
  func mayRead() -> ConsoleReadPermission
}
