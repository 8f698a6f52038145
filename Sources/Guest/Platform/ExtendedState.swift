// Extended state: x87, SSE, AVX and what else a program may have in registers that the kernel never touches.
//
// It is saved only when another thread that has such state runs on the CPU; a system call that does not block costs
// nothing. Areas are `byteCount` bytes, aligned to 64, in one of two forms: what XSAVE (or FXSAVE) writes, or an image made
// by plain moves, which lies behind it. The word at `formOffset`, which the instructions leave to software, says which.
//
// Of a thread that is in a call whose vector registers are dead (`TrapFrame.hasDeadVectors`) only what the ABI keeps across a
// call is saved: MXCSR and x87, which is seldom in use. What other threads have left in the vector registers is what it finds in them.
import Base
import Instructions
import VirtioABI

/// Saving and restoring the running program's extended state.
public enum ExtendedState {
  /// Bytes of an area, a multiple of 64.
  @inline(__always) public static var byteCount: Int { extendedStateByteCount }

  private static var formOffset: Int { 504 }
  private static var movedForm: UInt64 { 0x6465_766f_6d }
  /// MXCSR (in its place of the form by moves, or in that of XSAVE), and x87 in the form of XSAVE.
  private static var controlForm: UInt64 { 0x6c6f_7274_6e6f_63 }
  /// Where an image made by moves begins, and its bytes.
  private static var imageOffset: Int { 576 }
  private static var imageByteCount: Int { 128 &+ 32 &* 64 }

  /// Fills an area with the state a new program starts with.
  public static func initialise(_ area: UnsafeMutableRawPointer) {
    // SAFETY: the caller gives `byteCount` bytes; the control words lie in the 512 bytes every format has.
    if extendedStateMethod == .moves {
      area.initializeMemory(as: UInt8.self, repeating: 0, count: imageOffset &+ 64)
      area.storeBytes(of: 0x1f80, toByteOffset: imageOffset &+ 8, as: UInt32.self)  // MXCSR
      (area + (imageOffset &+ 128)).initializeMemory(as: UInt8.self, repeating: 0, count: 16 &* 64)
      area.storeBytes(of: movedForm, toByteOffset: formOffset, as: UInt64.self)
      return
    }
    area.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    area.storeBytes(of: 0x037f, as: UInt16.self)  // x87 control word
    area.storeBytes(of: 0x1f80, toByteOffset: 24, as: UInt32.self)  // MXCSR
    // XSTATE_BV: x87 and SSE come from the area (their control words would not else), the rest is initial.
    if extendedStateMethod != .fxsave { area.storeBytes(of: 3, toByteOffset: 512, as: UInt64.self) }
  }

  /// Saves the registers to the area of the thread they belong to. Says whether x87 was not in use.
  @inline(__always) @discardableResult public static func save(_ area: UnsafeMutableRawPointer) -> Bool {
    #if GUEST
      switch extendedStateMethod {
      case .moves:
        if vector_move_out(area + imageOffset) {
          area.storeBytes(of: movedForm, toByteOffset: formOffset, as: UInt64.self)
          return true
        }
        saveForInstructions(area)
      case .xsaveopt:
        vector_xsaveopt(area, extendedStateMask)
        area.storeBytes(of: 0, toByteOffset: formOffset, as: UInt64.self)
      case .xsave:
        vector_xsave(area, extendedStateMask)
        area.storeBytes(of: 0, toByteOffset: formOffset, as: UInt64.self)
      case .fxsave: vector_fxsave(area)
      }
    #endif
    return false
  }

  /// The same for a thread whose vector registers are dead.
  @inline(__always) @discardableResult public static func saveControl(_ area: UnsafeMutableRawPointer) -> Bool {
    #if GUEST
      switch extendedStateMethod {
      case .moves:
        guard vector_control_out(area + imageOffset) else {
          saveForInstructions(area)
          return false
        }
        area.storeBytes(of: controlForm, toByteOffset: formOffset, as: UInt64.self)
        return true
      case .xsave, .xsaveopt:
        vector_xsave(area, 1)
        vector_mxcsr_out(area + 24)
        area.storeBytes(of: controlForm, toByteOffset: formOffset, as: UInt64.self)
      case .fxsave: vector_fxsave(area)
      }
    #endif
    return false
  }

  /// Saves the registers to the area of the thread they belong to, in the form that XRSTOR (or FXRSTOR) reads.
  public static func saveForInstructions(_ area: UnsafeMutableRawPointer) {
    saveWhole(area)
    area.storeBytes(of: 0, toByteOffset: formOffset, as: UInt64.self)
  }

  /// Loads the registers from a thread's area; `isX87Clean`: x87 is known not to be in use now.
  @inline(__always) public static func restore(_ area: UnsafeRawPointer, isX87Clean: Bool = false) {
    #if GUEST
      let form = area.load(fromByteOffset: formOffset, as: UInt64.self)
      if extendedStateMethod == .moves {
        if form == movedForm { return vector_move_in(area + imageOffset, isX87Clean) }
        if form == controlForm { return vector_control_in(area + imageOffset, isX87Clean) }
      } else if form == controlForm {
        vector_xrstor(area, 1)
        return vector_mxcsr_in(area + 24)
      }
    #endif
    restoreWhole(area)
  }

  /// Saves the registers to memory that may hold anything, in the form of XSAVE (or FXSAVE). (The optimised instruction
  /// leaves out what has not changed since the registers were restored from the same address, even if something else has
  /// been there since.)
  public static func saveWhole(_ image: UnsafeMutableRawPointer) {
    #if GUEST
      if extendedStateMethod == .fxsave { vector_fxsave(image) } else { vector_xsave(image, extendedStateMask) }
    #endif
  }

  /// Loads the registers from what `saveWhole` saved.
  public static func restoreWhole(_ image: UnsafeRawPointer) {
    #if GUEST
      if extendedStateMethod == .fxsave { vector_fxrstor(image) } else { vector_xrstor(image, extendedStateMask) }
    #endif
  }

  enum Method {
    case fxsave, xsave, xsaveopt, moves
  }

  /// Chooses the method; on hardware enables the components for programs, on each CPU.
  static func start(_ information: UnsafePointer<BootInformation>) {
    let features = information.pointee.cpuFeatures
    let bytes = information.pointee.extendedStateByteCount
    guard features & BootCPUFeatures.xsave != 0, bytes != 0 else { return }
    extendedStateMask = information.pointee.extendedStateMask
    let wanted = BootCPUFeatures.stateInUse | BootCPUFeatures.avx512
    if features & wanted == wanted && extendedStateMask == 0xe7 {
      extendedStateByteCount = max(bytes.int, imageOffset &+ imageByteCount).alignedUp(to: 64)
      extendedStateMethod = .moves
    } else {
      extendedStateByteCount = bytes.int.alignedUp(to: 64)
      extendedStateMethod = features & BootCPUFeatures.xsaveopt != 0 ? .xsaveopt : .xsave
    }
    #if GUEST
      if !platformIsPVM && instruction_xgetbv() != extendedStateMask { instruction_xsetbv(extendedStateMask) }
    #endif
  }
}

// SAFETY: set by the boot CPU before there is another; the others set them to the same once more (`start`).
nonisolated(unsafe) private var extendedStateMask: UInt64 = 3
nonisolated(unsafe) private var extendedStateByteCount: Int = 512
nonisolated(unsafe) private var extendedStateMethod: ExtendedState.Method = .fxsave
