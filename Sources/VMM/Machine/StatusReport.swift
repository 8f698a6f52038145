// How osv-run ended, for people on stderr and for machines on the descriptor that --status-fd names.

#if canImport(Glibc)
  import Glibc
#endif

/// Tells how it ended.
public struct StatusReport: Sendable {
  private let descriptor: CInt?

  /// Reports to `descriptor` too, if there is one.
  public init(descriptor: CInt?) { self.descriptor = descriptor }

  /// A failure of osv-run.
  public func report(_ failure: Failure) {
    StandardStreams.report("osv-run: error \(failure.label): \(failure.sentence)\n")
    send("{\"status\": 125, \"error\": \"\(failure.label)\", \"message\": \"\(Self.escape(failure.sentence))\"}\n")
  }

  /// The program's end.
  func report(status: CInt, signal: CInt) {
    send("{\"status\": \(status), \"signal\": \(signal)}\n")
  }

  private func send(_ text: String) {
    guard let descriptor else { return }
    var text = text
    text.withUTF8 { StandardStreams.write(UnsafeRawBufferPointer($0), to: descriptor) }
  }

  /// A string's content as JSON wants it.
  static func escape(_ text: String) -> String {
    var escaped = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": escaped += "\\\""
      case "\\": escaped += "\\\\"
      case "\n": escaped += "\\n"
      case _ where scalar.value < 0x20: escaped += "\\u00" + Hexadecimal.text(UInt64(scalar.value), digits: 2)
      default: escaped.unicodeScalars.append(scalar)
      }
    }
    return escaped
  }
}
