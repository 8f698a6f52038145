// Exceptions of programs become signals.
import Base
import Memory
import Platform

/// An exception as a signal's context tells of it.
struct ExceptionRecord {
  /// Its vector.
  var vector: UInt64 = 0
  /// Its error code.
  var error: UInt64 = 0
  /// The address of the last page fault.
  var address: UInt64 = 0
  /// In a page fault's error code: from a program.
  static let userBit: UInt64 = 4
}

extension Task {
  /// Turns an exception that the program caused into the signal for it.
  func raiseException(_ frame: UnsafeMutablePointer<TrapFrame>, address: UInt64) {
    typealias Code = SignalInformation.Code
    if frame.pointee.vector == 3, continueBehindJump(frame) { return }
    if frame.pointee.vector == 1, continueStep(frame) { return }
    note(frame.pointee, address)
    let rip = originalAddress(frame.pointee.rip) ?? frame.pointee.rip
    switch frame.pointee.vector {
    case 0: raise(SignalInformation(.floatingPoint, code: Code.integerDivide, address: rip))
    case 1: raise(SignalInformation(.trap, code: Code.trace, address: rip))
    case 3: raise(SignalInformation(.trap, code: Code.kernel, address: 0))
    case 6: raise(SignalInformation(.illegalInstruction, code: Code.illegalOperand, address: rip))
    case 12: raise(SignalInformation(.bus, code: Code.kernel, address: 0))
    case 14: raisePageFault(address)
    case 16, 19: raiseFloatingPoint(isVector: frame.pointee.vector == 19, at: rip)
    case 17: raise(SignalInformation(.bus, code: Code.busAlignment, address: 0))
    default: raise(SignalInformation(.segmentation, code: Code.kernel, address: 0))
    }
  }

  /// Keeps what a handler may want to know.
  private func note(_ frame: TrapFrame, _ address: UInt64) {
    lastException.vector = frame.vector
    lastException.error = frame.error
    if frame.vector == 14 {
      // The program runs at the kernel's privilege, but is a user to itself.
      lastException.error |= ExceptionRecord.userBit
      lastException.address = address
    }
  }

  /// Which of the floating-point exceptions it was, the registers say. None: the CPU was early, and the program goes on.
  private func raiseFloatingPoint(isVector: Bool, at address: UInt64) {
    var code: Int32? = SignalInformation.Code.floatInvalid
    if let image = ExtendedStateImage() {
      ExtendedState.saveWhole(image.bytes.baseAddress.unsafelyUnwrapped)
      code = SignalExtendedState.exceptionCode(UnsafeRawBufferPointer(image.bytes), isVector: isVector)
    }
    if let code { raise(SignalInformation(.floatingPoint, code: code, address: address)) }
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
