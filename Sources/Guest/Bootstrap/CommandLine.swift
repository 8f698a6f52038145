// The kernel's command line, in osv-run's words: [--OPTION VALUE…] [--] [PROGRAM] [ARGUMENTS…]. Blanks part words; within '…' or "…" they
// do not. The value follows its option as the next word or behind a "=".
import Base
import VirtioABI

/// Bytes somewhere in memory that stays.
struct Word {
  // SAFETY: whoever makes a word says that the bytes stay.
  let start: UnsafePointer<UInt8>
  let count: Int

  /// `count` bytes from `start` on.
  init(start: UnsafePointer<UInt8>, count: Int) {
    self.start = start
    self.count = count
  }

  /// The bytes of a text.
  // SAFETY: a static string's bytes are always there.
  init(_ text: StaticString) { self.init(start: text.utf8Start, count: text.utf8CodeUnitCount) }

  subscript(index: Int) -> UInt8 { start[index] }

  /// Whether these are the bytes of `text`.
  func matches(_ text: StaticString) -> Bool { text.utf8CodeUnitCount == count && begins(with: text) }

  /// Whether they begin so.
  func begins(with text: StaticString) -> Bool {
    guard text.utf8CodeUnitCount <= count else { return false }
    for index in 0..<text.utf8CodeUnitCount where start[index] != text.utf8Start[index] { return false }
    return true
  }

  /// Where the byte is first; nil if it is not there.
  func first(_ byte: UInt8) -> Int? {
    for index in 0..<count where start[index] == byte { return index }
    return nil
  }

  /// Where the byte is last; nil if it is not there.
  func last(_ byte: UInt8) -> Int? {
    var index = count &- 1
    while index >= 0 && start[index] != byte { index &-= 1 }
    return index >= 0 ? index : nil
  }

  /// A part.
  func slice(_ from: Int, _ to: Int) -> Word { Word(start: start + from, count: to &- from) }

  /// The decimal number that all of them are; nil if it is none, or above `limit`.
  func number(limit: UInt64) -> UInt64? {
    guard count > 0, count <= 12 else { return nil }
    var value: UInt64 = 0
    for index in 0..<count {
      guard 0x30...0x39 ~= start[index] else { return nil }
      value = value &* 10 &+ (start[index] &- 0x30).u64
    }
    return value <= limit ? value : nil
  }
}

/// Takes words off a line, whose bytes are changed: quotes go, and behind each word is a NUL.
struct CommandLine {
  // SAFETY: `end` bytes and one more, which the caller gives for good.
  private let bytes: UnsafeMutablePointer<UInt8>
  private let end: Int
  private var next = 0

  /// A line; the byte behind it is the line's too.
  init(_ bytes: UnsafeMutablePointer<UInt8>, count: Int) {
    self.bytes = bytes
    end = count
    bytes[count] = 0
  }

  /// The next word; nil at the end.
  mutating func word() -> Word? {
    while next < end && isBlank(bytes[next]) { next &+= 1 }
    guard next < end else { return nil }
    let start = next
    var (out, quote) = (next, 0 as UInt8)
    while next < end && (quote != 0 || !isBlank(bytes[next])) {
      let byte = bytes[next]
      next &+= 1
      if quote == 0 && (byte == 0x22 || byte == 0x27) {
        quote = byte
      } else if byte == quote {
        quote = 0
      } else {
        bytes[out] = byte
        out &+= 1
      }
    }
    next &+= 1
    bytes[out] = 0
    return Word(start: UnsafePointer(bytes + start), count: out &- start)
  }

  /// What is left begins so: to look before a word is taken.
  var startsWithOption: Bool {
    var at = next
    while at < end && isBlank(bytes[at]) { at &+= 1 }
    return at &+ 1 < end && bytes[at] == 0x2d && bytes[at &+ 1] == 0x2d
  }

  private func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || 0x09...0x0d ~= byte }
}

/// What the line asks for, but for the program and its arguments, which are what is left of it.
struct CommandOptions {
  /// A file system by its device's tag, or an empty one.
  struct Mount {
    /// The tag of the virtio-fs device; empty for a file system in memory.
    var tag: Word
    /// Where in the guest.
    var path: Word
    var isReadOnly = false
    var mebibyteLimit: UInt32 = 0
  }

  /// How many of each there may be.
  static var limit: Int { 16 }

  private(set) var mountCount = 0
  private(set) var mounts: [16 of Mount]
  private(set) var environmentCount = 0
  private(set) var environment: [16 of Word]
  private(set) var networkCount = 0
  private(set) var networks: [8 of Word]
  private(set) var workingDirectory: Word?
  private(set) var hostName: Word?
  private(set) var log: UInt32 = 0
  private(set) var flags: UInt32 = 0

  /// Takes the options off a line.
  init(_ line: inout CommandLine) throws(BootstrapFailure) {
    let nothing = Word("")
    mounts = .init(repeating: Mount(tag: nothing, path: nothing))
    environment = .init(repeating: nothing)
    networks = .init(repeating: nothing)
    while line.startsWithOption, let word = line.word() {
      if word.matches("--") { return }
      let equals = word.first(0x3d)
      let name = equals.map { word.slice(0, $0) } ?? word
      if name.matches("--self-test") {
        flags |= BootFlags.selfTest
        continue
      }
      if name.matches("--no-rewrite") {
        flags |= BootFlags.noRewrite
        continue
      }
      let given = equals.map { word.slice($0 &+ 1, word.count) }
      guard let value = given ?? line.word() else {
        throw BootstrapFailure("the command line ends with an option that wants a value")
      }
      try apply(name, value)
    }
  }

  private mutating func apply(_ name: Word, _ value: Word) throws(BootstrapFailure) {
    if name.matches("--root") {
      try add(Mount(tag: value, path: Word("/"), isReadOnly: true))
    } else if name.matches("--volume") {
      try add(volume(value))
    } else if name.matches("--tmpfs") {
      try add(temporary(value))
    } else if name.matches("--env") {
      guard let equals = value.first(0x3d), equals > 0 else { throw BootstrapFailure("--env wants NAME=VALUE") }
      guard environmentCount < Self.limit else { throw BootstrapFailure("there may be 16 of --env at most") }
      environment[environmentCount] = value
      environmentCount &+= 1
    } else if name.matches("--net") {
      guard networkCount < 8 else { throw BootstrapFailure("there may be 8 of --net at most") }
      networks[networkCount] = value
      networkCount &+= 1
    } else if name.matches("--workdir") {
      guard value.count > 0, value[0] == 0x2f else { throw BootstrapFailure("--workdir wants an absolute path") }
      workingDirectory = value
    } else if name.matches("--hostname") {
      guard 1...64 ~= value.count else { throw BootstrapFailure("--hostname wants 1 to 64 letters") }
      hostName = value
    } else if name.matches("--log") {
      try log(value)
    } else {
      throw BootstrapFailure(
        "the command line has an unknown option: there are --root TAG, --volume TAG:PATH[:ro], --tmpfs PATH[:MEBIBYTES], --net, --env, --workdir, --hostname, --log and --self-test"
      )
    }
  }

  private mutating func add(_ mount: Mount) throws(BootstrapFailure) {
    guard mountCount < Self.limit else { throw BootstrapFailure("there may be 16 file systems at most") }
    mounts[mountCount] = mount
    mountCount &+= 1
  }

  private func volume(_ value: Word) throws(BootstrapFailure) -> Mount {
    guard let colon = value.first(0x3a), colon > 0, colon &+ 1 < value.count, value[colon &+ 1] == 0x2f else {
      throw BootstrapFailure("--volume wants TAG:PATH, the path absolute, and :ro behind it perhaps")
    }
    let rest = value.slice(colon &+ 1, value.count)
    guard let second = rest.first(0x3a) else { return Mount(tag: value.slice(0, colon), path: rest) }
    guard rest.slice(second &+ 1, rest.count).matches("ro") else {
      throw BootstrapFailure("--volume wants TAG:PATH, and only :ro may be behind it")
    }
    return Mount(tag: value.slice(0, colon), path: rest.slice(0, second), isReadOnly: true)
  }

  private func temporary(_ value: Word) throws(BootstrapFailure) -> Mount {
    guard value.count > 1, value[0] == 0x2f else { throw BootstrapFailure("--tmpfs wants an absolute path") }
    let nothing = value.slice(0, 0)
    guard let colon = value.first(0x3a) else { return Mount(tag: nothing, path: value) }
    guard let limit = value.slice(colon &+ 1, value.count).number(limit: 1 &<< 24), limit > 0 else {
      throw BootstrapFailure("--tmpfs wants PATH:MEBIBYTES")
    }
    return Mount(tag: nothing, path: value.slice(0, colon), mebibyteLimit: limit.u32)
  }

  private mutating func log(_ value: Word) throws(BootstrapFailure) {
    var rest = value
    while true {
      let end = rest.first(0x2c) ?? rest.count
      let name = rest.slice(0, end)
      if name.matches("syscalls") {
        log |= BootLog.systemCalls
      } else if name.matches("faults") {
        log |= BootLog.faults
      } else if name.matches("signals") {
        log |= BootLog.signals
      } else if name.matches("rewrite") {
        log |= BootLog.rewrite
      } else {
        throw BootstrapFailure("--log knows syscalls, faults, signals and rewrite")
      }
      if end == rest.count { return }
      rest = rest.slice(end &+ 1, rest.count)
    }
  }
}
