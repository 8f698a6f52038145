// Memory that goes to the host and comes back: what the guest frees leaves osv-run, the balloon does as it is told, and whoever is at
// the control socket cannot do harm.
import Foundation
import Glibc
import Testing

/// A program in a guest that says and is told things while it runs.
private final class Conversation {
  private let process = Process()
  private let input = Pipe()
  private let output = Pipe()
  let errors = Pipe()

  init(_ arguments: [String]) throws {
    process.executableURL = URL(filePath: osvRun)
    process.arguments = arguments
    process.standardInput = input
    process.standardOutput = output
    process.standardError = errors
    try process.run()
  }

  deinit {
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    process.waitUntilExit()
  }

  /// Waits for a line of the program's; nil when it has ended, or says nothing for 20 s.
  func line() -> String? {
    var text: [UInt8] = []
    while true {
      var wait = pollfd(fd: output.fileHandleForReading.fileDescriptor, events: Int16(POLLIN), revents: 0)
      var byte: UInt8 = 0
      guard poll(&wait, 1, 20_000) == 1, read(wait.fd, &byte, 1) == 1 else { return nil }
      if byte == UInt8(ascii: "\n") { return String(decoding: text, as: UTF8.self) }
      text.append(byte)
    }
  }

  func tell(_ text: String) { input.fileHandleForWriting.write(Data((text + "\n").utf8)) }

  func end() -> Int32 {
    try? input.fileHandleForWriting.close()
    process.waitUntilExit()
    return process.terminationStatus
  }

  /// Resident memory, MiB.
  var resident: Int {
    let text = (try? String(contentsOfFile: "/proc/\(process.processIdentifier)/statm", encoding: .utf8)) ?? ""
    return (Int(text.split(separator: " ").dropFirst().first ?? "") ?? 0) / 256
  }

  /// Processor time used so far, in hundredths of a second.
  var processorTime: Int {
    let text = (try? String(contentsOfFile: "/proc/\(process.processIdentifier)/stat", encoding: .utf8)) ?? ""
    let words = text.split(separator: ")").last?.split(separator: " ") ?? []
    return words.count > 13 ? (Int(words[11]) ?? 0) + (Int(words[12]) ?? 0) : 0
  }
}

/// Waits until a condition holds, `seconds` at most.
private func within(_ seconds: Double, _ condition: () -> Bool) -> Bool {
  let end = Date(timeIntervalSinceNow: seconds)
  repeat {
    if condition() { return true }
    usleep(10_000)
  } while Date() < end
  return false
}

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct BalloonVMTests {
  /// Holds as many megabytes as it is told, and says when it does: "+N" maps and touches them, "-" unmaps the last, "?" says whether
  /// all it holds is as it was.
  private static let source = """
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    static struct { char *memory; size_t size; } held[64];
    int main(void) {
      char line[64];
      int count = 0;
      setvbuf(stdout, NULL, _IOLBF, 0);
      puts("ready");
      while (fgets(line, sizeof line, stdin)) {
        if (line[0] == '+') {
          size_t size = (size_t)atol(line + 1) << 20;
          char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
          if (memory == MAP_FAILED) { puts("no memory"); continue; }
          int zero = 1;
          for (size_t i = 0; i < size; i += 4096) zero &= memory[i] == 0, memory[i] = (char)(i >> 12 | 1);
          held[count].memory = memory, held[count++].size = size;
          puts(zero ? "held" : "not zero");
        } else if (line[0] == '-') {
          count--;
          puts(munmap(held[count].memory, held[count].size) == 0 ? "freed" : "not freed");
        } else {
          int kept = 1;
          for (int j = 0; j < count; j++)
            for (size_t i = 0; i < held[j].size; i += 4096) kept &= held[j].memory[i] == (char)(i >> 12 | 1);
          puts(kept ? "kept" : "lost");
        }
      }
      return 0;
    }
    """

  /// A folder with the program, compiled.
  private func holder() async throws -> String {
    let folder = try temporaryFolder()
    try Self.source.write(toFile: folder + "/hold.c", atomically: true, encoding: .utf8)
    let compiled = try await run(["/usr/bin/gcc", "-O1", "-static", "-o", folder + "/hold", folder + "/hold.c"])
    try #require(compiled.status == 0, "\(compiled.errorText)")
    return folder
  }

  /// What a running machine answers, as JSON.
  private func ask(_ socket: String, _ words: String...) throws -> [String: Any] {
    let outcome = try runAtOnce([osvRun, "--ask", socket] + words, seconds: 20)
    try #require(outcome.status == 0, "\(outcome.errorText)")
    return try #require(try JSONSerialization.jsonObject(with: outcome.output) as? [String: Any])
  }

  private func balloon(_ socket: String) throws -> (wanted: Int, actual: Int) {
    let balloon = try #require(try ask(socket, "memory")["balloon"] as? [String: Int])
    return (try #require(balloon["wanted"]) >> 20, try #require(balloon["actual"]) >> 20)
  }

  /// What the program frees leaves osv-run's resident size within a second, and then osv-run is quiet.
  @Test(arguments: [1, 2]) func freedMemoryGoesToTheHost(cpus: Int) async throws {
    let folder = try await holder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let guest = try Conversation(["--memory", "512M", "--cpus", "\(cpus)", folder + "/hold"])
    #expect(guest.line() == "ready")
    let before = guest.resident
    for round in 0..<3 {
      for step in ["+20", "+200"] {
        guest.tell(step)
        #expect(guest.line() == "held")
      }
      #expect(guest.resident >= before + 220, "round \(round)")
      guest.tell("-")
      #expect(guest.line() == "freed")
      // The host gives 2 MiB at a time: at the edges of what is held some stays.
      #expect(within(1) { guest.resident <= before + 20 * (round + 1) + 16 }, "round \(round): \(guest.resident) MiB")
      guest.tell("?")
      #expect(guest.line() == "kept")
    }
    usleep(500_000)
    let time = guest.processorTime
    sleep(2)
    #expect(guest.processorTime - time <= 2, "an idle guest takes more than 1 % of a CPU")
    #expect(guest.end() == 0)
  }

  @Test func theBalloonDoesAsItIsTold() async throws {
    let folder = try await holder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let socket = folder + "/control"
    let guest = try Conversation(["--memory", "256M", "--balloon", "64M", "--control", socket, folder + "/hold"])
    #expect(guest.line() == "ready")
    #expect(within(5) { (try? balloon(socket).actual) == 64 })
    var answer = try ask(socket, "memory")
    // The second half of the memory comes while the guest runs.
    #expect(
      within(20) {
        answer = (try? ask(socket, "memory")) ?? answer
        let total = (answer["guest"] as? [String: Int])?["total"] ?? 0
        return total >> 20 <= 192 && total >> 20 >= 180
      }, "\(answer)")
    #expect(answer["memory"] as? Int == 256 << 20)
    #expect((answer["resident"] as? Int ?? 0) >> 20 <= guest.resident + 2)
    for size in [128, 0, 32] {
      answer = try ask(socket, "balloon", "\(size)M")
      #expect((answer["balloon"] as? [String: Int])?["wanted"] == size << 20)
      #expect(within(5) { (try? balloon(socket).actual) == size }, "\(size)M")
    }
    // What a program has used and freed is in the balloon without having been touched again.
    guest.tell("+100")
    #expect(guest.line() == "held")
    guest.tell("-")
    #expect(guest.line() == "freed")
    _ = try ask(socket, "balloon", "128M")
    #expect(within(5) { (try? balloon(socket).actual) == 128 && guest.resident < 60 }, "\(guest.resident) MiB")
    #expect(guest.end() == 0)
  }

  /// A program that needs what is in the balloon gets it, and keeps it.
  @Test func theBalloonGivesBeforeAnybodyIsRefused() async throws {
    let folder = try await holder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let socket = folder + "/control"
    let guest = try Conversation(["--memory", "128M", "--balloon", "96M", "--control", socket, folder + "/hold"])
    #expect(guest.line() == "ready")
    #expect(within(5) { (try? balloon(socket).actual) ?? 0 >= 80 })
    guest.tell("+80")
    #expect(guest.line() == "held")
    // 128 MiB, of which the program holds 80 and the kernel some.
    #expect(try balloon(socket).actual <= 46)
    guest.tell("?")
    #expect(guest.line() == "kept")
    guest.tell("-")
    #expect(guest.line() == "freed")
    #expect(within(10) { (try? balloon(socket).actual) ?? 0 >= 80 })
    #expect(guest.end() == 0)
  }

  @Test func theSocketTakesNoNonsense() async throws {
    let folder = try await holder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let socket = folder + "/control"
    let guest = try Conversation(["--control", socket, folder + "/hold"])
    #expect(guest.line() == "ready")
    var status = stat()
    #expect(stat(socket, &status) == 0 && status.st_mode & 0o777 == 0o600)
    for words in [
      ["x"], ["balloon"], ["balloon", "1T"], ["balloon", "1G"], ["memory", "x"], [String(repeating: "y", count: 3000)],
    ] {
      let refused = try await run([osvRun, "--ask", socket] + words, seconds: 20)
      #expect(refused.status == 125 && refused.text.isEmpty)
      #expect(refused.errorText.hasPrefix("osv-run: error E20: the machine at "), "\(refused.errorText)")
      #expect(refused.errorText.split(separator: "\n").count == 1)
    }
    // Bytes that are no text, many lines without reading an answer, and silence; others are served all the same.
    let script = """
      from os import urandom
      from socket import socket, AF_UNIX
      from sys import argv
      def connect():
          s = socket(AF_UNIX); s.connect(argv[1]); s.settimeout(20); return s
      for data in (urandom(100000), bytes(70000), b"\\xff\\n" * 1000):
          s = connect()
          try: s.sendall(data)
          except OSError: pass
          s.close()
      s = connect(); s.setblocking(False)
      try:
          while True: s.send(b"memory\\n" * 1000)
      except OSError: pass
      silent = connect()
      last = connect(); last.sendall(b"mem"); last.sendall(b"ory\\nballoon 1M\\n")
      text = b""
      while text.count(b"\\n") < 2: text += last.recv(4096)
      print(text.count(b'"balloon"'))
      """
    let python = try await run(["/usr/bin/python3", "-c", script, socket], seconds: 60)
    #expect(python.text == "2\n", "\(python.errorText)")
    guest.tell("?")
    #expect(guest.line() == "kept")
    #expect(guest.end() == 0)
  }

  @Test func placesForTheSocket() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    func failure(_ arguments: [String], _ words: String) async throws {
      let outcome = try await vm(arguments, seconds: 20)
      #expect(outcome.status == 125 && outcome.errorText.hasPrefix("osv-run: error E20: "), "\(outcome.errorText)")
      #expect(outcome.errorText.contains(words), "\(outcome.errorText)")
    }
    // A socket that nobody listens to any more is replaced; a file, or one that is in use, is not.
    for _ in 0..<2 { #expect(try await vm(["--control", folder + "/s", "/bin/busybox", "true"]).status == 0) }
    try "text".write(toFile: folder + "/file", atomically: false, encoding: .utf8)
    try await failure(["--control", folder + "/file", "/bin/busybox", "true"], "already")
    #expect(try String(contentsOfFile: folder + "/file", encoding: .utf8) == "text")
    let guest = try Conversation(["--control", folder + "/s", "/bin/busybox", "cat"])
    guest.tell("x")
    #expect(guest.line() == "x")
    try await failure(["--control", folder + "/s", "/bin/busybox", "true"], "already")
    try await failure(["--control", "/nowhere/s", "/bin/busybox", "true"], "No such file")
    try await failure(["--control", String(repeating: "s", count: 108), "/bin/busybox", "true"], "107 bytes")
    #expect(guest.end() == 0)
    try await failure(["--ask", folder + "/s", "memory"], "no machine answers")
    try await failure(["--ask", folder + "/file", "memory"], "no machine answers")
  }
}
