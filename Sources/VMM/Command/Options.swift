// The options of osv-run, parsed from bytes without looking at the system: pure, so that tables and fuzzers test it.

import Machine
import VirtioABI

/// What the command line asks for.
public struct Options: Equatable {
  /// What osv-run shall do.
  public enum Action: Equatable, Sendable {
    /// Run an image.
    case run
    /// Say what an image is taken for.
    case explain
    /// Send a command to a running machine.
    case ask
    /// Run the kernel's self-test.
    case selfTest
    /// Print the help text.
    case help
    /// Print the version.
    case version
  }

  /// A host directory to attach.
  public struct Volume: Equatable, Sendable {
    /// The host's directory.
    public var host: [UInt8]
    /// The absolute path in the guest.
    public var guest: [UInt8]
    /// Attached read-only.
    public var readOnly: Bool
    /// How long the guest believes what it has seen.
    public var cache = SharedDirectory.Cache.automatic
  }

  /// An empty file system in the guest's memory.
  public struct TemporaryDirectory: Equatable, Sendable {
    /// The absolute path in the guest.
    public var guest: [UInt8]
    /// What it may hold, in MiB; 0: half of the guest's memory.
    public var mebibyteLimit: UInt32 = 0
  }

  /// The self-tests that have a name (Guest/Kernel): the first checks threads, the others make a defect that has to be noticed.
  static let selfTests = [
    "threads", "boot-stack", "thread-stack", "overrun", "underrun", "wrote-before", "wrote-behind", "use-after-free",
    "free-twice", "wrong-free", "frame",
  ]

  /// What to do.
  public var action = Action.run
  /// Bytes of RAM.
  public var memoryByteCount: UInt64 = 128 << 20
  /// Bytes of it in the balloon from the start.
  public var balloonByteCount: UInt64 = 0
  /// Where a socket for commands is made, or (`ask`) is to be found.
  public var control: [UInt8]?
  /// vCPUs.
  public var cpuCount = 1
  /// The file of another kernel's RAM disk.
  public var initialDisk: [UInt8]?
  /// Another kernel's command line.
  public var commandLine: [UInt8]?
  /// Host directories to attach: outer ones before those within them, otherwise in the order given.
  public var volumes: [Volume] = []
  /// Empty file systems in the guest's memory.
  public var temporary: [TemporaryDirectory] = []
  /// Where something is mounted in the guest, and hides what was there.
  var mountPoints: [[UInt8]] { volumes.map(\.guest) + temporary.map(\.guest) }
  /// The host directory that is the guest's root, nil for a RAM file system.
  public var root: [UInt8]?
  /// Network interfaces.
  public var networks: [NetworkRequest] = []
  /// Whether --net was given, be it for none.
  var isNetworkGiven = false
  /// Ports that --publish named; they end up with an interface.
  var published: [PublishedPort] = []
  /// Where the frames of all interfaces are recorded.
  public var capture: [UInt8]?
  /// "NAME=VALUE" strings, in order.
  public var environment: [[UInt8]] = []
  /// The program's working directory.
  public var workingDirectory: [UInt8]?
  /// The guest's host name.
  public var hostName: [UInt8] = Array("osv".utf8)
  /// A `BootLog` bit set.
  public var log: UInt32 = 0
  /// A `BootFlags` bit set: those that options ask for.
  public var flags: UInt32 = 0
  /// By how many microseconds memory behind the first slot, and further CPUs, are late.
  public var completionDelay: UInt32 = 0
  /// Print the start's timeline.
  public var tracesBoot = false
  /// Where to write statistics at the end.
  public var statistics: [UInt8]?
  /// Where to write a failure or the end in a form for machines.
  public var statusDescriptor: CInt?
  /// For developers: boot this kernel instead of the one inside osv-run.
  public var kernel: [UInt8]?
  /// For developers: keep all privileges.
  public var isJailed = true
  /// The image.
  public var image: [UInt8]?
  /// The program's arguments, the image's name not included.
  public var arguments: [[UInt8]] = []

  /// The defaults.
  public init() {}

  /// Parses all arguments but osv-run's own name. The first that is no option is the image; what follows is the
  /// program's.
  public init(parsing arguments: [[UInt8]]) throws(Failure) {
    self.init()
    var rest = arguments[...]
    while let argument = rest.first {
      rest = rest.dropFirst()
      if argument.elementsEqual("--".utf8) { break }
      guard argument.starts(with: "-".utf8), argument.count > 1 else {
        rest = [argument] + rest
        break
      }
      let (name, inline) = Self.split(argument)
      guard let option = OptionTable.all.first(where: { $0.matches(name) }) else {
        throw Failure(.usage, "there is no option \(Self.show(argument)): see osv-run --help")
      }
      var value: [UInt8] = []
      if option.argument != nil {
        if let inline {
          value = inline
        } else if let next = rest.first {
          value = next
          rest = rest.dropFirst()
        } else {
          throw Failure(.usage, "the option --\(option.name) needs a value (\(option.argument ?? ""))")
        }
      } else if inline != nil {
        throw Failure(.usage, "the option --\(option.name) takes no value")
      }
      if value.contains(0) { throw Failure(.usage, "the value of --\(option.name) contains a zero byte") }
      try option.apply(&self, value)
    }
    image = rest.first
    self.arguments = Array(rest.dropFirst())
    if image?.isEmpty == true { throw Failure(.usage, "the program's name is empty") }
    if action == .selfTest, let image, !Self.selfTests.contains(where: { image.elementsEqual($0.utf8) }) {
      throw Failure(
        .usage,
        "there is no self-test \(Self.show(image)): name none for all of them, or one of "
          + Self.selfTests.joined(separator: ", "))
    }
    try settlePublishedPorts()
    if capture != nil, networks.isEmpty {
      throw Failure(.usage, "--capture records what a network carries: give --net")
    }
    // A volume within another comes after it, in whatever order they were given.
    volumes = BootContent.Mount.outerFirst(volumes, path: \.guest)
    if action == .ask, image == nil {
      throw Failure(.usage, "say what to ask: osv-run --ask SOCKET memory, network, or balloon SIZE")
    }
    if let reason = ControlCommand.refusal(ofBalloon: balloonByteCount, in: memoryByteCount) {
      throw Failure(.memory, "--balloon is too large: \(reason)")
    }
    if image == nil, action == .run || action == .explain {
      throw Failure(.usage, "say which program to run: osv-run [options] PROGRAM [argument...]; see osv-run --help")
    }
  }

  /// Descriptors of the caller that are ours to use, in ascending order.
  var passedDescriptors: [CInt] {
    let networks = networks.compactMap { request -> CInt? in
      if case .descriptor(let number) = request.kind { return number }
      return nil
    }
    return (networks + [statusDescriptor].compactMap { $0 }).sorted()
  }

  /// "--name=value" to name and value; "--name" and "-n" to a name alone.
  private static func split(_ argument: [UInt8]) -> (name: [UInt8], value: [UInt8]?) {
    guard argument.starts(with: "--".utf8) else { return (argument, nil) }
    let body = argument.dropFirst(2)
    guard let equals = body.firstIndex(of: UInt8(ascii: "=")) else { return (Array(body), nil) }
    return (Array(body[..<equals]), Array(body[(equals + 1)...]))
  }

  /// Bytes for a message: at most 80, control characters replaced.
  public static func show(_ bytes: [UInt8]) -> String { Failure.show(bytes) }
}

/// Values of options.
enum OptionValue {
  /// A decimal number up to `limit`, nil for anything else.
  static func number(_ bytes: some Collection<UInt8>, limit: UInt64) -> UInt64? {
    guard !bytes.isEmpty else { return nil }
    var value: UInt64 = 0
    for byte in bytes {
      guard byte >= 0x30, byte <= 0x39 else { return nil }
      value = value * 10 + UInt64(byte - 0x30)
      if value > limit { return nil }
    }
    return value
  }

  /// An absolute guest path without "." and ".." pieces and without doubled slashes; nil if it is none.
  static func guestPath(_ bytes: [UInt8]) -> [UInt8]? {
    guard bytes.first == UInt8(ascii: "/"), bytes.count < 4096 else { return nil }
    var path: [UInt8] = []
    for piece in bytes.split(separator: UInt8(ascii: "/")) {
      if piece.elementsEqual(".".utf8) { continue }
      if piece.elementsEqual("..".utf8) || piece.count > 255 { return nil }
      path.append(UInt8(ascii: "/"))
      path.append(contentsOf: piece)
    }
    return path.isEmpty ? [UInt8(ascii: "/")] : path
  }

  /// Refuses a place in the guest that is taken.
  static func checkIsFree(_ guest: [UInt8], _ options: Options) throws(Failure) {
    guard !options.mountPoints.contains(guest) else {
      throw Failure(.usage, "two volumes want the same place in the guest, \(Options.show(guest))")
    }
  }

  /// "GUEST[:SIZE]".
  static func temporaryDirectory(_ bytes: [UInt8]) throws(Failure) -> Options.TemporaryDirectory {
    var path = bytes
    var limit: UInt64 = 0
    if let colon = bytes.lastIndex(of: UInt8(ascii: ":")) {
      guard let size = ByteSize.parse(Array(bytes[(colon + 1)...])), size >= 1 << 20, size <= 256 << 30 else {
        throw Failure(.usage, "--tmpfs wants a size with M or G behind it, from 1M to 256G, not \(Options.show(bytes))")
      }
      limit = size >> 20
      path = Array(bytes[..<colon])
    }
    guard let guest = guestPath(path), guest.count > 1 else {
      throw Failure(.usage, "--tmpfs wants an absolute path below / in the guest, not \(Options.show(path))")
    }
    return Options.TemporaryDirectory(guest: guest, mebibyteLimit: UInt32(limit))
  }

  /// "HOST:GUEST[:ro][,cache=none|auto|always]".
  static func volume(_ bytes: [UInt8]) throws(Failure) -> Options.Volume {
    var text = bytes[...]
    var cache = SharedDirectory.Cache.automatic
    if let comma = text.lastIndex(of: UInt8(ascii: ",")), text[comma...].starts(with: ",cache=".utf8) {
      switch String(decoding: text[(comma + 7)...], as: UTF8.self) {
      case "none": cache = .none
      case "auto": cache = .automatic
      case "always": cache = .always
      default:
        throw Failure(.usage, "--volume wants cache=none, cache=auto or cache=always, not \(Options.show(bytes))")
      }
      text = text[..<comma]
    }
    let readOnly = text.count > 3 && text.suffix(3).elementsEqual(":ro".utf8)
    if readOnly { text = text.dropLast(3) }
    guard let colon = text.lastIndex(of: UInt8(ascii: ":")), colon > text.startIndex else {
      throw Failure(.usage, "--volume wants HOST:GUEST[:ro][,cache=none|auto|always], not \(Options.show(bytes))")
    }
    guard let guest = guestPath(Array(text[(colon + 1)...])), guest.count > 1 else {
      throw Failure(
        .usage, "--volume wants an absolute path below / in the guest, not \(Options.show(Array(text[(colon + 1)...])))"
      )
    }
    return Options.Volume(host: Array(text[..<colon]), guest: guest, readOnly: readOnly, cache: cache)
  }
}
