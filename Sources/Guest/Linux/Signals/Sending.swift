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
    pending.discard(opposite)
    for task in tasks { task.pending.discard(opposite) }
  }

  /// Sends a signal to the process (or, with `task`, to that thread of it).
  /// - Throws: EAGAIN if it is a real-time signal and too many are queued.
  func send(_ signal: Signal, _ information: SignalInformation, to task: Task? = nil) throws(Errno) {
    lock.lock()
    takeBack(signal)
    // A blocked signal is kept even if it is ignored now: sigwait wants it, or the action changes before it is unblocked.
    let isBlocked = task?.blocked.contains(signal) ?? tasks.allSatisfy { $0.blocked.contains(signal) }
    if ignores(signal), !isBlocked || task?.waitedSignals.contains(signal) == false {
      lock.unlock()
      return
    }
    let isQueued = task == nil ? pending.add(signal, information) : task!.pending.add(signal, information)
    // Who is to look: the thread meant, else the first that does not block the signal, else one that waits for it.
    var target = task
    if target == nil {
      for candidate in tasks where !candidate.blocked.contains(signal) || candidate.waitedSignals.contains(signal) {
        target = candidate
        break
      }
    }
    lock.unlock()
    guard isQueued else { throw .EAGAIN }
    target?.interrupt()
    signalSource.notify(.readable)
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
    _ = pending.add(signal, information)
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
