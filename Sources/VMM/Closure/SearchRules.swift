// How a dynamic linker turns the names of libraries into places: glibc's ld.so and musl's, told apart by the interpreter.

import CSystemCalls
import KVM
import Machine

/// Which of the two linkers a program has.
enum Linker: Equatable, Sendable {
  case gnu, musl

  /// The linker whose file has this path.
  init(interpreter: [UInt8]) {
    let name = interpreter.split(separator: slash).last ?? []
    self = name.starts(with: "ld-musl".utf8) ? .musl : .gnu
  }
}

/// Facts about this processor that a search may ask for; read when first asked.
struct Hardware {
  /// The level, 1 to 4.
  var level: () -> Int = { CPULevel.current() }
  /// Whether it is Intel's: glibc then calls level 3 and up "haswell" where it says $PLATFORM.
  var isIntel: () -> Bool = { CPULevel.isIntel }

  /// Names of glibc-hwcaps subdirectories, best first.
  var subdirectories: [[UInt8]] {
    let level = level()
    return level < 2 ? [] : (2...level).reversed().map { Array("x86-64-v\($0)".utf8) }
  }
  /// What $PLATFORM may stand for, best first.
  var platforms: [[UInt8]] {
    let plain = Array("x86_64".utf8)
    return isIntel() && level() >= 3 ? [Array("haswell".utf8), plain] : [plain]
  }
}

/// The directories that are compiled into glibc's linker.
struct SystemDirectories: Equatable, Sendable {
  /// Without their last slash.
  var directories: [[UInt8]]
  /// What $LIB stands for.
  var library: [UInt8]

  /// Reads them from the linker's own file: the longest run of strings, one behind the other, that are absolute paths with a slash at
  /// their ends. The usual ones if there is no such run.
  init(interpreter: ELFFile?) {
    var best: [[UInt8]] = []
    for segment in interpreter?.loads ?? [] where segment.flags == 4 {
      let run = Self.longestRun(interpreter!.slice(segment.fileOffset, min(segment.fileCount, 1 << 20)))
      if run.count > best.count { best = run }
    }
    if best.isEmpty { best = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map { Array($0.utf8) } }
    directories = best
    let first = best[0]
    library =
      first.starts(with: "/lib".utf8) ? Array(first.dropFirst()) : Array(first.split(separator: slash).last ?? [])
  }

  /// The longest run of "/…/" strings in bytes of constants.
  static func longestRun(_ bytes: UnsafeRawBufferPointer) -> [[UInt8]] {
    var best: [[UInt8]] = []
    var run: [[UInt8]] = []
    var at = 0
    while let base = bytes.baseAddress, at < bytes.count,
      let found = osv_find(base + at, bytes.count - at, "/\0", 2)
    {
      let end = base.distance(to: found)
      var start = end
      while start > at, end - start < 1024, bytes[start - 1] > 0x20, bytes[start - 1] < 0x7f { start -= 1 }
      // A string of its own: a NUL (or the last string) lies in front.
      let isWhole = start == at || bytes[start - 1] == 0
      if start > at || run.isEmpty { run = [] }
      if isWhole, end > start, bytes[start] == slash {
        run.append(Array(bytes[start..<end]))
        if run.count > best.count, run.contains(where: { $0.hasPiece(beginning: "lib") }) { best = run }
      } else {
        run = []
      }
      at = end + 2
    }
    return best
  }
}

extension [UInt8] {
  /// Whether one of a path's pieces begins so.
  fileprivate func hasPiece(beginning text: String) -> Bool {
    split(separator: slash).contains { $0.starts(with: text.utf8) }
  }

  /// Every way to write the bytes with glibc's tokens ($ORIGIN, $LIB, $PLATFORM, also in braces) replaced; none if a
  /// token has no value.
  func expanded(origin: [UInt8]?, library: () -> [UInt8], platforms: () -> [[UInt8]]) -> [[UInt8]] {
    guard contains(UInt8(ascii: "$")) else { return [self] }
    var results: [[UInt8]] = [[]]
    var rest = self[...]
    while let byte = rest.first {
      if byte == UInt8(ascii: "$"), let (name, after) = Self.token(rest.dropFirst()) {
        let values: [[UInt8]]
        switch name {
        case "ORIGIN": values = origin.map { [$0] } ?? []
        case "LIB": values = [library()]
        default: values = platforms()
        }
        results = results.flatMap { prefix in values.map { prefix + $0 } }
        rest = after
      } else {
        for index in results.indices { results[index].append(byte) }
        rest = rest.dropFirst()
      }
      // One token with two values doubles the ways to write the whole: not more often than honest files do.
      if results.count > 16 { return [] }
    }
    return results
  }

  /// The token behind a "$".
  private static func token(_ text: ArraySlice<UInt8>) -> (name: String, rest: ArraySlice<UInt8>)? {
    let isBraced = text.first == UInt8(ascii: "{")
    let body = isBraced ? text.dropFirst() : text
    for name in ["ORIGIN", "LIB", "PLATFORM"] where body.starts(with: name.utf8) {
      let rest = body.dropFirst(name.utf8.count)
      if isBraced {
        guard rest.first == UInt8(ascii: "}") else { return nil }
        return (name, rest.dropFirst())
      }
      // A longer word is another one.
      if let next = rest.first, next == UInt8(ascii: "_") || isLetterOrDigit(next) { return nil }
      return (name, rest)
    }
    return nil
  }

  private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
    0x30...0x39 ~= byte || 0x41...0x5a ~= byte || 0x61...0x7a ~= byte
  }
}
