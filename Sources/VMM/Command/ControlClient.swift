// Both ends of the control socket as the command line has them: making it, and asking through it.
import CSystemCalls
import Machine

#if canImport(Glibc)
  import Glibc
#endif

enum ControlClient {
  /// Bytes of an answer at most.
  private static let answerLimit = 1 << 16

  /// The path as C has it; the parser has refused zero bytes.
  private static func withPath<Result>(_ path: [UInt8], _ body: (UnsafePointer<CChar>) -> Result) -> Result {
    // SAFETY: the array's own bytes, for as long as the body runs, and a zero at their end; a CChar is a byte.
    (path + [0]).withUnsafeBytes { body($0.baseAddress!.assumingMemoryBound(to: CChar.self)) }
  }

  /// Makes the socket of --control.
  static func listen(_ path: [UInt8]) throws(Failure) -> CInt {
    let descriptor = withPath(path) { osv_listen($0) }
    guard descriptor >= 0 else {
      let name = Options.show(path)
      switch -descriptor {
      case EADDRINUSE:
        throw Failure(.control, "there is something at \(name) already, so that no control socket can be made there")
      case ENAMETOOLONG: throw Failure(.control, "the path of a control socket has 107 bytes at most")
      default:
        throw Failure(
          .control, "the control socket \(name) cannot be made: \(String(cString: strerror(-descriptor)))")
      }
    }
    return descriptor
  }

  /// Sends the command that --ask came with, and gives the answer.
  static func ask(_ options: Options) throws(Failure) -> String {
    let path = options.control ?? []
    let name = Options.show(path)
    let socket = withPath(path) { osv_connect($0) }
    guard socket >= 0 else {
      throw Failure(.control, "no machine answers at \(name): \(String(cString: strerror(-socket)))")
    }
    signal(SIGPIPE, SIG_IGN)
    let line = ([options.image ?? []] + options.arguments).joined(separator: [UInt8(ascii: " ")]) + [UInt8(ascii: "\n")]
    var rest = Array(line)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { write(socket, $0.baseAddress, $0.count) }
      if count > 0 { rest = rest.dropFirst(count) } else if errno != EINTR { break }
    }
    shutdown(socket, CInt(SHUT_WR))
    var answer: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while answer.count < answerLimit {
      let count = read(socket, &buffer, buffer.count)
      if count > 0 { answer += buffer[..<count] } else if count == 0 || errno != EINTR { break }
    }
    let text = String(decoding: answer, as: UTF8.self)
    let mark = "{\"error\": \""
    if text.hasPrefix(mark) {
      let sentence = text.dropFirst(mark.utf8.count).prefix { $0 != "\"" && $0 != "\n" }
      throw Failure(.control, "the machine at \(name) refused: \(sentence)")
    }
    guard text.hasSuffix("\n") else { throw Failure(.control, "the machine at \(name) gave no answer") }
    return text
  }
}
