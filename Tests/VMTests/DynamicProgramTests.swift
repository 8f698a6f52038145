// Debian's own dynamically linked programs, unmodified: with no root they get exactly the shared libraries they need; with
// --root / they see all of the host. Either way they do what they do on the host.
import Foundation
import Testing

/// What is tried with every program: no other locale, no other time zone than the guest has.
private let variables = ["LC_ALL": "C", "TZ": "UTC"]

private func options(_ extra: [String] = []) -> [String] {
  variables.sorted { $0.key < $1.key }.flatMap { ["--env", "\($0.key)=\($0.value)"] } + extra
}

private func native(_ command: [String], input: Data?) async throws -> Outcome {
  try await run(
    command, input: input,
    environment: variables.merging(["PATH": "/usr/bin:/bin", "HOME": "/"]) { first, _ in first })
}

private let text = Data("pear 3\napple 10\nfig 7\napple 2\n".utf8)

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct DynamicProgramTests {
  /// Programs that need nothing but their libraries and standard streams.
  static let programs: [[String]] = [
    ["/bin/cat"], ["/usr/bin/sort"], ["/usr/bin/sha256sum"], ["/usr/bin/md5sum"], ["/bin/grep", "-n", "ap*le"],
    ["/usr/bin/mawk", "{ n[$1] += $2 } END { print n[\"apple\"], length(n), NR }"],
    ["/usr/bin/mawk", "{ s += $2; printf \"%s %.3f\\n\", $1, s / 7 }"], ["/bin/sed", "-E", "s/(p+)/<\\1>/g"],
    ["/usr/bin/uniq", "-c"], ["/usr/bin/cut", "-d", " ", "-f", "2"], ["/usr/bin/tr", "a-z", "A-Z"],
    ["/usr/bin/wc"], ["/usr/bin/od", "-c"], ["/usr/bin/base64"], ["/usr/bin/head", "-n", "2"],
    ["/usr/bin/tail", "-n", "2"], ["/usr/bin/nl"], ["/usr/bin/xz", "-1c"], ["/usr/bin/seq", "10"],
    ["/usr/bin/printf", "%d %s\\n", "42", "x"], ["/usr/bin/env"], ["/usr/bin/factor", "1234567890123"],
    ["/usr/bin/expr", "6", "*", "7"], ["/usr/bin/date", "-d", "@86400", "+%F %T"], ["/bin/false"],
    ["/usr/bin/bc", "-l"], ["/usr/bin/dc", "-e", "2 64 ^ p"], ["/usr/bin/sqlite3", ":memory:", "select 6*7, sqrt(2)"],
    ["/usr/bin/perl", "-e", "print join(\",\", map { $_ ** 2 } 1..10), \"\\n\"; print STDERR \"e\\n\"; exit 3"],
    ["/bin/bash", "-c", "echo $((6*7)) ${BASH_VERSION%%.*}; printf '%s\\n' a{1..3}"],
    ["/bin/dash", "-c", "echo $((6*7)); exit 4"],
    ["/usr/bin/getconf", "LEVEL1_DCACHE_SIZE"], ["/usr/bin/getconf", "LEVEL2_CACHE_SIZE"],
  ].filter { FileManager.default.isExecutableFile(atPath: $0[0]) }

  private func input(of command: [String]) -> Data {
    switch command[0] {
    case "/usr/bin/bc": Data("scale=30; 4*a(1)\n2^200\n".utf8)
    default: text
    }
  }

  @Test(arguments: programs)
  func doesWhatItDoesOnTheHost(_ command: [String]) async throws {
    let expected = try await native(command, input: input(of: command))
    for root in [[], ["--root", "/"]] {
      var guest = try await vm(options(root) + command, input: input(of: command))
      if command[0].hasSuffix("/env") {
        // The environment is the one that osv-run gives.
        guest.output = Data(guest.text.split(separator: "\n").filter { !$0.hasPrefix("PATH=") }.joined().utf8)
        #expect(guest.text == "HOME=/LC_ALL=CTZ=UTC")
        continue
      }
      #expect(guest.output == expected.output, "\(command) \(root) \(guest.errorText)")
      #expect(guest.errorText == expected.errorText, "\(command) \(root)")
      #expect(guest.status == expected.status, "\(command) \(root) \(guest.errorText)")
    }
  }

  @Test(
    .enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/python3"), "no /usr/bin/python3"),
    arguments: [1, 2])
  func everydayPython(cpus: Int) async throws {
    let program = ["/usr/bin/python3", packageRoot + "/Tests/GuestPrograms/everyday.py"]
    let expected = try await native(program, input: nil)
    #expect(expected.status == 7, "\(expected.errorText)")
    let guest = try await vm(options(["--root", "/", "--memory", "256M", "--cpus", "\(cpus)"]) + program)
    #expect(guest.text == expected.text)
    #expect(guest.errorText == expected.errorText)
    #expect(guest.status == expected.status)
  }

  @Test func aDatabaseInTheGuestsMemory() async throws {
    let script = """
      create table t(a integer primary key, b text); begin;
      insert into t with recursive n(i) as (select 1 union all select i+1 from n where i<2000) select i, hex(i) from n;
      commit; create index x on t(b); delete from t where a % 7 = 0; vacuum; pragma integrity_check;
      select count(*), sum(a), max(b) from t;
      """
    let name = "/tmp/osv-test-\(UUID().uuidString).db"
    defer { try? FileManager.default.removeItem(atPath: name) }
    let expected = try await native(["/usr/bin/sqlite3", name, script], input: nil)
    let guest = try await vm(options() + ["/usr/bin/sqlite3", name, script])
    #expect(guest.text == expected.text, "\(guest.errorText)")
    #expect(guest.text.contains("ok\n") && guest.status == 0, "\(guest.errorText)")
  }

  @Test func theGuestSeesTheClosureAndNothingElse() async throws {
    let inventions = ["/proc", "/dev", "/sys"].flatMap { ["-path", $0, "-prune", "-o"] }
    let guest = try await vm(["/usr/bin/find", "/"] + inventions + ["-print"])
    let lines = try await vm(["--explain", "/usr/bin/find"]).text.split(separator: "\n").dropFirst()
    let libraries = lines.map { $0.dropFirst(2).prefix { $0 != ":" } }
    #expect(libraries.count > 2)
    for path in guest.text.split(separator: "\n") {
      let isDirectory = libraries.contains { $0.hasPrefix(path == "/" ? "/" : path + "/") }
      let isKnown = libraries.contains(path) || isDirectory || path.hasPrefix("/etc") || path == "/usr/bin/find"
      #expect(isKnown || path == "/tmp" || path == "/usr" || path == "/usr/bin", "\(path)")
    }
    for path in libraries { #expect(guest.text.contains(path + "\n"), "\(path)") }
    #expect(guest.status == 0, "\(guest.errorText)")
  }

  @Test func theProgramKnowsItsRealPlace() async throws {
    // /bin is a link to /usr/bin here, and so the guest has one too.
    let guest = try await vm(["/bin/readlink", "/proc/self/exe"])
    let host = try await run(["/bin/readlink", "/proc/self/exe"])
    #expect(guest.text == host.text, "\(guest.errorText)")
  }

  @Test func missingFilesGetASentence() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try "int main(void) { return 0; }\n".write(toFile: folder + "/p.c", atomically: true, encoding: .utf8)
    try "int f;\n".write(toFile: folder + "/l.c", atomically: true, encoding: .utf8)
    let script = """
      cd "$0" && gcc -shared -fPIC -o libgone.so l.c && gcc -o p p.c -Wl,--no-as-needed -L. -lgone && rm libgone.so \
      && gcc -o q p.c -Wl,--dynamic-linker,/gone/ld.so
      """
    #expect(try await run(["/bin/sh", "-c", script, folder]).status == 0)
    let library = try await vm([folder + "/p"])
    #expect(library.status == 125)
    #expect(library.errorText.contains("needs the library 'libgone.so'"))
    #expect(library.errorText.split(separator: "\n").count == 1)
    let interpreter = try await vm([folder + "/q"])
    #expect(interpreter.status == 125)
    #expect(interpreter.errorText.contains("needs the interpreter '/gone/ld.so'"))
  }

  @Test func librariesBesideTheProgram() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try FileManager.default.createDirectory(atPath: folder + "/bin", withIntermediateDirectories: true)
    try FileManager.default.createDirectory(atPath: folder + "/lib", withIntermediateDirectories: true)
    try "#include <stdio.h>\nint f(void);\nint main(void) { return !printf(\"%d\\n\", f()); }\n".write(
      toFile: folder + "/p.c", atomically: true, encoding: .utf8)
    try "int f(void) { return 42; }\n".write(toFile: folder + "/l.c", atomically: true, encoding: .utf8)
    let script = """
      cd "$0" && gcc -shared -fPIC -o lib/libf.so l.c && gcc -o bin/p p.c -Llib -lf -Wl,-rpath,'$ORIGIN/../lib' \
      && ln -s bin/p link
      """
    #expect(try await run(["/bin/sh", "-c", script, folder]).status == 0)
    for program in ["/bin/p", "/link"] {
      let guest = try await vm([folder + program])
      #expect(guest.text == "42\n", "\(program) \(guest.errorText)")
    }
    // A volume that hides the program's place: its library is found in the volume, by the same rules.
    let volume = try await vm(["--volume", folder + "/lib:/lib", "--env", "LD_LIBRARY_PATH=/lib", folder + "/bin/p"])
    #expect(volume.text == "42\n", "\(volume.errorText)")
  }
}
