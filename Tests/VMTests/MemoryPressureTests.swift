// Little memory, and more wanted than there is: how small a machine may be, files larger than memory read and mapped in loops, and
// what ends when nothing can be given back: the asker with ENOMEM, or the program with a report. Nothing hangs.
import Foundation
import Testing

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct MemoryPressureTests {
  private static let programs = packageRoot + "/.build/guest-programs/"
  private static let programPath = programs + "musl-static/pressure"

  /// A folder with a file of so many MiB whose word i is i times an odd number.
  private func withFile(mebibytes: Int, _ body: (String) async throws -> Void) async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let words = (0..<UInt64(mebibytes << 17)).map { ($0 &* 0x9e37_79b9_7f4a_7c15).littleEndian }
    try words.withUnsafeBytes { try Data($0).write(to: URL(filePath: folder + "/file")) }
    try await body(folder)
  }

  // MARK: Small machines

  @Test(arguments: ["musl-static", "glibc-static"], [1, 2]) func helloInSixMebibytes(flavour: String, cpus: Int)
    async throws
  {
    let guest = try await vm(["--memory", "6M", "--cpus", "\(cpus)", Self.programs + flavour + "/hello", "one", "two"])
    #expect(guest.text == "hello, 2 arguments: one two\n" && guest.status == 42, "\(guest.errorText)")
  }

  @Test func theSwiftImageInEightMebibytes() async throws {
    let guest = try await vm(["--memory", "8M", packageRoot + "/.build/images/hello.elf"])
    #expect(guest.status == 0 && guest.text.hasPrefix("Hello from Swift"), "\(guest.errorText)")
  }

  @Test(arguments: ["8M", "16M"]) func checksumOfAFileLargerThanMemory(memory: String) async throws {
    try await withFile(mebibytes: 24) { folder in
      let host = try await run(["/bin/busybox", "sha256sum", folder + "/file"])
      let guest = try await vm(
        ["--memory", memory, "--volume", folder + ":/data", "/bin/busybox", "sha256sum", "/data/file"], seconds: 120)
      #expect(guest.text == host.text.replacingOccurrences(of: folder, with: "/data"), "\(guest.errorText)")
      #expect(guest.status == 0 && guest.errorText.isEmpty, "\(guest.errorText)")
    }
  }

  /// Memory behind the first 128 MiB comes while the guest runs, on a busy host late: who needs it waits, and loses nothing.
  @Test(arguments: [1, 2]) func memoryThatComesLate(cpus: Int) async throws {
    let guest = try await vm(
      [
        "--debug", "late", "--memory", "512M", "--cpus", "\(cpus)", "/bin/busybox", "dd", "bs=150M", "count=2",
        "if=/dev/zero", "of=/dev/null",
      ], seconds: 60)
    #expect(guest.status == 0 && guest.errorText.contains("2+0 records out"), "\(guest.errorText)")
    let tooMuch = try await vm(
      [
        "--debug", "late", "--memory", "192M", "/bin/busybox", "dd", "bs=250M", "count=1", "if=/dev/zero",
        "of=/dev/null",
      ],
      seconds: 60)
    #expect(tooMuch.status == 1 && tooMuch.errorText.contains("out of memory"), "\(tooMuch.errorText)")
  }

  /// Where there is too little even to start, that is said in one sentence.
  @Test(arguments: ["1M", "3M"]) func lessThanTheLeast(memory: String) async throws {
    let outcome = try await vm(["--memory", memory, "/bin/busybox", "true"], seconds: 20)
    #expect(outcome.status == 125)
    #expect(outcome.errorText == "osv-run: error E12: --memory is too small: it may be 4M to 256G\n")
  }

  @Test func tooLittleForTheProgram() async throws {
    let outcome = try await vm(["--memory", "4M", "/bin/busybox", "sha256sum", "/bin/busybox"], seconds: 20)
    // It runs, or it says why not: never a panic, never silence.
    if outcome.status == 0 { return }
    #expect(outcome.errorText.split(separator: "\n").count == 1, "\(outcome.errorText)")
    #expect(outcome.errorText.contains("memory"), "\(outcome.errorText)")
    #expect(!outcome.errorText.contains("panic"))
  }

  // MARK: Files larger than memory

  @Test(arguments: ["read", "map", "both", "maps"], [1, 2]) func filesLargerThanMemory(way: String, cpus: Int)
    async throws
  {
    try await withFile(mebibytes: 32) { folder in
      let guest = try await vm(
        ["--memory", "16M", "--cpus", "\(cpus)", "--volume", folder + ":/data", Self.programPath, way, "/data/file"],
        seconds: 120)
      #expect(guest.text == "wrong words 0\n", "\(guest.errorText)")
      #expect(guest.status == 0, "\(guest.errorText)")
    }
  }

  // MARK: Nothing left

  @Test(arguments: ["touch", "touches", "kernel"], [1, 2]) func touchingMoreThanThereIs(way: String, cpus: Int)
    async throws
  {
    let guest = try await vm(["--memory", "16M", "--cpus", "\(cpus)", Self.programPath, way])
    #expect(guest.status == 137, "\(guest.errorText)")
    #expect(guest.text.isEmpty)
    let lines = guest.errorText.split(separator: "\n")
    #expect(lines.count == 1, "\(guest.errorText)")
    #expect(lines.first?.hasPrefix("out of memory: pressure (process 1) was killed; it has ") == true, "\(lines)")
    #expect(lines.first?.hasSuffix("give more with --memory") == true, "\(lines)")
  }

  @Test func memoryIsPromisedUntilItIsTouched() async throws {
    let guest = try await vm(["--memory", "16M", Self.programPath, "promise"])
    #expect(guest.text == "at once 1\nin parts 16\n" && guest.status == 0, "\(guest.errorText)")
  }

  @Test(arguments: [1, 2]) func threadsUntilThereIsNoMemory(cpus: Int) async throws {
    let guest = try await vm(["--memory", "16M", "--cpus", "\(cpus)", Self.programPath, "threads"])
    #expect(guest.text == "threads stop 1, EAGAIN 1\n" && guest.status == 0, "\(guest.errorText)")
  }
}
