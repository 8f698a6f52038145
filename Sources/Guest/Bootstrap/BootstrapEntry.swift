// Where the assembly (Boot/pvh.S) enters Swift under another monitor, and what of the CPU's state is set before the kernel's first
// instruction. Runs in the identity map, on the kernel's first stack, with interrupts disabled.
#if GUEST
  import Base
  import Instructions
  import VirtioABI

  /// The machine itself.
  private struct ThisMachine: BareMachine {
    /// Whether there is a serial line.
    let hasLine: Bool

    // SAFETY of all: the identity map covers 4 GiB, nothing else runs, and the monitor's tables say what is where.
    func memory(_ physical: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
      guard physical > 0, physical < 1 &<< 32, count <= (1 &<< 32) &- physical else { return nil }
      return UnsafeMutableRawPointer(bitPattern: physical.uint)
    }
    private func register(_ physical: UInt64) -> UnsafeMutableRawPointer {
      UnsafeMutableRawPointer(bitPattern: physical.uint).unsafelyUnwrapped
    }
    func readRegister(_ physical: UInt64, count: Int) -> UInt32 {
      switch count {
      case 1: instruction_load8(register(physical)).u32
      case 2: instruction_load16(register(physical)).u32
      default: instruction_load32(register(physical))
      }
    }
    func writeRegister(_ physical: UInt64, count: Int, _ value: UInt32) {
      switch count {
      case 1: instruction_store8(register(physical), value.u8)
      case 2: instruction_store16(register(physical), value.u16)
      default: instruction_store32(register(physical), value)
      }
    }
    func readPort(_ port: UInt16, count: Int) -> UInt32 {
      switch count {
      case 1: instruction_in8(port).u32
      case 2: instruction_in16(port).u32
      default: instruction_in32(port)
      }
    }
    func writePort(_ port: UInt16, count: Int, _ value: UInt32) {
      switch count {
      case 1: instruction_out8(port, value.u8)
      case 2: instruction_out16(port, value.u16)
      default: instruction_out32(port, value)
      }
    }
    func identify(_ leaf: UInt32, _ subleaf: UInt32) -> (a: UInt32, b: UInt32, c: UInt32, d: UInt32) {
      var (a, b, c, d) = (leaf, 0 as UInt32, subleaf, 0 as UInt32)
      instruction_cpuid(&a, &b, &c, &d)
      return (a, b, c, d)
    }
    func timeStamp() -> UInt64 { instruction_rdtsc() }
    func tell(_ first: StaticString, _ second: StaticString) {
      if !hasLine { return }
      SerialLine.write("osv: ")
      SerialLine.write(first)
      SerialLine.write(second)
      SerialLine.write("\n")
    }
    func random() -> UInt64? {
      guard identify(1, 0).c &>> 30 & 1 != 0 else { return nil }
      var value: UInt64 = 0
      return instruction_rdrand(&value) ? value : nil
    }
  }

  /// The address of the program that is linked with the kernel, 0 if there is none (Boot/image.S).
  @_extern(c, "image_main")
  private func imageMain() -> UInt64

  /// COM1 of a PC.
  private enum SerialLine {
    static var port: UInt16 { 0x3f8 }

    /// Sets it to 115,200 bits a second, 8 of data; false if there is none (its scratch register keeps nothing).
    static func start() -> Bool {
      instruction_out8(port &+ 7, 0x5a)
      guard instruction_in8(port &+ 7) == 0x5a else { return false }
      instruction_out8(port &+ 1, 0)
      instruction_out8(port &+ 3, 0x80)
      instruction_out8(port, 1)
      instruction_out8(port &+ 1, 0)
      instruction_out8(port &+ 3, 3)
      instruction_out8(port &+ 2, 7)
      instruction_out8(port &+ 4, 3)
      return true
    }

    static func write(_ text: StaticString) {
      for index in 0..<text.utf8CodeUnitCount { serial_line_write(port, text.utf8Start[index]) }
    }
  }

  /// The image as it lies in memory. The assembly has relocated it to where it is.
  private func imageDescription() -> ImageDescription {
    var image = ImageDescription()
    let start = UInt(bitPattern: address_of_kernel_image_start()).u64
    func offset(_ label: UnsafeRawPointer?) -> UInt64 { UInt(bitPattern: label).u64 &- start }
    image.place = StartInfo.Piece(
      start: start, byteCount: offset(address_of_kernel_image_end()).alignedUp(to: 4096))
    func segment(_ first: UnsafeRawPointer?, _ end: UnsafeRawPointer?, _ access: StartAccess)
      -> ImageDescription.Segment
    {
      ImageDescription.Segment(
        offset: offset(first), byteCount: offset(end).alignedUp(to: 4096) &- offset(first), access: access)
    }
    image.segments[0] = segment(address_of_kernel_image_start(), address_of_text_segment_end(), .execute)
    image.segments[1] = segment(address_of_rodata_segment_start(), address_of_rodata_segment_end(), .readOnly)
    image.segments[2] = segment(address_of_data_segment_start(), address_of_data_segment_end(), .write)
    image.segments[3] = segment(address_of_stack_segment_start(), address_of_kernel_image_end(), .write)
    image.hasProgram = imageMain() != 0
    return image
  }

  /// Called by the assembly with the physical address of the start information.
  @c func bootstrap_main(_ startInfo: UInt64) -> Never {
    let hasLine = SerialLine.start()
    // The firmware may have left a line unfinished.
    if hasLine { SerialLine.write("\n") }
    let machine = ThisMachine(hasLine: hasLine)
    let image = imageDescription()
    do throws(BootstrapFailure) {
      // The local APIC's place and state: IA32_APIC_BASE (Intel SDM 3, 11.4.4).
      var base = instruction_rdmsr(0x1b)
      guard base & 0x400 == 0 else {
        throw BootstrapFailure("the local APIC is an x2APIC already: start the kernel with it as a xAPIC")
      }
      base |= 0x800
      instruction_wrmsr(0x1b, base)
      let result = try Bootstrap.run(
        machine, startInfo: startInfo, image: image, controller: base & 0xf_ffff_f000,
        serialPort: hasLine ? SerialLine.port.u32 : 0)
      if result.features.hasX2APIC { instruction_wrmsr(0x1b, base | 0x400) }
      enter(result, image)
    } catch {
      machine.tell("", error.reason)
      // As osv-run's own status for a failed start.
      instruction_out32(BootPort.debugExit, 125)
      while true { instruction_hlt() }
    }
  }

  /// Sets the CPU's registers as the boot contract says, and goes.
  private func enter(_ result: BootstrapResult, _ image: ImageDescription) -> Never {
    let layout = result.layout
    instruction_write_cr4(result.features.control4)
    if result.features.stateMask != 0 { instruction_xsetbv(result.features.stateMask) }
    let delta = layout.kernelVirtual &- image.place.start
    instruction_wrmsr(0xc000_0081, 0x0023_0010_0000_0000)  // STAR
    instruction_wrmsr(0xc000_0082, UInt(bitPattern: address_of_osv_system_call_entry()).u64 &+ delta)  // LSTAR
    instruction_wrmsr(0xc000_0084, 0x25_7fd5)  // SFMASK
    // The kernel's half of the new tables beside the identity map: the step from one to the other is made in both.
    let current = UnsafeMutablePointer<UInt64>(bitPattern: (instruction_read_cr3() & ~0xfff).uint).unsafelyUnwrapped
    let tables = layout.tables.memory.words(layout.pageTableRoot)
    for slot in 128..<256 { current[slot] = tables[slot] }
    // A task register is loaded from a segment that is not busy, and makes it so.
    layout.tables.memory.words(layout.gdt)[8] &= ~(1 &<< 41)
    var words = bootstrap_words()
    words.root = layout.pageTableRoot
    words.image_virtual = layout.kernelVirtual
    words.gdt = layout.linear(layout.gdt)
    words.gdt_limit = StartLayout<Arena>.gdtLimit(cpuCount: 1).u64
    words.idt = layout.linear(layout.idt)
    words.task_selector = StartLayout<Arena>.taskSelector(0).u64
    words.area = layout.linear(layout.perCPU)
    words.information = layout.linear(result.information)
    bootstrap_enter(&words)
  }
#endif
