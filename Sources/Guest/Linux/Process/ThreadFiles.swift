// The files of /proc that tell of threads: comm, stat and status. In the directory of a process they tell of its first thread, and of
// all together where Linux does.
//
// A thread that is in its process' list is not freed while the process' lock is held: what is told of it is read under that.
import Base
import Files
import Locks
import Memory
import Pages
import Platform
import ProcFS
import Threads

/// What is told of a thread, and of its process' signals.
private struct ThreadView {
  var identifier: Int32
  var name: [16 of UInt8]
  var isAsleep: Bool
  var cpu: Int
  var usage: ResourceUsage
  var affinity: UInt64
  var policy: SchedulingPolicy
  /// What it has now, with what it inherited.
  var priority: UInt8
  var pending: SignalSet
  var blocked: SignalSet
  var processPending: SignalSet
  var ignored = SignalSet()
  var caught = SignalSet()
  var count: SignalCount

  /// The thread with a number; 0: the first. Nil if there is none.
  init?(_ identifier: Int32, of process: Process) {
    process.lock.lock()
    defer { process.lock.unlock() }
    var found: Task?
    for task in process.tasks where identifier == 0 || task.identifier == identifier {
      found = task
      break
    }
    guard let task = found else { return nil }
    self.identifier = task.identifier
    name = task.name
    let thread = task.thread
    isAsleep = thread.isAsleep
    cpu = thread.cpu
    usage = task.usage
    affinity = thread.affinity
    policy = thread.policy
    priority = thread.effectivePriority
    pending = task.pending.set
    blocked = task.blocked
    processPending = process.pending.set
    count = process.signalCount
    for index in 0..<64 {
      let handler = process.actions[index].handler
      if handler == SignalAction.ignoreHandler {
        ignored.bits |= 1 &<< index.u64
      } else if handler != SignalAction.defaultHandler {
        caught.bits |= 1 &<< index.u64
      }
    }
  }

  func appendName(_ text: inout TextBuffer) {
    for index in 0..<16 where name[index] != 0 { text.append(byte: name[index]) }
  }
}

extension ProcessFiles {
  static func addThreadFiles(to tree: ProcessFileSystem) {
    add(tree, "stat", stat)
    add(tree, "status", status)
    tree.add(
      threadFile: "comm", mode: 0o644,
      consume: { (view, thread, bytes) throws(Errno) in
        // SAFETY: the process list hands out processes only.
        try setName(unsafeDowncast(view, to: Process.self), thread, bytes)
      },
      { (view, thread, text) throws(Errno) in
        // SAFETY: as above.
        try threadView(unsafeDowncast(view, to: Process.self), thread).appendName(&text)
        text.append("\n")
      })
  }

  static func add(
    _ tree: ProcessFileSystem, _ name: StaticString,
    _ body: @escaping (Process, Int32, inout TextBuffer) throws(Errno) -> Void
  ) {
    tree.add(threadFile: name) { (view, thread, text) throws(Errno) in
      // SAFETY: the process list hands out processes only.
      try body(unsafeDowncast(view, to: Process.self), thread, &text)
    }
  }

  private static func threadView(_ process: Process, _ thread: Int32) throws(Errno) -> ThreadView {
    guard let view = ThreadView(thread, of: process) else { throw .ESRCH }
    return view
  }

  /// Only threads of the process itself may name each other, as by Linux.
  private static func setName(_ process: Process, _ thread: Int32, _ bytes: UnsafeRawBufferPointer) throws(Errno) {
    guard Task.current.process === process else { throw .EINVAL }
    var name: [16 of UInt8] = .init(repeating: 0)
    for index in 0..<min(bytes.count, 15) {
      if bytes[index] == 0 { break }
      name[index] = bytes[index]
    }
    let isFound = process.lock.withLock { () -> Bool in
      for task in process.tasks where thread == 0 || task.identifier == thread {
        task.name = name
        return true
      }
      return false
    }
    guard isFound else { throw .ESRCH }
  }

  // MARK: stat

  /// stat(5): 52 fields, those without a meaning here are 0.
  private static func stat(_ process: Process, _ thread: Int32, _ text: inout TextBuffer) throws(Errno) {
    let tick: UInt64 = 10_000_000
    let view = try threadView(process, thread)
    text.append(view.identifier.u64)
    text.append(" (")
    view.appendName(&text)
    text.append(view.isAsleep ? ") S 0 " : ") R 0 ")
    text.append(process.group.u64)
    text.append(" ")
    text.append(process.session.u64)
    text.append(" 0 -1 0 ")
    let usage = thread == 0 ? process.usage : view.usage
    let children = process.lock.withLock { process.endedChildren }
    let counts: [8 of UInt64] = [
      usage.minorFaults, children.minorFaults, usage.majorFaults, children.majorFaults, usage.cpuTime / tick, 0,
      children.cpuTime / tick, 0,
    ]
    for index in 0..<counts.count {
      text.append(counts[index])
      text.append(" ")
    }
    let nice = view.policy.nice.int
    append(signed: view.priority > 0 ? 0 &- 1 &- view.priority.int : 20 &+ nice, &text)
    text.append(" ")
    append(signed: nice, &text)
    text.append(" ")
    text.append(process.threadIdentifiers.count.u64)
    text.append(" 0 ")
    text.append(process.startTime / tick)
    text.append(" ")
    text.append(process.addressSpace.mappedByteCount)
    text.append(" ")
    text.append(process.addressSpace.residentByteCount &>> PageSize.smallShift)
    text.append(" 18446744073709551615")
    for _ in 26...30 { text.append(" 0") }
    for set in [view.pending, view.blocked, view.ignored, view.caught] {
      text.append(" ")
      // As by Linux, the first 31 only.
      text.append(set.bits & 0x7fff_ffff)
    }
    text.append(" 0 0 0 17 ")
    text.append(view.cpu.u64)
    text.append(" ")
    text.append(view.policy.priority.u64)
    text.append(" ")
    text.append(view.policy.kind.rawValue.u64)
    for _ in 42...52 { text.append(" 0") }
    text.append("\n")
  }

  private static func append(signed number: Int, _ text: inout TextBuffer) {
    if number < 0 { text.append("-") }
    text.append(number.magnitude.u64)
  }

  // MARK: status

  private static func status(_ process: Process, _ thread: Int32, _ text: inout TextBuffer) throws(Errno) {
    let view = try threadView(process, thread)
    let credentials = process.credentials
    text.append("Name:\t")
    view.appendName(&text)
    text.append(view.isAsleep ? "\nState:\tS (sleeping)\nTgid:\t" : "\nState:\tR (running)\nTgid:\t")
    text.append(process.identifier.u64)
    text.append("\nPid:\t")
    text.append(view.identifier.u64)
    text.append("\nPPid:\t0\n")
    appendNumbers("Uid:", credentials.userID, credentials.effectiveUserID, credentials.savedUserID, &text)
    appendNumbers("Gid:", credentials.groupID, credentials.effectiveGroupID, credentials.savedGroupID, &text)
    let account = process.addressSpace.account()
    appendKibibytes("VmSize:\t", account.mapped, &text)
    appendKibibytes("VmLck:\t", account.locked, &text)
    appendKibibytes("VmRSS:\t", account.resident, &text)
    appendKibibytes("RssAnon:\t", account.ownResident, &text)
    appendKibibytes("RssFile:\t", account.fileResident, &text)
    appendKibibytes("RssShmem:\t", account.sharedResident, &text)
    appendKibibytes("VmData:\t", account.data, &text)
    appendKibibytes("VmStk:\t", account.stack, &text)
    appendKibibytes("VmExe:\t", account.code, &text)
    text.append("Threads:\t")
    text.append(process.threadIdentifiers.count.u64)
    text.append("\nSigQ:\t")
    text.append(view.count.used.u64)
    text.append("/")
    text.append(view.count.limit)
    appendSet("\nSigPnd:\t", view.pending.bits, &text)
    appendSet("\nShdPnd:\t", view.processPending.bits, &text)
    appendSet("\nSigBlk:\t", view.blocked.bits, &text)
    appendSet("\nSigIgn:\t", view.ignored.bits, &text)
    appendSet("\nSigCgt:\t", view.caught.bits, &text)
    appendCPUs(view.affinity, &text)
    text.append("\nvoluntary_ctxt_switches:\t")
    text.append(view.usage.voluntarySwitches)
    text.append("\nnonvoluntary_ctxt_switches:\t")
    text.append(view.usage.involuntarySwitches)
    text.append("\n")
  }

  private static func appendSet(_ name: StaticString, _ bits: UInt64, _ text: inout TextBuffer) {
    text.append(name)
    text.append(hexadecimal: bits, width: 16)
  }

  /// The CPUs it may run on, as a mask and as a list of ranges.
  private static func appendCPUs(_ affinity: UInt64, _ text: inout TextBuffer) {
    let all: UInt64 = CPU.count >= 64 ? .max : (1 &<< CPU.count.u64) &- 1
    let mask = affinity & all
    text.append("\nCpus_allowed:\t")
    text.append(hexadecimal: mask)
    text.append("\nCpus_allowed_list:\t")
    var isFirst = true
    var cpu: UInt64 = 0
    while cpu < 64 {
      guard mask &>> cpu & 1 != 0 else {
        cpu &+= 1
        continue
      }
      var last = cpu
      while last < 63 && mask &>> (last &+ 1) & 1 != 0 { last &+= 1 }
      if !isFirst { text.append(",") }
      isFirst = false
      text.append(cpu)
      if last > cpu {
        text.append("-")
        text.append(last)
      }
      cpu = last &+ 1
    }
  }

  private static func appendNumbers(
    _ name: StaticString, _ real: UInt32, _ effective: UInt32, _ saved: UInt32, _ text: inout TextBuffer
  ) {
    text.append(name)
    let all: [4 of UInt32] = [real, effective, saved, effective]
    for index in 0..<4 {
      text.append("\t")
      text.append(all[index].u64)
    }
    text.append("\n")
  }

  static func appendKibibytes(_ name: StaticString, _ byteCount: UInt64, _ text: inout TextBuffer) {
    text.append(name)
    text.append(byteCount &>> 10, width: 8)
    text.append(" kB\n")
  }
}
