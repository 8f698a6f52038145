// Exceptions of programs become signals.
import Base
import Memory
import Platform

extension Task {
  /// Turns an exception that the program caused into the signal for it.
  func raiseException(_ frame: UnsafeMutablePointer<TrapFrame>, address: UInt64) {
    typealias Code = SignalInformation.Code
    if frame.pointee.vector == 3, continueBehindJump(frame) { return }
    if frame.pointee.vector == 1, continueStep(frame) { return }
    let rip = originalAddress(frame.pointee.rip) ?? frame.pointee.rip
    switch frame.pointee.vector {
    case 0: raise(SignalInformation(.floatingPoint, code: Code.integerDivide, address: rip))
    case 1: raise(SignalInformation(.trap, code: Code.trace, address: rip))
    case 3: raise(SignalInformation(.trap, code: Code.kernel, address: 0))
    case 6: raise(SignalInformation(.illegalInstruction, code: Code.illegalOperand, address: rip))
    case 12, 17: raise(SignalInformation(.bus, code: Code.busAlignment, address: 0))
    case 14: raisePageFault(address)
    case 16, 19: raise(SignalInformation(.floatingPoint, code: Code.floatInvalid, address: rip))
    default: raise(SignalInformation(.segmentation, code: Code.kernel, address: 0))
    }
  }

  /// A page cannot be given for want of memory: nothing but the end is left.
  func raiseOutOfMemory(_ address: UInt64) {
    raise(SignalInformation(.kill, code: SignalInformation.Code.kernel, address: address))
  }

  private func raisePageFault(_ address: UInt64) {
    typealias Code = SignalInformation.Code
    switch lastFault {
    case .accessDenied: raise(SignalInformation(.segmentation, code: Code.segmentProtection, address: address))
    case .busError: raise(SignalInformation(.bus, code: Code.busAddress, address: address))
    case .outOfMemory: raiseOutOfMemory(address)
    case .notMapped, .resolved: raise(SignalInformation(.segmentation, code: Code.segmentNotMapped, address: address))
    }
  }
}
