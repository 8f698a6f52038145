// What many threads, and none that run, cost: memory for ten thousand of them, and host CPU time of an idle guest.
import Foundation
import Testing

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct ThreadScaleTests {
  private let programs = packageRoot + "/.build/guest-programs/glibc-static/"

  @Test func tenThousandThreadsInOneGibibyte() async throws {
    let guest = try await vm(["--memory", "1G", "--cpus", "2", programs + "many_threads", "10000"])
    #expect(guest.text == "present 10000\nleft 0\n", "\(guest.errorText)")
    #expect(guest.status == 0)
  }

  /// Three seconds asleep may cost the host 30 ms, start and end included.
  @Test(arguments: [1, 2]) func anIdleGuestCostsNothing(cpus: Int) async throws {
    let script = "TIMEFORMAT='cpu %U %S'; time \"$@\""
    let outcome = try await run(
      ["/bin/bash", "-c", script, "sh", osvRun, "--cpus", "\(cpus)", programs + "sleeping", "3"])
    #expect(outcome.status == 0)
    let line = outcome.errorText.split(separator: "\n").last { $0.hasPrefix("cpu ") }
    let times = try #require(line).split(separator: " ").dropFirst().compactMap { Double($0) }
    #expect(times.count == 2 && times.reduce(0, +) < 0.03, "\(outcome.errorText)")
  }

  /// A program that waits, for ever or for a second at a time, leaves the host's CPUs alone: less than 1 % of one over two seconds.
  @Test(arguments: [1, 2], ["pause", "nanosleep"]) func aWaitingProgramCostsNothing(cpus: Int, how: String) throws {
    let process = Process()
    process.executableURL = URL(filePath: osvRun)
    process.arguments = ["--cpus", "\(cpus)", programs + "idle", how]
    let output = Pipe()
    process.standardOutput = output
    try process.run()
    defer {
      kill(process.processIdentifier, SIGKILL)
      process.waitUntilExit()
    }
    #expect(String(decoding: output.fileHandleForReading.availableData, as: UTF8.self) == "ready\n")
    Thread.sleep(forTimeInterval: 0.5)
    let before = try cpuTime(process.processIdentifier)
    Thread.sleep(forTimeInterval: 2)
    let used = try cpuTime(process.processIdentifier) - before
    #expect(used < 0.02, "\(used) s of CPU time in 2 s")
  }

  /// Seconds of CPU time that the threads of a process have used.
  private func cpuTime(_ process: pid_t) throws -> Double {
    let folder = "/proc/\(process)/task"
    var nanoseconds = 0.0
    for thread in try FileManager.default.contentsOfDirectory(atPath: folder) {
      let text = try String(contentsOfFile: "\(folder)/\(thread)/schedstat", encoding: .utf8)
      nanoseconds += try #require(text.split(separator: " ").first.flatMap { Double($0) })
    }
    return nanoseconds / 1e9
  }
}
