// Runs a command to its end with input given and output collected: the one way these tests start programs.
//
// A test needs /dev/kvm and says so loudly; OSV_SKIP_KVM=1 is the only way around it. Every run has a time limit, after which
// the process is killed and the run counts as failed.
import Foundation
import Glibc
import Testing

/// The folder of the package, from this file's own place in it.
let packageRoot = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  .deletingLastPathComponent().path

/// osv-run as users have it; OSV_RUN names another one.
let osvRun = ProcessInfo.processInfo.environment["OSV_RUN"] ?? packageRoot + "/.build/release/osv-run"

/// Whether the tests that need KVM may be skipped: only when a person said so.
let skipKVM = ProcessInfo.processInfo.environment["OSV_SKIP_KVM"] == "1"

/// What came of a run.
struct Outcome: Equatable {
  /// Exit status, or 128 + signal as a shell reports it; nil when it was killed at its time limit.
  var status: Int32?
  /// Standard output, whole.
  var output: Data
  /// Standard error, whole.
  var errors: Data

  /// Standard output as text.
  var text: String { String(decoding: output, as: UTF8.self) }
  /// Standard error as text.
  var errorText: String { String(decoding: errors, as: UTF8.self) }
}

/// What a pipe delivers, collected by a thread of its own.
private final class Collector: @unchecked Sendable {
  private let done = DispatchSemaphore(value: 0)
  private var data = Data()

  init(_ handle: FileHandle) {
    Thread.detachNewThread { [self] in
      data = (try? handle.readToEnd()) ?? Data()
      done.signal()
    }
  }

  /// The whole text; waits for the end of file, but not for ever.
  func finish() -> Data {
    _ = done.wait(timeout: .now() + 10)
    return data
  }
}

/// Runs a command and waits for its end.
/// - Parameters:
///   - command: the program's path and its arguments.
///   - input: what its standard input delivers before its end of file; nil gives it /dev/null.
///   - seconds: after so long it is killed.
func run(_ command: [String], input: Data? = nil, seconds: Double = 60, environment: [String: String]? = nil) throws
  -> Outcome
{
  let process = Process()
  process.executableURL = URL(filePath: command[0])
  process.arguments = Array(command.dropFirst())
  process.currentDirectoryURL = URL(filePath: packageRoot)
  if let environment { process.environment = environment }
  let output = Pipe()
  let errors = Pipe()
  process.standardOutput = output
  process.standardError = errors
  let stdin = Pipe()
  process.standardInput = input == nil ? FileHandle.nullDevice : stdin
  let ended = DispatchSemaphore(value: 0)
  process.terminationHandler = { _ in ended.signal() }
  // Test threads have signals blocked and a child inherits the mask; programs are used to an empty one.
  var none = sigset_t()
  var mask = sigset_t()
  sigemptyset(&none)
  pthread_sigmask(SIG_SETMASK, &none, &mask)
  defer { pthread_sigmask(SIG_SETMASK, &mask, nil) }
  try process.run()
  let text = Collector(output.fileHandleForReading)
  let errorText = Collector(errors.fileHandleForReading)
  if let input {
    Thread.detachNewThread {
      // A program may end before it has read everything: that is its right, so EPIPE is no error here. Not ignored but blocked: an
      // ignored signal would stay ignored in every program started from now on.
      var pipe = sigset_t()
      sigemptyset(&pipe)
      sigaddset(&pipe, SIGPIPE)
      pthread_sigmask(SIG_BLOCK, &pipe, nil)
      try? stdin.fileHandleForWriting.write(contentsOf: input)
      try? stdin.fileHandleForWriting.close()
    }
  }
  let killed = ended.wait(timeout: .now() + seconds) == .timedOut
  if killed {
    kill(process.processIdentifier, SIGKILL)
    _ = ended.wait(timeout: .now() + 10)
  }
  var status: Int32? = process.terminationStatus
  if process.terminationReason == .uncaughtSignal { status = 128 + process.terminationStatus }
  return Outcome(status: killed ? nil : status, output: text.finish(), errors: errorText.finish())
}

/// Runs osv-run with arguments; the same on every KVM.
func vm(_ arguments: [String], input: Data? = nil, seconds: Double = 60) throws -> Outcome {
  try #require(
    FileManager.default.isExecutableFile(atPath: osvRun), "no \(osvRun): run 'make' first (make test does)")
  return try run([osvRun] + arguments, input: input, seconds: seconds)
}
