// Delivery: on the way back to the program, pending signals become handler calls or the end.
//
// Runs on the thread's own kernel stack with interrupts enabled; the frame holds the program's registers, vector
// registers are live in the CPU.
//
// SAFETY of all: a frame lies on the kernel stack of the running thread until that is back in its program. An image's buffer
// is as large as the area (`ExtendedState.byteCount`, never less than `programByteCount`) and a line more, is its owner's
// alone, and is freed with it.
import Base
import Locks
import Memory
import Pages
import Platform
import Threads
import VirtioABI

extension Task {
  /// Delivers what is pending. Afterwards the frame may be that of a handler; a signal that kills does not return.
  func deliverSignals(_ frame: UnsafeMutablePointer<TrapFrame>) {
    while true {
      // Taken back before the look: a signal sent after it interrupts again.
      thread.clearInterrupt()
      process.lock.lock()
      if process.isEnding {
        process.lock.unlock()
        end(status: 0)
      }
      // The thread's own signals come before those of the process, as by Linux.
      let own = pending.set.subtracting(blocked).first
      guard let signal = own ?? process.pending.set.subtracting(blocked).first else {
        if let saved = savedMask {
          replaceBlocked(saved)
          savedMask = nil
          process.lock.unlock()
          continue
        }
        process.lock.unlock()
        restartCall(frame, handler: nil)
        return
      }
      let taken =
        own != nil
        ? pending.take(signal, &process.signalCount) : process.pending.take(signal, &process.signalCount)
      let index = signal.number.int &- 1
      let action = process.actions[index]
      if action.handler > SignalAction.ignoreHandler, action.flags & SignalAction.Flags.resetHand != 0 {
        process.actions[index].handler = SignalAction.defaultHandler
      }
      process.lock.unlock()
      let information = taken.told()

      switch action.handler {
      case SignalAction.ignoreHandler: continue
      case SignalAction.defaultHandler:
        switch signal.defaultAction {
        case .ignore, .resume: continue
        // There is one process: the machine stops with it, and goes on when somebody continues the monitor.
        case .stop: Monitor.stop(signal.number.u32)
        case .terminate: die(signal, information, frame)
        }
      default:
        ProgramSignals.noteTaken(signal)
        restartCall(frame, handler: action)
        guard enterHandler(signal, action, information, frame) else {
          die(.segmentation, information, frame)
        }
      }
    }
  }

  /// Decides about a call that was cut short: again (with no handler, or one with SA_RESTART), or EINTR as it stands.
  private func restartCall(_ frame: UnsafeMutablePointer<TrapFrame>, handler: SignalAction?) {
    guard let call = interruptedCall else { return }
    interruptedCall = nil
    if let handler {
      guard call.mustRestart || call.mayRestart && handler.flags & SignalAction.Flags.restart != 0 else { return }
    } else {
      guard call.mustRestart || call.restartsUnhandled else { return }
    }
    switch frame.pointee.vector {
    case TrapFrame.systemCallVector: frame.pointee.rip &-= 2
    case TrapFrame.jumpVector, TrapFrame.leafVector: frame.pointee.rip &-= JumpEntry.sequenceByteCount
    default: return  // Who called as a function sees EINTR.
    }
    frame.pointee.rax = call.number
  }

  private func die(_ signal: Signal, _ information: SignalInformation, _ frame: UnsafeMutablePointer<TrapFrame>)
    -> Never
  {
    if SystemLog.death(signal, information, frame) { process.end(status: Process.waitStatus(killedBy: signal)) }
    end(status: 0)
  }

  /// Builds the handler's frame on the program's stack and aims the registers at the handler. False if the stack cannot take it.
  private func enterHandler(
    _ signal: Signal, _ action: SignalAction, _ information: SignalInformation, _ frame: UnsafeMutablePointer<TrapFrame>
  ) -> Bool {
    guard (try? leaveSequence(frame)) != nil else { return false }
    let old = frame.pointee
    let usesAlternate =
      action.flags & SignalAction.Flags.onStack != 0 && signalStack.flags & SignalStack.disabled == 0
      && !signalStack.contains(old.rsp)
    let extendedByteCount = ExtendedState.programByteCount
    guard
      let place = SignalFrame.place(
        stackPointer: old.rsp, alternate: usesAlternate ? signalStack : nil, extendedByteCount: extendedByteCount)
    else { return false }
    if usesAlternate, place.frame < signalStack.base { return false }

    var built = SignalFrame()
    built.returnAddress = action.restorer
    // The flags as they were set: whether it is in use is not told here, as by Linux.
    built.stack = signalStack
    built.context = SignalContext(old, extendedState: place.extendedState)
    if let original = originalAddress(old.rip) {
      built.context.rip = original
      // Behind the call, where RCX should have that address.
      if old.rcx == old.rip { built.context.rcx = original }
    }
    built.context.trap = lastException.vector
    built.context.error = lastException.error
    built.context.faultAddress = lastException.address
    built.mask = savedMask ?? blocked
    built.context.oldMask = built.mask.bits
    built.information = information

    do throws(Errno) {
      try saveExtendedState(at: VirtualAddress(place.extendedState), byteCount: extendedByteCount)
      try UserSpan.write(built, at: VirtualAddress(place.frame))
    } catch { return false }

    if signalStack.flags & SignalStack.autoDisarm != 0 { signalStack = SignalStack() }

    process.lock.lock()
    savedMask = nil
    var mask = blocked.union(action.mask)
    if action.flags & SignalAction.Flags.noDefer == 0 { mask.insert(signal) }
    replaceBlocked(mask)
    process.lock.unlock()

    frame.pointee.rip = action.handler
    frame.pointee.rsp = place.frame
    frame.pointee.rax = 0
    frame.pointee.rdi = signal.number.u64
    frame.pointee.rsi = place.frame &+ SignalFrame.informationOffset
    frame.pointee.rdx = place.frame &+ SignalFrame.contextOffset
    frame.pointee.rflags = TrapFrame.sanitized(flags: old.rflags & ~SignalFrame.clearedFlags)
    return true
  }

  /// Stores the vector registers to the program's stack, in the form that sigreturn expects.
  private func saveExtendedState(at address: VirtualAddress, byteCount: Int) throws(Errno) {
    guard let image = ExtendedStateImage() else { throw .ENOMEM }
    ExtendedState.saveWhole(image.bytes.baseAddress!)
    SignalExtendedState.seal(image.bytes, byteCount: byteCount, mask: ExtendedState.programMask)
    let used = UnsafeRawBufferPointer(rebasing: image.bytes[..<(byteCount &+ 4)])
    try UserSpan(address, count: used.count).write(from: used)
  }

  /// rt_sigreturn: takes the registers, the mask and the vector registers from the frame above the stack pointer. A frame that
  /// makes no sense kills.
  func returnFromHandler(_ frame: UnsafeMutablePointer<TrapFrame>) {
    // The handler's return has popped the first word of the frame.
    let address = VirtualAddress(frame.pointee.rsp &- 8)
    // A call that came by a jump does not go back to another place by itself; and from here on, no vector register is dead.
    if frame.pointee.isJump { leaveByFrame(frame) }
    do throws(Errno) {
      let saved = try UserSpan.read(SignalFrame.self, at: address)
      try restoreExtendedState(at: VirtualAddress(saved.context.extendedState))
      guard saved.context.rip < AddressMap.programEnd.rawValue || process.isImage else { throw .EFAULT }
      saved.context.restore(to: frame)
      if let place = rewrittenAddress(frame.pointee.rip) { frame.pointee.rip = place }
      setBlocked(saved.mask)
      try? setSignalStack(saved.stack, stackPointer: saved.context.rsp)
    } catch {
      raise(SignalInformation(.segmentation, code: SignalInformation.Code.kernel, address: 0))
    }
    interruptedCall = nil
  }

  /// Makes the way back to the program load every register from the frame.
  private func leaveByFrame(_ frame: UnsafeMutablePointer<TrapFrame>) {
    frame.pointee.vector = TrapFrame.systemCallVector
    thread.interrupt()
  }

  /// Loads the vector registers from an image in the program. A frame without one leaves them as they are at a program's start; of one
  /// that is not marked as we mark it, only what FXSAVE knows is taken.
  private func restoreExtendedState(at address: VirtualAddress) throws(Errno) {
    guard let image = ExtendedStateImage() else { throw .ENOMEM }
    guard address.rawValue != 0 else {
      let start = image.bytes.baseAddress.unsafelyUnwrapped
      ExtendedState.initialise(start)
      return ExtendedState.restore(start)
    }
    let byteCount = ExtendedState.programByteCount
    let used = UnsafeMutableRawBufferPointer(rebasing: image.bytes[..<byteCount])
    let legacy = UnsafeMutableRawBufferPointer(rebasing: used[..<SignalExtendedState.headerOffset])
    try UserSpan(address, count: legacy.count).read(into: legacy)
    let sealed = UnsafeMutableRawBufferPointer(rebasing: image.bytes[..<(byteCount &+ 4)])
    if SignalExtendedState.claimsSeal(UnsafeRawBufferPointer(legacy), byteCount: byteCount) {
      try UserSpan(address, count: sealed.count).read(into: sealed)
    }
    SignalExtendedState.keepWhatIsSealed(sealed, byteCount: byteCount)
    guard SignalExtendedState.sanitise(used, mask: ExtendedState.programMask) else { throw .EFAULT }
    ExtendedState.restoreWhole(UnsafeRawPointer(image.bytes.baseAddress!))
  }
}

extension SignalContext {
  /// The registers of a frame.
  init(_ frame: TrapFrame, extendedState: UInt64) {
    r8 = frame.r8
    r9 = frame.r9
    r10 = frame.r10
    r11 = frame.r11
    r12 = frame.r12
    r13 = frame.r13
    r14 = frame.r14
    r15 = frame.r15
    rdi = frame.rdi
    rsi = frame.rsi
    rbp = frame.rbp
    rbx = frame.rbx
    rdx = frame.rdx
    rax = frame.rax
    rcx = frame.rcx
    rsp = frame.rsp
    rip = frame.rip
    flags = frame.rflags
    self.extendedState = extendedState
  }

  /// Puts the registers back; flags that are not the program's stay as they are.
  func restore(to frame: UnsafeMutablePointer<TrapFrame>) {
    frame.pointee.r8 = r8
    frame.pointee.r9 = r9
    frame.pointee.r10 = r10
    frame.pointee.r11 = r11
    frame.pointee.r12 = r12
    frame.pointee.r13 = r13
    frame.pointee.r14 = r14
    frame.pointee.r15 = r15
    frame.pointee.rdi = rdi
    frame.pointee.rsi = rsi
    frame.pointee.rbp = rbp
    frame.pointee.rbx = rbx
    frame.pointee.rdx = rdx
    frame.pointee.rax = rax
    frame.pointee.rcx = rcx
    frame.pointee.rsp = rsp
    frame.pointee.rip = rip
    frame.pointee.rflags = TrapFrame.sanitized(flags: flags)
  }
}

extension ExtendedState {
  /// Bytes of an image as programs see it: the XSAVE area's, or those of FXSAVE.
  static var programByteCount: Int {
    let count = Boot.information.pointee.extendedStateByteCount
    return count == 0 ? 512 : count.int
  }
  /// Components that an image may hold (XCR0).
  static var programMask: UInt64 { Boot.information.pointee.extendedStateMask }
}

/// A kernel buffer for one XSAVE image and its closing word, aligned as the instruction wants it.
struct ExtendedStateImage: ~Copyable {
  let bytes: UnsafeMutableRawBufferPointer

  /// A zeroed buffer; nil if memory is out.
  init?() {
    let count = ExtendedState.byteCount &+ 64
    guard let memory = KernelHeap.allocateZeroed(byteCount: count, alignment: 64) else { return nil }
    bytes = UnsafeMutableRawBufferPointer(start: memory, count: count)
  }

  deinit { KernelHeap.free(bytes.baseAddress!) }
}
