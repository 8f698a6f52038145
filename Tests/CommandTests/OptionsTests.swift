import Machine
import Testing
import VirtioABI

@testable import Command

private func parse(_ arguments: String...) throws(Failure) -> Options {
  try Options(parsing: arguments.map { Array($0.utf8) })
}

@Suite struct OptionsTests {
  @Test func defaults() throws {
    let options = try parse("/bin/busybox", "ls", "-l", "--memory", "2G")
    #expect(options.memoryByteCount == 128 << 20)
    #expect(options.cpuCount == 1)
    #expect(options.image == Array("/bin/busybox".utf8))
    #expect(options.arguments == ["ls", "-l", "--memory", "2G"].map { Array($0.utf8) })
    #expect(options.isJailed)
  }

  @Test func valuesInBothForms() throws {
    let options = try parse(
      "--memory=2G", "--cpus", "4", "-e", "A=1", "--env=B=x=y", "-e", "A=2", "-w", "/a//b/.", "--log",
      "syscalls,faults",
      "--trace", "boot", "--status-fd", "3", "--", "-program")
    #expect(options.memoryByteCount == 2 << 30)
    #expect(options.cpuCount == 4)
    #expect(options.environment == ["B=x=y", "A=2"].map { Array($0.utf8) })
    #expect(options.workingDirectory == Array("/a/b".utf8))
    #expect(options.log == BootLog.systemCalls | BootLog.faults | BootLog.boot)
    #expect(options.tracesBoot)
    #expect(options.statusDescriptor == 3)
    #expect(options.image == Array("-program".utf8))
  }

  @Test func directoriesInMemory() throws {
    let options = try parse("--tmpfs", "/tmp", "--tmpfs=/var//cache/:64M", "--volume", "/h:/data", "p")
    #expect(
      options.temporary == [
        .init(guest: Array("/tmp".utf8), mebibyteLimit: 0), .init(guest: Array("/var/cache".utf8), mebibyteLimit: 64),
      ])
    #expect(options.mountPoints == ["/data", "/tmp", "/var/cache"].map { Array($0.utf8) })
    for wrong in ["", "/", "tmp", "/a/../b", "/a:", "/a:0M", "/a:x", "/a:1", "/a:257G", ":1M"] {
      #expect(throws: Failure.self, "\(wrong)") { try parse("--tmpfs", wrong, "p") }
    }
    #expect(throws: Failure.self) { try parse("--tmpfs", "/a", "--tmpfs", "/a:1M", "p") }
    #expect(throws: Failure.self) { try parse("--tmpfs", "/a", "--volume", "/h:/a", "p") }
    #expect(throws: Failure.self) { try parse("--volume", "/h:/a", "--tmpfs", "/a/", "p") }
  }

  @Test func theBalloonAndItsSocket() throws {
    // The size of the memory may come later.
    var options = try parse("--balloon", "200M", "--memory", "256M", "--control", "/s", "p")
    #expect(options.balloonByteCount == 200 << 20 && options.action == .run)
    #expect(options.control == Array("/s".utf8))
    options = try parse("--ask", "/s", "balloon", "64M")
    #expect(options.action == .ask && options.control == Array("/s".utf8))
    #expect(options.image == Array("balloon".utf8) && options.arguments == [Array("64M".utf8)])
  }

  @Test func debugging() throws {
    #expect(try parse("p").flags & BootFlags.debugMemory == 0)
    #expect(try parse("--debug", "memory", "p").flags == BootFlags.debugMemory)
    #expect(try parse("--debug", "late", "p").completionDelay == 1_000_000)
  }

  @Test func volumes() throws {
    let options = try parse("--volume", ".:/data", "-v", "/a:b:/c/:ro", "x")
    #expect(options.volumes.map(\.host) == [Array(".".utf8), Array("/a:b".utf8)])
    #expect(options.volumes.map(\.guest) == [Array("/data".utf8), Array("/c".utf8)])
    #expect(options.volumes.map(\.readOnly) == [false, true])
    #expect(options.volumes.map(\.cache) == [.automatic, .automatic])
    let cached = try parse("-v", "a:/a,cache=none", "-v", "b:/b:ro,cache=always", "-v", "c,d:/c,cache=auto", "x")
      .volumes
    #expect(cached.map(\.cache) == [.none, .always, .automatic])
    #expect(cached.map(\.readOnly) == [false, true, false])
    #expect(cached[2].host == Array("c,d".utf8))
  }

  @Test(arguments: [
    ["--memory", "x", "p"], ["--memory", "", "p"], ["--memory", "128", "p"],
    ["--memory", "99999999999999999999M", "p"],
    ["--memory", "1M", "p"], ["--memory", "257G", "p"], ["--cpus", "0", "p"], ["--cpus", "65", "p"],
    ["--cpus", "-1", "p"], ["--cpus"], ["--volume", "x", "p"], ["--volume", ":/x", "p"], ["--volume", "a:b", "p"],
    ["-v", "a:/a,cache=some", "p"], ["-v", "a:/a,cache=", "p"],
    ["--volume", "a:/", "p"], ["--volume", "a:/../b", "p"], ["-v", "a:/x", "-v", "b:/x/", "p"], ["--env", "=x", "p"],
    ["--env", "x", "p"], ["--workdir", "x", "p"], ["--log", "", "p"], ["--log", "syscalls,", "p"],
    ["--trace", "x", "p"], ["--debug", "x", "p"], ["--debug"], ["--debug-memory", "p"],
    ["--status-fd", "x", "p"], ["--bad", "p"], ["-x", "p"], ["--help=1"], ["--hostname", "a b", "p"], [""], [], ["--"],
    ["--root", "", "p"], ["--stats=", "p"], ["--balloon", "1", "p"], ["--balloon", "113M", "p"],
    ["--memory", "32M", "--balloon", "17M", "p"], ["--balloon", "1M", "-m", "16M", "p"], ["--control", "", "p"],
    ["--ask", "", "memory"], ["--ask", "/s"],
  ]) func refusals(_ arguments: [String]) {
    #expect(throws: Failure.self) { try Options(parsing: arguments.map { Array($0.utf8) }) }
  }

  @Test func helpNamesEveryOption() {
    for option in OptionTable.all where option.help != nil { #expect(OptionTable.help.contains("--\(option.name)")) }
    #expect(Set(OptionTable.all.map(\.name)).count == OptionTable.all.count)
  }

  /// Pieces of options put together at random: never a trap, always a value or a sentence.
  @Test func anythingIsAnswered() {
    let pieces: [[UInt8]] =
      [
        "--memory", "--cpus", "--volume", "--env", "=", "-", "--", ":", "/", "..", "A=B", "1", "64", "999999999999",
        "G", "M",
        "--log", "boot", ",", "--help", "--status-fd", "-e", "-v", "-m",
      ].map { Array($0.utf8) } + [[0], [0xff], [0x80, 0x3a], []]
    var state: UInt64 = 42
    func next(_ limit: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int((state >> 33) % UInt64(limit))
    }
    for _ in 0..<5000 {
      let arguments = (0..<next(6)).map { _ in (0..<next(4)).flatMap { _ in pieces[next(pieces.count)] } }
      do throws(Failure) {
        let options = try Options(parsing: arguments)
        #expect(1...64 ~= options.cpuCount && options.memoryByteCount >= 16 << 20)
      } catch {
        #expect(error.sentence.count > 10 && error.sentence.count < 400)
      }
    }
  }
}
