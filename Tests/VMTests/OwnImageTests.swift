// What osv-run itself brings along, on this machine's KVM: the self-test, the Swift image, the report of a kernel that has panicked.
import Foundation
import Testing

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct OwnImageTests {
  @Test(arguments: [1, 2]) func theSelfTestPasses(cpus: Int) async throws {
    let outcome = try await vm(["--cpus", "\(cpus)", "--self-test"], seconds: 120)
    #expect(outcome.status == 0, "\(outcome.text)\n\(outcome.errorText)")
    // The report goes where a redirection finds it.
    let report = outcome.text
    #expect(outcome.errorText.isEmpty)
    #expect(report.contains("this machine's KVM: "))
    for check in [
      "timer", "page fault", "TLB flush", "exceptions", "interrupt storm", "mapped files", "page tables of a program",
    ] {
      #expect(report.contains("\(check): ok"), "\(check)\n\(report)")
    }
    #expect(report.contains("kernel page tables: ok"), "\(report)")
    #expect(report.contains("second CPU: \(cpus == 1 ? "skipped" : "ok")"), "\(report)")
    #expect(!report.contains("FAILED"))
  }

  @Test(arguments: [1, 2]) func theSwiftImageSaysHello(cpus: Int) async throws {
    let image = packageRoot + "/.build/images/hello.elf"
    let outcome = try await vm(["--cpus", "\(cpus)", "--volume", "\(packageRoot):/x:ro", image, "/x/README.md"])
    #expect(outcome.status == 0, "\(outcome.errorText)")
    #expect(outcome.text.hasPrefix("Hello from Swift"))
    #expect(outcome.text.contains("argument 1: /x/README.md\n"))
    #expect(outcome.text.contains("added up 1 to 100000: 5000050000\n"))
    let lines =
      try String(contentsOfFile: packageRoot + "/README.md", encoding: .utf8).split(
        separator: "\n", omittingEmptySubsequences: false
      ).count - 1
    #expect(outcome.text.contains("\(lines)"), "\(outcome.text)")
    let missing = try await vm([image, "/nowhere"])
    #expect(missing.status == 1 && (missing.text + missing.errorText).contains("no such file"))
  }

  @Test(arguments: [1, 2]) func theSelfTestOfThreadsPasses(cpus: Int) async throws {
    let outcome = try await vm(["--cpus", "\(cpus)", "--self-test", "threads"], seconds: 120)
    #expect(outcome.status == 0, "\(outcome.text)\n\(outcome.errorText)")
    let report = outcome.text
    for check in ["ping-pong on one CPU", "readers, deferred frees and a growing table", "reader-writer lock"] {
      #expect(report.contains("threads, \(check): ok"), "\(check)\n\(report)")
    }
    #expect(report.contains("memory behind a grace period: ok"), "\(report)")
    // Many threads' stacks are there by now.
    #expect(report.contains("kernel page tables: ok"), "\(report)")
    #expect(!report.contains("FAILED"))
  }

  @Test(arguments: [1, 2]) func theThreadsImageHoldsWhatItPromises(cpus: Int) async throws {
    let outcome = try await vm(["--cpus", "\(cpus)", packageRoot + "/.build/images/threads.elf"], seconds: 120)
    #expect(outcome.status == 0, "\(outcome.text)\n\(outcome.errorText)")
    for check in [
      "results, names and affinity", "mutex", "condition", "reader-writer lock", "semaphore with a deadline",
      "waiting for any of several", "timers", "read-copy-update", "memory regions", "a thousand threads",
    ] {
      #expect(outcome.text.contains("\(check): ok\n"), "\(check)\n\(outcome.text)")
    }
    #expect(outcome.text.contains("passing the permit: "), "\(outcome.text)")
  }

  /// Each defect, made on purpose, ends the machine with its name, the object it was done to, and who allocated it.
  @Test(arguments: [
    ("overrun", "an access beyond the end of an object of the kernel heap", "24 bytes at 0x"),
    ("underrun", "an access before the start of an object of the kernel heap", "24 bytes at 0x"),
    ("wrote-before", "bytes right before an object of the kernel heap were written", "24 bytes at 0x"),
    ("wrote-behind", "bytes right behind an object of the kernel heap were written", "24 bytes at 0x"),
    ("use-after-free", "an access to a freed object of the kernel heap", "24 bytes at 0x"),
    ("free-twice", "an object of the kernel heap was freed twice", "24 bytes at 0x"),
    ("wrong-free", "free of memory that is no object of the heap", "24 bytes at 0x"),
    ("frame", "memory was written after it had been freed", "of a free frame holds 0x"),
  ])
  func defectsOfTheHeapAreFound(_ defect: String, message: String, detail: String) async throws {
    let outcome = try await vm(["--debug", "memory", "--self-test", defect])
    #expect(outcome.status == 125, "\(outcome.errorText)")
    let lines = outcome.errorText.split(separator: "\n").map(String.init)
    #expect(lines.first == "kernel panic: " + message, "\(outcome.errorText)")
    #expect(outcome.errorText.contains(detail), "\(outcome.errorText)")
    #expect(lines.last?.hasPrefix("osv-run: error E14: ") == true)
    if defect != "frame" {
      #expect(lines.contains { $0.hasPrefix("allocated by") && $0.contains("HeapDefects.") })
    }
    if defect.contains("free-") || defect.contains("-free") && defect != "wrong-free" {
      #expect(lines.contains { $0.hasPrefix("freed by") && $0.contains("HeapDefects.") })
    }
    let unguarded = try await vm(["--self-test", defect])
    #expect(unguarded.status == 1 && unguarded.text.contains("needs --debug memory"))
  }

  /// A stack of the kernel that is overrun, the first one of CPU 0 and one of a thread, ends the machine with the reason.
  @Test(arguments: ["boot-stack", "thread-stack"]) func anOverrunStackIsFound(_ stack: String) async throws {
    let outcome = try await vm(["--self-test", stack])
    #expect(outcome.status == 125, "\(outcome.errorText)")
    #expect(
      outcome.errorText.hasPrefix("kernel panic: the kernel stack is full (or an entry to the kernel faulted)\n"),
      "\(outcome.errorText)")
  }

  @Test(arguments: [1, 2]) func theSelfTestsPassOnADebuggingHeap(cpus: Int) async throws {
    for test in [[], ["threads"]] {
      let outcome = try await vm(["--debug", "memory", "--cpus", "\(cpus)", "--self-test"] + test, seconds: 120)
      #expect(outcome.status == 0, "\(outcome.text)\n\(outcome.errorText)")
    }
  }

  /// A program that takes the kernel's current thread away (PER_CPU_CURRENT_THREAD of cpu_layout.h): it cannot go on, and says where.
  @Test func aPanicHasASymbolisedBacktrace() async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let source = """
      int main(void) {
        __asm__ volatile("movq %0, %%gs:0x820" :: "r"(0x4242424242UL));
        for (;;) __asm__ volatile("syscall" :: "a"(24) : "rcx", "r11", "memory");
      }
      """
    try source.write(toFile: folder + "/p.c", atomically: true, encoding: .utf8)
    #expect(try await run(["/usr/bin/gcc", "-static", "-o", folder + "/p", folder + "/p.c"]).status == 0)
    let outcome = try await vm([folder + "/p"])
    #expect(outcome.status == 125)
    let lines = outcome.errorText.split(separator: "\n")
    #expect(lines.first?.hasPrefix("kernel panic: ") == true, "\(outcome.errorText)")
    #expect(lines.last?.hasPrefix("osv-run: error E14: ") == true)
    // The calls that led there, by name and distance, C and Swift alike.
    let calls = lines.filter { $0.hasPrefix("  at kernel+0x") }
    #expect(calls.count > 2, "\(outcome.errorText)")
    for name in ["trap_handle + 0x", "Traps."] { #expect(calls.contains { $0.contains(name) }, "\(name)") }
    #expect(!calls.contains { $0.hasSuffix("?") })
  }
}
