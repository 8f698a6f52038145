// The other KVM: hardware virtualisation (AMD SVM), emulated by QEMU, under Debian's cloud kernel. osv-run, its self-test and guest
// programs run in there; see Tests/TestBed.
import Foundation
import Testing

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct HardwareKVMTests {
  @Test func programsRunOnHardwareKVM() async throws {
    // One flavour of each program is enough here: the flavours differ in loading, which both KVMs share.
    var files = [osvRun, packageRoot + "/.build/images/hello.elf"]
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    var seen: Set<String> = []
    for program in GuestProgram.all where !program.guestOnly && program.volume == nil && program.expected == nil {
      // The bed's Linux is 6.1.
      guard program.arguments.isEmpty, program.input == nil, program.linuxMinor == 0,
        program.flavour.hasPrefix("musl-static")
      else { continue }
      guard seen.insert(program.name).inserted else { continue }
      let name = folder + "/program-\(program.name)"
      try FileManager.default.copyItem(atPath: program.path, toPath: name)
      files.append(name)
    }
    let bed = packageRoot + "/Tests/TestBed/testbed.sh"
    let outcome = try await run(
      [bed, packageRoot + "/Tests/TestBed/programs.sh"] + files, seconds: 2000, turn: .last,
      environment: bedEnvironment(seconds: 800))
    #expect(outcome.status == 0, "\(outcome.text)\n\(outcome.errorText)")
    #expect(outcome.text.contains("\n0 failed"), "\(outcome.text)")
  }

  /// Another kernel under osv-run: Linux's drivers find our devices by themselves, and use them.
  @Test func linuxDrivesOurDevices() async throws {
    let outcome = try await run(
      [packageRoot + "/Tests/TestBed/foreign.sh", osvRun], seconds: 1100, turn: .last,
      environment: bedEnvironment(seconds: 400))
    #expect(outcome.status == 0, "\(outcome.text)\n\(outcome.errorText)")
    #expect(outcome.text.contains("\n0 failed"), "\(outcome.text)")
  }

  /// This process's environment, with what limits a bed.
  private func bedEnvironment(seconds: Int) -> [String: String] {
    ProcessInfo.processInfo.environment.merging(["TESTBED_SECONDS": "\(seconds)"]) { $1 }
  }
}
