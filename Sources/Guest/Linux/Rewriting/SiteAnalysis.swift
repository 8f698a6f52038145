// From a pair of bytes to a decision: is it an instruction, and which window does it get?
//
// A hit counts if decoding from the start of its function stays in step up to it. Behind a function's known end (hand-written
// assembly, code without unwind records) that is not enough: there the number of the call must also be loaded nearby.
//
// SAFETY of all: `scratch` is its caller's for as long as the analysis is used, by one thread; of it only the
// `loadedByteCount` bytes that were read are decoded. `CodeScan` loads words and pairs that lie within the bytes by its
// loops' conditions.
import Base

/// Decides about the sites of one file. Not for two threads at once: they would share the scratch memory.
struct SiteAnalysis<Source: ByteSource> {
  /// Decoding starts at most this far before a hit.
  static var reach: UInt64 { 1 << 16 }
  /// Bytes of scratch memory it needs.
  static var scratchByteCount: Int { 4096 }
  let file: CodeFile<Source>
  private let scratch: UnsafeMutableRawBufferPointer
  /// What the scratch memory holds: bytes from this address on.
  private var loadedAddress: UInt64 = 0
  private var loadedByteCount = 0

  init(_ file: CodeFile<Source>, scratch: UnsafeMutableRawBufferPointer) {
    self.file = file
    self.scratch = scratch
  }

  /// An instruction and where it is, as far as windows need it.
  private struct Placed {
    var address: UInt64 = 0
    var byteCount: UInt8 = 0
    var flow = Instruction.Flow.next
    var hasSkippablePrefix = false
    /// It can be moved: it does not compute an address relative to itself in 32 bits.
    var isMovable = false

    init() {}
    init(_ instruction: Instruction, at address: UInt64) {
      self.address = address
      byteCount = instruction.byteCount.u8
      flow = instruction.flow
      hasSkippablePrefix = instruction.hasSkippablePrefix
      isMovable = !(instruction.hasShortAddress && instruction.relativeOffset > 0)
    }
    var end: UInt64 { address &+ byteCount.u64 }
  }

  /// What decoding a function told about a site.
  private struct Surroundings {
    /// The last instructions before it, without a gap between them: number i of the function is at i modulo 8.
    private var ring: [8 of Placed] = .init(repeating: Placed())
    private var count = 0
    var after = Placed()
    /// Bit i: a branch of the function goes to the site - 56 + i.
    var targets: UInt64 = 0
    var site: UInt64 = 0

    /// How many instructions before it are known.
    var beforeCount: Int { min(count, 8) }
    /// Instruction `number` before it, the last one first.
    func before(_ number: Int) -> Placed { ring[(count &- 1 &- number) & 7] }
    mutating func push(_ placed: Placed) {
      ring[count & 7] = placed
      count &+= 1
    }

    func isTarget(_ address: UInt64) -> Bool {
      let bit = address &- (site &- 56)
      return bit < 64 && targets >> bit & 1 != 0
    }
    mutating func note(target: UInt64) {
      let bit = target &- (site &- 56)
      if bit < 64 { targets |= 1 << bit }
    }
    /// Whether a branch of the function goes inside an instruction.
    func isEntered(_ placed: Placed) -> Bool {
      var address = placed.address &+ 1
      while address < placed.end {
        if isTarget(address) { return true }
        address &+= 1
      }
      return false
    }
  }

  /// Decides about the bytes 0f 05 at `site`, an address in an executable segment that ends at `limit`.
  mutating func decide(_ site: UInt64, limit: UInt64) -> SiteOutcome {
    if isSignalReturn(site) { return .left(.signalReturn) }
    var bound = file.unwindBound(before: site, limit: limit)
    if bound == nil || site >= bound.unsafelyUnwrapped.end {
      if let other = file.goBound(around: site, limit: limit) { bound = other }
    }
    if bound == nil || site >= bound.unsafelyUnwrapped.end {
      loadedByteCount = 0
      if let other = file.symbolBound(before: site, limit: limit, scratch: scratch), other.end > 0,
        bound == nil || other.start > bound.unsafelyUnwrapped.start
      {
        bound = CodeBound(start: other.start, end: other.end, next: min(other.next, bound?.next ?? limit))
      }
    }
    guard let bound else { return .left(.notProven) }
    let isCovered = site &+ 2 <= bound.end
    guard site &- bound.start <= Self.reach else { return .left(.notProven) }
    var around = Surroundings()
    guard walk(from: bound, to: site, limit: limit, &around) else {
      return .left(isCovered ? .notAnInstruction : .notProven)
    }
    if !isCovered && !loadsNumber(around) { return .left(.notProven) }
    let outcome = window(around, bound)
    guard isCovered, case .window(var found) = outcome, isLeafStub(site, bound) else { return outcome }
    found.isLeaf = true
    return .window(found)
  }

  // MARK: Leaf stubs

  /// Whether the call is one of the C library's stubs in assembly: moves of arguments, `syscall`, and
  ///
  ///     cmp $-4095, %rax; jae error; ret;  error: mov errno's offset, %rcx; neg %eax; mov %eax, %fs:(%rcx); or $-1, %rax; ret
  ///
  /// Nothing behind the call reads a vector register, and the function ends: by the ABI all of them are its caller's to save. There is one
  /// exception to that, a compiler that knows the code of a function it calls (GCC's IPA-RA) and keeps values in registers which that
  /// leaves alone; such a function was compiled by the same compiler, and GCC never compares as these stubs do (it writes `cmp $-4096; ja`).
  private mutating func isLeafStub(_ site: UInt64, _ bound: CodeBound) -> Bool {
    guard site &- bound.start <= 40, bound.end &- site <= 48 else { return false }
    var address = bound.start
    while address < site {
      guard let instruction = instruction(at: address, limit: bound.end), instruction.flow == .next else {
        return false
      }
      address &+= instruction.byteCount.u64
    }
    guard address == site, matches(site &+ 2, [0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x73], 7),
      let distance = bytes(site &+ 9, 1), distance < 32, matches(site &+ 10, [0xc3, 0, 0, 0, 0, 0, 0], 1)
    else { return false }
    let error = site &+ 10 &+ distance
    let isOffset =
      matches(error, [0x48, 0x8b, 0x0d, 0, 0, 0, 0], 3) || matches(error, [0x48, 0xc7, 0xc1, 0, 0, 0, 0], 3)
    guard isOffset, matches(error &+ 7, [0xf7, 0xd8, 0x64, 0x89, 0x01, 0, 0], 5),
      matches(error &+ 12, [0x48, 0x83, 0xc8, 0xff, 0xc3, 0, 0], 5)
    else { return false }
    return error &+ 17 <= bound.end
  }

  /// Whether these bytes lie there.
  private func matches(_ address: UInt64, _ wanted: [7 of UInt8], _ count: Int) -> Bool {
    guard let value = bytes(address, count) else { return false }
    for index in 0..<count where (value >> (index &* 8).u64).u8 != wanted[index] { return false }
    return true
  }

  // MARK: Decoding

  /// The instruction at an address.
  private mutating func instruction(at address: UInt64, limit: UInt64) -> Instruction? {
    guard address < limit else { return nil }
    let wanted = min(UInt64(truncatingIfNeeded: Instruction.longest), limit &- address)
    let offset = address &- loadedAddress
    if address < loadedAddress || offset &+ wanted > UInt64(truncatingIfNeeded: loadedByteCount) {
      let count = Int(truncatingIfNeeded: min(limit &- address, UInt64(truncatingIfNeeded: scratch.count)))
      loadedByteCount = 0
      guard let place = file.fileOffset(of: address),
        file.source.read(at: place, into: UnsafeMutableRawBufferPointer(rebasing: scratch[..<count]))
      else { return nil }
      loadedAddress = address
      loadedByteCount = count
    }
    let at = Int(truncatingIfNeeded: address &- loadedAddress)
    return Instruction(UnsafeRawBufferPointer(rebasing: scratch[at..<loadedByteCount]))
  }

  /// Decodes a function from its start, past the site, to its end; false if the site is not among its instructions.
  private mutating func walk(from bound: CodeBound, to site: UInt64, limit: UInt64, _ around: inout Surroundings)
    -> Bool
  {
    around.site = site
    var address = bound.start
    let end = max(bound.end, min(site &+ 2 &+ UInt64(truncatingIfNeeded: Instruction.longest), bound.next))
    var isFound = false
    while address < end, address &- bound.start <= 2 &* Self.reach {
      guard let instruction = instruction(at: address, limit: limit) else { return isFound }
      let placed = Placed(instruction, at: address)
      if address == site {
        guard instruction.flow == .systemCall, instruction.byteCount == 2 else { return false }
        isFound = true
      } else if address < site {
        guard placed.end <= site else { return false }
        around.push(placed)
      } else if address == site &+ 2 {
        around.after = placed
      }
      if instruction.isDirectBranch {
        around.note(target: placed.end &+ UInt64(bitPattern: instruction.displacement))
      }
      address = placed.end
    }
    return isFound
  }

  private func bytes(_ address: UInt64, _ count: Int) -> UInt64? {
    var value: UInt64 = 0
    guard let offset = file.fileOffset(of: address),
      withUnsafeMutableBytes(
        of: &value, { file.source.read(at: offset, into: UnsafeMutableRawBufferPointer(rebasing: $0[..<count])) })
    else { return nil }
    return value
  }

  /// `mov $15, %eax` or `mov $15, %rax` right before the call.
  private func isSignalReturn(_ site: UInt64) -> Bool {
    bytes(site &- 5, 5) == 0x0f_b8 && bytes(site &- 6, 1) != 0x41 || bytes(site &- 7, 7) == 0x0f_c0c7_48
  }

  /// Whether one of the six instructions before the call loads EAX or RAX, by `mov` or `xor`, with no jump in between.
  private func loadsNumber(_ around: borrowing Surroundings) -> Bool {
    for number in 0..<min(around.beforeCount, 6) {
      let placed = around.before(number)
      guard placed.flow == .next else { return false }
      guard let value = bytes(placed.address, min(placed.byteCount.int, 4)) else { return false }
      switch value & 0xff {
      case 0xb8, 0x58: return true  // mov $n, %eax; pop %rax
      case 0xb0: return true  // mov $n, %al
      case 0x31 where value & 0xff00 == 0xc000, 0x33 where value & 0xff00 == 0xc000: return true  // xor %eax, %eax
      case 0x89, 0x8b: if Self.moves(value >> 8 & 0xff, loads: value & 0xff == 0x8b, extension: 0) { return true }
      case 0x48...0x4f:
        let opcode = value >> 8 & 0xff
        if opcode == 0xc7, value & 0xff == 0x48, value >> 16 & 0xff == 0xc0 { return true }
        if opcode == 0x89 || opcode == 0x8b,
          Self.moves(value >> 16 & 0xff, loads: opcode == 0x8b, extension: value & 7)
        {
          return true
        }
      case 0x44 where value >> 8 & 0xff == 0x89 && value >> 16 & 0xc7 == 0xc0: return true  // mov %r8d…, %eax
      default: break
      }
    }
    return false
  }

  /// Whether `mov` with this ModRM writes RAX: as the register operand of a load, or as the target of a move.
  private static func moves(_ modRM: UInt64, loads: Bool, extension rex: UInt64) -> Bool {
    if loads { return modRM >> 3 & 7 == 0 && rex & 4 == 0 }
    return modRM >> 6 == 3 && modRM & 7 == 0 && rex & 1 == 0
  }

  // MARK: The window

  private func window(_ around: borrowing Surroundings, _ bound: CodeBound) -> SiteOutcome {
    let before = windowBefore(around)
    if let before, !before.isPartial { return .window(before) }
    if let after = windowAfter(around, bound) { return .window(after) }
    if let before { return .window(before) }
    return .left(.noWindow)
  }

  /// The nearest instruction before the call that may give way.
  private func windowBefore(_ around: borrowing Surroundings) -> SiteWindow? {
    var isPartial = around.isTarget(around.site)
    for number in 0..<around.beforeCount {
      let placed = around.before(number)
      let displaced = around.site &- placed.address
      guard placed.flow == .next, displaced <= SiteWindow.displacedLimit, placed.isMovable else { return nil }
      if placed.byteCount >= 5, !placed.hasSkippablePrefix, !around.isEntered(placed),
        Self.fitsPage(placed.address)
      {
        return SiteWindow(
          shape: .before, site: around.site, start: placed.address, displacedByteCount: displaced, isPartial: isPartial)
      }
      if around.isTarget(placed.address) { isPartial = true }
    }
    return nil
  }

  /// `syscall` and what stands behind it.
  private func windowAfter(_ around: borrowing Surroundings, _ bound: CodeBound) -> SiteWindow? {
    let after = around.after
    let count = after.byteCount.u64
    guard count > 0, Self.fitsPage(around.site), !after.hasSkippablePrefix, !around.isEntered(after), after.isMovable
    else { return nil }
    let window = SiteWindow(shape: .after, site: around.site, start: around.site, displacedByteCount: count)
    switch after.flow {
    case .next: return count >= 3 ? window : nil
    case .jump, .conditional: return count >= 5 ? window : nil
    case .return:
      // The last instruction of its function, and nothing but filling behind it.
      let jumpEnd = around.site &+ SiteWindow.jumpByteCount
      guard after.end == bound.end || after.end >= bound.end, jumpEnd <= bound.next, count < 3,
        let rest = bytes(after.end, Int(truncatingIfNeeded: jumpEnd &- after.end)), Self.isFilling(rest)
      else { return nil }
      return window
    default: return nil
    }
  }

  /// The jump must lie in one page: pages are published one by one.
  private static func fitsPage(_ address: UInt64) -> Bool { address & 4095 <= 4096 &- SiteWindow.jumpByteCount }

  /// The start of what assemblers fill gaps with: `nop` in its forms, `int3`, zeros.
  private static func isFilling(_ bytes: UInt64) -> Bool {
    switch bytes & 0xffff {
    case 0x9090, 0xcccc, 0x9066, 0x1f0f, 0x2e66, 0x6666, 0x0000, 0x0f66: true
    default: false
    }
  }
}

extension CodeScan {
  /// Calls `body` with the offset of every 0f 05 in `bytes`.
  static func forEachHit(_ bytes: UnsafeRawBufferPointer, _ body: (Int) -> Void) {
    let ones: UInt64 = 0x0101_0101_0101_0101
    let tops: UInt64 = 0x8080_8080_8080_8080
    var at = 0
    // Words overlap by one byte, so that no pair lies across two of them. A byte of a difference is 0 where the byte
    // is found; borrows may mark others above it, which are then looked at in vain.
    while at &+ 8 <= bytes.count {
      let word = bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self)
      let first = word ^ (ones &* 0x0f)
      let second = word ^ (ones &* 0x05)
      var marks = (first &- ones) & ~first & tops
      marks &= ((second &- ones) & ~second & tops) >> 8
      while marks != 0 {
        let offset = at &+ marks.trailingZeroBitCount >> 3
        if bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self) == 0x050f { body(offset) }
        marks &= marks &- 1
      }
      at &+= 7
    }
    while at &+ 2 <= bytes.count {
      if bytes.loadUnaligned(fromByteOffset: at, as: UInt16.self) == 0x050f { body(at) }
      at &+= 1
    }
  }
}

/// The search for sites.
enum CodeScan {}
