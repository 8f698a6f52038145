// Every program of Tests/GuestPrograms, in every flavour, with one vCPU and with two: it must do in the guest what it does
// natively on Linux, to the byte and to the exit status.
import Foundation
import Testing

/// One compiled program and what its source says about running it.
struct GuestProgram: CustomTestStringConvertible, Sendable {
  var name: String
  var flavour: String
  var path: String
  var arguments: [String] = []
  var input: Data?
  var volume: String?
  var memory: String?
  var expected: String?
  var status: Int32 = 0
  var guestOnly = false
  var alone = false
  /// The Linux, from 6.0 on, that does what it looks for: its minor number; older ones do it otherwise.
  var linuxMinor = 0

  var testDescription: String { "\(name) (\(flavour))" }

  /// Everything that `make guest-programs` has compiled.
  static let all: [GuestProgram] = {
    let built = packageRoot + "/.build/guest-programs"
    let manager = FileManager.default
    var found: [GuestProgram] = []
    for flavour in (try? manager.contentsOfDirectory(atPath: built))?.sorted() ?? [] {
      for name in (try? manager.contentsOfDirectory(atPath: built + "/" + flavour))?.sorted() ?? [] {
        let source = packageRoot + "/Tests/GuestPrograms/\(name).c"
        guard let text = try? String(contentsOfFile: source, encoding: .utf8) else { continue }
        var program = GuestProgram(name: name, flavour: flavour, path: "\(built)/\(flavour)/\(name)")
        program.read(header: text)
        found.append(program)
      }
    }
    return found
  }()

  /// Takes the comment lines that Tests/GuestPrograms/README.md describes.
  mutating func read(header text: String) {
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      guard line.hasPrefix("//") else { break }
      let body = line.dropFirst(2).drop(while: { $0 == " " })
      if body == "guest-only" { guestOnly = true }
      if body == "alone" { alone = true }
      guard let colon = body.firstIndex(of: ":") else { continue }
      let value = String(body[body.index(after: colon)...].drop(while: { $0 == " " }))
      switch body[..<colon] {
      case "args": arguments = value.split(separator: " ").map(String.init)
      case "stdin": input = Data((value + "\n").utf8)
      case "volume": volume = value
      case "memory": memory = value
      case "linux": linuxMinor = Int(value.dropFirst(2)) ?? 0  // "6.13"
      case "expect": expected = (expected ?? "") + value + "\n"
      case "status": status = Int32(value) ?? 0
      default: break
      }
    }
  }
}

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct GuestProgramTests {
  @Test func programsWereCompiled() {
    #expect(!GuestProgram.all.isEmpty, "no programs: run 'make guest-programs'")
  }

  @Test(arguments: GuestProgram.all, [1, 2])
  func behavesAsOnLinux(_ program: GuestProgram, cpus: Int) async throws {
    try await program.compare(["--cpus", "\(cpus)"])
  }

  /// The same with every system call a trap.
  @Test(arguments: GuestProgram.all) func behavesAsOnLinuxUnchanged(_ program: GuestProgram) async throws {
    try await program.compare(["--cpus", "2", "--no-rewrite"])
  }

  /// What makes and frees most kernel objects, on a debugging heap: none is overrun, none used after its end.
  @Test(
    arguments: GuestProgram.all.filter { program in
      program.flavour == "glibc-static" && program.memory == nil
        && [
          "files", "polling", "threads", "futexes", "memory", "memory_map", "memory_shared", "signals", "timers",
          "cancel", "walks",
        ]
        .contains(program.name)
    }, [1, 2])
  func behavesAsOnLinuxOnADebuggingHeap(_ program: GuestProgram, cpus: Int) async throws {
    try await program.compare(["--cpus", "\(cpus)", "--debug", "memory", "--memory", "512M"])
  }

}

extension GuestProgram {
  /// Whether the Linux that the tests run on is too old to compare with.
  private var hostIsOlder: Bool {
    guard linuxMinor > 0 else { return false }
    var system = utsname()
    uname(&system)
    let release = withUnsafeBytes(of: system.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    return numbers.count < 2 || numbers[0] < 6 || (numbers[0] == 6 && numbers[1] < linuxMinor)
  }

  /// Runs it in a VM and, unless its source says what is expected, natively, and compares.
  func compare(_ options: [String]) async throws {
    var options = options
    if let volume { options += ["--volume", "\(volume):/data"] }
    if let memory { options += ["--memory", memory] }
    let guest = try await vm(options + [path] + arguments, input: input, turn: alone ? .alone : .shared)
    if guestOnly || expected != nil {
      #expect(guest.text == expected ?? "", "\(guest.errorText)")
      #expect(guest.status == status, "\(guest.errorText)")
    } else if hostIsOlder {
      #expect(guest.status == status && guest.errorText.isEmpty, "\(guest.errorText)")
      #expect(!guest.text.isEmpty)
    } else {
      var environment = ProcessInfo.processInfo.environment
      if let volume { environment["DATA"] = volume }
      let native = try await run(
        [path] + arguments, input: input, turn: alone ? .alone : .shared, environment: environment)
      #expect(guest.text == native.text, "\(guest.errorText)")
      #expect(guest.errorText == native.errorText)
      #expect(guest.status == native.status, "\(guest.errorText)")
    }
  }
}
