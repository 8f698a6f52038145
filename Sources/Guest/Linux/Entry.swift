// How the Linux layer hears from the CPU: the upcalls of Platform for system calls, page faults, exceptions and the way back
// to the program. Kernel installs them, once.
import Base
import Files
import Locks
import Memory
import Network
import Platform
import Threads
import VirtioABI

/// The upcalls of the Linux layer.
public enum LinuxEntry {
  /// Installs the upcalls. Boot only, before the first program.
  public static func install() {
    Upcalls.systemCall = { LinuxEntry.systemCall($0) }
    Upcalls.pageFault = { LinuxEntry.pageFault($0, $1) }
    Upcalls.exception = { frame, address in Task.current.raiseException(frame, address: address) }
    Upcalls.returnToProgram = { LinuxEntry.returnToProgram($0) }
    Socket.credentialsOfCaller = {
      let process = Task.current.process
      let rights = process.credentials
      return SocketCredentials(
        process: process.identifier, user: rights.effectiveUserID, group: rights.effectiveGroupID)
    }
    FileSizeLimit.install(
      limit: {
        guard Thread.currentSlot(.task) != nil else { return .max }
        return Task.current.process.fileSizeLimit.load(ordering: .relaxed)
      },
      exceeded: {
        let task = Task.current
        let signal = Signal.fileSizeExceeded
        try? task.process.send(signal, SignalInformation(signal, code: SignalInformation.Code.user), to: task)
      })
    if !Boot.has(flag: BootFlags.noRewrite) {
      Upcalls.systemCallTrap = { frame in
        let process = Task.current.process
        process.rewriter.noteTrap(frame, in: process.addressSpace)
      }
    }
  }

  /// A system call: the frame's `error` has its number, RAX gets the result.
  static func systemCall(_ frame: UnsafeMutablePointer<TrapFrame>) {
    let call = SystemCall(frame: frame, reference: Task.currentReference)
    let number = frame.pointee.error
    if SystemLog.showsCalls { return logged(call, number) }
    frame.pointee.rax = serve(call, number).u64
  }

  @inline(__always)
  private static func serve(_ call: SystemCall, _ number: UInt64) -> Int {
    do throws(Errno) {
      guard Reclaim.keepReserve() || SystemCall.needsNoMemory(number) else { throw .ENOMEM }
      return try call.dispatch(number)
    } catch {
      return failed(call, number, error)
    }
  }

  @inline(never)
  private static func failed(_ call: SystemCall, _ number: UInt64, _ error: Errno) -> Int {
    if error == .EINTR {
      call.task.interruptedCall = Task.InterruptedCall(
        number: number, mayRestart: call.mayRestart(number), restartsUnhandled: call.restartsUnhandled(number),
        mustRestart: call.task.mustRestart)
      call.task.mustRestart = false
    }
    return 0 &- error.rawValue.int
  }

  @inline(never)
  private static func logged(_ call: SystemCall, _ number: UInt64) {
    if number == 60 || number == 231 {
      SystemLog.lastCall(number: number, status: call.frame.pointee.rdi, task: call.task)
    }
    let result = serve(call, number)
    SystemLog.call(call.frame, number: number, result: result, task: call.task)
    call.frame.pointee.rax = result.u64
  }

  /// A page fault of the program, or of the kernel on behalf of it. False: the access cannot be made possible.
  static func pageFault(_ frame: UnsafeMutablePointer<TrapFrame>, _ address: UInt64) -> Bool {
    guard let slot = Thread.currentSlot(.task) else { return false }
    // SAFETY: as in Task.current.
    return Unmanaged<Task>.fromOpaque(slot)._withUnsafeGuaranteedRef { task in
      guard AddressMap.program.contains(VirtualAddress(address)) else {
        task.lastFault = .notMapped
        return false
      }
      let error = frame.pointee.error
      let access: FaultAccess = error & 16 != 0 ? .execute : error & 2 != 0 ? .write : .read
      var isMajor = false
      task.lastFault = task.process.addressSpace.fault(
        at: VirtualAddress(address), access: access, isMajor: &isMajor)
      // The kernel on the program's behalf: the call fails, and the program does not go on behind it.
      if task.lastFault == .outOfMemory, !frame.pointee.isFromProgram { task.raiseOutOfMemory(address) }
      guard task.lastFault == .resolved else { return false }
      if isMajor { task.majorFaults &+= 1 } else { task.minorFaults &+= 1 }
      return true
    }
  }

  /// The last look before the program goes on. Interrupts are disabled, on entry and on return.
  static func returnToProgram(_ frame: UnsafeMutablePointer<TrapFrame>) {
    let thread = Thread.current
    guard thread.hasFlags, thread[.task] != nil else { return }
    let task = Task.current
    repeat {
      Interrupts.enable()
      task.followNotice(frame)
      if thread.isInterrupted { task.deliverSignals(frame) }
      _ = Interrupts.disable()
    } while thread.hasFlags
  }
}
