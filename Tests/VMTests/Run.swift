// Runs a command to its end with input given and output collected: the one way these tests start programs.
//
// A test needs /dev/kvm and says so loudly; OSV_SKIP_KVM=1 is the only way around it. Every run has a time limit, after which
// the process is killed and the run counts as failed. A few run at a time, whatever suites run at once; a program that compares times or
// shares of CPUs, natively and in the guest, runs alone, for its neighbours' load would spoil it, and the emulated
// machine runs when no other one wants to.
import Foundation
import Glibc
import Synchronization
import Testing

/// The folder of the package, from this file's own place in it.
let packageRoot = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  .deletingLastPathComponent().path

/// osv-run as users have it; OSV_RUN names another one.
let osvRun = ProcessInfo.processInfo.environment["OSV_RUN"] ?? packageRoot + "/.build/release/osv-run"

/// Whether the tests that need KVM may be skipped: only when a person said so.
let skipKVM = ProcessInfo.processInfo.environment["OSV_SKIP_KVM"] == "1"

/// Whether the tests that make network interfaces may be skipped: only when a person said so.
let skipNetwork = ProcessInfo.processInfo.environment["OSV_SKIP_NET"] == "1"

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
  private let isStopped = Atomic<Bool>(false)
  // The thread's, until it is done.
  private var data = Data()

  init(_ handle: FileHandle) {
    Thread.detachNewThread { [self] in
      collect(handle)
      done.signal()
    }
  }

  /// Reads to the end of the file, or until it is to stop and nothing comes.
  private func collect(_ handle: FileHandle) {
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      var wait = pollfd(fd: handle.fileDescriptor, events: Int16(POLLIN), revents: 0)
      let found = poll(&wait, 1, 100)
      if found < 0 && errno != EINTR { return }
      if found <= 0 {
        if isStopped.load(ordering: .acquiring) { return }
        continue
      }
      let count = read(handle.fileDescriptor, &buffer, buffer.count)
      if count < 0 && errno == EINTR { continue }
      if count <= 0 { return }
      data.append(contentsOf: buffer[..<count])
      if isStopped.load(ordering: .acquiring) { return }
    }
  }

  /// The whole text; waits for the end of file, but not for ever: somebody whom the program has left behind may keep the pipe open.
  func finish() -> Data {
    if done.wait(timeout: .now() + 10) == .timedOut {
      isStopped.store(true, ordering: .releasing)
      done.wait()
    }
    return data
  }
}

// glibc has these, its headers show them to _GNU_SOURCE only, which Swift's view of it does not define.
@_silgen_name("posix_spawn_file_actions_addclosefrom_np")
func addCloseFrom(_ actions: UnsafeMutablePointer<posix_spawn_file_actions_t>, _ first: Int32) -> Int32
@_silgen_name("posix_spawn_file_actions_addchdir_np")
func addChangeDirectory(
  _ actions: UnsafeMutablePointer<posix_spawn_file_actions_t>, _ path: UnsafePointer<CChar>
) -> Int32

/// Starts a program as an ordinary shell would: every signal at its default and none blocked, whatever this process has done with its
/// own (device tests ignore SIGPIPE here, and the threads of tests have signals blocked), in the package's folder, and with no
/// descriptor but the three.
/// - Parameters:
///   - flags: of posix_spawn, besides those for signals.
///   - streams: gives it the three descriptors.
func start(
  _ command: [String], environment: [String], flags: Int32 = 0,
  streams: (inout posix_spawn_file_actions_t) -> Void
) throws -> pid_t {
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  defer { posix_spawn_file_actions_destroy(&actions) }
  streams(&actions)
  _ = addCloseFrom(&actions, 3)
  _ = addChangeDirectory(&actions, packageRoot)

  var attributes = posix_spawnattr_t()
  posix_spawnattr_init(&attributes)
  defer { posix_spawnattr_destroy(&attributes) }
  var signals = sigset_t()
  sigemptyset(&signals)
  posix_spawnattr_setsigmask(&attributes, &signals)
  sigfillset(&signals)
  posix_spawnattr_setsigdefault(&attributes, &signals)
  posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | flags))

  // SAFETY: the strings live until posix_spawn has returned, which is when the child has its own copies.
  var arguments = command.map { strdup($0) } + [nil]
  var variables = environment.map { strdup($0) } + [nil]
  defer { (arguments + variables).forEach { free($0) } }
  var child = pid_t()
  let failure = posix_spawn(&child, command[0], &actions, &attributes, &arguments, &variables)
  guard failure == 0 else { throw POSIXError(POSIXErrorCode(rawValue: failure) ?? .EIO) }
  return child
}

/// Starts a command whose standard output is to be read while it runs; it has no input, and its errors are dropped.
func startReadable(_ command: [String]) throws -> (child: pid_t, output: FileHandle) {
  let output = Pipe()
  let null = FileHandle.nullDevice.fileDescriptor
  let child = try start(command, environment: ProcessInfo.processInfo.environment.map { "\($0.key)=\($0.value)" }) {
    posix_spawn_file_actions_adddup2(&$0, null, 0)
    posix_spawn_file_actions_adddup2(&$0, output.fileHandleForWriting.fileDescriptor, 1)
    posix_spawn_file_actions_adddup2(&$0, null, 2)
  }
  try output.fileHandleForWriting.close()
  return (child, output.fileHandleForReading)
}

/// When a program may run.
enum Turn {
  /// Beside others.
  case shared
  /// Alone, in its turn: others that came later wait for it.
  case alone
  /// Alone, at the first moment at which no other one runs or waits.
  case last
}

/// How many programs run at once: some at a time, or one that must be alone; in the order in which they came. Who waits holds no thread:
/// the tests' runner has as many as there are CPUs, and the tests of modules want to go on beside a program that takes long.
private final class Gate: Sendable {
  private struct Waiting {
    var turn: Turn
    var admitted: CheckedContinuation<Void, Never>
  }
  private struct State {
    var free = Gate.places
    // Those that go last are behind all others.
    var waiting: [Waiting] = []
  }
  private static let places = 4
  private let state = Mutex(State())

  private static func places(_ turn: Turn) -> Int { turn == .shared ? 1 : places }

  /// Lets in who fits, from the front.
  private func admit(after change: (inout State) -> Void) {
    let admitted = state.withLock { state in
      change(&state)
      var admitted: [CheckedContinuation<Void, Never>] = []
      while let first = state.waiting.first, Self.places(first.turn) <= state.free {
        state.free -= Self.places(first.turn)
        admitted.append(state.waiting.removeFirst().admitted)
      }
      return admitted
    }
    for continuation in admitted { continuation.resume() }
  }

  /// Waits until the program may start.
  func enter(_ turn: Turn) async {
    await withCheckedContinuation { continuation in
      admit { state in
        let lasts = state.waiting.firstIndex { $0.turn == .last } ?? state.waiting.endIndex
        let place = turn == .last ? state.waiting.endIndex : lasts
        state.waiting.insert(Waiting(turn: turn, admitted: continuation), at: place)
      }
    }
  }

  /// The program has ended.
  func leave(_ turn: Turn) {
    admit { $0.free += Self.places(turn) }
  }
}
private let gate = Gate()

/// Runs a command and waits for its end.
/// - Parameters:
///   - command: the program's path and its arguments.
///   - input: what its standard input delivers before its end of file; nil gives it /dev/null.
///   - seconds: after so long, not counting its wait for other programs, it is killed.
///   - turn: whether others may run meanwhile.
func run(
  _ command: [String], input: Data? = nil, seconds: Double = 60, turn: Turn = .shared,
  environment: [String: String]? = nil
) async throws -> Outcome {
  await gate.enter(turn)
  defer { gate.leave(turn) }
  return try await withCheckedThrowingContinuation { continuation in
    Thread.detachNewThread {
      continuation.resume(
        with: Result { try runAtOnce(command, input: input, seconds: seconds, environment: environment) })
    }
  }
}

/// The same at once and by the calling thread, whatever else runs: for a question to a VM that runs already, whose answer is timed.
func runAtOnce(
  _ command: [String], input: Data? = nil, seconds: Double, environment: [String: String]? = nil
) throws -> Outcome {
  let output = Pipe()
  let errors = Pipe()
  let stdin = Pipe()
  for end in [stdin, output, errors].flatMap({ [$0.fileHandleForReading, $0.fileHandleForWriting] }) {
    _ = fcntl(end.fileDescriptor, F_SETFD, FD_CLOEXEC)
  }
  let child = try start(
    command, environment: (environment ?? ProcessInfo.processInfo.environment).map { "\($0.key)=\($0.value)" }
  ) { actions in
    let given = input == nil ? FileHandle.nullDevice : stdin.fileHandleForReading
    for (target, source) in [given, output.fileHandleForWriting, errors.fileHandleForWriting].enumerated() {
      posix_spawn_file_actions_adddup2(&actions, source.fileDescriptor, Int32(target))
    }
  }
  for end in [stdin.fileHandleForReading, output.fileHandleForWriting, errors.fileHandleForWriting] { try end.close() }
  let text = Collector(output.fileHandleForReading)
  let errorText = Collector(errors.fileHandleForReading)
  if let input {
    Thread.detachNewThread {
      // A program may end before it has read everything: that is its right, so EPIPE is no error here.
      var pipe = sigset_t()
      sigemptyset(&pipe)
      sigaddset(&pipe, SIGPIPE)
      pthread_sigmask(SIG_BLOCK, &pipe, nil)
      try? stdin.fileHandleForWriting.write(contentsOf: input)
      try? stdin.fileHandleForWriting.close()
    }
  }
  let ended = DispatchSemaphore(value: 0)
  nonisolated(unsafe) var result: Int32 = 0
  Thread.detachNewThread {
    while waitpid(child, &result, 0) < 0 && errno == EINTR {}
    ended.signal()
  }
  let killed = ended.wait(timeout: .now() + seconds) == .timedOut
  if killed {
    kill(child, SIGKILL)
    ended.wait()
  }
  let status = result & 0x7f == 0 ? result >> 8 & 0xff : 128 + result & 0x7f
  return Outcome(status: killed ? nil : status, output: text.finish(), errors: errorText.finish())
}

/// Runs osv-run with arguments; the same on every KVM.
func vm(_ arguments: [String], input: Data? = nil, seconds: Double = 60, turn: Turn = .shared) async throws -> Outcome {
  try #require(
    FileManager.default.isExecutableFile(atPath: osvRun), "no \(osvRun): run 'make' first (make test does)")
  return try await run([osvRun] + arguments, input: input, seconds: seconds, turn: turn)
}
