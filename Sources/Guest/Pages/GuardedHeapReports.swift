// What the debugging heap says about a defect: what was done, to which object, and who allocated and freed it.
import Base
import Platform

extension HeapDefect {
  /// The headline of the panic.
  var message: StaticString {
    switch self {
    case .notAnObject: "free of memory that is no object of the heap"
    case .freedTwice: "an object of the kernel heap was freed twice"
    case .wroteBefore: "bytes right before an object of the kernel heap were written"
    case .wroteBehind: "bytes right behind an object of the kernel heap were written"
    case .overrun: "an access beyond the end of an object of the kernel heap"
    case .underrun: "an access before the start of an object of the kernel heap"
    case .usedAfterFree: "an access to a freed object of the kernel heap"
    case .wroteAfterFree: "memory was written after it had been freed"
    }
  }
}

extension UnsafeMutablePointer where Pointee == GuardedHeap {
  /// What an access to an address of the window that is not mapped means; nil if there is nothing there, and never was.
  func defect(at address: VirtualAddress) -> (defect: HeapDefect, page: VirtualAddress, word: GuardWord)? {
    guard let (page, word) = record(of: address) else { return nil }
    if address < page { return (.usedAfterFree, page, word) }
    // The last guard is rather the one before the next object.
    let last = page + (GuardWord.guardPages &- 1) << frameShift
    if address >= last, let next = record(of: last + PageSize.small), !next.word.isFreed {
      return (.underrun, next.page, next.word)
    }
    return (word.isFreed ? .usedAfterFree : .overrun, page, word)
  }

  /// A defect as a panic tells it.
  func explanation(_ defect: HeapDefect, _ address: VirtualAddress) -> PanicExplanation {
    var explanation = PanicExplanation(defect.message)
    var target = record(of: address)
    if let found = self.defect(at: address), found.defect == defect { target = (found.page, found.word) }
    guard let (page, word) = target else { return explanation }
    let object = page - word.extent
    explanation.lines[0].append("the object: ")
    explanation.lines[0].append(decimal: word.byteCount.u64)
    explanation.lines[0].append(" bytes at ")
    explanation.lines[0].append(hexadecimal: object.rawValue)
    explanation.lines[0].append(", the access at its start ")
    explanation.lines[0].append(address < object ? "- " : "+ ")
    explanation.lines[0].append(decimal: address < object ? object - address : address - object)
    explanation.lines[1] = callers("allocated by", page, from: 1)
    if word.isFreed { explanation.lines[2] = callers("freed by", page, from: 4) }
    return explanation
  }

  private func callers(_ what: StaticString, _ record: VirtualAddress, from first: UInt64) -> TextLine {
    var line = TextLine()
    line.append(what)
    for index in first..<first &+ 3 {
      let word = GuardWord(pointee.table.slot(record + index << frameShift).slot.entry.rawValue)
      guard word.isCallers else { break }
      append(word.first, to: &line)
      append(word.second, to: &line)
    }
    return line.byteCount > what.utf8CodeUnitCount ? line : TextLine()
  }

  private func append(_ offset: UInt32, to line: inout TextLine) {
    guard offset != 0 else { return }
    line.append(" ")
    line.append(code: offset)
  }
}

extension KernelHeap {
  /// Makes the heap a debugging one for everything allocated from now on, and frames poisoned when they are free. Once, at boot, when
  /// `KernelMappings` is up.
  /// - Returns: false if memory is out.
  public static func enableDebugging() -> Bool {
    guard let state = Frames.state,
      let memory = allocate(byteCount: MemoryLayout<GuardedHeap>.stride, alignment: 64),
      let window = KernelMappings.guardedWindow()
    else { return false }
    // SAFETY: fresh heap memory of the right size, never freed.
    let heap = memory.bindMemory(to: GuardedHeap.self, capacity: 1)
    heap.initialize(to: GuardedHeap(table: KernelMappings.kernelTable, window: window))
    state.pointee.checksFrames = true
    // What is in lists would be given out first.
    trim()
    GuardedHeap.installed = heap
    Upcalls.explainFault = { address in
      guard let heap = GuardedHeap.installed, let found = heap.defect(at: VirtualAddress(address)) else { return nil }
      return heap.explanation(found.defect, VirtualAddress(address))
    }
    return true
  }

  /// The physical address of a pointer that is given to a device. Memory of the debugging heap does not lie in the linear map, but
  /// each object in one block of frames.
  @inline(__always) public static func devicePhysical(of pointer: UnsafeRawPointer) -> PhysicalAddress {
    let address = LinearMap.physical(of: pointer)
    return address.rawValue >> 43 == 0 ? address : mappedPhysical(of: pointer)
  }

  @inline(never) private static func mappedPhysical(of pointer: UnsafeRawPointer) -> PhysicalAddress {
    guard let address = KernelMappings.table.translate(VirtualAddress(pointer)) else {
      panic("a device is given memory that is not mapped", VirtualAddress(pointer).rawValue)
    }
    return address
  }
}
