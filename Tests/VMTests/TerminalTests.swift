// Programs on a terminal: what they see, what they set and what is left of it, in a VM as natively.
import Foundation
import Glibc
import Testing

private let busybox = "/bin/busybox"
private let programs = packageRoot + "/.build/guest-programs/"

/// How a program is started.
enum Runner: CaseIterable, Sendable {
  case natively, inAVM, inAVMOfTwo
  var command: [String] {
    switch self {
    case .natively: []
    case .inAVM: [osvRun]
    case .inAVMOfTwo: [osvRun, "--cpus", "2"]
    }
  }
}

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct TerminalTests {
  /// Plays Tests/GuestPrograms/terminal.c and gives everything that was shown.
  private func transcript(_ command: [String]) throws -> String {
    let it = try TerminalSession(command)
    let modes = it.modesAtStart
    try it.expect("resize\r\n")
    it.resize(columns: 132, rows: 50)
    try it.expect("line?\r\n")
    it.type("some textt\u{7f}\n")
    try it.expect("end of file?\r\n")
    it.type("\u{4}")
    try it.expect("control-c?\r\n")
    it.type("\u{3}")
    try it.expect("password?\r\n")
    it.type("secret\n")
    try it.expect("key?\r\n")
    it.type("k")
    try it.expect("control-c as a key?\r\n")
    it.type("\u{3}")
    try it.expect("three keys?\r\n")
    it.type("ab")
    #expect(!it.shows("bytes", within: 0.2))
    it.type("c")
    try it.expect("one of two?\r\n")
    it.type("z")
    try it.expect("a key that is looked for?\r\n")
    it.type("l")
    try it.expect("a key that is polled for?\r\n")
    it.type("p")
    try it.expect("a key and then no more?\r\n")
    it.type("n")
    try it.expect("junk?\r\n")
    it.type("junk")
    try it.expect("no junk?\r\n")
    it.type("clean\n")
    try it.expect("end\r\n")
    #expect(it.finish() == 7)
    #expect(it.modes == modes)
    return it.shown
  }

  @Test(arguments: ["glibc-static", "musl-static", "glibc-dynamic"]) func whatProgramsSeeAndSet(_ flavour: String)
    async throws
  {
    let program = programs + flavour + "/terminal"
    let native = try transcript([program])
    #expect(native.contains("the time was waited for") && native.contains("[clean\n]".replacing("\n", with: "\r\n")))
    for runner in [Runner.inAVM, .inAVMOfTwo] { #expect(try transcript(runner.command + [program]) == native) }
  }

  @Test(arguments: Runner.allCases) func signalsInterruptNoChangeOfTheModes(_ runner: Runner) throws {
    let it = try TerminalSession(runner.command + [programs + "glibc-static/terminal", "toggle"])
    try it.expect("ready\r\n")
    for round in 0..<300 {
      it.type("\u{3}")
      usleep(UInt32(1000 + round * 17 % 4000))
    }
    it.type("qqqq")
    try it.expect("interrupted 0\r\nsome came\r\n")
    #expect(it.finish() == 8)
  }

  enum End: CaseIterable, Sendable { case exit, terminated, quit, crash }

  /// However it ends, the terminal is as it was.
  @Test(arguments: End.allCases) func theTerminalIsRestored(_ end: End) throws {
    let it = try TerminalSession(
      [osvRun, programs + "glibc-static/terminal", "leave"] + (end == .exit ? [] : ["wait"]))
    let modes = it.modesAtStart
    try it.expect("raw\r\n")
    if end != .exit { #expect(it.modes != modes) }
    switch end {
    case .exit: #expect(it.finish() == 5)
    case .terminated:
      // The program ignores the first; the second is the monitor's.
      it.signal(SIGTERM)
      usleep(100_000)
      it.signal(SIGTERM)
      #expect(it.finish() == 143)
    case .quit:
      it.signal(SIGQUIT)
      #expect(it.finish() == 131)
    case .crash:
      it.signal(SIGUSR1)
      #expect(it.finish() == 128 + SIGUSR1)
    }
    #expect(it.modes == modes)
  }

  /// Those in quick succession are the program's, one that ignores them too; Ctrl-\\ twice is the way out.
  @Test(arguments: Runner.allCases) func controlCIsTheProgramsAlone(_ runner: Runner) throws {
    let program = "trap '' INT QUIT; echo ready; while read line; do echo \"heard $line\"; done; exit 9"
    let it = try TerminalSession(runner.command + [busybox, "sh", "-c", program])
    let modes = it.modesAtStart
    try it.expect("ready\r\n")
    for _ in 0..<3 {
      it.type("\u{3}")
      usleep(100_000)
    }
    it.type("one\n")
    try it.expect("heard one\r\n")
    it.type("\u{1c}")
    usleep(100_000)
    it.type("two\n")
    try it.expect("heard two\r\n")
    if runner == .natively {
      it.type("\u{4}")
      #expect(it.finish() == 9)
    } else {
      it.type("\u{1c}")
      #expect(it.finish() == 125)
    }
    #expect(it.modes == modes)
  }

  /// One that ignores or blocks Ctrl-C is ended by the second, not by a nervous finger; one that takes it hears them all.
  @Test(arguments: [Runner.inAVM, .inAVMOfTwo]) func aSecondControlCEndsWhoDoesNotListen(_ runner: Runner) throws {
    let deaf = try TerminalSession(
      runner.command + [busybox, "sh", "-c", "trap '' INT; echo ready; while read line; do echo \"heard $line\"; done"])
    let modes = deaf.modesAtStart
    try deaf.expect("ready\r\n")
    deaf.type("\u{3}\u{3}\u{3}")
    usleep(1_200_000)
    deaf.type("one\n")
    try deaf.expect("heard one\r\n")
    deaf.type("\u{3}")
    #expect(deaf.finish() == 128 + SIGINT)
    #expect(deaf.modes == modes)

    let program = "trap 'echo got it' INT; echo ready; while :; do read line && echo \"heard $line\"; done"
    let listening = try TerminalSession(runner.command + [busybox, "sh", "-c", program])
    try listening.expect("ready\r\n")
    for _ in 0..<3 {
      listening.type("\u{3}")
      try listening.expect("got it\r\n")
      usleep(1_200_000)
    }
    listening.type("one\n")
    try listening.expect("heard one\r\n")
    listening.type("\u{1c}")
    _ = listening.finish()
  }

  @Test(arguments: Runner.allCases) func anEditor(_ runner: Runner) throws {
    let it = try TerminalSession(runner.command + [busybox, "vi", "/tmp/osv-no-such-file"])
    let modes = it.modesAtStart
    try it.expect("~")
    it.type("ihello world")
    try it.expect("world")
    it.type("\u{1b}")
    // An escape that something follows at once would be the beginning of a key.
    usleep(500_000)
    it.type(":s/world/terminal/\r")
    try it.expect("terminal")
    it.type(":q!\r")
    #expect(it.finish() == 0)
    #expect(it.modes == modes)
  }

  @Test(arguments: Runner.allCases) func aPager(_ runner: Runner) throws {
    let options = runner == .natively ? [] : ["--volume", "/usr/include:/usr/include"]
    let it = try TerminalSession(runner.command + options + [busybox, "less", "/usr/include/elf.h"])
    try it.expect("This file defines standard ELF types")
    it.type("G")
    try it.expect("(END)")
    it.type("q")
    #expect(it.finish() == 0)
  }

  /// Standard input is a pipe: a pager reads the keyboard by /dev/tty.
  @Test(arguments: Runner.allCases) func aPagerAtTheEndOfAPipe(_ runner: Runner) throws {
    let it = try TerminalSession(
      ["/bin/sh", "-c", "/bin/busybox seq 3000 | \"$@\" /bin/busybox less", "sh"] + runner.command)
    let modes = it.modesAtStart
    try it.expect("20\r\n")
    it.type("G")
    try it.expect("3000")
    it.type("q")
    #expect(it.finish() == 0)
    #expect(it.modes == modes)
  }

  /// The terminal is whichever of the streams is one; what the others read is their own.
  @Test(arguments: Runner.allCases, [">&2", "2> /dev/null", ""])
  func theTerminalIsReadBesidesAPipe(_ runner: Runner, redirection: String) throws {
    let script =
      "read a; echo a $a; read b < /dev/tty; echo b $b; read c < /dev/tty; read d; echo c $c d $d; echo end > /dev/tty"
    let it = try TerminalSession(
      ["/bin/sh", "-c", "printf 'one\\ntwo\\n' | \"$@\" /bin/busybox sh -c '\(script)' \(redirection)", "sh"]
        + runner.command)
    try it.expect("a one\r\n")
    it.type("typed\n")
    try it.expect("b typed\r\n")
    it.type("more\n")
    try it.expect("c more d two\r\nend\r\n")
    #expect(it.finish() == 0)
  }

  /// Pagers of old read standard error.
  @Test(arguments: Runner.allCases) func standardErrorIsTheTerminalToo(_ runner: Runner) throws {
    let it = try TerminalSession(
      [
        "/bin/sh", "-c",
        "printf 'piped\\n' | \"$@\" /bin/busybox sh -c 'read a <&2; read b; echo $a, $b' | /bin/busybox cat", "sh",
      ]
        + runner.command)
    it.type("typed\n")
    try it.expect("typed, piped\r\n")
    #expect(it.finish() == 0)
  }

  @Test(arguments: Runner.allCases) func aShell(_ runner: Runner) throws {
    let it = try TerminalSession(
      runner.command + (runner == .natively ? [] : ["--env", "PS1=$ "]) + [busybox, "sh"])
    try it.expect("$ ")
    it.type("echo $((6 * 7))\n")
    try it.expect("\r\n42\r\n")
    // Editing of lines is the shell's own: the terminal is raw meanwhile.
    it.type("echo abd\u{7f}c\n")
    try it.expect("\r\nabc\r\n")
    // Only when it is back at its prompt: a signal while it sets the modes makes it forget what they were, natively too.
    try it.expect("$ ")
    // One Ctrl-C after another is the shell's, not the monitor's.
    for _ in 0..<3 {
      it.type("dropped\u{3}")
      try it.expect("$ ")
    }
    // Within a command that waits. (A loop without end is no test: this shell misses a signal now and then in one, natively too.)
    it.type("read answer\n")
    try it.expect("answer\r\n")
    // One that comes before the command has the terminal is an ordinary byte of a line.
    for _ in 0..<10 {
      it.type("\u{3}")
      if it.shows("$ ", within: 2) { break }
    }
    try it.expect("$ ")
    it.type("exit 3\n")
    #expect(it.finish() == 3)
  }

  /// An interactive shell of the host, whose job is the program.
  private func shell() throws -> TerminalSession {
    let it = try TerminalSession(["/bin/bash", "--norc", "--noprofile", "-i"])
    try it.expect("$ ")
    it.type("bind 'set enable-bracketed-paste off'; PS1='# '; run='\(osvRun)'; p=\(programs)glibc-static/terminal\n")
    try it.expect("# ")
    return it
  }

  @Test func controlZStopsTheJob() throws {
    let it = try shell()
    it.type("\"$run\" \"$p\" stay\n")
    try it.expect("ready\r\n")
    let raw = it.modes
    it.type("a")
    try it.expect("key 97\r\nready\r\n")
    it.type("\u{1a}")
    try it.expect("Stopped")
    try it.expect("# ")
    it.type("fg\n")
    try it.expect("continued\r\n")
    #expect(it.modes == raw)
    it.type("b")
    try it.expect("key 98\r\nready\r\n")
    it.type("q")
    try it.expect("# ")
    it.type("echo $?\n")
    try it.expect("\r\n6\r\n")
    it.type("exit\n")
    #expect(it.finish() == 0)
  }

  /// A job that is started in the background stops when it wants the terminal, and works once it has it.
  @Test(arguments: ["", "\"$run\""]) func aJobInTheBackgroundWaits(_ runner: String) throws {
    let it = try shell()
    func startStopped(_ command: String) throws {
      it.type(command + " &\n")
      // That it has stopped may be said before the prompt or after it.
      try it.expect("[1] ")
      usleep(600_000)
      it.type("\n")
      try it.expect("Stopped")
    }
    try startStopped("\(runner) \"$p\" stay")
    it.type("fg\n")
    try it.expect("ready\r\n")
    it.type("q")
    try it.expect("key 113\r\n")
    try it.expect("# ")
    try startStopped("\(runner) \(busybox) cat")
    it.type("fg\n")
    try it.expect("cat\r\n")
    usleep(600_000)
    it.type("read it\n")
    try it.expect("read it\r\nread it\r\n")
    it.type("\u{4}")
    try it.expect("# ")
    try startStopped("\(runner) \(busybox) cat")
    it.type("kill %1; kill -CONT %1\n")
    usleep(600_000)
    it.type("\n")
    // Of osv-run the shell says "Exit 143".
    try it.expect(runner.isEmpty ? "Terminated" : "143")
    it.type("exit\n")
    #expect(it.finish() == 0)
  }

  /// A job that does not want the terminal is not stopped.
  @Test func aJobInTheBackgroundRuns() throws {
    let it = try shell()
    it.type("\"$run\" \(busybox) echo from behind & wait; echo status $?\n")
    try it.expect("from behind\r\n")
    try it.expect("status 0\r\n")
    it.type("exit\n")
    #expect(it.finish() == 0)
  }
}
