// System calls about signals.
import Base
import Files
import Locks
import Memory
import Platform
import Threads

extension SystemCall {
  /// All of these take the size of a signal set, which is 8.
  private func checkSetSize(_ size: UInt64) throws(Errno) { guard size == 8 else { throw .EINVAL } }

  func rt_sigaction() throws(Errno) -> Int {
    try checkSetSize(argument3)
    guard let signal = Signal(argument0.i32.int) else { throw .EINVAL }
    var wanted: SignalAction?
    if !address1.isNull {
      guard !SignalSet.unblockable.contains(signal) else { throw .EINVAL }
      var action = try UserSpan.read(SignalAction.self, at: address1)
      action.mask = action.mask.subtracting(.unblockable)
      wanted = action
    }
    let index = signal.number.int &- 1
    process.lock.lock()
    let before = process.actions[index]
    if let wanted {
      process.actions[index] = wanted
      let isIgnored =
        wanted.handler == SignalAction.ignoreHandler
        || (wanted.handler == SignalAction.defaultHandler && signal.defaultAction == .ignore)
      if isIgnored { process.discardPending(signal) }
    }
    process.lock.unlock()
    if !address2.isNull { try UserSpan.write(before, at: address2) }
    return 0
  }

  func rt_sigprocmask() throws(Errno) -> Int {
    try checkSetSize(argument3)
    let before = task.blocked
    if !address1.isNull {
      let set = try UserSpan.read(SignalSet.self, at: address1)
      let after: SignalSet
      switch argument0.i32 {
      case 0: after = before.union(set)
      case 1: after = before.subtracting(set)
      case 2: after = set
      default: throw .EINVAL
      }
      task.setBlocked(after)
    }
    if !address2.isNull { try UserSpan.write(before, at: address2) }
    return 0
  }

  func rt_sigpending() throws(Errno) -> Int {
    guard argument1 <= 8 else { throw .EINVAL }
    let pending = process.lock.withLock {
      task.pending.set.union(process.pending.set).intersection(task.blocked)
    }
    try UserSpan.write(pending, at: address0)
    return 0
  }

  func rt_sigsuspend() throws(Errno) -> Int {
    try checkSetSize(argument1)
    let set = try UserSpan.read(SignalSet.self, at: address0)
    task.suspendBlocked(set)
    return try pause()
  }

  func pause() throws(Errno) -> Int {
    while true {
      if Parking.park(interruptible: true) == .interrupted {
        if task.hasDeliverableSignal { throw .EINTR }
        task.clearInterruption()
      }
    }
  }

  /// Waits for one of a set of (blocked) signals and takes it.
  func rt_sigtimedwait() throws(Errno) -> Int {
    try checkSetSize(argument3)
    let set = try UserSpan.read(SignalSet.self, at: address0).subtracting(.unblockable)
    let deadline = try TimeSpecification.deadline(timeoutAt: address2)
    process.lock.withLock { task.waitedSignals = set }
    defer { task.stopWaiting(for: set) }
    while true {
      let taken = process.lock.withLock { process.take(set, for: task) }
      if let taken = taken?.told() {
        if !address1.isNull { try writeInformation(taken, at: address1) }
        return taken.number.int
      }
      if task.hasDeliverableSignal { throw .EINTR }
      switch Parking.park(until: deadline, interruptible: true) {
      case .woken: continue
      case .timedOut: throw .EAGAIN
      case .interrupted: task.thread.clearInterrupt()
      }
    }
  }

  /// Writes a whole siginfo_t.
  func writeInformation(_ information: SignalInformation, at address: VirtualAddress) throws(Errno) {
    try UserSpan.write(information, at: address)
    var rest = Transfer(
      program: address + MemoryLayout<SignalInformation>.size,
      count: SignalInformation.byteCount &- MemoryLayout<SignalInformation>.size)
    try rest.zeroOut(count: rest.remaining)
  }

  func rt_sigqueueinfo() throws(Errno) -> Int {
    let (signal, information) = try queuedInformation(argument1.i32.int, at: address2, target: argument0.i32)
    guard let target = Process.find(argument0.i32) else { throw .ESRCH }
    if let signal { try target.send(signal, information) }
    return 0
  }

  func rt_tgsigqueueinfo() throws(Errno) -> Int {
    guard argument0.i32 > 0, argument1.i32 > 0 else { throw .EINVAL }
    let (signal, information) = try queuedInformation(argument2.i32.int, at: address3, target: argument1.i32)
    guard let process = Process.find(argument0.i32), let target = process.task(argument1.i32) else { throw .ESRCH }
    if let signal { try process.send(signal, information, to: target) }
    return 0
  }

  /// What a program wants to be told with a signal. Only to itself may it say what otherwise the kernel says.
  private func queuedInformation(
    _ number: Int, at address: VirtualAddress, target: Int32
  ) throws(Errno) -> (Signal?, SignalInformation) {
    var information = try UserSpan.read(SignalInformation.self, at: address)
    let isKernels = information.code >= 0 || information.code == SignalInformation.Code.threadKill
    guard !isKernels || target == task.identifier else { throw .EPERM }
    guard number == 0 || Signal(number) != nil else { throw .EINVAL }
    information.number = number.i32
    return (Signal(number), information)
  }

  func sigaltstack() throws(Errno) -> Int {
    let before = task.toldSignalStack(stackPointer: frame.pointee.rsp)
    if !address0.isNull {
      try task.setSignalStack(try UserSpan.read(SignalStack.self, at: address0), stackPointer: frame.pointee.rsp)
    }
    if !address1.isNull { try UserSpan.write(before, at: address1) }
    return 0
  }

  func rt_sigreturn() -> Int {
    task.returnFromHandler(frame)
    return frame.pointee.rax.int
  }

  // MARK: Sending

  func kill() throws(Errno) -> Int {
    let target = argument0.i32
    let number = argument1.i32.int
    guard number == 0 || Signal(number) != nil else { throw .EINVAL }
    let signal = Signal(number)
    if target > 0 {
      guard let process = Process.find(target) else { throw .ESRCH }
      if let signal { try process.send(signal, sentByCaller(signal, SignalInformation.Code.user)) }
      return 0
    }
    // A group; or everybody but the caller and the first process, which stands in the place of init.
    guard target != .min else { throw .ESRCH }
    let group = target == 0 ? process.group : 0 &- target
    let caller = process
    var isFound = false
    Process.first?.forEachDescendant { process in
      guard target == -1 ? process !== caller && process !== Process.first : process.group == group else { return }
      isFound = true
      if let signal { try? process.send(signal, sentByCaller(signal, SignalInformation.Code.user)) }
    }
    guard isFound else { throw .ESRCH }
    return 0
  }

  func tgkill() throws(Errno) -> Int {
    guard argument0.i32 > 0, argument1.i32 > 0 else { throw .EINVAL }
    guard let process = Process.find(argument0.i32) else { throw .ESRCH }
    return try sendToThread(argument1.i32, argument2.i32.int, of: process)
  }

  func tkill() throws(Errno) -> Int {
    guard argument0.i32 > 0 else { throw .EINVAL }
    return try sendToThread(argument0.i32, argument1.i32.int, of: process)
  }

  private func sendToThread(_ identifier: Int32, _ number: Int, of process: Process) throws(Errno) -> Int {
    guard number == 0 || Signal(number) != nil else { throw .EINVAL }
    guard let target = process.task(identifier) else { throw .ESRCH }
    if let signal = Signal(number) {
      try process.send(signal, sentByCaller(signal, SignalInformation.Code.threadKill), to: target)
    }
    return 0
  }

  private func sentByCaller(_ signal: Signal, _ code: Int32) -> SignalInformation {
    SignalInformation(signal, code: code, sender: process.identifier, user: process.credentials.userID)
  }
}
