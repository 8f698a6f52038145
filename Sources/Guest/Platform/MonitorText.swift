// How text reaches the monitor: it reads physical memory, so the bytes must lie in the kernel image.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  enum MonitorText {
    /// Copies a line into the image and tells the monitor.
    static func show(_ line: TextLine) {
      let wasEnabled = Interrupts.disable()
      // Another CPU may be at it. It will be done soon unless it died there: then rather a garbled line than none.
      var patience = 1_000_000
      while monitorTextBusy.exchange(true, ordering: .acquiring) && patience > 0 {
        patience &-= 1
        instruction_pause()
      }
      var index = 0
      while index < line.byteCount {
        monitorText[index] = line[index]
        index &+= 1
      }
      monitorText[index] = 10
      monitorText[index &+ 1] = 0
      send(&monitorText, port: BootPort.text)
      monitorTextBusy.store(false, ordering: .releasing)
      Interrupts.restore(wasEnabled)
    }

    /// Hands the physical address of text in the image to the monitor.
    static func send(_ text: UnsafeRawPointer, port: UInt16) {
      if ForeignMonitor.isThere { return ForeignMonitor.write(text: text) }
      instruction_out32(port, (KernelImage.physical(of: text).rawValue &>> 4).u32)
    }
  }

  // SAFETY: written by whoever has `monitorTextBusy`; one that has waited in vain for a CPU that died may garble its line,
  // within the buffer.
  nonisolated(unsafe) private var monitorText: MonitorBuffer = MonitorBuffer()
  private let monitorTextBusy = Atomic<Bool>(false)

  /// Bytes that the monitor can be pointed to, in units of 16.
  @_alignment(16) struct MonitorBuffer {
    private var bytes: InlineArray<4096, UInt8> = InlineArray(repeating: 0)
    static let capacity: Int = 4096
    subscript(index: Int) -> UInt8 {
      get { bytes[index] }
      set { bytes[index] = newValue }
    }
  }

  /// The kernel's own image in memory.
  enum KernelImage {
    /// Its first byte.
    static var base: VirtualAddress { VirtualAddress(address_of_kernel_image_start()) }
    /// The physical address of something in the image's static data.
    static func physical(of pointer: UnsafeRawPointer) -> PhysicalAddress {
      PhysicalAddress(Boot.information.pointee.kernelPhysical &+ (VirtualAddress(pointer).rawValue &- base.rawValue))
    }
    /// The offset of an address in the image, or nil.
    static func offset(of address: UInt64) -> UInt64? {
      let offset = address &- base.rawValue
      return offset < Boot.information.pointee.kernelByteCount ? offset : nil
    }
  }
#endif
