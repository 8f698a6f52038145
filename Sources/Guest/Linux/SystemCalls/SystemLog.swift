// What `--log` shows of the Linux layer: a line for each system call, and the death of a process by a signal.
import Base
import Memory
import Pages
import Platform
import Synchronization
import VirtioABI

/// The log of system calls and signals, on the monitor's standard error.
enum SystemLog {
  /// Whether system calls are logged.
  static var showsCalls: Bool { Boot.logs(BootLog.systemCalls) }

  /// A call and its result.
  static func call(_ frame: UnsafeMutablePointer<TrapFrame>, number: UInt64, result: Int, task: Task) {
    var line = TextLine()
    line.append("[")
    line.append(decimal: task.identifier.u64)
    line.append("] ")
    SystemCallNames.append(number, to: &line)
    line.append("(")
    let arguments: [6 of UInt64] = [
      frame.pointee.rdi, frame.pointee.rsi, frame.pointee.rdx, frame.pointee.r10, frame.pointee.r8, frame.pointee.r9,
    ]
    for index in 0..<SystemCallNames.argumentCount(number) {
      if index > 0 { line.append(", ") }
      if arguments[index] < 4096 {
        line.append(decimal: arguments[index])
      } else {
        line.append(hexadecimal: arguments[index])
      }
    }
    line.append(") = ")
    if result < 0, result >= -4095 {
      line.append("-")
      line.append(decimal: (0 &- result).u64)
      if result == -Errno.ENOSYS.rawValue.int { line.append(" (not implemented)") }
    } else if result < 4096 {
      line.append(decimal: result.u64)
    } else {
      line.append(hexadecimal: result.u64)
    }
    line.show()
  }

  /// A call that does not return.
  static func lastCall(number: UInt64, status: UInt64, task: Task) {
    var line = TextLine()
    line.append("[")
    line.append(decimal: task.identifier.u64)
    line.append("] ")
    SystemCallNames.append(number, to: &line)
    line.append("(")
    line.append(decimal: status & 0xff)
    line.append(")")
    line.show()
  }

  /// A signal without a handler ends the process.
  /// - Returns: false if that is another thread's business, which has something to tell first.
  static func death(
    _ signal: Signal, _ information: SignalInformation, _ frame: UnsafeMutablePointer<TrapFrame>
  ) -> Bool {
    // Nothing the program did says that memory ran out, so that is always told.
    if signal == .kill, Task.current.lastFault == .outOfMemory { return outOfMemory(Task.current) }
    guard Boot.logs(BootLog.signals) else { return true }
    var line = TextLine()
    line.append("killed by signal ")
    line.append(decimal: signal.number.u64)
    line.append(" (code ")
    if information.code < 0 { line.append("-") }
    line.append(decimal: information.code.magnitude.u64)
    line.append(", address ")
    line.append(hexadecimal: information.first)
    line.append(") at ")
    line.append(hexadecimal: Task.current.originalAddress(frame.pointee.rip) ?? frame.pointee.rip)
    line.append(", stack ")
    line.append(hexadecimal: frame.pointee.rsp)
    line.show()
    return true
  }

  /// A page that the program needs cannot be given to it. Said once, whatever its threads need: false if another thread says it, which
  /// then ends the process, and not before.
  private static func outOfMemory(_ task: Task) -> Bool {
    let process = task.process
    guard !process.isOutOfMemory.exchange(true, ordering: .relaxed) else { return false }
    let frames = Frames.statistics
    var line = TextLine()
    line.append("out of memory: ")
    for index in 0..<15 where task.name[index] != 0 { line.append(byte: task.name[index]) }
    line.append(" (process ")
    line.append(decimal: process.identifier.u64)
    line.append(") was killed; it has ")
    line.append(decimal: process.addressSpace.residentByteCount &>> 10)
    line.append(" KiB of ")
    line.append(decimal: frames.total.u64 &<< 2)
    line.append(" KiB, and ")
    line.append(decimal: frames.free.u64 &<< 2)
    line.append(" KiB are left for the kernel: give more with --memory")
    line.show()
    return true
  }
}
