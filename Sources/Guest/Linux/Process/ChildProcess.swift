// Processes that vfork has made. A child shares its parent's memory and runs on its stack, while the thread that made it waits; it
// ends by _exit or by a signal (running another program is not there yet).
//
// The stack is safe with both: a system call, by the instruction or by a jump, pushes nothing on it, and each thread's registers lie on its
// own kernel stack. What the child overwrites are words below the place where its parent called, as everywhere.
//
// Locks: a parent's `lock` guards its children and how they have ended; it is taken before a child's. A child's last thread keeps the
// child alive until it has told everybody.
import Base
import Files
import Locks
import Memory
import Platform
import Threads

/// What a parent knows of a child. In a record of its own: most processes have neither.
final class ChildRecord {
  // SAFETY: looked at by the child's own threads only (getppid, and `tellParent`, which keeps it), while the parent's thread
  // waits for them and so keeps its process.
  /// Who made it; lives longer, since its thread waits.
  let parent: Unmanaged<Process>
  /// Sent to the parent at the end; nil for none.
  let signal: Signal?
  /// The parent's thread goes on.
  let hasReleasedParent = Atomic<Bool>(false)
  /// The wait status, once it has ended. Guarded by the parent's lock.
  var status: UInt32?

  init(parent: Process, signal: Signal?) {
    self.parent = .passUnretained(parent)
    self.signal = signal
  }
}

/// Which children a wait is for.
enum ChildSelection {
  case any, process(Int32), group(Int32)

  func contains(_ child: Process) -> Bool {
    switch self {
    case .any: true
    case .process(let identifier): child.identifier == identifier
    case .group(let group): child.group == group
    }
  }
}

extension Process {
  /// A child of `parent`, with what it has of it as its own.
  /// - Throws: ENOMEM.
  convenience init(childOf parent: Process, identifier: Int32, signal: Signal?, sharesFiles: Bool, sharesContext: Bool)
    throws(Errno)
  {
    self.init(
      identifier: identifier, addressSpace: parent.addressSpace,
      descriptors: sharesFiles ? parent.descriptors : try parent.descriptors.copy(),
      context: sharesContext ? parent.context : parent.context.copy(), rewriter: parent.rewriter,
      record: ChildRecord(parent: parent, signal: signal))
    ownsDescriptors = !sharesFiles
    parent.lock.lock()
    actions = parent.actions
    let blank = identity.replace(with: parent.credentials)
    capabilities = parent.capabilities
    limits = parent.limits
    signalCount.limit = limits[ResourceLimits.pendingSignals].current
    parent.lock.unlock()
    RCU.release(blank)
    fileSizeLimit.store(parent.fileSizeLimit.load(ordering: .relaxed), ordering: .relaxed)
    isImage = parent.isImage
    group = parent.group
    session = parent.session
    executable = parent.executable
    name = parent.name
    argumentRange = parent.argumentRange
    environmentRange = parent.environmentRange
    auxiliaryRange = parent.auxiliaryRange
  }

  /// The process that made this one; nil for the first.
  var parent: Process? { record?.parent._withUnsafeGuaranteedRef { $0 } }

  /// Handlers that the program has set become the default action (CLONE_CLEAR_SIGHAND). Before the first thread.
  func clearHandlers() {
    for index in 0..<64 where actions[index].handler > SignalAction.ignoreHandler { actions[index] = SignalAction() }
  }

  /// Waits until the child no longer uses this thread's stack. A signal does not end it, as it does not on Linux.
  func waitForRelease(of child: Process) {
    guard let record = child.record else { return }
    _ = childChanges.wait { !record.hasReleasedParent.load(ordering: .acquiring) }
  }

  /// The last thread has ended, in a process that is not the first: its parent hears of it. Called by that thread, which keeps the
  /// process alive.
  /// - Parameter closesDescriptors: whether nobody else uses them.
  func tellParent(closesDescriptors: Bool) {
    guard let record, let parent else { return }
    if closesDescriptors { descriptors.closeRange(0, .max) }
    stopTimers()
    let status = exitStatus ?? 0
    parent.lock.lock()
    record.status = status
    let action = parent.actions[Signal.child.number.int &- 1]
    let isUnwanted =
      record.signal == .child
      && (action.handler == SignalAction.ignoreHandler || action.flags & SignalAction.Flags.noChildWait != 0)
    if isUnwanted { parent.children.removeAll { $0 === self } }
    parent.changeCount.add(1, ordering: .releasing)
    parent.lock.unlock()
    record.hasReleasedParent.store(true, ordering: .releasing)
    if let signal = record.signal { try? parent.send(signal, endInformation(signal, status)) }
    parent.childChanges.wakeAll()
  }

  /// What SIGCHLD and waitid say about the end.
  func endInformation(_ signal: Signal, _ status: UInt32) -> SignalInformation {
    let isKilled = status & 0x7f != 0
    var information = SignalInformation(
      signal, code: isKilled ? SignalInformation.Code.childKilled : SignalInformation.Code.childExited,
      sender: identifier, user: credentials.userID)
    information.second = (isKilled ? status & 0x7f : status >> 8 & 0xff).u64
    return information
  }

  /// Timers are never freed; a process that has had some stays with them.
  private func stopTimers() {
    lock.lock()
    let intervals = timers.intervals
    let created = timers.created
    lock.unlock()
    var hasAny = !created.isEmpty
    for index in 0..<ProcessTimers.intervalCount {
      guard let timer = intervals[index] else { continue }
      timer.clear()
      hasAny = true
    }
    for entry in created { entry.timer.clear() }
    // SAFETY: one reference more, never given up: `ProcessTimer.process` does not count, and timers stay.
    if hasAny { _ = Unmanaged.passRetained(self) }
  }

  /// The process with a number: this one or a descendant.
  func descendant(_ identifier: Int32) -> Process? {
    if self.identifier == identifier { return self }
    let below = lock.withLock { children }
    for child in below {
      if let found = child.descendant(identifier) { return found }
    }
    return nil
  }

  /// Calls `body` for this process and all below it.
  func forEachDescendant(_ body: (Process) -> Void) {
    body(self)
    let below = lock.withLock { children }
    for child in below { child.forEachDescendant(body) }
  }

  /// The process with a number.
  static func find(_ identifier: Int32) -> Process? { first?.descendant(identifier) }
}

// MARK: Waiting

extension SystemCall {
  private enum Options {
    static let noHang: UInt32 = 1
    static let exited: UInt32 = 4
    /// WUNTRACED (WSTOPPED), WCONTINUED: children neither stop nor go on.
    static let other: UInt32 = 2 | 8
    static let keep: UInt32 = 0x100_0000
    /// __WNOTHREAD, __WALL, __WCLONE.
    static let kinds: UInt32 = 0xe000_0000
  }

  /// A child that has ended, taken from the list if it is to be; nil if there is none yet and the call is not to wait.
  private func ended(_ which: ChildSelection, waits: Bool, keeps: Bool) throws(Errno) -> Process? {
    let parent = process
    while true {
      let number = parent.changeCount.load(ordering: .acquiring)
      parent.lock.lock()
      var hasSome = false
      var found: Process?
      for child in parent.children where which.contains(child) {
        hasSome = true
        if found == nil, child.record?.status != nil { found = child }
      }
      if let found, !keeps {
        parent.children.removeAll { $0 === found }
        parent.endedChildren.add(found.lock.withLock { found.usageOfLine })
      }
      parent.lock.unlock()
      if let found { return found }
      guard hasSome else { throw .ECHILD }
      guard waits else { return nil }
      let result = parent.childChanges.wait(interruptible: true) {
        parent.changeCount.load(ordering: .acquiring) == number
      }
      if result == .interrupted { throw .EINTR }
    }
  }

  private func writeUsage(of child: Process, at address: VirtualAddress) throws(Errno) {
    guard !address.isNull else { return }
    let usage = child.lock.withLock { child.usageOfLine }
    try UserSpan.write(usage.words(residentByteCount: 0), at: address)
  }

  func wait4() throws(Errno) -> Int {
    let options = argument2.u32
    guard options & ~(Options.noHang | Options.other | Options.kinds) == 0 else { throw .EINVAL }
    let which: ChildSelection
    switch argument0.i32 {
    case .min: throw .ESRCH
    case -1: which = .any
    case 0: which = .group(process.group)
    case let number where number < 0: which = .group(0 &- number)
    case let number: which = .process(number)
    }
    guard let child = try ended(which, waits: options & Options.noHang == 0, keeps: false) else { return 0 }
    if !address1.isNull { try UserSpan.write(child.record?.status ?? 0, at: address1) }
    try writeUsage(of: child, at: address3)
    return child.identifier.int
  }

  func waitid() throws(Errno) -> Int {
    let options = argument3.u32
    let waitedFor = options & (Options.exited | Options.other)
    guard options & ~(Options.noHang | Options.exited | Options.other | Options.keep | Options.kinds) == 0,
      waitedFor != 0
    else { throw .EINVAL }
    let which: ChildSelection
    switch argument0.i32 {
    case 0: which = .any
    case 1:
      guard argument1.i32 > 0 else { throw .EINVAL }
      which = .process(argument1.i32)
    case 2:
      guard argument1.i32 >= 0 else { throw .EINVAL }
      which = .group(argument1.i32 == 0 ? process.group : argument1.i32)
    default: throw .EINVAL
    }
    let child = try ended(which, waits: options & Options.noHang == 0, keeps: options & Options.keep != 0)
    if !address2.isNull {
      // Nothing found is a siginfo of zeros.
      var information = SignalInformation(.child, code: 0)
      information.number = 0
      if let child, let status = child.record?.status { information = child.endInformation(.child, status) }
      try writeInformation(information, at: address2)
    }
    if let child { try writeUsage(of: child, at: address4) }
    return 0
  }
}
