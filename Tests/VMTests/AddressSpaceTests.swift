// What lies in a program's address space: every part at a random place of its own, the vDSO among them, and no system call for time.
import Foundation
import Testing

/// First addresses by what lies there, as /proc/self/maps names it.
private func layout(_ arguments: [String]) async throws -> [String: UInt64] {
  let guest = try await vm(arguments)
  #expect(guest.status == 0, "\(guest.errorText)")
  var found: [String: UInt64] = [:]
  for line in guest.text.split(separator: "\n") {
    let words = line.split(separator: " ")
    guard words.count == 6, let start = words[0].split(separator: "-").first else { continue }
    if found[String(words[5])] == nil { found[String(words[5])] = UInt64(start, radix: 16) }
  }
  return found
}

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct ProgramLayoutTests {
  @Test func everyPartIsElsewhereEachTime() async throws {
    var runs: [[String: UInt64]] = []
    for _ in 0..<4 { runs.append(try await layout(["/bin/cat", "/proc/self/maps"])) }
    let parts = [
      "/usr/bin/cat", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6", "[heap]", "[stack]", "[vvar]",
      "[vdso]",
    ]
    for part in parts {
      let places = Set(try runs.map { try #require($0[part], "\(part)") })
      #expect(places.count == runs.count, "\(part)")
      #expect(places.allSatisfy { $0 % 4096 == 0 && $0 < 0x4000_0000_0000 })
    }
    // The distances are random too: one leaked address does not give the others away.
    for (first, second) in [("/usr/bin/cat", "[heap]"), ("[stack]", "[vdso]"), ("/usr/bin/cat", "[stack]")] {
      let distances = Set(runs.map { ($0[second] ?? 0) &- ($0[first] ?? 0) })
      #expect(distances.count > 1, "\(first) to \(second)")
    }
  }

  @Test(arguments: ["glibc-static", "musl-static", "glibc-dynamic", "musl-dynamic"])
  func clocksAreReadWithoutTheKernel(_ flavour: String) async throws {
    let program = packageRoot + "/.build/guest-programs/\(flavour)/clocks"
    let guest = try await vm(["--log", "syscalls", program])
    #expect(guest.status == 0, "\(guest.errorText)")
    // The program reads the clock ten thousand times; CPU-time clocks and one that does not exist are the kernel's.
    let calls = guest.errorText.split(separator: "\n").filter {
      $0.contains("clock_gettime(") || $0.contains("gettimeofday(") || $0.contains(" time(")
    }
    #expect((1...8).contains(calls.count), "\(calls.prefix(12))")
  }

  /// A line for each call, with as many arguments as it has.
  @Test func loggedCallsShowTheirArguments() async throws {
    let guest = try await vm(["--log", "syscalls", "/bin/busybox", "cat", "/proc/version"])
    let lines = guest.errorText.split(separator: "\n").map(String.init)
    #expect(guest.status == 0)
    func counts(of call: String) -> Set<Int> {
      Set(
        lines.filter { $0.contains("] \(call)(") }.map {
          $0.split(separator: "(")[1].prefix { $0 != ")" }.split(separator: ",").count
        })
    }
    #expect(counts(of: "getuid") == [0])
    #expect(counts(of: "close") == [1] && counts(of: "brk") == [1] && counts(of: "exit_group") == [1])
    #expect(counts(of: "sendfile") == [4] && counts(of: "openat") == [4] && counts(of: "prctl") == [5])
  }
}
