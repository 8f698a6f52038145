// Every option of osv-run: its name, what it wants, what it does. The help text is made from this table.

import Machine
import VirtioABI

/// One option.
struct Option: Sendable {
  /// Its name, without the dashes.
  let name: String
  /// A letter for short, with its dash.
  var letter: String?
  /// What it wants, nil if it stands alone.
  var argument: String?
  /// One line for the help text; nil hides it.
  let help: String?
  /// Acts on the options.
  let apply: @Sendable (inout Options, [UInt8]) throws(Failure) -> Void

  init(
    _ name: String, letter: String? = nil, argument: String? = nil, help: String?,
    apply: @escaping @Sendable (inout Options, [UInt8]) throws(Failure) -> Void
  ) {
    self.name = name
    self.letter = letter
    self.argument = argument
    self.help = help
    self.apply = apply
  }

  /// Whether a name from the command line ("memory", or "-h") means this option.
  func matches(_ given: [UInt8]) -> Bool {
    given.elementsEqual(name.utf8) || letter.map { given.elementsEqual($0.utf8) } == true
  }
}

/// The options.
enum OptionTable {
  static let all: [Option] = [
    Option("memory", letter: "-m", argument: "SIZE", help: "the guest's memory, as 128M or 2G (128M)") {
      options, value throws(Failure) in
      guard let size = ByteSize.parse(value) else {
        throw Failure(
          .usage, "--memory wants a number with M or G behind it, from 4M to 256G, not \(Options.show(value))")
      }
      guard size >= 4 << 20 else { throw Failure(.memory, "--memory is too small: it may be 4M to 256G") }
      guard size <= 256 << 30 else { throw Failure(.memory, "--memory is too large: it may be 4M to 256G") }
      options.memoryByteCount = size
    },
    Option("balloon", argument: "SIZE", help: "how much of it the guest shall do without from the start (0M)") {
      options, value throws(Failure) in
      guard let size = ByteSize.parse(value) else {
        throw Failure(.usage, "--balloon wants a number with M or G behind it, not \(Options.show(value))")
      }
      options.balloonByteCount = size
    },
    Option("cpus", letter: "-c", argument: "N", help: "virtual CPUs, 1 to 64 (1)") { options, value throws(Failure) in
      guard let count = OptionValue.number(value, limit: 64), count > 0 else {
        throw Failure(.usage, "--cpus wants a number from 1 to 64, not \(Options.show(value))")
      }
      options.cpuCount = Int(count)
    },
    Option(
      "volume", letter: "-v", argument: "HOST:GUEST[:ro][,cache=...]",
      help: "attach a host directory, writable unless :ro; cache=none, auto or always; repeats"
    ) { options, value throws(Failure) in
      let volume = try OptionValue.volume(value)
      try OptionValue.checkIsFree(volume.guest, options)
      if options.volumes.count >= 16 { throw Failure(.usage, "there may be 16 volumes at most") }
      options.volumes.append(volume)
    },
    Option("tmpfs", argument: "GUEST[:SIZE]", help: "an empty directory in the guest's memory (half of it); repeats") {
      options, value throws(Failure) in
      let directory = try OptionValue.temporaryDirectory(value)
      try OptionValue.checkIsFree(directory.guest, options)
      if options.temporary.count >= 16 { throw Failure(.usage, "there may be 16 directories of --tmpfs at most") }
      options.temporary.append(directory)
    },
    Option("root", argument: "DIR", help: "use a host directory as the guest's root; PROGRAM is then a path in it") {
      options, value throws(Failure) in
      if value.isEmpty { throw Failure(.usage, "--root wants a directory") }
      options.root = value
    },
    Option(
      "net", argument: "KIND[,...]",
      help: "give it a network: user, tap, tap:NAME or fd:N, with mac=, mtu=, rate=...; repeats (none)"
    ) { options, value throws(Failure) in
      let request = try OptionValue.network(value)
      guard !options.isNetworkGiven || request != nil && !options.networks.isEmpty else {
        throw Failure(.usage, "--net none stands alone")
      }
      options.isNetworkGiven = true
      guard let request else { return }
      if options.networks.count >= Options.networkLimit {
        throw Failure(.usage, "there may be \(Options.networkLimit) network interfaces at most")
      }
      options.networks.append(request)
    },
    Option(
      "publish", letter: "-p", argument: "[ADDR:]HOST:GUEST[/udp]",
      help: "make a port of the host lead to the guest (implies --net user); repeats"
    ) { options, value throws(Failure) in
      let port = try OptionValue.publishedPort(value)
      if options.published.count >= 64 { throw Failure(.usage, "there may be 64 published ports at most") }
      options.published.append(port)
    },
    Option("capture", argument: "FILE", help: "record the network's frames in FILE, which Wireshark opens") {
      options, value throws(Failure) in
      if value.isEmpty { throw Failure(.usage, "--capture wants a file") }
      options.capture = value
    },
    Option("env", letter: "-e", argument: "NAME=VALUE", help: "set an environment variable; repeats") {
      options, value throws(Failure) in
      guard let equals = value.firstIndex(of: UInt8(ascii: "=")), equals > 0 else {
        throw Failure(.usage, "--env wants NAME=VALUE, not \(Options.show(value))")
      }
      options.environment.removeAll { $0.starts(with: value[...equals]) }
      options.environment.append(value)
    },
    Option("workdir", letter: "-w", argument: "DIR", help: "the program's working directory in the guest (/)") {
      options, value throws(Failure) in
      guard let path = OptionValue.guestPath(value) else {
        throw Failure(.usage, "--workdir wants an absolute path, not \(Options.show(value))")
      }
      options.workingDirectory = path
    },
    Option("hostname", argument: "NAME", help: "the guest's host name (osv)") { options, value throws(Failure) in
      let isName = value.allSatisfy { byte in
        byte == UInt8(ascii: "-") || byte == UInt8(ascii: ".") || 0x30...0x39 ~= byte || 0x41...0x5a ~= byte
          || 0x61...0x7a ~= byte
      }
      guard isName, 1...64 ~= value.count else {
        throw Failure(.usage, "--hostname wants letters, digits, '-' and '.', not \(Options.show(value))")
      }
      options.hostName = value
    },
    Option(
      "log", argument: "WHAT",
      help: "report on stderr: syscalls, faults, signals, boot, rewrite (commas between several)"
    ) { options, value throws(Failure) in
      let names: [(String, UInt32)] = [
        ("syscalls", BootLog.systemCalls), ("faults", BootLog.faults), ("signals", BootLog.signals),
        ("boot", BootLog.boot), ("rewrite", BootLog.rewrite),
      ]
      for piece in value.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false) {
        guard let found = names.first(where: { piece.elementsEqual($0.0.utf8) }) else {
          throw Failure(
            .usage, "--log knows syscalls, faults, signals, boot and rewrite, not \(Options.show(Array(piece)))")
        }
        options.log |= found.1
      }
    },
    Option("trace", argument: "boot", help: "print where the start's time went") { options, value throws(Failure) in
      guard value.elementsEqual("boot".utf8) else {
        throw Failure(.usage, "--trace knows boot, not \(Options.show(value))")
      }
      options.tracesBoot = true
      options.log |= BootLog.boot
    },
    Option("stats", argument: "FILE", help: "write exits, memory and times to FILE at the end, as JSON") {
      options, value throws(Failure) in
      if value.isEmpty { throw Failure(.usage, "--stats wants a file") }
      options.statistics = value
    },
    Option("control", argument: "SOCKET", help: "make a socket that takes commands for the running machine") {
      options, value throws(Failure) in
      if value.isEmpty { throw Failure(.usage, "--control wants the path of a socket to make") }
      options.control = value
    },
    Option("ask", argument: "SOCKET", help: "send a command there instead: memory, network, or balloon SIZE") {
      options, value throws(Failure) in
      if value.isEmpty { throw Failure(.usage, "--ask wants the path of a socket") }
      options.control = value
      options.action = .ask
    },
    Option("status-fd", argument: "N", help: "write how it ended to file descriptor N, as JSON") {
      options, value throws(Failure) in
      guard let number = OptionValue.number(value, limit: 1 << 20) else {
        throw Failure(.usage, "--status-fd wants the number of an open file descriptor, not \(Options.show(value))")
      }
      options.statusDescriptor = CInt(number)
    },
    Option(
      "debug", argument: "WHAT",
      help: "memory: catch the kernel's overruns, uses of freed memory (slow); late: further memory and CPUs come late"
    ) { options, value throws(Failure) in
      if value.elementsEqual("memory".utf8) {
        options.flags |= BootFlags.debugMemory
      } else if value.elementsEqual("late".utf8) {
        options.completionDelay = 1_000_000
      } else {
        throw Failure(.usage, "--debug knows memory and late, not \(Options.show(value))")
      }
    },
    Option("initrd", argument: "FILE", help: "the RAM disk, if PROGRAM is another kernel") {
      options, value throws(Failure) in
      if value.isEmpty { throw Failure(.usage, "--initrd wants a file") }
      options.initialDisk = value
    },
    Option("cmdline", argument: "TEXT", help: "the command line, if PROGRAM is another kernel (console=ttyS0)") {
      options, value throws(Failure) in options.commandLine = value
    },
    Option("no-rewrite", help: "leave the program's code as it is: every system call is a trap") {
      options, _ throws(Failure) in options.flags |= BootFlags.noRewrite
    },
    Option("kernel", argument: "FILE", help: nil) { options, value throws(Failure) in
      if value.isEmpty { throw Failure(.usage, "--kernel wants a file") }
      options.kernel = value
    },
    Option("no-jail", help: nil) { options, _ throws(Failure) in options.isJailed = false },
    Option("self-test", help: "name this machine's KVM and check everything the kernel needs of it") {
      options, _ throws(Failure) in options.action = .selfTest
    },
    Option("explain", help: "say what PROGRAM is, list its libraries, run nothing") { options, _ throws(Failure) in
      options.action = .explain
    },
    Option("help", letter: "-h", help: "print this text") { options, _ throws(Failure) in options.action = .help },
    Option("version", help: "print the version") { options, _ throws(Failure) in options.action = .version },
  ]

  /// The help text.
  static var help: String {
    var text = """
      Usage: osv-run [options] PROGRAM [argument...]
      Runs a Linux program or an OSv image in a virtual machine of its own.


      """
    for option in all {
      guard let help = option.help else { continue }
      var left = "  " + (option.letter.map { $0 + ", " } ?? "    ") + "--" + option.name
      if let argument = option.argument { left += " " + argument }
      left += String(repeating: " ", count: max(2, 34 - left.utf8.count))
      text += left + help + "\n"
    }
    text += """

      The exit status is the program's own, 128 + N if signal N ended it, and 125 if osv-run failed.
      Ctrl-C and SIGTERM reach the program; a second one ends the VM (on a terminal: a Ctrl-C a second after one that the program
      has not taken). Ctrl-\\ twice ends it too, and says where it was.

      """
    return text
  }
}
