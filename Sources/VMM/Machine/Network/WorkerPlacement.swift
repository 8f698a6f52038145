// Which processors the first vCPU and the thread of its queue pair run on.
//
// The scheduler of a host with few processors puts a vCPU beside the program that its guest answers, or beside its own worker, as
// happily as apart from both, and leaves it there: between three threads on two processors it sees nothing to balance. For the guest it makes
// a difference of two to five: each time the client is woken the vCPU is left (an exit) and later told of the next request (an interrupt, and
// the exit of its end). The worker and a client that share a processor lose nothing, for they take turns. So while there is work the worker
// looks how long its vCPU waits for a processor, and if that is long moves away from it, or, if it is elsewhere already, changes places with it.
//
// The host's scheduler goes on deciding for the vCPU, which may run where it might before when the move is over (as a set of its own: processors that a
// cpuset allows later are not in it); the worker's set lacks one. A move that did not help is followed by a pause that doubles. Whoever sets affinities
// themselves (taskset, a container's runtime) is obeyed: if a set is not what was left there, nothing is moved any more.
import CSystemCalls
import Glibc
import VirtioQueue

/// When to move, from the time that the vCPU has waited.
struct PlacementRule {
  /// Nanoseconds between two looks, at least; after the largest a new time begins.
  static let window: ClosedRange<UInt64> = 4_000_000...100_000_000
  /// A vCPU that waits more than one part in so many shares its processor.
  static let tolerated: UInt64 = 8

  private var since: UInt64 = 0
  private var waitedBefore: UInt64 = 0
  private var moving = Backoff()

  /// Whether it is time to look.
  func isDue(now: UInt64) -> Bool { now &- since >= Self.window.lowerBound }

  /// A look: `waited` is how long the vCPU has waited for a processor so far, in nanoseconds. True if something should be moved.
  mutating func shouldMove(now: UInt64, waited: UInt64) -> Bool {
    let (passed, share) = (now &- since, waited &- waitedBefore)
    (since, waitedBefore) = (now, waited)
    guard passed <= Self.window.upperBound, !moving.isLeftOut() else { return false }
    guard share > passed / Self.tolerated else {
      moving.wasOfUse()
      return false
    }
    // Whether it helps is seen at the next look.
    moving.wasInVain()
    return true
  }
}

/// A set of the host's processors.
struct ProcessorSet: Equatable {
  /// Processors that it can name.
  static let limit = 1024
  private var words = [UInt64](repeating: 0, count: limit / 64)

  /// The processors that a thread may run on; nil if the host does not say.
  init?(of thread: pid_t) {
    let result = words.withUnsafeMutableBytes { osv_get_affinity(thread, $0.baseAddress, $0.count) }
    if result < 0 { return nil }
  }

  /// These processors.
  init(_ processors: Int...) {
    for processor in processors { words[processor / 64] |= 1 << UInt64(processor % 64) }
  }

  /// The set without that processor.
  func removing(_ processor: Int) -> ProcessorSet {
    var set = self
    set.words[processor / 64] &= ~(1 << UInt64(processor % 64))
    return set
  }

  func contains(_ processor: Int) -> Bool {
    (0..<Self.limit).contains(processor) && words[processor / 64] >> UInt64(processor % 64) & 1 != 0
  }

  var count: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }

  /// Lets a thread run on these only. False if the host refuses that.
  func apply(to thread: pid_t) -> Bool {
    words.withUnsafeBytes { osv_set_affinity(thread, $0.baseAddress, $0.count) } == 0
  }
}

/// What a placement asks of the host: the two threads, where they are, and where they may be.
protocol PlacementHost {
  /// How long the vCPU has waited for a processor so far, in nanoseconds.
  func waited() -> UInt64?
  /// The processors that the vCPU and the calling worker are on; negative if the host does not say.
  func processors() -> (vcpu: Int, worker: Int)
  /// The processors that they may be on.
  func sets() -> (vcpu: ProcessorSet, worker: ProcessorSet)?
  /// Lets the vCPU be on these only; false if that cannot be.
  func place(vcpu set: ProcessorSet) -> Bool
  /// The same for the calling worker.
  func place(worker set: ProcessorSet) -> Bool
}

// SAFETY: used by one worker's thread after `init`.
/// The placement of a vCPU and its queue pair's worker, used by the latter.
final class WorkerPlacement<Host: PlacementHost>: @unchecked Sendable {
  private let host: Host
  private let expected: ProcessorSet
  private var own: ProcessorSet
  private var rule = PlacementRule()
  private(set) var isOff = false

  /// The placement of a machine of so many vCPUs; nil if there is nothing to choose from.
  init?(cpuCount: Int, host: Host) {
    guard let sets = host.sets(), sets.vcpu.count > cpuCount, sets.vcpu == sets.worker else { return nil }
    self.host = host
    (expected, own) = (sets.vcpu, sets.vcpu)
  }

  /// Looks, if it is time to, and moves, if that is called for. While the worker has work.
  func look(now: UInt64) {
    guard !isOff, rule.isDue(now: now) else { return }
    guard let waited = host.waited(), rule.shouldMove(now: now, waited: waited) else { return }
    isOff = !move()
  }

  /// False if somebody else sets affinities, or the host refuses ours: then nothing is moved any more, and the worker may be anywhere.
  private func move() -> Bool {
    guard let sets = host.sets(), sets.worker == own else { return false }
    let (there, here) = host.processors()
    guard sets.vcpu == expected, expected.contains(there), expected.contains(here),
      here == there || host.place(vcpu: ProcessorSet(here)) && host.place(vcpu: expected)
    else {
      _ = host.place(worker: expected)
      return false
    }
    // The vCPU is where the worker has been, or was there before.
    own = expected.removing(here)
    return host.place(worker: own)
  }
}

/// The host, with its files under /proc of the first vCPU, which is the process's first thread.
final class LinuxPlacementHost: PlacementHost {
  private let vcpu = getpid()
  /// What the vCPU has run and waited, and where it is.
  private let account: CInt
  private let state: CInt

  /// Nil if the host does not tell.
  init?() {
    account = HostFile.open(Array("/proc/self/task/\(vcpu)/schedstat".utf8))
    state = HostFile.open(Array("/proc/self/task/\(vcpu)/stat".utf8))
    guard account >= 0, state >= 0 else {
      for descriptor in [account, state] where descriptor >= 0 { close(descriptor) }
      return nil
    }
  }

  deinit {
    close(account)
    close(state)
  }

  /// The open files, which the worker reads.
  var descriptors: [CInt] { [account, state] }

  // proc_pid_schedstat: nanoseconds on a processor, nanoseconds waiting for one, turns.
  func waited() -> UInt64? { ProcessLine.field(1, of: account) }

  // proc_pid_stat(5): field 39 is the processor; what stands in front of the third is cut off.
  func processors() -> (vcpu: Int, worker: Int) {
    (ProcessLine.field(36, of: state).map { Int(truncatingIfNeeded: $0) } ?? -1, Int(osv_current_processor()))
  }

  func sets() -> (vcpu: ProcessorSet, worker: ProcessorSet)? {
    guard let set = ProcessorSet(of: vcpu), let worker = ProcessorSet(of: 0) else { return nil }
    return (set, worker)
  }

  func place(vcpu set: ProcessorSet) -> Bool { set.apply(to: vcpu) }

  func place(worker set: ProcessorSet) -> Bool { set.apply(to: 0) }
}

/// Lines of numbers under /proc.
enum ProcessLine {
  /// A number in an open file's line, counted from 0, behind a name in parentheses if there is one.
  static func field(_ number: Int, of file: CInt) -> UInt64? {
    withUnsafeTemporaryAllocation(byteCount: 1024, alignment: 1) { buffer in
      let count = pread(file, buffer.baseAddress!, buffer.count, 0)
      guard count > 0 else { return nil }
      return field(number, in: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
    }
  }

  /// The same of a line in memory.
  static func field(_ number: Int, in line: UnsafeRawBufferPointer) -> UInt64? {
    let start = line.lastIndex(of: UInt8(ascii: ")")).map { $0 + 2 } ?? 0
    guard start < line.count else { return nil }
    let words = line[start...].split(whereSeparator: { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\n") })
    guard number < words.count else { return nil }
    return UInt64(String(decoding: words[number], as: UTF8.self))
  }
}
