// What a monitor other than osv-run gives instead of the monitor port: a serial line for text, QEMU's isa-debug-exit for a status, and
// ACPI's register for turning the machine off (ACPI 6.5, 4.8.3.2).
#if GUEST
  import Base
  import Instructions
  import VirtioABI

  /// The other monitor.
  public enum ForeignMonitor {
    /// Whether this is one.
    @inline(__always) public static var isThere: Bool { Boot.has(flag: BootFlags.foreignMonitor) }
    /// Whether text can be written.
    public static var hasSerialLine: Bool { Boot.information.pointee.serialPort != 0 }

    /// Writes bytes to the serial line, if there is one; each waits until there is room, but not for ever.
    public static func write(_ bytes: UnsafeRawBufferPointer) { for byte in bytes { write(byte: byte) } }

    private static func write(byte: UInt8) {
      if hasSerialLine { serial_line_write(Boot.information.pointee.serialPort.u16, byte) }
    }

    /// Writes NUL-terminated text.
    static func write(text: UnsafeRawPointer) {
      // SAFETY: the caller's text ends with a NUL.
      var at = text.assumingMemoryBound(to: UInt8.self)
      while at.pointee != 0 {
        write(byte: at.pointee)
        at += 1
      }
    }

    /// Ends the machine: the program's wait status.
    static func exit(_ status: UInt32) -> Never {
      let signal = status & 0x7f
      if signal != 0 {
        var line = TextLine()
        line.append("osv: the program was ended by signal ")
        line.append(decimal: signal.u64)
        line.show()
      }
      end(signal != 0 ? 128 &+ signal : status &>> 8 & 0xff)
    }

    /// Ends the machine because the program cannot be started.
    static func exit(_ failure: BootFailure) -> Never {
      var line = TextLine()
      line.append("osv: the program cannot be started: ")
      line.append(name(failure.step))
      if failure.step == .volume {
        line.append(" ")
        line.append(decimal: failure.index.u64)
      }
      line.append(" failed with error ")
      line.append(decimal: failure.code.u64)
      line.append(failure.code == 2 ? " (no such file or directory)" : "")
      line.show()
      end(125)
    }

    private static func name(_ step: BootFailure.Step) -> StaticString {
      switch step {
      case .machine: "the machine's start"
      case .root: "making the root"
      case .volume: "attaching file system"
      case .workingDirectory: "entering the working directory"
      case .program: "loading the program"
      case .interpreter: "loading its interpreter"
      }
    }

    /// Ends the machine with an exit status.
    static func end(_ status: UInt32) -> Never {
      let head = Boot.information.pointee
      instruction_out32(BootPort.debugExit, status)
      if head.powerOffPort != 0 { instruction_out16(head.powerOffPort.u16, head.powerOffValue.u16) }
      // Where nothing listened: the processor sleeps from now on.
      while true {
        instruction_cli()
        instruction_hlt()
      }
    }
  }
#endif
