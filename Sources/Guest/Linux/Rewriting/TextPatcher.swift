// The patcher of one executable mapping: it makes jumps of the system calls that are made there often.
//
// The CPU itself has shown that a site is an instruction, by trapping at it. Whether what stands around it can give way is
// decided by `SiteAnalysis`; the windows are such that a thread may stand anywhere in the page while it is replaced: every
// instruction of the old page still begins where it did, or traps into `replacement(for:)`.
//
// Whoever rewrites holds the rewriter's lock (`CodeRewriter`); what has been rewritten is read without one (`SiteTable`).
//
// SAFETY of all: the temporary buffer is one stub and the longest window (`SiteWindow.displacedLimit`), used within the
// closure alone; a scratch page is its owner's and freed with it. A jump's five bytes lie in one page (`fitsPage`), and that
// page is a copy until it is published.
import Base
import Memory
import Pages
import Platform

/// Rewrites the `syscall` instructions of a mapping.
final class TextPatcher: CodePatcher {
  let range: VirtualRange
  let room: VirtualRange
  private let object: MemoryObject
  private let owner: (any MappingOwner)?
  /// Offset of the mapping's first byte in the file.
  private let offset: UInt64
  private let roomObject: MemoryObject
  private var sites = SiteTable()
  private var places = StubRoom()
  /// What is known about the file; nil inside if it is no ELF file.
  private var file: CodeFile<FileBytes>??

  /// A patcher for some code, with its room and the object through which that is written.
  init(_ code: CodeMapping, room: VirtualRange, object roomObject: MemoryObject) {
    range = code.range
    self.room = room
    object = code.object
    owner = code.owner
    offset = code.offset
    self.roomObject = roomObject
  }

  /// What became of a site.
  enum Result {
    /// It jumps.
    case jumps
    /// It jumps, but for some who come to it past the jump.
    case jumpsPartly
    /// It stays a trap.
    case left
  }

  // MARK: Rewriting

  /// Makes a jump of the `syscall` at `address`, if that can be done. Sleeps.
  func rewrite(_ address: VirtualAddress, in space: AddressSpace) -> Result {
    guard let scratch = Scratch() else { return .left }
    let isFirst = file == nil
    if isFirst { file = .some(CodeFile<FileBytes>(FileBytes(object: object), scratch: scratch.bytes)) }
    guard let known = file, let file = known else { return .left }
    if isFirst && RewriteLog.isOn { survey(file, scratch.bytes) }
    if let index = index(ofSite: address.rawValue) { return apply(index, in: space) }
    let place = offset &+ (address - range.start)
    guard let code = file.codeAddress(of: place) else { return .left }
    var analysis = SiteAnalysis(file, scratch: scratch.bytes)
    guard case .window(let window) = analysis.decide(code.address, limit: code.end),
      let index = add(window, bias: address.rawValue &- code.address, file)
    else { return .left }
    let result = apply(index, in: space)
    if result != .left { RewriteLog.rewritten(owner, code.address) }
    return result
  }

  private func index(ofSite address: UInt64) -> Int? {
    for index in 0..<sites.count where sites[index].site == address { return index }
    return nil
  }

  /// Writes a site's stub and enters the site; says which number it got.
  private func add(_ window: SiteWindow, bias: UInt64, _ file: CodeFile<FileBytes>) -> Int? {
    withUnsafeTemporaryAllocation(byteCount: Stub.byteCount &+ SiteWindow.displacedLimit.int, alignment: 16) { buffer in
      let stub = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Stub.byteCount])
      let displaced = UnsafeMutableRawBufferPointer(
        rebasing: buffer[Stub.byteCount..<(Stub.byteCount &+ window.displacedByteCount.int)])
      stub.initializeMemory(as: UInt8.self, repeating: 0xcc)
      guard let place = file.fileOffset(of: window.displacedStart), file.source.read(at: place, into: displaced),
        let head = file.fileOffset(of: window.start), let before = file.source.load(UInt64.self, at: head),
        let address = places.take(window.shape, start: window.start &+ bias, base: room.start.rawValue),
        var site = Stub.write(
          window, bias: bias, displaced: UnsafeRawBufferPointer(displaced), at: address,
          gateOffset: window.isLeaf ? JumpEntry.leafPointerOffset : JumpEntry.pointerOffset, into: stub)
      else { return nil }
      site.before = before & RewrittenSite.jumpMask
      site.isPartial = window.isPartial
      var transfer = Transfer(kernel: stub)
      guard (try? roomObject.write(at: address &- room.start.rawValue, from: &transfer)) == Stub.byteCount else {
        return nil
      }
      return sites.add(site) ? sites.count &- 1 : nil
    }
  }

  /// Puts a site's jump in place.
  private func apply(_ index: Int, in space: AddressSpace) -> Result {
    let site = sites[index]
    guard let jump = Stub.jump(from: site.start, to: site.stub) else { return .left }
    let start = VirtualAddress(site.start)
    let offset = start.pageOffset.int
    let isDone = space.replaceCode(at: start.alignedDown(), of: self) { copy in
      // Code that has changed under its mapping is left alone.
      var now: UInt64 = 0
      for byte in 0..<5 { now |= copy[offset &+ byte].u64 << (byte.u64 &* 8) }
      guard now == site.before else { return false }
      for byte in 0..<5 { copy[offset &+ byte] = (jump >> (byte.u64 &* 8)).u8 }
      return true
    }
    return !isDone ? .left : site.isPartial ? .jumpsPartly : .jumps
  }

  // MARK: Places

  func hasChanged(_ address: VirtualAddress) -> Bool {
    for index in 0..<sites.count where VirtualAddress(sites[index].start).alignedDown() == address { return true }
    return false
  }

  func original(of address: VirtualAddress) -> VirtualAddress? {
    guard room.contains(address) else { return nil }
    for index in 0..<sites.count {
      if let original = sites[index].original(of: address.rawValue) { return VirtualAddress(original) }
    }
    return nil
  }

  func replacement(for address: VirtualAddress) -> VirtualAddress? {
    guard range.contains(address) else { return nil }
    for index in 0..<sites.count {
      if let place = sites[index].replacement(for: address.rawValue) { return VirtualAddress(place) }
    }
    return nil
  }

  /// Whether a thread that is at a place of the room has yet to begin the instruction for which the place stands.
  func isBetweenInstructions(_ address: VirtualAddress) -> Bool {
    guard room.contains(address) else { return false }
    for index in 0..<sites.count where sites[index].isBetweenInstructions(address.rawValue) { return true }
    return false
  }

  // MARK: The log

  /// Reports what can be done with every site of the mapping.
  private func survey(_ file: CodeFile<FileBytes>, _ scratch: UnsafeMutableRawBufferPointer) {
    guard let piece = Scratch() else { return }
    var analysis = SiteAnalysis(file, scratch: scratch)
    var counts = RewriteLog.Counts()
    let end = min(offset &+ range.count, file.source.byteCount)
    var place = offset
    while place < end {
      let count = min(piece.bytes.count.u64, end &- place).int
      let bytes = UnsafeMutableRawBufferPointer(rebasing: piece.bytes[..<count])
      guard file.source.read(at: place, into: bytes) else { break }
      CodeScan.forEachHit(UnsafeRawBufferPointer(bytes)) { hit in
        guard let code = file.codeAddress(of: place &+ hit.u64) else { return }
        let outcome = analysis.decide(code.address, limit: code.end)
        counts.add(outcome)
        RewriteLog.decided(owner, code.address, outcome)
      }
      // Pieces overlap by a byte, so that no pair lies across two of them.
      place &+= max(count &- 1, 1).u64
      if count == 1 { break }
    }
    RewriteLog.summary(owner, counts)
  }
}

/// A page of the kernel heap for a while.
private struct Scratch: ~Copyable {
  let bytes: UnsafeMutableRawBufferPointer

  /// Nil if memory is out.
  init?() {
    guard let memory = KernelHeap.allocate(byteCount: SiteAnalysis<FileBytes>.scratchByteCount) else { return nil }
    bytes = UnsafeMutableRawBufferPointer(start: memory, count: SiteAnalysis<FileBytes>.scratchByteCount)
  }

  deinit { KernelHeap.free(bytes.baseAddress.unsafelyUnwrapped) }
}
