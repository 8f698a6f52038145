// Alternate signal stacks: what sigaltstack and the return from a handler set.
import Base
import Platform

extension Task {
  /// Sets or removes the alternate stack.
  /// - Throws: EPERM (the thread is on the one that is set), EINVAL (flags), ENOMEM (too small).
  func setSignalStack(_ wanted: SignalStack, stackPointer: UInt64) throws(Errno) {
    guard !signalStack.contains(stackPointer) else { throw .EPERM }
    switch wanted.flags & ~SignalStack.autoDisarm {
    case SignalStack.disabled:
      signalStack = SignalStack()
      signalStack.flags = wanted.flags
    case 0, SignalStack.onStack:
      guard wanted.byteCount >= SignalStack.minimumByteCount else { throw .ENOMEM }
      signalStack = wanted
    default: throw .EINVAL
    }
  }

  /// The alternate stack as sigaltstack tells it.
  func toldSignalStack(stackPointer: UInt64) -> SignalStack {
    var told = signalStack
    let isOnIt = signalStack.contains(stackPointer)
    if told.flags & SignalStack.disabled == 0 {
      told.flags = (told.flags & SignalStack.autoDisarm) | (isOnIt ? SignalStack.onStack : 0)
    }
    return told
  }
}
