// The frame that a signal handler finds on its stack on x86-64: return address, ucontext_t, siginfo_t, and above
// them the XSAVE image with the software words that say how large it is (arch/x86/include/uapi/asm/sigcontext.h).
//
// Pure: layout and checks only. Delivery and rt_sigreturn move the bytes and the registers.
//
// SAFETY of all: an image is a buffer of the area's size and the closing word (`ExtendedStateImage`), or what XSAVE or
// FXSAVE wrote, 512 bytes at least; offsets below that are constants, and those behind are looked at only where the byte
// count says that they are there. Loads are unaligned and of trivial types.

/// sigcontext_64: the registers of the interrupted program.
struct SignalContext {
  var r8: UInt64 = 0
  var r9: UInt64 = 0
  var r10: UInt64 = 0
  var r11: UInt64 = 0
  var r12: UInt64 = 0
  var r13: UInt64 = 0
  var r14: UInt64 = 0
  var r15: UInt64 = 0
  var rdi: UInt64 = 0
  var rsi: UInt64 = 0
  var rbp: UInt64 = 0
  var rbx: UInt64 = 0
  var rdx: UInt64 = 0
  var rax: UInt64 = 0
  var rcx: UInt64 = 0
  var rsp: UInt64 = 0
  var rip: UInt64 = 0
  var flags: UInt64 = 0
  /// CS, GS, FS and SS, 16 bits each.
  var selectors: UInt64 = 0x002b_0000_0000_0033
  var error: UInt64 = 0
  var trap: UInt64 = 0
  var oldMask: UInt64 = 0
  var faultAddress: UInt64 = 0
  /// Address of the XSAVE image, 0 if there is none.
  var extendedState: UInt64 = 0
  var reserved: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)

  /// Everything zero.
  init() {}
}

/// The whole frame but for the XSAVE image.
struct SignalFrame {
  /// `uc_flags`: an XSAVE image is there, SS is saved, and is to be restored.
  static let contextFlags: UInt64 = 1 | 2 | 4
  /// Offset of the ucontext_t.
  static let contextOffset: UInt64 = 8
  /// Offset of the siginfo_t.
  static let informationOffset: UInt64 = 312
  /// Bits of RFLAGS that a handler starts without: DF, TF, RF.
  static let clearedFlags: UInt64 = 0x1_0500
  /// Bytes below the stack pointer that belong to the interrupted function.
  static let redZone: UInt64 = 128

  /// What the handler returns to: `sa_restorer`.
  var returnAddress: UInt64 = 0
  var flags: UInt64 = SignalFrame.contextFlags
  var link: UInt64 = 0
  /// The alternate stack as it was.
  var stack = SignalStack()
  var context = SignalContext()
  /// Blocked signals to restore.
  var mask = SignalSet()
  var information = SignalInformation(.hangup, code: 0)
  /// The rest of siginfo_t.
  var informationRest: [12 of UInt64] = .init(repeating: 0)

  /// Everything zero.
  init() {}

  /// Where frame and XSAVE image go.
  struct Placement: Equatable {
    /// Address of the frame: congruent 8 modulo 16, so that the handler's stack is as after a call.
    var frame: UInt64
    /// Address of the XSAVE image, a multiple of 64.
    var extendedState: UInt64
  }

  /// Places a frame below `stackPointer` (or at the top of `alternate`); nil if the addresses would wrap.
  /// - Parameter extendedByteCount: bytes of the XSAVE image, without the closing word.
  static func place(
    stackPointer: UInt64, alternate: SignalStack?, extendedByteCount: Int
  ) -> Placement? {
    let top: UInt64
    if let alternate {
      top = alternate.base &+ alternate.byteCount
    } else {
      guard stackPointer > redZone else { return nil }
      top = stackPointer &- redZone
    }
    let extended = UInt64(truncatingIfNeeded: extendedByteCount &+ 4)
    let size = UInt64(truncatingIfNeeded: MemoryLayout<SignalFrame>.size)
    guard top > extended &+ size &+ 128 else { return nil }
    let image = (top &- extended) & ~63
    return Placement(frame: ((image &- size) & ~15) &- 8, extendedState: image)
  }
}

extension SignalFrame {
  /// Bytes that delivery needs at most on a stack (AT_MINSIGSTKSZ).
  static func stackByteCount(extendedByteCount: Int) -> UInt64 {
    UInt64(truncatingIfNeeded: MemoryLayout<SignalFrame>.size &+ extendedByteCount &+ 4 &+ 64 &+ 16 &+ 8) &+ redZone
  }
}

/// The software words in the legacy part of a frame's XSAVE image, and the checks before a program's image is loaded.
enum SignalExtendedState {
  static let magic1: UInt32 = 0x4650_5853
  /// The word behind the image.
  static let magic2: UInt32 = 0x4650_5845
  static let softwareOffset = 464
  static let headerOffset = 512

  /// Marks an image of `byteCount` bytes (the buffer holds 4 more, for the closing word) that holds the components of `mask`.
  static func seal(_ image: UnsafeMutableRawBufferPointer, byteCount: Int, mask: UInt64) {
    guard byteCount > headerOffset else { return }  // FXSAVE has no software words.
    image.storeBytes(of: magic1, toByteOffset: softwareOffset, as: UInt32.self)
    image.storeBytes(of: UInt32(truncatingIfNeeded: byteCount &+ 4), toByteOffset: softwareOffset + 4, as: UInt32.self)
    image.storeBytes(of: mask, toByteOffset: softwareOffset + 8, as: UInt64.self)
    image.storeBytes(of: UInt32(truncatingIfNeeded: byteCount), toByteOffset: softwareOffset + 16, as: UInt32.self)
    image.storeBytes(of: magic2, toByteOffset: byteCount, as: UInt32.self)
  }

  /// Whether the legacy part of an image says that there is more behind it, `byteCount` bytes in all and the closing word.
  static func claimsSeal(_ image: UnsafeRawBufferPointer, byteCount: Int) -> Bool {
    guard byteCount > headerOffset else { return false }
    let claimed = image.loadUnaligned(fromByteOffset: softwareOffset + 16, as: UInt32.self)
    return image.loadUnaligned(fromByteOffset: softwareOffset, as: UInt32.self) == magic1
      && claimed == UInt32(truncatingIfNeeded: byteCount)
      && image.loadUnaligned(fromByteOffset: softwareOffset + 4, as: UInt32.self) >= claimed
  }

  /// Of an image of `byteCount` bytes and its closing word, makes those components initial that its seal does not vouch for: without one, all
  /// but x87 and SSE.
  static func keepWhatIsSealed(_ image: UnsafeMutableRawBufferPointer, byteCount: Int) {
    guard byteCount > headerOffset else { return }
    if claimsSeal(UnsafeRawBufferPointer(image), byteCount: byteCount),
      image.loadUnaligned(fromByteOffset: byteCount, as: UInt32.self) == magic2
    {
      let sealed = image.loadUnaligned(fromByteOffset: softwareOffset + 8, as: UInt64.self)
      let present = image.loadUnaligned(fromByteOffset: headerOffset, as: UInt64.self)
      image.storeBytes(of: present & sealed, toByteOffset: headerOffset, as: UInt64.self)
    } else {
      UnsafeMutableRawBufferPointer(rebasing: image[headerOffset..<(headerOffset + 64)])
        .initializeMemory(as: UInt8.self, repeating: 0)
      image.storeBytes(of: 3, toByteOffset: headerOffset, as: UInt64.self)
    }
  }

  /// The si_code of a floating-point exception: the first of those that are flagged and not masked, nil if there is none.
  /// - Parameters:
  ///   - image: what XSAVE or FXSAVE wrote.
  ///   - isVector: whether the vector unit raised it (MXCSR tells), or x87 (its status and control words do).
  static func exceptionCode(_ image: UnsafeRawBufferPointer, isVector: Bool) -> Int32? {
    let flags: UInt32
    if isVector {
      let control = image.loadUnaligned(fromByteOffset: 24, as: UInt32.self)
      flags = control & ~(control >> 7)
    } else {
      let status = image.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
      flags = UInt32(truncatingIfNeeded: status & ~image.loadUnaligned(as: UInt16.self))
    }
    if flags & 0x01 != 0 { return SignalInformation.Code.floatInvalid }
    if flags & 0x04 != 0 { return SignalInformation.Code.floatDivide }
    if flags & 0x08 != 0 { return SignalInformation.Code.floatOverflow }
    // Denormal operands count as underflow.
    if flags & 0x12 != 0 { return SignalInformation.Code.floatUnderflow }
    if flags & 0x20 != 0 { return SignalInformation.Code.floatInexact }
    return nil
  }

  /// Whether XRSTOR can load this image without a fault: no component outside `mask`, standard form, no reserved bit. Reserved bits of MXCSR are cleared.
  static func sanitise(_ image: UnsafeMutableRawBufferPointer, mask: UInt64) -> Bool {
    let control = image.loadUnaligned(fromByteOffset: 24, as: UInt32.self)
    image.storeBytes(of: control & 0xffff, toByteOffset: 24, as: UInt32.self)
    guard image.count >= headerOffset + 64 else { return true }
    guard image.loadUnaligned(fromByteOffset: headerOffset, as: UInt64.self) & ~mask == 0 else { return false }
    for offset in stride(from: 8, to: 64, by: 8)
    where image.loadUnaligned(fromByteOffset: headerOffset &+ offset, as: UInt64.self) != 0 { return false }
    return true
  }
}
