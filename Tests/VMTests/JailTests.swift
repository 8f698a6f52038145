// A running osv-run as the host's kernel sees it: what its threads may still do, and what they have open.
import Foundation
import Glibc
import Testing

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct RunningJailTests {
  /// What `commands` print about a machine whose program runs; "$p" is osv-run's process.
  private func look(_ options: String, _ commands: String) async throws -> String {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    // The program waits for a line that never comes; it is heard of once it runs, which is long after the jail was entered.
    let script = """
      mkfifo "$1/input"; exec 5<>"$1/input" 9</etc/passwd 17>"$1/inherited" 18>"$1/status"
      "$0" \(options) /bin/busybox sh -c 'echo ready; read line' < "$1/input" > "$1/output" & p=$!
      for i in $(seq 400); do grep -q ready "$1/output" && break; sleep 0.05; done
      grep -q ready "$1/output" || echo "it did not start"
      \(commands)
      kill -KILL $p; wait $p 2> /dev/null; true
      """
    let outcome = try await run(["/bin/bash", "-c", script, osvRun, folder], seconds: 60)
    return outcome.text
  }

  /// Every thread: CPUs, the console's, whichever else there are.
  @Test(arguments: ["", "--cpus 2 --memory 256M", "--volume /etc:/x --volume /tmp:/y:ro --control $1/socket"])
  func everyThreadIsConfined(_ options: String) async throws {
    let text = try await look(options, "cat /proc/$p/task/*/status")
    func values(_ name: String) -> [String] {
      text.split(separator: "\n").filter { $0.hasPrefix(name + ":") }.map {
        $0.dropFirst(name.count + 1).trimmingCharacters(in: .whitespaces)
      }
    }
    let threads = values("Pid").count
    #expect(threads >= 2, "\(text)")
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
      #expect(values(name) == Array(repeating: "0000000000000000", count: threads), "\(name)")
    }
    #expect(values("NoNewPrivs") == Array(repeating: "1", count: threads))
    #expect(values("Seccomp") == Array(repeating: "2", count: threads))
    // Those that serve one thing have a filter more.
    #expect(values("Seccomp_filters").allSatisfy { $0 == "1" || $0 == "2" })
  }

  /// Of the caller's descriptors the three streams and --status-fd stay open, nothing else.
  @Test func inheritedDescriptorsAreClosed() async throws {
    let list = "for f in /proc/$p/fd/*; do echo ${f##*/} $(readlink $f); done"
    let plain = try await look("", list)
    #expect(plain.contains("/input") && plain.contains("kvm-vm"), "\(plain)")
    for name in ["/etc/passwd", "/inherited", "/status"] { #expect(!plain.contains(name), "\(plain)") }
    let told = try await look("--status-fd 18", list)
    #expect(told.contains("18 ") && told.contains("/status"), "\(told)")
    for name in ["/etc/passwd", "/inherited"] { #expect(!told.contains(name), "\(told)") }
  }
}
