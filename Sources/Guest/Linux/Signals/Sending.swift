// Sending signals: to a thread, to a process, from the monitor.
//
// Rules: thread context only (a signal from an interrupt comes by way of a work item). A signal that would be ignored
// is not queued, so a thread that is woken by one has something to do.
import Base
import Files
import Locks
import Platform
import Threads

extension Process {
  /// Whether `signal` would do nothing now. `lock` is held.
  private func ignores(_ signal: Signal) -> Bool {
    let handler = actions[signal.number.int &- 1].handler
    if handler == SignalAction.ignoreHandler { return true }
    return handler == SignalAction.defaultHandler && signal.defaultAction == .ignore
  }

  /// What stops a process and what resumes it take each other back, even where they are ignored. `lock` is held.
  private func takeBack(_ signal: Signal) {
    let opposite =
      signal == .resume
      ? SignalSet.stopping : SignalSet.stopping.contains(signal) ? SignalSet.resuming : SignalSet()
    if opposite.isEmpty { return }
    pending.discard(opposite, &signalCount)
    for task in tasks { task.pending.discard(opposite, &signalCount) }
  }

  /// Sends a signal to the process (or, with `task`, to that thread of it).
  /// - Throws: EAGAIN if it is a real-time signal and too many are queued.
  func send(_ signal: Signal, _ information: SignalInformation, to task: Task? = nil) throws(Errno) {
    lock.lock()
    guard accepts(signal, for: task) else { return lock.unlock() }
    let result: PendingSignals.Addition
    if let task {
      result = task.pending.add(signal, information, &signalCount)
    } else {
      result = pending.add(signal, information, &signalCount)
    }
    let target = receiver(of: signal, for: task)
    lock.unlock()
    if result == .refused { throw .EAGAIN }
    target?.interrupt()
    signalSource.notify(.readable)
  }

  /// Queues a timer's own record, unless it is queued.
  /// - Returns: false if the signal is ignored, or the thread is no more.
  func send(_ signal: Signal, record: QueuedSignalPointer, toThread identifier: Int32) -> Bool {
    lock.lock()
    guard !record.pointee.isQueued else {
      lock.unlock()
      return true
    }
    var task: Task?
    if identifier != 0 {
      for candidate in tasks where candidate.identifier == identifier { task = candidate }
    }
    guard identifier == 0 || task != nil, accepts(signal, for: task) else {
      lock.unlock()
      return false
    }
    if let task {
      task.pending.add(signal, record: record)
    } else {
      pending.add(signal, record: record)
    }
    let target = receiver(of: signal, for: task)
    lock.unlock()
    target?.interrupt()
    signalSource.notify(.readable)
    return true
  }

  /// Whether a timer's record is in a queue.
  func hasQueued(_ record: QueuedSignalPointer) -> Bool { lock.withLock { record.pointee.isQueued } }

  /// Takes a timer's record out of the queue in which it is, if any.
  func takeBack(_ record: QueuedSignalPointer) {
    lock.lock()
    if record.pointee.isQueued { pending.remove(record, &signalCount) }
    for task in tasks where record.pointee.isQueued { task.pending.remove(record, &signalCount) }
    lock.unlock()
  }

  /// The first part of sending: whether the signal is to be queued. `lock` is held.
  private func accepts(_ signal: Signal, for task: Task?) -> Bool {
    guard !tasks.isEmpty else { return false }
    takeBack(signal)
    // A blocked signal is kept even if it is ignored now: sigwait wants it, or the action changes before it is unblocked.
    let isBlocked = task?.blocked.contains(signal) ?? tasks.allSatisfy { $0.blocked.contains(signal) }
    return !ignores(signal) || isBlocked && task?.waitedSignals.contains(signal) != false
  }

  /// Who is to look: the thread meant, else the first that does not block the signal, else one that waits for it. `lock` is
  /// held.
  private func receiver(of signal: Signal, for task: Task?) -> Task? {
    if let task { return task }
    for candidate in tasks where !candidate.blocked.contains(signal) || candidate.waitedSignals.contains(signal) {
      return candidate
    }
    return nil
  }

  /// Takes a pending signal of a set: the thread's own before the process'. `lock` is held.
  func take(_ set: SignalSet, for task: Task) -> TakenSignal? {
    if let signal = task.pending.set.intersection(set).first {
      ProgramSignals.noteTaken(signal)
      return task.pending.take(signal, &signalCount)
    }
    guard let signal = pending.set.intersection(set).first else { return nil }
    ProgramSignals.noteTaken(signal)
    return pending.take(signal, &signalCount)
  }

  /// Sends a signal that the kernel itself has reason for.
  func send(fromKernel signal: Signal) {
    try? send(signal, SignalInformation(signal, code: SignalInformation.Code.kernel))
  }
}

extension Task {
  /// Makes the instruction that this thread was executing the cause of a signal. A thread that blocks or ignores it is killed.
  func raise(_ information: SignalInformation) {
    guard let signal = Signal(information.number.int) else { return }
    process.lock.lock()
    let index = signal.number.int &- 1
    if blocked.contains(signal) || process.actions[index].handler == SignalAction.ignoreHandler {
      process.actions[index] = SignalAction()
      blocked.remove(signal)
    }
    _ = pending.add(signal, information, &process.signalCount)
    process.lock.unlock()
    interrupt()
  }

  /// Whether the thread would not hear of a signal.
  func blocksOrIgnores(_ signal: Signal) -> Bool {
    process.lock.withLock {
      blocked.contains(signal) || process.actions[signal.number.int &- 1].handler == SignalAction.ignoreHandler
    }
  }

  /// Whether a signal could be delivered now, or the process is ending.
  var hasDeliverableSignal: Bool {
    process.lock.withLock { process.isEnding || !deliverable.isEmpty }
  }

  /// Forgets an interruption for which there was no reason (any more).
  func clearInterruption() {
    thread.clearInterrupt()
    // A signal sent since the look above interrupts again, or was seen by nobody: look once more.
    if hasDeliverableSignal { thread.interrupt() }
  }
}
