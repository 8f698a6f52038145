// The files of /proc that tell of processes, memory maps and CPUs: what the layers below Linux do not know.
import Base
import Files
import Locks
import Memory
import Pages
import Platform
import ProcFS
import Threads
import VirtioABI

/// Files for /proc.
public enum ProcessFiles {
  /// Adds them. Boot only.
  public static func add(to tree: ProcessFileSystem) {
    add(tree, "cmdline", arguments)
    add(tree, "environ", environment)
    add(tree, "auxv", auxiliaryVector, mode: 0o400)
    addThreadFiles(to: tree)
    addMappingFiles(to: tree)
    add(tree, "statm", statm)
    add(tree, "limits", limits)
    tree.add("stat", systemStat)
    tree.add("interrupts", interrupts)
    addSystemTexts(to: tree)
  }

  static func add(
    _ tree: ProcessFileSystem, _ name: StaticString,
    _ body: @escaping (Process, inout TextBuffer) throws(Errno) -> Void, mode: UInt32 = 0o444
  ) {
    tree.add(processFile: name, mode: mode) { (view, text) throws(Errno) in
      // SAFETY: the process list hands out processes only.
      try body(unsafeDowncast(view, to: Process.self), &text)
    }
  }

  // MARK: Strings of the program

  private static func arguments(_ process: Process, _ text: inout TextBuffer) throws(Errno) {
    try append(process.argumentRange, &text)
  }
  private static func environment(_ process: Process, _ text: inout TextBuffer) throws(Errno) {
    try append(process.environmentRange, &text)
  }

  private static func auxiliaryVector(_ process: Process, _ text: inout TextBuffer) throws(Errno) {
    try append(process.auxiliaryRange, &text)
  }

  private static func append(_ range: VirtualRange, _ text: inout TextBuffer) throws(Errno) {
    guard let buffer = CopyBuffer(byteCount: range.count.int) else { throw .ENOMEM }
    let count = min(range.count.int, buffer.bytes.count)
    guard count > 0 else { return }
    let part = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count])
    try UserSpan(range.start, count: count).read(into: part)
    text.append(UnsafeRawBufferPointer(part))
  }

  // MARK: Memory

  /// Pages: size, present, of those shared with a file, code, 0, data and stack, 0.
  private static func statm(_ process: Process, _ text: inout TextBuffer) throws(Errno) {
    let account = process.addressSpace.account()
    let pages = [
      account.mapped, account.resident, account.fileResident &+ account.sharedResident, account.code, 0,
      account.data &+ account.stack, 0,
    ]
    for index in 0..<pages.count {
      if index > 0 { text.append(" ") }
      text.append(pages[index] &>> PageSize.smallShift)
    }
    text.append("\n")
  }

  // MARK: Limits

  private static func limits(_ process: Process, _ text: inout TextBuffer) throws(Errno) {
    text.append("Limit                     Soft Limit           Hard Limit           Units     \n")
    let names: [16 of StaticString] = [
      "Max cpu time              ", "Max file size             ", "Max data size             ",
      "Max stack size            ", "Max core file size        ", "Max resident set          ",
      "Max processes             ", "Max open files            ", "Max locked memory         ",
      "Max address space         ", "Max file locks            ", "Max pending signals       ",
      "Max msgqueue size         ", "Max nice priority         ", "Max realtime priority     ",
      "Max realtime timeout      ",
    ]
    for index in 0..<ResourceLimits.count {
      var limit = process.lock.withLock { process.limits[index] }
      if index == ResourceLimits.cpuTime { limit.passSeconds(of: process.cpuTime) }
      text.append(names[index])
      appendLimit(limit.current, &text)
      appendLimit(limit.maximum, &text)
      text.append("\n")
    }
  }

  private static func appendLimit(_ limit: UInt64, _ text: inout TextBuffer) {
    if limit == ResourceLimit.infinity { return text.append("unlimited            ") }
    let before = text.bytes.count
    text.append(limit)
    while text.bytes.count < before &+ 21 { text.append(" ") }
  }

  // MARK: The machine

  private static func systemStat(_ text: inout TextBuffer) throws(Errno) {
    var (busy, idle): (UInt64, UInt64) = (0, 0)
    for cpu in 0..<CPU.count {
      let times = Scheduler.times(ofCPU: cpu)
      busy &+= times.busy
      idle &+= times.idle
    }
    appendTimes(cpu: -1, busy: busy, idle: idle, &text)
    for cpu in 0..<CPU.count {
      let times = Scheduler.times(ofCPU: cpu)
      appendTimes(cpu: cpu, busy: times.busy, idle: times.idle, &text)
    }
    text.append("btime ")
    text.append((Clock.realtime() &- Clock.now()) / 1_000_000_000)
    var switches: UInt64 = 0
    for cpu in 0..<CPU.count { switches &+= Scheduler.counts(ofCPU: cpu).switches }
    text.append("\nctxt ")
    text.append(switches)
    text.append("\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n")
  }

  /// All that a CPU does is the program's or for it, and is told as that.
  private static func appendTimes(cpu: Int, busy: UInt64, idle: UInt64, _ text: inout TextBuffer) {
    let tick: UInt64 = 10_000_000
    text.append("cpu")
    text.append(cpu < 0 ? " " : "")
    if cpu >= 0 { text.append(cpu.u64) }
    text.append(" ")
    text.append(busy / tick)
    text.append(" 0 0 ")
    text.append(idle / tick)
    text.append(" 0 0 0 0 0 0\n")
  }

  /// The interrupts that the scheduler takes, a column a CPU.
  private static func interrupts(_ text: inout TextBuffer) throws(Errno) {
    text.append("    ")
    for cpu in 0..<CPU.count {
      text.append(" CPU")
      text.append(cpu.u64)
    }
    text.append("\n")
    interrupts(&text, "LOC:", "   Local timer interrupts\n") { $0.timers }
    interrupts(&text, "RES:", "   Rescheduling interrupts\n") { $0.interrupts }
  }

  private static func interrupts(
    _ text: inout TextBuffer, _ name: StaticString, _ title: StaticString, _ count: (SchedulerCounts) -> UInt64
  ) {
    text.append(name)
    for cpu in 0..<CPU.count {
      text.append(" ")
      text.append(count(Scheduler.counts(ofCPU: cpu)))
    }
    text.append(title)
  }
}
