// What a layer above Platform knows about a fault that ends the machine: a better headline, and lines to go below it.
import Base
import Instructions

/// A panic's headline and what is known besides.
public struct PanicExplanation {
  /// What happened, in place of "page fault in the kernel".
  public var message: StaticString
  /// Lines below it; empty ones are left out.
  public var lines: InlineArray<3, TextLine> = InlineArray(repeating: TextLine())

  /// A headline without lines.
  public init(_ message: StaticString) { self.message = message }
}

/// Ends the virtual machine with a report that explains what was found.
public func panic(_ explanation: PanicExplanation) -> Never {
  #if HOSTED
    fatalError("panic: \(explanation.message)")
  #else
    _ = Interrupts.disable()
    PanicReport.begin(explanation.message, nil)
    PanicReport.lines(explanation)
    PanicReport.backtrace(instruction_frame_pointer())
    PanicReport.finish()
  #endif
}

/// Who called: offsets in the kernel's image of the innermost calls on this CPU's kernel stack.
public struct CallChain {
  /// How many calls are kept.
  public static let count = 6
  /// The last byte of each call instruction, as an offset in the image; 0: none, or not the kernel's.
  public var offsets: InlineArray<6, UInt32> = InlineArray(repeating: 0)

  /// An empty chain.
  public init() {}

  /// The callers of the function that this is called in.
  @inline(never) public static func here() -> CallChain {
    var chain = CallChain()
    #if GUEST
      let top = CPU.kernelStackTop.rawValue
      var record = instruction_frame_pointer()
      // The first record is this function's own: its caller is the one who asks.
      var index = -1
      while index < count {
        guard top &- record <= CPU.kernelStackByteCount, top &- record >= 16, record & 7 == 0 else { break }
        // SAFETY: the record lies within the current kernel stack, which is mapped.
        let words = VirtualAddress(record).unsafePointer.assumingMemoryBound(to: UInt64.self)
        guard let offset = KernelImage.offset(of: words[1] &- 1) else { break }
        if index >= 0 { chain.offsets[index] = offset.u32 }
        index &+= 1
        guard words[0] > record else { break }
        record = words[0]
      }
    #endif
    return chain
  }
}

extension TextLine {
  /// Appends an offset in the kernel's image so that osv-run puts the function's name behind it.
  public mutating func append(code offset: UInt32) {
    append("kernel+")
    append(hexadecimal: offset.u64)
  }
}
