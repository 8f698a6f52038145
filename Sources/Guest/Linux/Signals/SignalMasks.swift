// Masks: which signals a thread does not want now.
//
// A signal for the process is announced to one thread that does not block it. Whoever blocks signals, stops waiting for
// them or ends therefore passes on what has been announced to it and not taken.
import Base
import Locks
import Platform
import Threads

extension Task {
  /// Changes which signals are blocked; the thread itself calls this.
  func setBlocked(_ set: SignalSet) {
    process.lock.lock()
    replaceBlocked(set)
    let mustLook = !deliverable.isEmpty
    process.lock.unlock()
    if mustLook { thread.interrupt() }
  }

  /// Changes which signals are blocked, without a look at what can be delivered now. `process.lock` is held.
  func replaceBlocked(_ set: SignalSet) {
    let new = set.subtracting(.unblockable)
    let fresh = new.subtracting(blocked)
    blocked = new
    process.passOn(fresh, from: self)
  }

  /// Blocks `set` until a signal has come in: the former mask comes back behind its handler.
  func suspendBlocked(_ set: SignalSet) {
    process.lock.withLock { if savedMask == nil { savedMask = blocked } }
    setBlocked(set)
  }

  /// Puts the former mask back though no signal has come in.
  func resumeBlocked() {
    guard let saved = savedMask else { return }
    savedMask = nil
    setBlocked(saved)
  }

  /// The end of a sigtimedwait.
  func stopWaiting(for set: SignalSet) {
    process.lock.withLock {
      waitedSignals = SignalSet()
      process.passOn(set.intersection(blocked), from: self)
    }
  }
}

extension Process {
  /// Announces those of `signals` that are pending for the process to other threads, as far as any wants them. `lock` is held.
  func passOn(_ signals: SignalSet, from task: Task) {
    var left = pending.set.intersection(signals)
    guard !left.isEmpty else { return }
    for other in tasks where other !== task {
      let wanted = left.subtracting(other.blocked.subtracting(other.waitedSignals))
      guard !wanted.isEmpty else { continue }
      other.interrupt()
      left = left.subtracting(wanted)
      if left.isEmpty { return }
    }
  }

  /// Forgets pending signals of this kind, of the process and of all threads. `lock` is held.
  func discardPending(_ signal: Signal) {
    pending.discard(signal, &signalCount)
    for task in tasks { task.pending.discard(signal, &signalCount) }
  }
}
