// Panic: the kernel cannot go on. It prints why, the registers and a backtrace, and ends the virtual machine.
//
// Code addresses of the kernel appear as `kernel+0x…`, relative to the image: osv-run knows the symbols and adds the
// names. The report is put together in static memory, without allocation, locks or program memory.
import Base
import Instructions
import VirtioABI

/// Ends the virtual machine with a report. For what should be impossible; never for anything that a program can cause.
@inline(never)
public func panic(_ message: StaticString, _ value: UInt64? = nil) -> Never {
  #if HOSTED
    fatalError("panic: \(message) \(value ?? 0)")
  #else
    _ = Interrupts.disable()
    PanicReport.begin(message, value)
    PanicReport.backtrace(instruction_frame_pointer())
    PanicReport.finish()
  #endif
}

#if GUEST
  /// The same for a trap: with its registers, and the backtrace from where it happened.
  func panic(_ message: StaticString, _ frame: UnsafeMutablePointer<TrapFrame>, address: UInt64) -> Never {
    panic(PanicExplanation(message), frame, address: address)
  }

  /// The same with what a layer above knows about it.
  func panic(_ explanation: PanicExplanation, _ frame: UnsafeMutablePointer<TrapFrame>, address: UInt64) -> Never {
    _ = Interrupts.disable()
    PanicReport.begin(explanation.message, nil)
    PanicReport.lines(explanation)
    PanicReport.registers(frame, address: address)
    PanicReport.finish()
  }

  enum PanicReport {
    static func begin(_ message: StaticString, _ value: UInt64?) {
      // A panic while one is being reported: the first is what matters, so send what there is.
      if panicDepth != 0 { finish() }
      panicDepth = 1
      put("kernel panic: ")
      put(message)
      if let value {
        put(" ")
        put(hexadecimal: value)
      }
      put("\non CPU ")
      put(decimal: CPU.current.u64)
      put(" of ")
      put(decimal: CPU.count.u64)
      put(", ")
      put(Platform.name)
      put("\n")
    }

    static func lines(_ explanation: PanicExplanation) {
      for index in 0..<3 where explanation.lines[index].byteCount > 0 {
        for at in 0..<explanation.lines[index].byteCount { put(byte: explanation.lines[index][at]) }
        put("\n")
      }
    }

    static func registers(_ frame: UnsafeMutablePointer<TrapFrame>, address: UInt64) {
      let f = frame.pointee
      put("vector ")
      put(decimal: f.vector)
      put(" error ")
      put(hexadecimal: f.error)
      if f.vector == 14 {
        put(" at address ")
        put(hexadecimal: address)
      }
      put("\n")
      line("rip", f.rip, "rsp", f.rsp, "rflags", f.rflags)
      line("rax", f.rax, "rbx", f.rbx, "rcx", f.rcx)
      line("rdx", f.rdx, "rsi", f.rsi, "rdi", f.rdi)
      line("rbp", f.rbp, "r8", f.r8, "r9", f.r9)
      line("r10", f.r10, "r11", f.r11, "r12", f.r12)
      line("r13", f.r13, "r14", f.r14, "r15", f.r15)
      put("  at ")
      put(code: f.rip)
      put("\n")
      backtrace(f.rbp)
    }

    /// Walks frame records while they lie on the running thread's kernel stack and go upwards. What is printed is the
    /// last byte of each call, not where it returns to: that may belong to the next line, or the next function.
    static func backtrace(_ first: UInt64) {
      let top = CPU.kernelStackTop.rawValue
      var record = first
      for _ in 0..<48 {
        guard top &- record <= CPU.kernelStackByteCount, top &- record >= 16, record & 7 == 0 else { return }
        // SAFETY: the record lies within the current kernel stack, which is mapped.
        let words = VirtualAddress(record).unsafePointer.assumingMemoryBound(to: UInt64.self)
        put("  at ")
        put(code: words[1] &- 1)
        put("\n")
        guard words[0] > record else { return }
        record = words[0]
      }
    }

    static func finish() -> Never {
      panicText[min(panicCount, MonitorBuffer.capacity &- 1)] = 0
      MonitorText.send(&panicText, port: BootPort.panic)
      if ForeignMonitor.isThere { ForeignMonitor.end(125) }
      while true { instruction_pause() }
    }

    private static func line(
      _ name1: StaticString, _ value1: UInt64, _ name2: StaticString, _ value2: UInt64, _ name3: StaticString,
      _ value3: UInt64
    ) {
      item(name1, value1)
      item(name2, value2)
      item(name3, value3)
      put("\n")
    }

    private static func item(_ name: StaticString, _ value: UInt64) {
      put(" ")
      put(name)
      put(" ")
      put(hexadecimal: value, digits: 16)
    }

    private static func put(_ text: StaticString) {
      for index in 0..<text.utf8CodeUnitCount { put(byte: text.utf8Start[index]) }
    }
    private static func put(code address: UInt64) {
      if let offset = KernelImage.offset(of: address) {
        put("kernel+")
        put(hexadecimal: offset)
      } else {
        put(hexadecimal: address)
      }
    }
    private static func put(decimal value: UInt64) {
      if value >= 10 { put(decimal: value / 10) }
      put(byte: 48 &+ (value % 10).u8)
    }
    private static func put(hexadecimal value: UInt64, digits: Int = 1) {
      put("0x")
      var shift = 60
      var started = false
      while shift >= 0 {
        let digit = (value &>> shift.u64).u8 & 15
        if digit != 0 || started || shift < digits &* 4 {
          started = true
          put(byte: digit < 10 ? 48 &+ digit : 87 &+ digit)
        }
        shift &-= 4
      }
    }
    private static func put(byte: UInt8) {
      guard panicCount < MonitorBuffer.capacity &- 1 else { return }
      panicText[panicCount] = byte
      panicCount &+= 1
    }
  }

  // SAFETY: of the CPU that panics; another one that panics at the same time may garble the text, within the buffer.
  nonisolated(unsafe) private var panicText: MonitorBuffer = MonitorBuffer()
  nonisolated(unsafe) private var panicCount: Int = 0
  nonisolated(unsafe) private var panicDepth: Int = 0
#endif
