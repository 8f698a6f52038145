// The functions of a file that has unwind records (.eh_frame) but no search table: static programs of Debian's gcc. Made
// once for a file, in two passes over the records, grouped by the page that a function starts in.
import Base
import Pages

/// Where functions start and how long they are.
final class UnwindTable {
  private struct Function {
    var start: UInt32
    /// Bytes; the top bit marks a signal trampoline.
    var byteCount: UInt32
  }
  private static let signalFrame: UInt32 = 1 << 31

  /// The first address of the code.
  private let base: UInt64
  private let pageCount: Int
  /// For each page the number of its first function, and behind the last one their sum.
  private let firsts: UnsafeMutablePointer<UInt32>
  private let functions: UnsafeMutablePointer<Function>

  /// Reads the records of the section .eh_frame; nil if there is none, if it makes no sense, or if memory is out.
  /// - Parameters:
  ///   - code: the addresses that matter, at most 2 GiB of them.
  ///   - scratch: memory for pieces of the section.
  init?<Source: ByteSource>(
    _ source: Source, code: Range<UInt64>, scratch: UnsafeMutableRawBufferPointer
  ) {
    guard code.upperBound &- code.lowerBound < 1 << 31, let section = source.section(named: ".eh_frame")
    else { return nil }
    let pages = ((code.upperBound &- code.lowerBound) >> 12).int &+ 1
    // SAFETY: a block of `pages + 2` zero words.
    guard let heads = KernelHeap.allocateZeroed(byteCount: (pages &+ 2) &* 4) else { return nil }
    let firsts = heads.bindMemory(to: UInt32.self, capacity: pages &+ 2)
    var walker = UnwindWalker(source, section, scratch: scratch)
    while let record = walker.next() {
      if code.contains(record.start) { firsts[((record.start &- code.lowerBound) >> 12).int &+ 2] &+= 1 }
    }
    for page in 2..<(pages &+ 2) { firsts[page] &+= firsts[page &- 1] }
    let total = firsts[pages &+ 1].int
    guard total > 0, let memory = KernelHeap.allocate(byteCount: total &* MemoryLayout<Function>.stride) else {
      KernelHeap.free(heads)
      return nil
    }
    // SAFETY: a block for `total` functions; those that are not filled in below are zero.
    functions = memory.bindMemory(to: Function.self, capacity: total)
    functions.initialize(repeating: Function(start: 0, byteCount: 0), count: total)
    self.firsts = firsts
    base = code.lowerBound
    pageCount = pages
    // From here on word i + 1 says where the next function of page i goes: in the end, where page i + 1 begins.
    walker = UnwindWalker(source, section, scratch: scratch)
    while let record = walker.next() {
      guard code.contains(record.start) else { continue }
      let page = ((record.start &- base) >> 12).int
      let place = firsts[page &+ 1].int
      guard place < total else { break }  // The file changes while it is read.
      functions[place] = Function(
        start: (record.start &- base).u32,
        byteCount: min(record.byteCount, UInt64(Self.signalFrame) &- 1).u32
          | (record.isSignalFrame ? Self.signalFrame : 0))
      firsts[page &+ 1] = place.u32 &+ 1
    }
  }

  deinit {
    KernelHeap.free(UnsafeMutableRawPointer(firsts))
    KernelHeap.free(UnsafeMutableRawPointer(functions))
  }

  /// The function that contains `address`, or the last one before it.
  func bound(before address: UInt64, limit: UInt64) -> CodeBound? {
    guard address >= base, (address &- base) >> 12 < pageCount.u64 else { return nil }
    let offset = (address &- base).u32
    var page = (offset >> 12).int
    var best: Function?
    while best == nil, page >= 0 {
      for number in firsts[page].int..<max(firsts[page].int, firsts[page &+ 1].int) {
        let function = functions[number]
        if function.start <= offset, best == nil || function.start > best.unsafelyUnwrapped.start { best = function }
      }
      page &-= 1
    }
    guard let best, best.byteCount & Self.signalFrame == 0 else { return nil }
    var next: UInt32?
    page = (offset >> 12).int
    while next == nil, page < pageCount {
      for number in firsts[page].int..<max(firsts[page].int, firsts[page &+ 1].int) {
        let start = functions[number].start
        if start > offset, start < next ?? .max { next = start }
      }
      page &+= 1
    }
    let start = base &+ best.start.u64
    return CodeBound(
      start: start, end: min(start &+ best.byteCount.u64, limit), next: next.map { min(base &+ $0.u64, limit) } ?? limit
    )
  }
}

/// Goes through the records of .eh_frame.
struct UnwindWalker<Source: ByteSource> {
  private let source: Source
  private let scratch: UnsafeMutableRawBufferPointer
  private let section: ELFSectionHeader
  /// Where in the section the next record is.
  private var at: UInt64 = 0
  /// What the scratch memory holds: bytes of the section from here on.
  private var loaded: UInt64 = 0
  private var loadedByteCount = 0
  /// The common record last looked at, and whether its functions are read, and are trampolines.
  private var common: UInt64 = .max
  private var isReadable = false
  private var isSignalFrame = false

  /// A function.
  struct Record {
    var start: UInt64
    var byteCount: UInt64
    var isSignalFrame: Bool
  }

  init(_ source: Source, _ section: ELFSectionHeader, scratch: UnsafeMutableRawBufferPointer) {
    self.source = source
    self.section = section
    self.scratch = scratch
  }

  /// The next function; nil at the end, or where the records make no sense.
  mutating func next() -> Record? {
    while at &+ 16 <= section.byteCount, load(16) {
      let length = word(0)
      guard length >= 4, length < 0xffff_fff0 else { return nil }
      let here = at
      let pointer = word(4).u64
      let start = section.address &+ here &+ 8 &+ UInt64(truncatingIfNeeded: Int32(bitPattern: word(8)))
      let byteCount = word(12).u64
      at &+= length.u64 &+ 4
      guard pointer != 0, pointer <= here &+ 4 else { continue }
      look(at: here &+ 4 &- pointer)
      if isReadable { return Record(start: start, byteCount: byteCount, isSignalFrame: isSignalFrame) }
    }
    return nil
  }

  /// Sees to it that `count` bytes from `at` on are loaded.
  private mutating func load(_ count: Int) -> Bool {
    if at >= loaded, at &- loaded &+ count.u64 <= loadedByteCount.u64 { return true }
    loadedByteCount = min(scratch.count.u64, section.byteCount &- at).int
    loaded = at
    let piece = UnsafeMutableRawBufferPointer(rebasing: scratch[..<loadedByteCount])
    guard loadedByteCount >= count, source.read(at: section.fileOffset &+ at, into: piece) else {
      loadedByteCount = 0
      return false
    }
    return true
  }

  private func word(_ offset: Int) -> UInt32 {
    scratch.loadUnaligned(fromByteOffset: (at &- loaded).int &+ offset, as: UInt32.self)
  }

  /// Only functions whose address is relative to its place, in 4 bytes, are read: what compilers write.
  private mutating func look(at common: UInt64) {
    if common == self.common { return }
    self.common = common
    let kind = UnwindRecord.augmentation(at: section.fileOffset &+ common, source)
    isReadable = kind.map { $0.encoding == 0x1b } ?? false
    isSignalFrame = kind?.isSignalFrame ?? false
  }
}
