// `osv-run --debug memory --self-test overrun` and its kin: defects made on purpose, each of which the debugging heap must end with a
// panic that names it. Without `--debug memory` they are refused, because they would do damage.
#if GUEST
  import Pages
  import Platform
  import VirtioABI

  /// Defects to be found.
  enum HeapDefects {
    private static let names: InlineArray<8, StaticString> = [
      "overrun", "underrun", "wrote-before", "wrote-behind", "use-after-free", "free-twice", "wrong-free", "frame",
    ]

    /// Whether one is asked for.
    static var isAskedFor: Bool { asked != nil }

    private static var asked: Int? {
      for index in 0..<names.count where SelfTestName.isAsked(names[index]) { return index }
      return nil
    }

    /// Makes the defect. Memory is there. If the machine is still there afterwards, nobody has noticed.
    static func run() -> Never {
      guard Boot.has(flag: BootFlags.debugMemory) else {
        Monitor.text("this self-test needs --debug memory")
        Monitor.exit(1 &<< 8)
      }
      make(asked.unsafelyUnwrapped)
      Monitor.text("the defect was not noticed")
      Monitor.exit(1 &<< 8)
    }

    /// From the first object, of 64 bytes, to the end of its seventh guard page, behind which the second one's page is.
    private static let lastGuard: Int = 64 + 7 * 4096 - 8

    private static func make(_ defect: Int) {
      let before = object(64)
      let memory = object(24)
      switch defect {
      case 0: store(memory + 32)
      case 1: store(before + lastGuard)
      case 2: store(memory - 1)
      case 3: store(memory + 24)
      case 4: break
      case 6: KernelHeap.free(memory + 16)
      case 7: writeToFreeFrame()
      default: break
      }
      KernelHeap.free(memory)
      if defect == 4 { store(memory) }
      if defect == 5 { KernelHeap.free(memory) }
    }

    private static func writeToFreeFrame() {
      guard let frame = Frames.allocate() else { return }
      Frames.free(frame)
      store(LinearMap.pointer(frame) + 128)
      // The last one freed is the first one given out again.
      _ = Frames.allocate()
    }

    @inline(never) private static func object(_ byteCount: Int) -> UnsafeMutableRawPointer {
      guard let memory = KernelHeap.allocate(byteCount: byteCount) else { panic("no memory for the self-test") }
      return memory
    }

    @inline(never) private static func store(_ place: UnsafeMutableRawPointer) {
      place.storeBytes(of: 0x42, as: UInt8.self)
    }
  }
#endif
