// System calls that became jumps, seen from outside: how many there are, and that files stay as they are.
import Foundation
import Testing

private let busybox = "/bin/busybox"

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct RewritingVMTests {
  /// `--log rewrite` has a line for every site of busybox, and nearly all of them can jump.
  @Test func everySiteIsAccountedFor() async throws {
    let copying = [busybox, "dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=50"]
    let outcome = try await vm(["--log", "rewrite"] + copying)
    #expect(outcome.status == 0)
    let lines = outcome.errorText.split(separator: "\n").filter { $0.hasPrefix("rewrite: busybox 0x") }
    let possible = lines.filter { $0.contains(" can jump ") }
    let explained = lines.filter { $0.contains(" stays: ") && !$0.hasSuffix("not an instruction") }
    #expect(possible.count + explained.count > 200)
    #expect(explained.count * 25 <= possible.count)
    #expect(explained.count { $0.contains("signal return") } == 1)
    #expect(Set(lines).count == lines.count)
    #expect(outcome.errorText.contains("rewrite: busybox: \(possible.count) sites can jump, \(explained.count) stay,"))
    // Whatever jumps was said to be able to.
    let jumping = lines.filter { $0.hasSuffix("jumps now") }.map { $0.split(separator: " ")[2] }
    #expect(jumping.count >= 2)
    let able = Set(possible.map { $0.split(separator: " ")[2] })
    for site in jumping { #expect(able.contains(site)) }
    let untouched = try await vm(["--no-rewrite", "--log", "rewrite"] + copying)
    #expect(untouched.status == 0)
    #expect(!untouched.errorText.contains("rewrite:"))
  }

  /// The sites of the program that checks what a call leaves behind do jump, in each of the ways there are.
  @Test(arguments: ["fixed", "glibc-static-pie", "musl-static"]) func checkedSitesJump(_ flavour: String) async throws {
    let program = packageRoot + "/.build/guest-programs/\(flavour)/call_sites"
    let outcome = try await vm(["--log", "rewrite", program])
    #expect(outcome.status == 0, "\(outcome.text)")
    // The ends of the symbols are right behind the sites; the program may lie anywhere, so only distances count.
    let table = try await run(["/usr/bin/nm", program]).text.split(separator: "\n").map { $0.split(separator: " ") }
    for name in ["probe_before_end", "probe_between_end", "probe_after_end", "probe_loop_end"] {
      let entry = try #require(table.first { $0.last.map(String.init) == name })
      let site = try #require(UInt64(entry[0], radix: 16)) - 2
      #expect(outcome.errorText.contains("rewrite: call_sites 0x\(String(site, radix: 16)) jumps now\n"), "\(name)")
    }
  }

  /// A program whose code is changed reads its own file, in the guest and afterwards on the host: neither has changed.
  @Test func filesStayAsTheyAre() async throws {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("osv-rewrite-\(getpid())")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: directory) }
    let copy = directory.appendingPathComponent("busybox").path
    try FileManager.default.copyItem(atPath: busybox, toPath: copy)
    let expected = try await run([busybox, "sha256sum", busybox]).text.prefix(64)
    let inMemory = try await vm([busybox, "sha256sum", busybox])
    #expect(inMemory.text.prefix(64) == expected, "\(inMemory.errorText)")
    for point in ["dev", "proc", "tmp"] {
      try FileManager.default.createDirectory(
        at: directory.appendingPathComponent(point), withIntermediateDirectories: true)
    }
    let shared = try await vm(["--root", directory.path, "/busybox", "sha256sum", "/busybox", "/proc/self/exe"])
    #expect(shared.text.split(separator: "\n").map { $0.prefix(64) } == [expected, expected], "\(shared.errorText)")
    #expect(try await run([busybox, "sha256sum", copy]).text.prefix(64) == expected)
  }
}
