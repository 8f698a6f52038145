// What osv-run says when it cannot do what it was asked: for every cause one sentence with its own code on standard error, nothing on
// standard output, status 125, and never a wait for something that does not come.
import Foundation
import Glibc
import Testing

/// Expects a failure of osv-run with this code and these words in its one sentence.
private func expectFailure(
  _ outcome: Outcome, _ code: String, _ words: String, sourceLocation: SourceLocation = #_sourceLocation
) {
  #expect(outcome.status == 125, "\(outcome.errorText)", sourceLocation: sourceLocation)
  #expect(outcome.text.isEmpty, sourceLocation: sourceLocation)
  #expect(
    outcome.errorText.hasPrefix("osv-run: error \(code): "), "\(outcome.errorText)", sourceLocation: sourceLocation)
  #expect(outcome.errorText.contains(words), "\(outcome.errorText)", sourceLocation: sourceLocation)
  #expect(outcome.errorText.split(separator: "\n").count == 1, "\(outcome.errorText)", sourceLocation: sourceLocation)
}

private let busybox = "/bin/busybox"

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct FailureTests {
  @Test(arguments: [
    ([], "E01", "say which program to run"),
    (["--bogus", busybox], "E01", "there is no option '--bogus'"),
    (["--cpus", "65", busybox], "E01", "--cpus wants a number from 1 to 64"),
    (["--memory"], "E01", "needs a value"),
    (["--memory", "5", busybox], "E01", "from 4M to 256G"),
    (["--memory", "4T", busybox], "E01", "with M or G behind it"),
    (["--memory", "128K", busybox], "E01", "with M or G behind it"),
    (["--self-test", "foo"], "E01", "there is no self-test 'foo'"),
    (["--memory", "3M", busybox], "E12", "too small"),
    (["--memory", "300G", busybox], "E12", "too large"),
    (["--volume", "/:/", busybox], "E01", "below /"),
    (["--volume", "/nowhere:/data", busybox], "E07", "there is no directory '/nowhere'"),
    (["--volume", "/etc/passwd:/data", busybox], "E07", "'/etc/passwd' is not a directory"),
    (["--root", "/nowhere", busybox], "E07", "there is no directory '/nowhere'"),
    (["--root", "/usr/include", busybox], "E02", "in the directory given by --root"),
    (["--stats", "/nowhere/s", busybox], "E02", "cannot be written"),
    (["--status-fd", "77", busybox], "E01", "descriptor 77 is not open"),
    (["--status-fd", "3", busybox], "E01", "descriptor 3 is not open"),
    (["/nowhere"], "E02", "there is no file '/nowhere'"),
    (["/etc"], "E02", "not a regular file"),
    (["/dev/zero"], "E02", "not a regular file"),
    (["/etc/passwd"], "E03", "is not an ELF file"),
    (["--kernel", "/etc/passwd", busybox], "E16", "kernel image"),
    (["--workdir", "/nope", busybox, "true"], "E07", "there is no directory '/nope' in the guest"),
    (["--workdir", "/etc/passwd", busybox, "true"], "E07", "'/etc/passwd' is not a directory in the guest"),
    (["--workdir", "/nope", ".build/images/hello.elf"], "E07", "there is no directory '/nope' in the guest"),
    (["--volume", "/usr:/etc/passwd", busybox, "true"], "E07", "cannot be attached at '/etc/passwd'"),
    (["--volume", "/usr:/etc/passwd/sub", busybox, "true"], "E07", "cannot be attached at '/etc/passwd/sub'"),
  ])
  func arguments(_ arguments: [String], code: String, words: String) async throws {
    expectFailure(try await vm(arguments, seconds: 20), code, words)
  }

  /// Busybox with `bytes` at `offset`, cut to `count`, in a file.
  private func changed(_ offset: Int, _ bytes: [UInt8], count: Int = .max) async throws -> Outcome {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    var file = try Data(contentsOf: URL(filePath: busybox)).prefix(count)
    if !bytes.isEmpty { file.replaceSubrange(offset..<offset + bytes.count, with: bytes) }
    try file.write(to: URL(filePath: folder + "/program"))
    return try await vm([folder + "/program"], seconds: 20)
  }

  @Test func damagedPrograms() async throws {
    expectFailure(try await changed(0, [], count: 0), "E03", "is not an ELF file")
    expectFailure(try await changed(0, [], count: 40), "E05", "the header is cut off")
    expectFailure(try await changed(0, [], count: 100_000), "E05", "truncated")
    expectFailure(try await changed(18, [183, 0]), "E04", "another machine")
    expectFailure(try await changed(4, [1]), "E04", "32-bit")
    expectFailure(try await changed(16, [1, 0]), "E04", "not a program")
    expectFailure(try await changed(24, [UInt8](repeating: 0xff, count: 8)), "E05", "entry")
    expectFailure(try await changed(56, [0xff, 0xff]), "E05", "program header table")
  }

  /// Busybox with the fields of its first PT_LOAD header changed: each number is put in its place and the outcome judged.
  @Test func hostileHeaders() async throws {
    let file = try Data(contentsOf: URL(filePath: busybox))
    let count = Int(file[56]) | Int(file[57]) << 8
    let table = (0..<count).map { 64 + 56 * $0 }
    let first = try #require(table.first { file[$0] == 1 })
    let last = try #require(table.last { file[$0] == 1 })
    func bytes(_ value: UInt64) -> [UInt8] { withUnsafeBytes(of: value.littleEndian) { Array($0) } }
    let isFixed = file[16] == 2
    // The header's place, the field's in it, the value, the code, words.
    var fields: [(Int, Int, UInt64, String, String)] = [
      (first, 8, 8, "E05", "misaligned"),
      (first, 8, 1 << 62, "E05", "outside the file"),
      (first, 16, .max, "E05", "outside the address space"),
      (last, 16, 0, "E05", "overlap"),
      (first, 32, 1 << 40, "E05", "larger in the file"),
      (first, 40, .max, "E05", "outside the address space"),
      (first, 40, 1, "E05", "larger in the file"),
      (first, 48, 1 << 63, "E05", "alignment"),
      (last, 48, 0x18000, "E05", "alignment"),
      (last, 40, 8 << 30, "E12", "wants more than 8"),
      (last, 40, 1 << 45, "E12", "see --memory"),
    ]
    if isFixed { fields.append((first, 16, 0, "E05", "lowest addresses")) }
    for (header, field, value, code, words) in fields {
      let outcome = try await changed(header + field, bytes(value))
      expectFailure(outcome, code, words)
    }
  }

  /// The interpreter is what is wrong, and is named.
  @Test func interpretersThatAreNone() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let program = packageRoot + "/.build/guest-programs/glibc-dynamic/hello"
    var file = try Data(contentsOf: URL(filePath: program))
    let name = try #require(file.range(of: Data("/lib64/ld-linux-x86-64.so.2\0".utf8)))
    for (path, words) in [("/etc/passwd", "no ELF file"), ("/nowhere", "is not there"), ("/etc", "is not there")] {
      let text = Array(path.utf8)
      file.replaceSubrange(name, with: text + [UInt8](repeating: 0, count: name.count - text.count))
      try file.write(to: URL(filePath: folder + "/program"))
      let outcome = try await vm([folder + "/program"], seconds: 20)
      expectFailure(outcome, "E06", words)
      #expect(outcome.errorText.contains("interpreter '\(path)'"), "\(outcome.errorText)")
    }
  }

  @Test func aPipeInPlaceOfAFileIsNotWaitedFor() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    #expect(mkfifo(folder + "/libc.so.6", 0o666) == 0)
    expectFailure(try await vm([folder + "/libc.so.6"], seconds: 20), "E02", "not a regular file")
    // As a library in a directory that the linker searches first: it is passed over, as by the linker.
    let guest = try await vm(
      ["--volume", folder + ":/data", "--env", "LD_LIBRARY_PATH=/data", "--explain", "/bin/cat"], seconds: 20)
    #expect(guest.status == 0 && guest.text.contains("libc.so.6"), "\(guest.errorText)")
  }

  /// Nothing can be made in a directory of the host, so what is attached in one needs a directory there.
  @Test func placesToAttachAt() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let manager = FileManager.default
    func make(_ path: String) throws {
      try manager.createDirectory(atPath: folder + path, withIntermediateDirectories: true)
    }
    try make("/bin")
    try manager.copyItem(atPath: busybox, toPath: folder + "/bin/busybox")
    let root = ["--root", folder]
    expectFailure(try await vm(root + [busybox, "true"]), "E07", "no directory /dev")
    try make("/dev")
    expectFailure(try await vm(root + [busybox, "true"]), "E07", "no directory /proc")
    try make("/proc")
    #expect(try await vm(root + [busybox, "true"]).status == 0)
    let volume = root + ["--volume", "/etc:/data"]
    expectFailure(try await vm(volume + [busybox, "true"]), "E07", "there is no directory '/data' for the volume")
    try make("/data")
    #expect(try await vm(volume + [busybox, "test", "-f", "/data/passwd"]).status == 0)
    let nested = ["--volume", folder + ":/x", "--volume"]
    expectFailure(
      try await vm(nested + ["/etc:/x/y", busybox, "true"]), "E07", "there is no directory '/x/y' for the volume")
    #expect(try await vm(nested + ["/etc:/x/data", busybox, "test", "-f", "/x/data/passwd"]).status == 0)
    #expect(try await vm(nested + ["/etc:/y/z", busybox, "test", "-f", "/y/z/passwd"]).status == 0)
  }

  @Test func whatIsMissingAroundOSVRun() async throws {
    func without(_ preparation: String, _ command: String = "exec \"$0\" /bin/busybox true") async throws -> Outcome {
      try await run(["/usr/bin/unshare", "-rm", "/bin/sh", "-c", "\(preparation) && \(command)", osvRun], seconds: 20)
    }
    expectFailure(try await without("mount -t tmpfs none /dev"), "E08", "there is no /dev/kvm")
    expectFailure(try await without("mount --bind /dev/null /dev/kvm"), "E10", "interface version")
    expectFailure(try await without("ulimit -v 60000"), "E12", "address space")
  }

  /// However few descriptors there may be, the failure is a sentence.
  @Test(arguments: 4...18) func fewDescriptors(_ limit: Int) async throws {
    let command = "ulimit -n \(limit) && exec \"$0\" --volume /etc:/x --volume /usr:/y /bin/busybox test -d /y/bin"
    let outcome = try await run(["/bin/sh", "-c", command, osvRun], seconds: 20)
    if outcome.status == 0 { return #expect(limit > 10) }
    #expect(outcome.status == 125)
    #expect(outcome.errorText.hasPrefix("osv-run: error E"), "\(limit): \(outcome.errorText)")
    #expect(outcome.errorText.contains("Too many open files"), "\(limit): \(outcome.errorText)")
    #expect(outcome.errorText.split(separator: "\n").count == 1, "\(outcome.errorText)")
  }

  @Test(.enabled(if: geteuid() == 0, "only root can become somebody else"))
  func somebodyElse() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    // The build may lie where others may not look.
    try FileManager.default.copyItem(atPath: osvRun, toPath: folder + "/osv-run")
    try FileManager.default.createDirectory(atPath: folder + "/nodes", withIntermediateDirectories: true)
    chmod(folder, 0o755)
    // A node of the test's own in place of /dev/kvm, for these processes alone: the host's is left as it is.
    func asNobody(_ group: String, _ mode: String, _ arguments: [String]) async throws -> Outcome {
      let script = """
        mount -t tmpfs -o mode=755 none "$0/nodes" && mknod "$0/nodes/kvm" c 10 232 && chown 0:\(group) "$0/nodes/kvm" &&
        chmod \(mode) "$0/nodes/kvm" && mount --bind "$0/nodes/kvm" /dev/kvm &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups "$0/osv-run" "$@"
        """
      return try await run(["/usr/bin/unshare", "-m", "/bin/sh", "-c", script, folder] + arguments)
    }
    expectFailure(try await asNobody("0", "660", [busybox, "true"]), "E09", "may not be opened by this user")
    // With the group that may, it runs; and it reads what that user may read, no more.
    let guest = try await asNobody(
      "65534", "660", ["--volume", "/etc:/data", busybox, "cat", "/data/hostname", "/data/shadow"])
    let name = (try? String(contentsOfFile: "/etc/hostname", encoding: .utf8)) ?? ""
    #expect(guest.text == name, "\(guest.errorText)")
    #expect(guest.errorText.contains("/data/shadow': Permission denied"))
    #expect(guest.status == 1)
  }

  @Test func theEndIsToldToMachines() async throws {
    let good = try await run(["/bin/sh", "-c", "exec \"$0\" --status-fd 5 /bin/busybox false 5>&1", osvRun])
    #expect(good.text == "{\"status\": 1, \"signal\": 0}\n", "\(good.errorText)")
    let bad = try await run(["/bin/sh", "-c", "exec \"$0\" --status-fd 5 /nowhere 5>&1", osvRun])
    #expect(bad.text.hasPrefix("{\"status\": 125, \"error\": \"E02\", \"message\": \""))
  }
}

/// Descriptors are few by default on many machines; attached directories share what there is.
@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct DescriptorBudgetTests {
  @Test func manyLargeDirectories() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    var options: [String] = []
    for volume in 0..<4 {
      for directory in 0..<100 {
        let path = "\(folder)/\(volume)/\(directory)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try "text\n".write(toFile: path + "/file", atomically: false, encoding: .utf8)
      }
      options += ["--volume", "\(folder)/\(volume):/data/\(volume)"]
    }
    // Hard limit too: it cannot be raised.
    let script = "ulimit -n 128 && exec \"$0\" \"$@\""
    let guest = try await run(
      ["/bin/sh", "-c", script, osvRun] + options + [busybox, "grep", "-r", "text", "/data"], seconds: 60)
    #expect(guest.errorText.isEmpty)
    #expect(guest.text.split(separator: "\n").count == 400)
    #expect(guest.status == 0)
  }
}
