// Extended state: x87, SSE, AVX and what else a program may have in registers that the kernel never touches.
//
// It is saved only when another thread that has such state runs on the CPU; a system call that does not block costs
// nothing. Areas are `byteCount` bytes, aligned to 64.
import Base
import Instructions
import VirtioABI

/// Saving and restoring the running program's extended state.
public enum ExtendedState {
  /// Bytes of an area, a multiple of 64.
  @inline(__always) public static var byteCount: Int { extendedStateByteCount }

  /// Fills an area with the state a new program starts with.
  public static func initialise(_ area: UnsafeMutableRawPointer) {
    // SAFETY: the caller gives `byteCount` bytes; the control words lie in the 512 bytes every format has.
    area.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    area.storeBytes(of: 0x037f, as: UInt16.self)  // x87 control word
    area.storeBytes(of: 0x1f80, toByteOffset: 24, as: UInt32.self)  // MXCSR
    // XSTATE_BV: x87 and SSE come from the area (their control words would not else), the rest is initial.
    if extendedStateMethod != .fxsave { area.storeBytes(of: 3, toByteOffset: 512, as: UInt64.self) }
  }

  /// Saves the registers to an area that may hold anything. (The optimised form leaves out what has not changed since the
  /// registers were restored from the same address, even if something else has been there since.)
  public static func saveWhole(_ area: UnsafeMutableRawPointer) {
    #if GUEST
      if extendedStateMethod == .fxsave {
        vector_fxsave(area)
      } else {
        vector_xsave(area, extendedStateMask)
      }
    #endif
  }

  /// Saves the registers to the area from which they were last restored on this CPU, unchanged since, or to one from which
  /// registers are restored before they are saved there.
  @inline(__always) public static func save(_ area: UnsafeMutableRawPointer) {
    #if GUEST
      switch extendedStateMethod {
      case .xsaveopt: vector_xsaveopt(area, extendedStateMask)
      case .xsave: vector_xsave(area, extendedStateMask)
      case .fxsave: vector_fxsave(area)
      }
    #endif
  }

  /// Loads the registers from an area.
  @inline(__always) public static func restore(_ area: UnsafeRawPointer) {
    #if GUEST
      switch extendedStateMethod {
      case .xsaveopt, .xsave: vector_xrstor(area, extendedStateMask)
      case .fxsave: vector_fxrstor(area)
      }
    #endif
  }

  enum Method {
    case fxsave, xsave, xsaveopt
  }

  /// Chooses the method; on hardware enables the components for programs, on each CPU.
  static func start(_ information: UnsafePointer<BootInformation>) {
    let features = information.pointee.cpuFeatures
    let bytes = information.pointee.extendedStateByteCount
    guard features & BootCPUFeatures.xsave != 0, bytes != 0 else { return }
    extendedStateMask = information.pointee.extendedStateMask
    extendedStateByteCount = bytes.int.alignedUp(to: 64)
    extendedStateMethod = features & BootCPUFeatures.xsaveopt != 0 ? .xsaveopt : .xsave
    #if GUEST
      if !platformIsPVM && instruction_xgetbv() != extendedStateMask { instruction_xsetbv(extendedStateMask) }
    #endif
  }
}

nonisolated(unsafe) private var extendedStateMask: UInt64 = 3
nonisolated(unsafe) private var extendedStateByteCount: Int = 512
nonisolated(unsafe) private var extendedStateMethod: ExtendedState.Method = .fxsave
