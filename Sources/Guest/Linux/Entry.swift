// How the Linux layer hears from the CPU: the upcalls of Platform for system calls, page faults, exceptions and the way back
// to the program. Kernel installs them, once.
import Base
import Memory
import Platform
import Threads
import VirtioABI

/// The upcalls of the Linux layer.
public enum LinuxEntry {
  /// Installs the upcalls and makes what they need. Boot only, before the first program.
  public static func install() {
    FutexTable.initialise()
    Upcalls.systemCall = { LinuxEntry.systemCall($0) }
    Upcalls.pageFault = { LinuxEntry.pageFault($0, $1) }
    Upcalls.exception = { frame, address in Task.current.raiseException(frame, address: address) }
    Upcalls.returnToProgram = { LinuxEntry.returnToProgram($0) }
    if !Boot.has(flag: BootFlags.noRewrite) {
      Upcalls.systemCallTrap = { frame in
        let process = Task.current.process
        process.rewriter.noteTrap(frame, in: process.addressSpace)
      }
    }
  }

  /// A system call: the frame's `error` has its number, RAX gets the result.
  static func systemCall(_ frame: UnsafeMutablePointer<TrapFrame>) {
    let task = Task.current
    let number = frame.pointee.error
    if SystemLog.showsCalls, number == 60 || number == 231 {
      SystemLog.lastCall(number: number, status: frame.pointee.rdi, task: task)
    }
    let call = SystemCall(frame: frame, task: task)
    let result: Int
    do throws(Errno) {
      guard Reclaim.keepReserve() || SystemCall.needsNoMemory(number) else { throw .ENOMEM }
      result = try call.dispatch(number)
    } catch {
      result = -error.rawValue.int
      if error == .EINTR {
        task.interruptedCall = Task.InterruptedCall(number: number, mayRestart: SystemCall.mayRestart(number))
      }
    }
    if SystemLog.showsCalls { SystemLog.call(frame, number: number, result: result, task: task) }
    frame.pointee.rax = result.u64
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
      task.lastFault = task.process.addressSpace.fault(at: VirtualAddress(address), access: access)
      return task.lastFault == .resolved
    }
  }

  /// The last look before the program goes on. Interrupts are disabled, on entry and on return.
  static func returnToProgram(_ frame: UnsafeMutablePointer<TrapFrame>) {
    let thread = Thread.current
    guard thread.isInterrupted, thread[.task] != nil else { return }
    let task = Task.current
    repeat {
      Interrupts.enable()
      task.deliverSignals(frame)
      _ = Interrupts.disable()
    } while thread.isInterrupted
  }
}
