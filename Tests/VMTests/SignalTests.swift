// Signals to osv-run, and output that cannot be written: what the program, and whoever waits for osv-run, see is what Linux shows.
import Foundation
import Testing

private let busybox = "/bin/busybox"

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct SignalTests {
  /// What a program does when the signal comes; "full pipe" writes to a reader that sleeps, "input" waits for a writer that does.
  enum Doing: String, CaseIterable, Sendable {
    case sleeping, spinning, input, fullPipe
    var command: String {
      switch self {
      case .sleeping: "/bin/busybox sleep 60"
      case .spinning: "/bin/busybox sh -c 'while :; do :; done'"
      case .input: "/bin/busybox cat"
      case .fullPipe: "/bin/busybox yes"
      }
    }
  }

  /// The status as a shell sees it, of a program that is sent a signal after half a second; nil if it did not end by itself.
  private func status(_ runner: String, _ doing: Doing, _ signal: String) async throws -> String {
    // The reader and the writer outlive the program, and read and write nothing.
    let script = """
      sleep 6 | { timeout --preserve-status -k 4 -s \(signal) 0.5 \(runner) \(doing.command); echo $? >&2; } | sleep 6 & \
      wait; true
      """
    let outcome = try await run(["/bin/bash", "-c", "set +m; \(script)", osvRun], seconds: 30)
    return outcome.errorText
  }

  @Test(arguments: Doing.allCases, [1, 2]) func theProgramHears(_ doing: Doing, cpus: Int) async throws {
    #expect(try await status("\"$0\" --cpus \(cpus)", doing, "TERM") == "143\n")
  }

  @Test(arguments: Doing.allCases) func itHearsControlC(_ doing: Doing) async throws {
    #expect(try await status("\"$0\"", doing, "INT") == "130\n")
  }

  @Test func aSecondSignalEndsTheMachine() async throws {
    let script = """
      "$0" /bin/busybox sh -c 'trap "echo heard" TERM; echo ready; while :; do :; done' > "$1" & p=$!
      while ! grep -q ready "$1"; do sleep 0.05; done
      kill -TERM $p; while ! grep -q heard "$1"; do sleep 0.05; done
      kill -TERM $p; wait $p; echo $?; cat "$1"
      """
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let outcome = try await run(["/bin/bash", "-c", script, osvRun, folder + "/output"], seconds: 30)
    #expect(outcome.text == "143\nready\nheard\n", "\(outcome.errorText)")
  }

  @Test func anIgnoredSignalStaysIgnored() async throws {
    for signal in ["INT", "HUP"] {
      let script = "trap '' \(signal); \"$0\" /bin/busybox sleep 1 & sleep 0.5; kill -\(signal) $!; wait $!; echo $?"
      #expect(try await run(["/bin/bash", "-c", script, osvRun], seconds: 30).text == "0\n", "\(signal)")
    }
  }

  @Test func nothingIsLostBehindASlowReader() async throws {
    let script = "\"$0\" /bin/busybox seq 300000 | { sleep 1; md5sum; }; echo ${PIPESTATUS[0]}"
    let native = try await run(["/bin/bash", "-c", "\(busybox) seq 300000 | md5sum; echo 0"])
    #expect(try await run(["/bin/bash", "-c", script, osvRun], seconds: 30).text == native.text)
  }

  @Test func aFullDiskIsWhatTheProgramSees() async throws {
    for applet in ["echo text", "cat /proc/version", "od /dev/null", "head -c 100000 /dev/zero"] {
      let native = try await run(["/bin/sh", "-c", "\(busybox) \(applet) > /dev/full; echo $?"])
      let guest = try await run(["/bin/sh", "-c", "\"$0\" \(busybox) \(applet) > /dev/full; echo $?", osvRun])
      #expect(guest.text == native.text, "\(applet)")
      if applet == "echo text" { #expect(guest.text == "1\n") }
      #expect(guest.errorText == native.errorText, "\(applet)")
    }
  }

  /// What osv-run's caller has closed, the program finds closed too, not empty.
  @Test(arguments: ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]) func closedStreamsAreClosed(redirection: String) async throws
  {
    for applet in ["cat", "echo text", "ls /nowhere", "cat /proc/self/fd/../comm"] {
      let native = try await run(["/bin/sh", "-c", "\(busybox) \(applet) \(redirection); echo $?"])
      let guest = try await run(["/bin/sh", "-c", "\"$0\" \(busybox) \(applet) \(redirection); echo $?", osvRun])
      #expect(guest.text == native.text, "\(applet)")
      #expect(guest.errorText == native.errorText, "\(applet)")
    }
  }

  /// Before osv-run listens, while the guest starts, while it loads the program, and after: each ends it, none is lost. Two busy loops
  /// stretch the start.
  @Test func aSignalAtAnyTimeEndsIt() async throws {
    let script = """
      for i in 1 2; do timeout 250 sh -c 'while :; do :; done' & busy="$busy $!"; done
      for i in $(seq 100); do
        "$0" /bin/busybox sleep 20 & p=$!; sleep 0.0$((i % 3))$((i % 10)); kill -TERM $p; wait $p; echo $?
      done 2> /dev/null
      kill $busy
      """
    let outcome = try await run(["/bin/bash", "-c", script, osvRun], seconds: 240)
    #expect(Set(outcome.text.split(separator: "\n")) == ["143"], "\(outcome.text)")
  }
}
