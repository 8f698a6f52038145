// A stub: what a site's jump leads to.
//
//   before:  the displaced instructions             after:
//     gate:  lea resume(%rip), %rcx                   gate:  lea resume(%rip), %rcx
//            jmp *%gs:PER_CPU_JUMP                            jmp *%gs:PER_CPU_JUMP
//   resume:  lea behind-syscall(%rip), %rcx         resume:  lea behind-syscall(%rip), %rcx
//            jmp behind-syscall                               the displaced instruction
//                                                             jmp behind it
//
// RCX ends as after `syscall`: the address behind it. Displaced instructions keep their lengths, so that a place in a stub
// and its original are the same distance from their starts.
//
// SAFETY of all: every write is within the buffer: `put` and `move` compare with its size first. A field to be relocated
// lies in its instruction, which lies in the bytes that are moved (`Instruction` reads no further), and it is loaded
// unaligned.
import Base

/// One site that jumps, in addresses of the running program.
struct RewrittenSite {
  /// Where `syscall` is, or was.
  var site: UInt64
  /// The first byte of the jump.
  var start: UInt64
  /// Its stub.
  var stub: UInt64
  /// Offset of `gate` in the stub.
  var gate: UInt8
  /// Bytes of the stub.
  var byteCount: UInt8
  /// `syscall` itself gave way, and an instruction of so many bytes behind it; 0 for the other shape.
  var displacedAfter: UInt8
  /// Some calls go past the jump (`SiteWindow.isPartial`).
  var isPartial = false
  /// The five bytes that the jump takes the place of.
  var before: UInt64 = 0

  /// The bytes of a jump in a word.
  static let jumpMask: UInt64 = 0xff_ffff_ffff

  /// Offset of `resume` in the stub.
  var resume: UInt64 { gate.u64 &+ Stub.gateByteCount }

  /// What a place in the stub stands for; nil if it is outside.
  func original(of address: UInt64) -> UInt64? {
    let offset = address &- stub
    guard offset < byteCount.u64 else { return nil }
    if offset < gate.u64 { return start &+ offset }
    if offset < resume { return site }
    let moved = offset &- resume
    if moved <= Stub.resumeByteCount { return site &+ 2 }
    return displacedAfter == 0 ? site &+ 2 : site &+ 2 &+ (moved &- Stub.resumeByteCount)
  }

  /// Whether a thread that is there has begun none of the original instructions since the one before: it has jumped to the
  /// stub, or is about to jump to the kernel.
  func isBetweenInstructions(_ address: UInt64) -> Bool {
    let offset = address &- stub
    return offset == 0 || offset >= gate.u64 && offset < resume
  }

  /// Where in the stub to go on instead of at an original address: at the call, and behind it if the jump covers that.
  func replacement(for address: UInt64) -> UInt64? {
    if address == site { return stub &+ gate.u64 }
    if displacedAfter > 0, address == site &+ 2 { return stub &+ resume &+ Stub.resumeByteCount }
    return nil
  }
}

/// Writes stubs.
enum Stub {
  /// Bytes from one stub to the next.
  static let byteCount = 64
  /// Bytes from `gate` to `resume`.
  static let gateByteCount: UInt64 = 15
  /// Bytes of `lea` at `resume`.
  static let resumeByteCount: UInt64 = 7

  /// Writes the stub for a window.
  /// - Parameters:
  ///   - window: in the file's addresses.
  ///   - bias: what turns those into addresses of the program.
  ///   - displaced: the bytes that move.
  ///   - address: where the stub will lie.
  ///   - gateOffset: `PER_CPU_JUMP`, or `PER_CPU_LEAF`.
  ///   - buffer: `byteCount` bytes.
  /// - Returns: nil if something is too far away for a 32-bit displacement, or does not fit.
  static func write(
    _ window: SiteWindow, bias: UInt64, displaced: UnsafeRawBufferPointer, at address: UInt64, gateOffset: UInt32,
    into buffer: UnsafeMutableRawBufferPointer
  ) -> RewrittenSite? {
    var writer = Writer(buffer: buffer, address: address)
    let site = window.site &+ bias
    if window.shape == .before {
      guard writer.move(displaced, from: window.start &+ bias) else { return nil }
    }
    let gate = writer.count
    writer.put([0x48, 0x8d, 0x0d])
    writer.put(UInt32(Stub.gateByteCount - 7))
    writer.put([0x65, 0xff, 0x24, 0x25])
    writer.put(gateOffset)
    writer.put([0x48, 0x8d, 0x0d])
    guard writer.put(distanceTo: site &+ 2) else { return nil }
    var back = site &+ 2
    if window.shape == .after {
      guard writer.move(displaced, from: back) else { return nil }
      back &+= window.displacedByteCount
    }
    if !writer.hasLeft {
      writer.put([0xe9])
      guard writer.put(distanceTo: back) else { return nil }
    }
    guard !writer.isFull else { return nil }
    return RewrittenSite(
      site: site, start: window.start &+ bias, stub: address, gate: gate.u8, byteCount: writer.count.u8,
      displacedAfter: window.shape == .after ? window.displacedByteCount.u8 : 0)
  }

  /// The jump to a stub; nil if that is too far away.
  static func jump(from start: UInt64, to stub: UInt64) -> UInt64? {
    let distance = Int64(bitPattern: stub &- (start &+ SiteWindow.jumpByteCount))
    guard let near = Int32(exactly: distance) else { return nil }
    return 0xe9 | UInt64(truncatingIfNeeded: UInt32(bitPattern: near)) << 8
  }

  private struct Writer {
    let buffer: UnsafeMutableRawBufferPointer
    let address: UInt64
    var count = 0
    var isFull = false
    /// The last instruction moved does not go on behind itself.
    var hasLeft = false

    mutating func put(_ bytes: [4 of UInt8], _ wanted: Int) {
      guard count &+ wanted <= buffer.count else { return isFull = true }
      for index in 0..<wanted { buffer[count &+ index] = bytes[index] }
      count &+= wanted
    }
    mutating func put(_ bytes: [1 of UInt8]) { put([bytes[0], 0, 0, 0], 1) }
    mutating func put(_ bytes: [3 of UInt8]) { put([bytes[0], bytes[1], bytes[2], 0], 3) }
    mutating func put(_ bytes: [4 of UInt8]) { put(bytes, 4) }
    mutating func put(_ value: UInt32) {
      guard count &+ 4 <= buffer.count else { return isFull = true }
      buffer.storeBytes(of: value, toByteOffset: count, as: UInt32.self)
      count &+= 4
    }

    /// A displacement that ends its instruction.
    mutating func put(distanceTo target: UInt64) -> Bool {
      let distance = Int64(bitPattern: target &- (address &+ UInt64(truncatingIfNeeded: count &+ 4)))
      guard let near = Int32(exactly: distance) else { return false }
      put(UInt32(bitPattern: near))
      return true
    }

    /// Copies instructions from elsewhere, so that they name the same addresses.
    mutating func move(_ bytes: UnsafeRawBufferPointer, from origin: UInt64) -> Bool {
      guard count &+ bytes.count <= buffer.count else { return false }
      let shift = Int64(bitPattern: origin &- (address &+ UInt64(truncatingIfNeeded: count)))
      var at = 0
      while at < bytes.count {
        let piece = UnsafeRawBufferPointer(rebasing: bytes[at...])
        guard let instruction = Instruction(piece) else { return false }
        let end = at &+ instruction.byteCount
        for index in at..<end { buffer[count &+ index] = bytes[index] }
        var field = instruction.relativeOffset
        if instruction.isDirectBranch { field = instruction.byteCount &- 4 }
        if field > 0 {
          let old = piece.loadUnaligned(fromByteOffset: field, as: Int32.self)
          let (new, overflow) = Int64(old).addingReportingOverflow(shift)
          guard !overflow, let near = Int32(exactly: new) else { return false }
          buffer.storeBytes(of: near, toByteOffset: count &+ at &+ field, as: Int32.self)
        }
        hasLeft = instruction.flow == .return || instruction.flow == .jump
        at = end
      }
      count &+= bytes.count
      return true
    }
  }
}
