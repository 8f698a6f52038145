// The main job on real input: Debian's unmodified busybox-static in a VM gives what it gives on the host, byte for byte.
import Foundation
import Glibc
import Testing

private let busybox = "/bin/busybox"

/// Lines in an order of their own: for output whose order a directory decides.
private func sorted(_ text: String) -> [Substring] {
  text.split(separator: "\n", omittingEmptySubsequences: false).sorted()
}

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct BusyboxTests {
  /// Runs one applet on the host (in `directory`) and in a VM (with `directory` at /data and as working directory).
  private func both(
    _ applet: [String], in directory: String, cpus: Int = 1, options: [String] = [], input: Data? = nil,
    seconds: Double = 120
  ) async throws -> (host: Outcome, guest: Outcome) {
    let script = "cd \"$0\" && exec \(busybox) \"$@\""
    // osv-run gives up its capabilities, root's right to read everything among them: the host's run must not have it either.
    let rights = geteuid() == 0 ? ["/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all"] : []
    let language = ["/usr/bin/env", "-u", "LC_ALL", "LANG=C.UTF-8"]
    let host = try await run(
      rights + language + ["/bin/sh", "-c", script, directory] + applet, input: input, seconds: seconds)
    let guest = try await vm(
      [
        "--cpus", "\(cpus)", "--volume", "\(directory):/data:ro", "--workdir", "/data", "--env", "LANG=C.UTF-8",
      ] + options + [busybox] + applet,
      input: input, seconds: seconds)
    return (host, guest)
  }

  /// /proc/interrupts: the timer's and those between CPUs, a column a CPU; and the switches in /proc/stat.
  @Test func interruptsAndSwitchesAreCounted() async throws {
    let text = try await vm(["--cpus", "2", busybox, "cat", "/proc/interrupts", "/proc/stat"]).text
    let rows = text.split(separator: "\n").map { $0.split(separator: " ", omittingEmptySubsequences: true) }
    #expect(rows.first == ["CPU0", "CPU1"], "\(text)")
    for name in ["LOC:", "RES:"] {
      let row = rows.first { $0.first.map(String.init) == name } ?? []
      #expect(row.count > 3 && UInt64(row[1]) != nil && UInt64(row[2]) != nil, "\(text)")
    }
    let switches = rows.first { $0.first == "ctxt" } ?? []
    #expect(switches.count == 2 && (UInt64(switches[1]) ?? 0) > 0, "\(text)")
  }

  @Test func checksumOfTheReadme() async throws {
    let guest = try await vm(["--volume", "\(packageRoot):/data", busybox, "sha256sum", "/data/README.md"])
    let host = try await run([busybox, "sha256sum", packageRoot + "/README.md"])
    #expect(guest.text == host.text.replacingOccurrences(of: packageRoot, with: "/data"), "\(guest.errorText)")
    #expect(guest.status == 0)
  }

  @Test(arguments: [
    ["sha256sum", "stdio.h", "stdlib.h"],
    ["md5sum", "stdio.h", "elf.h"],
    ["wc", "stdio.h", "elf.h", "linux/kvm.h"],
    ["cat", "stdio.h"],
    ["sort", "-r", "elf.h"],
    ["awk", "/define/ { n += NF; print NR, $2 } END { print n }", "elf.h"],
    ["grep", "-n", "struct", "elf.h"],
    ["head", "-n", "20", "elf.h"],
    ["tail", "-c", "1000", "elf.h"],
    ["od", "-A", "x", "-t", "x1z", "stdio.h"],
    ["stat", "-c", "%n %s %f %a %Y", "stdio.h", "linux", "."],
    ["sed", "-n", "s/define/DEFINE/p", "stdio.h"],
    ["cut", "-c", "1-20", "stdio.h"],
    ["tr", "a-z", "A-Z"],
    ["uniq", "-c", "elf.h"],
    ["sh", "-c", "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; echo $i; for f in std*.h; do echo $f; done"],
    ["ls", "does-not-exist"],
    ["false"],
  ])
  func appletOnFiles(_ applet: [String]) async throws {
    let (host, guest) = try await both(
      applet, in: "/usr/include", input: Data("some text\nfor the standard input\n".utf8))
    #expect(guest.text == host.text, "\(guest.errorText)")
    #expect(guest.errorText == host.errorText)
    #expect(guest.status == host.status)
  }

  @Test(arguments: ["/usr/include", "/usr/share"], [1, 2])
  func treesOfTenThousandFiles(_ tree: String, cpus: Int) async throws {
    // Link counts and sizes of directories included: ls shows every attribute the guest was given. Owners as numbers, because their
    // names stand in the host's /etc/passwd, which the guest does not see.
    for applet in [["find", "."], ["ls", "-lnR", "."]] {
      let (host, guest) = try await both(applet, in: tree, cpus: cpus)
      #expect(sorted(guest.text) == sorted(host.text), "\(applet) \(guest.errorText)")
      #expect(guest.status == host.status, "\(guest.errorText)")
    }
  }

  /// Also where the page cache has to give back what it read a moment ago: no read may fail for that.
  @Test(arguments: ["128M", "24M"]) func grepThroughATree(_ memory: String) async throws {
    let (host, guest) = try await both(
      ["grep", "-r", "define.*SEEK", "."], in: "/usr/include", options: ["--memory", memory])
    #expect(sorted(guest.text) == sorted(host.text), "\(guest.errorText)")
    #expect(!guest.text.isEmpty)
    #expect(guest.status == host.status)
  }

  @Test func checksumsOfATree() async throws {
    let (host, guest) = try await both(
      ["find", ".", "-type", "f", "-name", "*.h", "-size", "-200k"], in: "/usr/include/linux")
    #expect(sorted(guest.text) == sorted(host.text))
    let files = host.text.split(separator: "\n").map(String.init).sorted()
    let sums = try await both(["md5sum"] + files, in: "/usr/include/linux")
    #expect(sums.guest.text == sums.host.text, "\(sums.guest.errorText)")
  }

  @Test func listingOfAnArchive() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let tar = try await run(["/bin/tar", "-C", "/usr/include", "-cf", folder + "/headers.tar", "linux", "asm-generic"])
    #expect(tar.status == 0)
    let (host, guest) = try await both(["tar", "-tf", "headers.tar"], in: folder)
    #expect(guest.text == host.text, "\(guest.errorText)")
    #expect(guest.text.count > 1000)
    #expect(guest.status == 0)
  }

  /// A tree of its own of more files than a directory is read at once, and all that goes through trees over it.
  @Test(arguments: [1, 2]) func moreThanTenThousandFiles(cpus: Int) async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    // 10,500 files: in one directory, in many, with hard and symbolic links, of none to some thousand bytes.
    let made = try await run([
      "/bin/bash", "-c",
      """
      cd "$0" && mkdir flat deep && cd flat && for i in $(seq 6000); do echo "line $i of $((i % 97))" > "f$i"; done
      cd ../deep && for d in $(seq 45); do mkdir -p "d$d/e" && for i in $(seq 100); do
      head -c $((i * 37)) /usr/include/elf.h > "d$d/e/$i"; done; ln -s "e/1" "d$d/link"; ln "d$d/e/2" "d$d/hard"; done
      cd .. && tar -cf ../"$(basename "$0").tar" . && mv ../"$(basename "$0").tar" archive.tar
      """, folder,
    ])
    #expect(made.status == 0, "\(made.errorText)")
    let count = try await run(["/usr/bin/find", folder, "-type", "f"]).text.split(separator: "\n").count
    #expect(count == 6000 + 45 * 101 + 1)
    for applet in [
      ["find", ".", "-type", "f"], ["ls", "-lnR", "."], ["grep", "-r", "of 13$", "."],
      ["grep", "-rc", "define", "deep"],
    ] {
      let (host, guest) = try await both(applet, in: folder, cpus: cpus)
      #expect(sorted(guest.text) == sorted(host.text), "\(applet) \(guest.errorText)")
      #expect(guest.text.split(separator: "\n").count > 50 && guest.status == host.status, "\(applet)")
    }
    let many = (1...6000).map { "flat/f\($0)" }
    for applet in [["md5sum"] + many, ["sort"] + many, ["awk", "{ n += $2 } END { print NR, n }"] + many] {
      let (host, guest) = try await both(applet, in: folder, cpus: cpus)
      #expect(guest.text == host.text && guest.status == host.status, "\(applet[0]) \(guest.errorText)")
      #expect(!guest.text.isEmpty)
    }
    let (host, guest) = try await both(["tar", "-tf", "archive.tar"], in: folder, cpus: cpus)
    #expect(guest.text == host.text && guest.text.split(separator: "\n").count > 10_500, "\(guest.errorText)")
  }

  /// Files whose size says nothing about what is in them, on a volume.
  @Test func filesThatAreMadeWhenTheyAreRead() async throws {
    for path in ["/proc/cpuinfo", "/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled"] {
      for applet in ["wc", "cat"] {
        // A clock rate in it may have moved.
        let host = try await run([busybox, applet, path]).text.replacing(/MHz.*/, with: "")
        let guest = try await vm([
          "--volume", "/sys:/s:ro", "--volume", "/proc:/p:ro", busybox, applet,
          path.replacing(/^.(s|p)[a-z]*/) { "/\($0.1)" },
        ])
        #expect(!guest.text.isEmpty)
        if path == "/proc/cpuinfo", applet == "wc" { continue }
        #expect(
          guest.text.replacing(/MHz.*/, with: "").split(separator: " ").first == host.split(separator: " ").first
            && (applet == "wc" || guest.text.replacing(/MHz.*/, with: "") == host), "\(guest.text) \(guest.errorText)")
      }
    }
  }

  @Test func inputFromAPipe() async throws {
    var bytes = Data(count: 8 << 20)
    for index in bytes.indices { bytes[index] = index % 61 == 0 ? 10 : UInt8(truncatingIfNeeded: index &* 31) | 0x20 }
    for applet in [["wc"], ["sha256sum"], ["cat"]] {
      let host = try await run([busybox] + applet, input: bytes)
      let guest = try await vm([busybox] + applet, input: bytes)
      #expect(guest.output == host.output, "\(applet) \(guest.errorText)")
      #expect(guest.status == 0)
    }
  }

  @Test func outputThroughAPipe() async throws {
    let outcome = try await run(
      ["/bin/sh", "-c", "\"$0\" --volume /usr/include:/data /bin/busybox ls -lR /data | /bin/busybox wc -l", osvRun])
    let host = try await run(["/bin/sh", "-c", "cd /usr/include && /bin/busybox ls -lR . | /bin/busybox wc -l"])
    #expect(outcome.text == host.text, "\(outcome.errorText)")
  }

  @Test func readerThatLeavesEarlyEndsTheProgram() async throws {
    let outcome = try await run(
      ["/bin/bash", "-c", "\"$0\" /bin/busybox yes | head -n 3; echo ${PIPESTATUS[0]}", osvRun], seconds: 30)
    #expect(outcome.text == "y\ny\ny\n141\n", "\(outcome.errorText)")
  }

  @Test func exitStatusIsThePrograms() async throws {
    for status in [0, 1, 42, 125, 255] {
      #expect(try await vm([busybox, "sh", "-c", "exit \(status)"]).status == Int32(status))
    }
  }
}

/// A new empty folder that the test removes.
func temporaryFolder() throws -> String {
  let path = NSTemporaryDirectory() + "osv-test-\(UUID().uuidString)"
  try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  return path
}
