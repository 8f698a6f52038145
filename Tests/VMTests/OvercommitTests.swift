// More virtual CPUs than the host has: whoever waits for another CPU may wait for one that the host has taken the processor from. Nothing
// may hang by that, nor burn the processor that the other one needs.
import Foundation
import Testing

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct OvercommitTests {
  /// What is about threads, memory and signals; in one flavour, for the others differ in loading.
  private static let chosen: Set = [
    "barriers", "cancel", "call_signals", "futexes", "hardening", "many_threads", "memory", "memory_map",
    "memory_shared", "polling",
    "preemption", "restartable", "scheduling", "signal_waits", "signals", "thread_storm", "threads", "timers",
    "ucontext",
  ]
  private static let programs = GuestProgram.all.filter { $0.flavour == "glibc-dynamic" && chosen.contains($0.name) }

  @Test func theProgramsAreThere() { #expect(Self.programs.count == Self.chosen.count) }

  @Test(arguments: programs, [4, 8]) func behavesAsOnLinux(_ program: GuestProgram, cpus: Int) async throws {
    try await program.compare(["--cpus", "\(cpus)"])
  }

  @Test(arguments: [4, 8]) func theSelfTestOfThreadsPasses(cpus: Int) async throws {
    let outcome = try await vm(["--cpus", "\(cpus)", "--self-test", "threads"], seconds: 120)
    #expect(outcome.status == 0 && !outcome.text.contains("FAILED"), "\(outcome.text)\n\(outcome.errorText)")
  }

  @Test func theSelfTestPassesOnFour() async throws {
    let outcome = try await vm(["--cpus", "4", "--self-test"], seconds: 120)
    #expect(outcome.status == 0 && !outcome.text.contains("FAILED"), "\(outcome.text)\n\(outcome.errorText)")
  }

  /// Two thousand times two threads wait for each other, by sched_yield and by membarrier, on virtual CPUs that have one processor between
  /// them. If each wait took the processor until the host's scheduler ended it, this would take 15 s and more.
  @Test(arguments: [2, 8]) func whoIsAwaitedGetsTheProcessor(cpus: Int) async throws {
    let program = try #require(Self.programs.first { $0.name == "barriers" })
    for _ in 0..<3 {
      let outcome = try await run(
        ["/usr/bin/taskset", "-c", "0", osvRun, "--cpus", "\(cpus)", program.path], seconds: 12, turn: .alone)
      #expect(outcome.status == 0 && outcome.text.hasSuffix("missed 0\n"), "\(outcome.errorText)")
    }
  }

  /// As many as there may be, all busy, and what a program hears of them.
  @Test(arguments: [4, 8, 64]) func theirNumberIsKnown(cpus: Int) async throws {
    let script = "nproc; grep -c ^processor /proc/cpuinfo; grep -c '^cpu[0-9]' /proc/stat"
    for part in script.split(separator: ";") {
      let words = part.split(separator: " ").map { $0.trimmingCharacters(in: ["'"]) }
      let outcome = try await vm(["--cpus", "\(cpus)", "/bin/busybox"] + words)
      #expect(outcome.text == "\(cpus)\n", "\(part): \(outcome.errorText)")
    }
  }

  @Test(arguments: ["0", "65", "-1", "many", "9999999999999999999999"]) func otherNumbersAreRefused(_ number: String)
    async throws
  {
    let outcome = try await vm(["--cpus", number, "/bin/busybox", "true"])
    #expect(outcome.status == 125)
    #expect(outcome.errorText == "osv-run: error E01: --cpus wants a number from 1 to 64, not '\(number)'\n")
  }
}
