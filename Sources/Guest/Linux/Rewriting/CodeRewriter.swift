// Which system calls become jumps: those that have trapped often at the same place.
//
// A trap costs 1.2 us on kvm_pvm, making a jump of it 20 to 40 us. So a site pays for its jump first: one that is used a few
// times, as most are while a program starts, is left as it is. The counts lie in a small table that forgets: two busy sites
// that share an entry count each other down, and would have to be unlucky to do that for long.
import Base
import Locks
import Memory
import Pages
import Platform

/// The rewriter of a process.
final class CodeRewriter {
  /// Traps before a site is looked at.
  private static let threshold: UInt64 = 16
  private static let entryCount = 128
  /// Instead of a count: there is nothing more to be done.
  private static let settled: UInt64 = 0xffff

  /// One at a time rewrites.
  private let lock = Mutex()
  /// For each entry the address behind a site, shifted left by 16, and how often it has trapped.
  private let counts: UnsafeMutablePointer<Atomic<UInt64>>?

  init() {
    let memory = KernelHeap.allocateZeroed(byteCount: Self.entryCount &* 8)
    // SAFETY: an atomic word is a word, and zero is a good one.
    counts = memory?.bindMemory(to: Atomic<UInt64>.self, capacity: Self.entryCount)
  }

  deinit { if let counts { KernelHeap.free(UnsafeMutableRawPointer(counts)) } }

  /// The instruction has trapped, with the program's registers in `frame`: its site may become a jump. Thread context,
  /// no lock held.
  @inline(__always)
  func noteTrap(_ frame: UnsafeMutablePointer<TrapFrame>, in space: AddressSpace) {
    guard let counts else { return }
    let rip = frame.pointee.rip
    let entry = counts + ((rip &* 0x9e37_79b9_7f4a_7c15) >> 57).int
    let word = entry.pointee.load(ordering: .relaxed)
    guard word >> 16 == rip else { return entry.pointee.store(rip << 16 | 1, ordering: .relaxed) }
    let count = word & 0xffff
    if count == Self.settled { return }
    if count < Self.threshold && !RewriteLog.isOn {
      entry.pointee.store(word &+ 1, ordering: .relaxed)
    } else {
      entry.pointee.store(rip << 16 | Self.settled, ordering: .relaxed)
      rewrite(frame, in: space)
    }
  }

  @inline(never)
  private func rewrite(_ frame: UnsafeMutablePointer<TrapFrame>, in space: AddressSpace) {
    let site = VirtualAddress(frame.pointee.rip) - 2
    lock.lock()
    defer { lock.unlock() }
    guard let code = space.code(at: site) else { return }
    let found =
      code.patcher
      ?? space.addPatcher(to: code) { room, object in TextPatcher(code, room: room, object: object) }
    guard let patcher = found as? TextPatcher, patcher.rewrite(site, in: space) == .jumps else { return }
    // What stands behind the call may have moved to the stub.
    if let place = patcher.replacement(for: site + 2) { frame.pointee.rip = place.rawValue }
  }
}
