import Glibc
import Testing
import VirtioABI

@testable import Machine

/// What the guest's kernel says of a start that failed, as a code and a sentence.
@Suite struct StartFailureTests {
  private func failure(_ step: BootFailure.Step, _ code: CInt, index: UInt32 = 0) -> Failure {
    Failure(
      BootFailure(BootFailure(step: step, index: index, code: UInt32(code)).value), program: Array("/bin/p".utf8),
      mounts: [Array("/a".utf8), Array("/b".utf8)], workingDirectory: Array("/w".utf8))
  }

  @Test func everyStepHasItsCodeAndWords() {
    let table: [(BootFailure.Step, CInt, Failure.Code, String)] = [
      (.machine, EIO, .stopped, "devices"), (.root, EIO, .directory, "root"),
      (.volume, ENOTDIR, .directory, "'/b'"), (.volume, ENOENT, .directory, "'/b'"), (.volume, EIO, .directory, "'/b'"),
      (.workingDirectory, ENOENT, .directory, "'/w'"), (.workingDirectory, ENOTDIR, .directory, "'/w'"),
      (.workingDirectory, EACCES, .directory, "'/w'"), (.workingDirectory, ELOOP, .directory, "'/w'"),
      (.program, ENOENT, .file, "'/bin/p'"), (.program, EACCES, .file, "chmod"),
      (.program, ENOEXEC, .badELF, "headers"),
      (.program, E2BIG, .usage, "too long"), (.program, EIO, .file, "read"), (.program, EINVAL, .badELF, "'/bin/p'"),
      (.interpreter, ENOENT, .interpreter, "not there"), (.interpreter, EACCES, .interpreter, "executed"),
      (.interpreter, ELIBBAD, .interpreter, "not one"), (.interpreter, EIO, .interpreter, "'/bin/p'"),
    ]
    for (step, code, expected, words) in table {
      let failure = failure(step, code, index: 1)
      #expect(failure.code == expected, "\(step) \(code)")
      #expect(failure.sentence.contains(words), "\(failure.sentence)")
    }
    for step in [BootFailure.Step.machine, .root, .volume, .workingDirectory, .program, .interpreter] {
      let failure = failure(step, ENOMEM)
      #expect(failure.code == .memory && failure.sentence.contains("--memory"))
    }
  }

  @Test func aHostileGuestMaySayAnything() {
    #expect(failure(.volume, ENOTDIR, index: 200).code == .directory)
    for value: UInt32 in [.max, 0xff00_0000, 0x0600_0000] {
      #expect(BootFailure(value) == nil)
      #expect(Failure(BootFailure(value), program: [], mounts: [], workingDirectory: []).code == .stopped)
    }
    #expect(BootFailure(0x0203_0014) == BootFailure(step: .volume, index: 3, code: 20))
  }
}
