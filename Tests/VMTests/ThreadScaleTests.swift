// What many threads, and none that run, cost: memory for ten thousand of them, and host CPU time of an idle guest.
import Foundation
import Testing

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct ThreadScaleTests {
  private let programs = packageRoot + "/.build/guest-programs/glibc-static/"

  @Test func tenThousandThreadsInOneGibibyte() throws {
    let guest = try vm(["--memory", "1G", "--cpus", "2", programs + "many_threads", "10000"])
    #expect(guest.text == "present 10000\nleft 0\n", "\(guest.errorText)")
    #expect(guest.status == 0)
  }

  /// Three seconds asleep may cost the host 30 ms, start and end included.
  @Test(arguments: [1, 2]) func anIdleGuestCostsNothing(cpus: Int) throws {
    let script = "TIMEFORMAT='cpu %U %S'; time \"$@\""
    let outcome = try run(
      ["/bin/bash", "-c", script, "sh", osvRun, "--cpus", "\(cpus)", programs + "sleeping", "3"])
    #expect(outcome.status == 0)
    let line = outcome.errorText.split(separator: "\n").last { $0.hasPrefix("cpu ") }
    let times = try #require(line).split(separator: " ").dropFirst().compactMap { Double($0) }
    #expect(times.count == 2 && times.reduce(0, +) < 0.03, "\(outcome.errorText)")
  }
}
