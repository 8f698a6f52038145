// Writes that wait in the guest's cache: what is left on the host is what Linux leaves there, the host sees it within a second, and
// what was there longer outlives the machine.
import Foundation
import Glibc
import Testing

private let busybox = "/bin/busybox"

extension VolumeTests {
  @Test(arguments: ["none", "auto", "always"], [1, 2]) func smallWritesOfSeveralThreads(_ cache: String, cpus: Int)
    async throws
  {
    for seed in 1...2 {
      try await withTwoFolders { native, guest in
        let arguments = ["\(seed + 10 * cpus)", "40"]
        let host = try await run(Self.rights + [program("file_small"), native] + arguments)
        let inside = try await vm(
          [
            "--cpus", "\(cpus)", "--volume", "\(guest):/data,cache=\(cache)", program("file_small"), "/data",
          ] + arguments)
        #expect(host.status == 0, "\(host.text)")
        #expect(inside.text == host.text, "\(inside.errorText)")
        #expect(inside.status == 0)
        #expect(try await tree(guest) == tree(native))
      }
    }
  }

  /// An archive of some thousand files, unpacked by machines one after the other.
  @Test(arguments: ["auto", "always"], [1, 2]) func archivesUnpackAlike(_ cache: String, cpus: Int) async throws {
    try await withTwoFolders { native, guest in
      let archive = native + ".tar"
      defer { try? FileManager.default.removeItem(atPath: archive) }
      let made = try await run([
        "/bin/sh", "-c",
        "cd /usr/include && tar --sort=name --mtime=@1000000000 -cf \"$0\" linux asm-generic x86_64-linux-gnu/sys",
        archive,
      ])
      try #require(made.status == 0, "\(made.errorText)")
      for round in 0..<3 {
        for folder in [native, guest] {
          try FileManager.default.createDirectory(atPath: "\(folder)/\(round)", withIntermediateDirectories: true)
        }
        let command = [busybox, "tar", "-xf"]
        let host = try await run(Self.rights + command + [archive, "-C", "\(native)/\(round)"])
        let inside = try await vm(
          [
            "--cpus", "\(cpus)", "--volume", "\(guest):/data,cache=\(cache)", "--volume",
            "\((archive as NSString).deletingLastPathComponent):/archives:ro",
          ] + command + ["/archives/" + (archive as NSString).lastPathComponent, "-C", "/data/\(round)"])
        #expect(host.status == 0 && inside.status == 0, "\(inside.errorText)")
      }
      let expected = try await tree(native)
      #expect(expected.split(separator: "\n").count > 1000)
      #expect(try await tree(guest) == expected)
    }
  }

  /// A compiler, an assembler and a linker, a machine each: what they make of a source is the same to the byte.
  @Test(arguments: [1, 2]) func aBuildMakesTheSame(cpus: Int) async throws {
    let compiler = try await run(["/usr/bin/gcc", "-print-prog-name=cc1"]).text.trimmingCharacters(in: .newlines)
    let includes = try await run(["/usr/bin/gcc", "-print-file-name=include"]).text.trimmingCharacters(in: .newlines)
    try await withTwoFolders { native, guest in
      for folder in [native, guest] {
        for name in ["hello", "files", "polling"] {
          try FileManager.default.copyItem(
            atPath: "\(packageRoot)/Tests/GuestPrograms/\(name).c", toPath: "\(folder)/\(name).c")
        }
      }
      let volumes = [
        "/usr/include:/usr/include:ro", "\(includes):\(includes):ro", "/usr/lib/x86_64-linux-gnu:/libraries:ro",
      ]
      func both(_ command: [String]) async throws {
        let script = "cd \"$0\" && exec \"$@\""
        let host = try await run(Self.rights + ["/bin/sh", "-c", script, native] + command)
        let inside = try await vm(
          ["--cpus", "\(cpus)", "--memory", "512M", "--volume", "\(guest):/data", "--workdir", "/data"]
            + volumes.flatMap { ["--volume", $0] } + command)
        #expect(inside.text == host.text)
        #expect(inside.status == 0 && host.status == 0, "\(command): \(inside.errorText) \(host.errorText)")
      }
      for name in ["hello", "files", "polling"] {
        try await both([
          compiler, "-quiet", "-O1", "-g0", "-imultiarch", "x86_64-linux-gnu", "\(name).c", "-o", "\(name).s",
        ])
        try await both(["/usr/bin/as", "-o", "\(name).o", "\(name).s"])
      }
      try await both(["/usr/bin/ld", "-r", "-o", "all.o", "hello.o", "-z", "muldefs", "files.o", "polling.o"])
      try await both(["/usr/bin/ar", "rcD", "all.a", "hello.o", "files.o", "polling.o"])
      #expect(try await tree(guest) == tree(native))
      #expect(try await tree(guest).contains("all.a f "))
    }
  }

  /// What was written and not closed is on the host within a second, and stays there when the machine is killed.
  @Test func theHostSeesWritesWithinASecond() throws {
    // Half a second; what a busy machine adds is not there every time, what the guest adds is.
    var delay = Duration.seconds(60)
    var attempts = 0
    while delay > .milliseconds(1500), attempts < 6 {
      attempts += 1
      delay = min(delay, try timeToTheHost())
    }
    #expect(delay <= .milliseconds(1500))
  }

  /// How long it takes a write to get to the host that nobody has asked to be there.
  private func timeToTheHost() throws -> Duration {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = folder + "/file"
    try Data("old\n".utf8).write(to: URL(filePath: path))
    let (child, output) = try startReadable([
      osvRun, "--volume", "\(folder):/data", program("file_shared"), "60", "/data/file",
    ])
    var text = ""
    while !text.contains("then"), case let more = output.availableData, !more.isEmpty {
      text += String(decoding: more, as: UTF8.self)
    }
    #expect(text == "old\nthen\n")
    let written = ContinuousClock.now
    while try String(contentsOfFile: path, encoding: .utf8) != "old\nmine\n", .now - written < .seconds(20) {
      usleep(5000)
    }
    let delay = ContinuousClock.now - written
    kill(child, SIGKILL)
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
    #expect(try String(contentsOfFile: path, encoding: .utf8) == "old\nmine\n")
    return delay
  }

  /// Stores that come while the file is being written back are in it at the end, however many passes it has been through.
  @Test(arguments: [1, 2]) func storesWhileOthersAreWritten(cpus: Int) async throws {
    try await withTwoFolders { _, guest in
      let outcome = try await vm([
        "--cpus", "\(cpus)", "--volume", "\(guest):/data", program("file_stores"), "/data", "2500",
      ])
      #expect(outcome.text == "stored\n" && outcome.status == 0, "\(outcome.errorText)")
      let stores = try Data(contentsOf: URL(filePath: guest + "/stores"))
      let model = try Data(contentsOf: URL(filePath: guest + "/model"))
      #expect(stores.count == 2048 * 4096)
      let isSame = stores == model
      #expect(isSame)
    }
  }

  /// What the host has no room for when the program ends, and nobody was told of: a sentence, and no success.
  @Test func whatIsLostAtTheEndIsTold() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let script = "mount -t tmpfs -o size=1M full \"$0\" && exec \"$1\" --volume \"$0:/data\" \"$2\" /data"
    let outcome = try await run([
      "/usr/bin/unshare", "--mount", "--map-root-user", "/bin/sh", "-c", script, folder, osvRun, program("file_lost"),
    ])
    #expect(outcome.text == "stored\n" && outcome.status == 1, "\(outcome.errorText)")
    #expect(
      outcome.errorText.contains("osv: data of the program's files is lost: the host could not write it (error 28)"),
      "\(outcome.errorText)")
  }

  /// A full file system: whoever writes, synchronises or closes hears of it, and what was written before is not lost.
  @Test(arguments: ["auto", "always"]) func aFullFileSystemIsTold(_ cache: String) async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    // A mount of its own, in a namespace of its own: gone with its last process.
    let script = """
      mount -t tmpfs -o size=2M full "$0" && "$1" --volume "$0:/data,cache=\(cache)" "$2" /data && stat -c '%n %s' "$0"/* &&
      tr -d x < "$0/large" | wc -c && tr -d x < "$0/small" | wc -c
      """
    let outcome = try await run([
      "/usr/bin/unshare", "--mount", "--map-root-user", "/bin/sh", "-c", script, folder, osvRun, program("file_full"),
    ])
    let full = "No space left on device"
    #expect(
      outcome.text == """
        write: \(full)
        next write: \(full)
        fsync: \(full)
        end 1
        close: \(full)
        close or write: \(full)
        truncate: done
        write: done
        fsync: done
        close: done
        \(folder)/large 1000
        \(folder)/small 500
        0
        0

        """, "\(outcome.errorText)")
  }
}
