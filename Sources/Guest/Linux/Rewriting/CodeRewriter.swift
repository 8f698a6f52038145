// Which system calls become jumps: those that have trapped often at the same place.
//
// A trap costs 1.2 us on kvm_pvm, making a jump of it 20 to 40 us. So a site pays for its jump first: one that is used a few
// times, as most are while a program starts, is left as it is.
import Base
import Locks
import Memory
import Platform

/// The rewriter of a process.
final class CodeRewriter {
  /// Traps before a site is looked at.
  private static let threshold: UInt64 = 16

  /// One at a time rewrites.
  private let lock = Mutex()
  private let counts = TrapCounts()

  /// The instruction has trapped, with the program's registers in `frame`: its site may become a jump. Thread context,
  /// no lock held.
  @inline(__always)
  func noteTrap(_ frame: UnsafeMutablePointer<TrapFrame>, in space: AddressSpace) {
    if counts.note(frame.pointee.rip, threshold: RewriteLog.isOn ? 1 : Self.threshold) { rewrite(frame, in: space) }
  }

  @inline(never)
  private func rewrite(_ frame: UnsafeMutablePointer<TrapFrame>, in space: AddressSpace) {
    let behind = frame.pointee.rip
    let site = VirtualAddress(behind) - 2
    lock.lock()
    defer { lock.unlock() }
    guard let code = space.code(at: site) else { return }
    let found =
      code.patcher
      ?? space.addPatcher(to: code) { room, object in TextPatcher(code, room: room, object: object) }
    guard let patcher = found as? TextPatcher else { return }
    switch patcher.rewrite(site, in: space) {
    case .left: return
    case .jumpsPartly: break
    case .jumps: counts.forget(behind)
    }
    // What stands behind the call may have moved to the stub.
    if let place = patcher.replacement(for: site + 2) { frame.pointee.rip = place.rawValue }
  }
}
