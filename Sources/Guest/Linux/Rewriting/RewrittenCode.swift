// What the rest of the kernel must know about rewritten code: programs see the addresses of the code as it was, the CPU those
// of stubs.
import Base
import Memory
import Platform

extension Task {
  /// The address in the program's code that a place in a stub stands for; nil if it is in no stub.
  func originalAddress(_ address: UInt64) -> UInt64? {
    let address = VirtualAddress(address)
    return process.addressSpace.patcher(at: address)?.original(of: address)?.rawValue
  }

  /// Where to go on instead of at an address of the program's code: in a stub, if a jump has taken the place of it.
  func rewrittenAddress(_ address: UInt64) -> UInt64? {
    let address = VirtualAddress(address)
    return process.addressSpace.patcher(at: address)?.replacement(for: address)?.rawValue
  }

  /// A single step has ended between instructions: in a stub, before the first that the program has. True if that was it:
  /// the step goes on.
  func continueStep(_ frame: UnsafeMutablePointer<TrapFrame>) -> Bool {
    let address = VirtualAddress(frame.pointee.rip)
    guard let patcher = process.addressSpace.patcher(at: address) as? TextPatcher else { return false }
    return patcher.isBetweenInstructions(address)
  }

  /// A breakpoint exception inside a jump that took the place of two instructions: somebody branched to the second one, which
  /// is in the stub now. True if that was it.
  func continueBehindJump(_ frame: UnsafeMutablePointer<TrapFrame>) -> Bool {
    guard let place = rewrittenAddress(frame.pointee.rip &- 1) else { return false }
    frame.pointee.rip = place
    return true
  }
}
