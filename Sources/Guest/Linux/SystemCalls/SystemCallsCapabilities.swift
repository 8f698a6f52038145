// System calls about capabilities. Root has all of them; who becomes another user loses them, and what has been given up stays
// away. Files are guarded by users and modes alone.
import Base
import Files
import Locks
import Memory

/// The capability sets of a process (capabilities(7)), a bit a capability.
struct Capabilities {
  /// Those that Linux knows (CAP_LAST_CAP is 40).
  static let all: UInt64 = (1 << 41) - 1

  var permitted: UInt64 = Capabilities.all
  var effective: UInt64 = Capabilities.all
  var inheritable: UInt64 = 0

  /// The sets as they count for a user.
  func counting(for credentials: Credentials) -> Capabilities {
    var result = self
    let isRoot = credentials.userID == 0 || credentials.effectiveUserID == 0 || credentials.savedUserID == 0
    if !isRoot { result.permitted = 0 }
    if credentials.effectiveUserID != 0 { result.effective = 0 }
    result.effective &= result.permitted
    return result
  }
}

extension SystemCall {
  private struct Header {
    var version: UInt32 = 0
    var process: Int32 = 0
  }

  /// Two words of each set: low halves, then high halves.
  private struct Half {
    var effective: UInt32 = 0
    var permitted: UInt32 = 0
    var inheritable: UInt32 = 0
  }

  private static var latestVersion: UInt32 { 0x2008_0522 }

  /// How many halves a version has; the version this kernel prefers is stored where the caller's is unknown.
  private func halves(_ header: Header) throws(Errno) -> Int {
    switch header.version {
    case 0x1998_0330: return 1
    case 0x2007_1026, Self.latestVersion: return 2
    default:
      try UserSpan.write(Self.latestVersion, at: address0)
      throw .EINVAL
    }
  }

  private func isSelf(_ number: Int32) -> Bool {
    number == 0 || number == process.identifier || process.task(number) != nil
  }

  func capget() throws(Errno) -> Int {
    let header = try UserSpan.read(Header.self, at: address0)
    let count: Int
    do throws(Errno) { count = try halves(header) } catch {
      // Asking for the version alone is no error.
      if error == .EINVAL && address1.isNull { return 0 }
      throw error
    }
    guard header.process >= 0 else { throw .EINVAL }
    guard isSelf(header.process) else { throw .ESRCH }
    guard !address1.isNull else { return 0 }
    let sets = process.lock.withLock { process.capabilities.counting(for: process.credentials) }
    for index in 0..<count {
      let shift = index.u64 &* 32
      let half = Half(
        effective: (sets.effective >> shift).u32, permitted: (sets.permitted >> shift).u32,
        inheritable: (sets.inheritable >> shift).u32)
      try UserSpan.write(half, at: address1 + index &* MemoryLayout<Half>.stride)
    }
    return 0
  }

  func capset() throws(Errno) -> Int {
    let header = try UserSpan.read(Header.self, at: address0)
    let count = try halves(header)
    guard isSelf(header.process) else { throw .EPERM }
    var wanted = Capabilities()
    wanted.permitted = 0
    wanted.effective = 0
    for index in 0..<count {
      let half = try UserSpan.read(Half.self, at: address1 + index &* MemoryLayout<Half>.stride)
      let shift = index.u64 &* 32
      wanted.effective |= half.effective.u64 << shift
      wanted.permitted |= half.permitted.u64 << shift
      wanted.inheritable |= half.inheritable.u64 << shift
    }
    wanted.effective &= Capabilities.all
    wanted.permitted &= Capabilities.all
    wanted.inheritable &= Capabilities.all
    process.lock.lock()
    defer { process.lock.unlock() }
    let current = process.capabilities.counting(for: process.credentials)
    // Nothing may be gained: permitted only shrinks, effective lies within it, inheritable adds only what was permitted.
    guard wanted.permitted & ~current.permitted == 0, wanted.effective & ~wanted.permitted == 0,
      wanted.inheritable & ~(current.inheritable | current.permitted) == 0
    else { throw .EPERM }
    process.capabilities = wanted
    return 0
  }
}
