// Changes to attached directories: a program does in the guest, on a volume, what it does natively in a directory of the host, and both
// directories are the same afterwards, to the byte, the mode and the time.
import Foundation
import Glibc
import Testing

private let busybox = "/bin/busybox"

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct VolumeTests {
  /// osv-run gives up its capabilities, root's right to write everything among them: the host's run must not have it either.
  static let rights =
    geteuid() == 0 ? ["/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all"] : []

  func program(_ name: String, _ flavour: String = "glibc-static") -> String {
    "\(packageRoot)/.build/guest-programs/\(flavour)/\(name)"
  }

  /// A directory for the native run and one for the guest's.
  func withTwoFolders(_ body: (_ native: String, _ guest: String) async throws -> Void) async throws {
    let (native, guest) = (try temporaryFolder(), try temporaryFolder())
    defer { for folder in [native, guest] { try? FileManager.default.removeItem(atPath: folder) } }
    try await body(native, guest)
  }

  /// Everything in a directory: type, permissions, links, size and contents; and the modification time, if somebody has set it.
  func tree(_ folder: String) async throws -> String {
    let script = """
      cd "$0" && find . -mindepth 1 -printf '%P|%y|%m|%n|%l|%T@\\n' | LC_ALL=C sort | while IFS='|' read -r name type mode links target time
      do
        case $type in
        f) rest="$(stat -c %s "$name") $(sha256sum < "$name")" ;;
        *) rest= ;;
        esac
        [ "${time%%.*}" -lt 1700000000 ] || time=now
        echo "$name $type $mode $links $target $time $rest"
      done
      """
    return try await run(["/bin/sh", "-c", script, folder]).text
  }

  @Test(arguments: ["none", "auto", "always"], [1, 2]) func changesAreLinuxs(_ cache: String, cpus: Int) async throws {
    try await isLinuxs("file_changes", cache, cpus)
  }

  /// Opening in all its forms, files without names, extended attributes, holes.
  @Test(arguments: ["none", "auto", "always"], [1, 2]) func placesAreLinuxs(_ cache: String, cpus: Int) async throws {
    try await isLinuxs("places", cache, cpus)
  }

  /// A program says the same on a volume as natively in a directory of the host, and leaves the same behind.
  private func isLinuxs(_ name: String, _ cache: String, _ cpus: Int) async throws {
    for flavour in ["glibc-static", "musl-static"] {
      try await withTwoFolders { native, guest in
        let host = try await run(Self.rights + [program(name, flavour), native])
        let inside = try await vm([
          "--cpus", "\(cpus)", "--volume", "\(guest):/data,cache=\(cache)", program(name, flavour), "/data",
        ])
        #expect(host.status == 0 && host.text.count > 1000)
        #expect(inside.text == host.text, "\(inside.errorText)")
        #expect(inside.status == 0, "\(inside.errorText)")
        #expect(try await tree(guest) == tree(native))
      }
    }
  }

  @Test(arguments: ["none", "auto", "always"], [1, 2, 3]) func randomChangesFollowTheModel(_ cache: String, seed: Int)
    async throws
  {
    try await withTwoFolders { native, guest in
      // OSV_LONG: as many as one likes to wait for.
      let steps = ProcessInfo.processInfo.environment["OSV_LONG"].flatMap { Int($0) } ?? 1500
      let arguments = ["\(seed)", "\(steps)"]
      let host = try await run([program("file_random"), native] + arguments)
      let inside = try await vm(
        ["--volume", "\(guest):/data,cache=\(cache)", program("file_random"), "/data"] + arguments)
      #expect(host.status == 0, "\(host.text)")
      #expect(inside.text == host.text, "\(inside.errorText)")
      #expect(inside.status == 0)
      #expect(try await tree(guest) == tree(native))
    }
  }

  /// Every call on every kind of file and of path. (With cache=none each of the hundred thousand looks would be a request.)
  @Test(arguments: ["auto", "always"], [1, 2]) func theRulesAreLinuxs(_ cache: String, cpus: Int) async throws {
    // A file system of the host that does not write to a disk: renaming over a file is slow on others.
    let folder = "/dev/shm/osv-rules-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let host = try await run(Self.rights + [program("file_rules"), folder])
    let inside = try await vm([
      "--cpus", "\(cpus)", "--volume", "\(folder):/data,cache=\(cache)", program("file_rules"), "/data",
    ])
    #expect(host.status == 0 && host.text.count > 100_000, "\(host.errorText)")
    #expect(inside.status == 0, "\(inside.errorText)")
    let (theirs, ours) = (host.text.split(separator: "\n"), inside.text.split(separator: "\n"))
    #expect(theirs.count == ours.count)
    for (native, guest) in zip(theirs, ours) where native != guest { Issue.record("\(guest), natively \(native)") }
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder).isEmpty)
  }

  /// A root of the host's that the guest may not write, with a place in its memory that it may.
  @Test func directoriesInMemoryAreTheGuestsAlone() async throws {
    let name = "osv-tmpfs-\(UUID().uuidString)"
    let script =
      "echo text > /tmp/\(name) && read x < /tmp/\(name) && echo $x; echo x > /nowhere; echo y > /var/tmp/\(name); cd /tmp; echo *"
    let outcome = try await vm(["--root", "/", "--tmpfs", "/tmp", "/bin/busybox", "sh", "-c", script])
    #expect(outcome.text == "text\n\(name)\n", "\(outcome.errorText)")
    #expect(outcome.errorText.components(separatedBy: "ead-only file system").count == 3, "\(outcome.errorText)")
    #expect(!FileManager.default.fileExists(atPath: "/tmp/\(name)"))
    let mounts = try await vm(["--tmpfs", "/a/b:5M", "/bin/busybox", "cat", "/proc/mounts"])
    #expect(mounts.text.contains("tmpfs /a/b tmpfs rw"), "\(mounts.text)")
    let rights = try await vm(["--tmpfs", "/a/b:5M", "/bin/busybox", "stat", "-c", "%a %F", "/a/b"])
    #expect(rights.text == "1777 directory\n", "\(rights.errorText)")
    let full = try await vm(["--tmpfs", "/a:2M", "/bin/busybox", "dd", "if=/dev/zero", "of=/a/f", "bs=1M", "count=3"])
    #expect(full.status == 1 && full.errorText.contains("No space left on device"), "\(full.errorText)")
    // A volume within one, and one within a volume.
    try await withTwoFolders { native, guest in
      try Data("v".utf8).write(to: URL(fileURLWithPath: native + "/file"))
      try FileManager.default.createDirectory(atPath: native + "/in", withIntermediateDirectories: true)
      let nested = try await vm([
        "--volume", "\(native):/srv/x", "--tmpfs", "/srv", "--tmpfs", "/srv/x/in", "/bin/busybox", "sh", "-c",
        "echo 1 > /srv/x/in/new; echo 2 > /srv/other; cd /srv; echo * x/* x/in/*",
      ])
      #expect(nested.text == "other x x/file x/in x/in/new\n", "\(nested.errorText)")
      #expect(try FileManager.default.contentsOfDirectory(atPath: native + "/in").isEmpty)
      let missing = try await vm(["--volume", "\(native):/srv/x", "--tmpfs", "/srv/x/none", "/bin/busybox", "true"])
      #expect(missing.status == 125 && missing.errorText.contains("there is no directory '/srv/x/none'"))
    }
  }

  /// The commands that people use, one after the other: a machine each.
  @Test func busyboxChangesATree() async throws {
    try await withTwoFolders { native, guest in
      for folder in [native, guest] {
        let made = try await run([
          "/bin/sh", "-c",
          """
          cd "$0" && mkdir src && cp -r /usr/include/asm-generic src/ && ln -s asm-generic/errno.h src/link &&
          find src -exec touch -h -d @1000000000.5 {} + && tar -C src --sort=name -cf archive.tar asm-generic link
          """, folder,
        ])
        try #require(made.status == 0, "\(made.errorText)")
      }
      let commands = [
        ["cp", "-a", "src", "copy"], ["mkdir", "-p", "a/b/c", "out"], ["tar", "-xf", "archive.tar", "-C", "out"],
        ["dd", "if=archive.tar", "of=a/part", "bs=5000", "count=7", "skip=2", "seek=3"],
        ["mv", "copy/asm-generic/errno.h", "a/b/moved"], ["mv", "a/b", "b"], ["rm", "-r", "out/asm-generic/bitops"],
        ["rm", "-rf", "src"], ["sed", "-i", "s/define/DEFINE/", "copy/asm-generic/ioctls.h"],
        ["ln", "a/part", "a/hard"],
        ["ln", "-s", "../nowhere", "a/soft"], ["chmod", "-R", "go-rwx", "copy"], ["touch", "-d", "@1234567", "a/part"],
        ["cp", "copy/asm-generic/ioctls.h", "a/part"], ["mkfifo", "-m", "600", "fifo"], ["gzip", "archive.tar"],
        ["truncate", "-s", "3000", "b/moved"], ["tee", "-a", "a/log"], ["split", "-b", "1000", "b/moved", "a/x"],
        ["rmdir", "b/c"], ["unlink", "a/soft"], ["find", "copy", "-name", "s*.h", "-delete"],
      ]
      for command in commands {
        // The guest begins with the mask that osv-run was started with.
        let script = "cd \"$0\" && umask 027 && exec \"$@\""
        let input = Data("some text\n".utf8)
        let host = try await run(Self.rights + ["/bin/sh", "-c", script, native, busybox] + command, input: input)
        let inside = try await run(
          ["/bin/sh", "-c", script, "/", osvRun, "--volume", "\(guest):/data", "--workdir", "/data", busybox] + command,
          input: input)
        #expect(inside.text == host.text, "\(command)")
        #expect(inside.errorText == host.errorText, "\(command)")
        #expect(inside.status == host.status, "\(command)")
      }
      #expect(try await tree(guest) == tree(native))
    }
  }

  @Test func readOnlyVolumesSayThatTheyAre() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try Data("content".utf8).write(to: URL(filePath: folder + "/file"))
    for command in [
      ["touch", "/data/new"], ["mkdir", "/data/new"], ["rm", "-f", "/data/file"], ["mv", "/data/file", "/data/x"],
      ["chmod", "600", "/data/file"], ["ln", "-s", "x", "/data/new"], ["truncate", "-s", "0", "/data/file"],
      ["cp", "/data/file", "/data/new"], ["touch", "/data/file"],
    ] {
      let outcome = try await vm(["--volume", "\(folder):/data:ro", busybox] + command)
      #expect(outcome.status != 0, "\(command)")
      #expect(outcome.errorText.contains("Read-only file system"), "\(command): \(outcome.errorText)")
    }
    #expect(try await tree(folder).hasPrefix("file f "))
    #expect(try String(contentsOfFile: folder + "/file", encoding: .utf8) == "content")
  }

  /// Nothing that was written or stored is lost at an end, however the program comes to it.
  @Test(arguments: ["return", "abort"], ["none", "auto"]) func whatIsLeftDirtyIsWritten(_ how: String, cache: String)
    async throws
  {
    try await withTwoFolders { native, guest in
      let host = try await run([program("file_left"), how, native])
      let inside = try await vm(["--volume", "\(guest):/data,cache=\(cache)", program("file_left"), how, "/data"])
      #expect(inside.status == host.status, "\(inside.errorText)")
      #expect(try await tree(guest) == tree(native))
    }
  }

  /// What was fsynced is on the host when the machine is killed.
  @Test func fsyncOutlivesTheMachine() async throws {
    try await withTwoFolders { native, guest in
      let (child, output) = try startReadable([
        osvRun, "--volume", "\(guest):/data", program("file_left"), "synced", "/data",
      ])
      let line = output.availableData
      kill(child, SIGKILL)
      var status: Int32 = 0
      while waitpid(child, &status, 0) < 0 && errno == EINTR {}
      #expect(String(decoding: line, as: UTF8.self) == "synced\n")
      _ = try await run([program("file_left"), "return", native])
      #expect(try await tree(guest) == tree(native))
    }
  }

  /// Both directions: what the host changes is seen within a second or two, what the guest writes at once.
  @Test(arguments: ["none", "auto"]) func bothSidesSeeEachOther(_ cache: String) async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = folder + "/file"
    try Data("old\n".utf8).write(to: URL(filePath: path))
    // The host appends as soon as the guest has.
    let host = Thread {
      for _ in 0..<3000 {
        if (try? String(contentsOfFile: path, encoding: .utf8)) == "old\nmine\n" { break }
        usleep(10_000)
      }
      guard let file = FileHandle(forWritingAtPath: path) else { return }
      _ = try? file.seekToEnd()
      try? file.write(contentsOf: Data("theirs\n".utf8))
    }
    host.start()
    let outcome = try await vm([
      "--volume", "\(folder):/data,cache=\(cache)", program("file_shared"), "4", "/data/file",
    ])
    #expect(outcome.text == "old\nthen\nold\nmine\ntheirs\n", "\(outcome.errorText)")
    #expect(try String(contentsOfFile: path, encoding: .utf8) == "old\nmine\ntheirs\n")
  }
}
