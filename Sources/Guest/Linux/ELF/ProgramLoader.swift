// The loader: maps a program (and its interpreter) into an address space and builds its first stack.
//
// It runs on a thread that already uses that address space, because it writes there. Segments are private mappings of the
// file's pages; nothing is copied but the page where a data segment's file part ends. Bases are random: a position-independent
// program lies in the second TiB from 16 TiB on, its interpreter wherever mappings go, the stack below the programs' end, the
// break a little behind the program.
import Base
import Files
import Memory
import Pages
import Platform
import VirtioABI

/// A file's contents as the ELF parser reads them.
struct FileBytes: ByteSource {
  let object: MemoryObject

  var byteCount: UInt64 { object.byteCount }

  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    var transfer = Transfer(kernel: buffer)
    guard let count = try? object.read(at: offset, into: &transfer) else { return false }
    return count == buffer.count
  }
}

/// Loads programs.
struct ProgramLoader {
  /// Where the program starts.
  struct Start {
    var entry: VirtualAddress
    var stackPointer: VirtualAddress
  }

  /// Where position-independent programs go: from here on, plus up to 1 TiB.
  private static let programBase: UInt64 = 0x1000_0000_0000
  /// The first thread's stack ends this far, plus up to 16 GiB, below the programs' end.
  private static let stackGap: UInt64 = 0x1_0000_0000
  /// Bytes of it that are mapped before it grows, besides what is on it at the start.
  private static let firstStack: UInt64 = 128 << 10
  /// Addresses a stack may grow over at most, whatever the limit says.
  private static let largestStack: UInt64 = 1 << 30

  /// The process that gets the program.
  let process: Process

  /// Maps `file` and what it needs.
  /// - Parameters:
  ///   - file: the program.
  ///   - path: what AT_EXECFN names, without NUL.
  /// - Throws: ENOEXEC (not a program for this machine, or a broken one), EACCES, ENOENT (no interpreter), ELIBBAD (not a
  ///   good one), ENOMEM, E2BIG, EIO.
  func load(
    _ file: Location, path: UnsafeRawBufferPointer, arguments: StringBlock, environment: StringBlock
  ) throws(Errno) -> Start {
    let image = try parse(file, failure: .ENOEXEC)
    var program = InitialStack.Program()
    let bias = try map(image, of: file, isInterpreter: false)
    let entry = VirtualAddress(image.entry &+ bias)
    var start = entry
    if image.interpreterByteCount > 0 {
      StartProgress.step = .interpreter
      let interpreterFile = try findInterpreter(image, file)
      let interpreter = try parse(interpreterFile, failure: .ELIBBAD)
      let interpreterBias = try map(interpreter, of: interpreterFile, isInterpreter: true)
      program.interpreterBase = interpreterBias
      start = VirtualAddress(interpreter.entry &+ interpreterBias)
      StartProgress.step = .program
    }
    let breakGap = (Random.next() & 0x1fff) &* PageSize.small
    process.addressSpace.setBreakBase(VirtualAddress(image.highestAddress &+ bias &+ breakGap))
    program.headersAddress = image.headersAddress == 0 ? 0 : image.headersAddress &+ bias
    program.headerCount = image.headerCount.u64
    program.entry = entry.rawValue
    let top = Self.randomStackTop()
    program.vdso = try VDSO.map(in: process.addressSpace, above: top).rawValue
    let stackPointer = try makeStack(
      program, top: top, isExecutable: image.wantsExecutableStack, path: path, arguments: arguments,
      environment: environment)
    process.executable = file
    return Start(entry: start, stackPointer: stackPointer)
  }

  private func parse(_ file: Location, failure: Errno) throws(Errno) -> ELFImage {
    guard file.vnode.type == .regular else { throw .EACCES }
    try file.vnode.checkAccess(.execute, process.credentials)
    let object = try file.vnode.memoryObject()
    do throws(ELFError) { return try ELFImage(FileBytes(object: object)) } catch { throw failure }
  }

  /// The interpreter's path, as the program names it, in the tree that the process sees.
  private func findInterpreter(_ image: ELFImage, _ file: Location) throws(Errno) -> Location {
    var path = [UInt8](repeating: 0, count: image.interpreterByteCount)
    let source = FileBytes(object: try file.vnode.memoryObject())
    guard path.withUnsafeMutableBytes({ source.read(at: image.interpreterOffset, into: $0) }) else { throw .EIO }
    guard path.removeLast() == 0 else { throw .ENOEXEC }
    return try path.withPath { (path) throws(Errno) in try process.find(path) }
  }

  // MARK: Segments

  /// Maps all segments; returns the load bias.
  private func map(_ image: ELFImage, of file: Location, isInterpreter: Bool) throws(Errno) -> UInt64 {
    let span = image.highestAddress &- image.lowestAddress
    var bias: UInt64 = 0
    if image.isPositionIndependent {
      var request = MapRequest(byteCount: span &+ image.alignment, protection: .none, flags: .noReserve)
      if !isInterpreter {
        request.address = VirtualAddress(Self.programBase &+ (Random.next() & 0xfff_ffff) &* PageSize.small)
      }
      let reserved = try process.addressSpace.map(request)
      let base = reserved.alignedUp(to: image.alignment)
      // What the alignment left over goes back.
      if base > reserved { try process.addressSpace.unmap(VirtualRange(start: reserved, end: base)) }
      let end = reserved + (span &+ image.alignment)
      if base + span < end { try process.addressSpace.unmap(VirtualRange(start: base + span, end: end)) }
      bias = base.rawValue &- image.lowestAddress
    } else {
      guard image.lowestAddress >= AddressMap.programStart.rawValue else { throw .ENOEXEC }
    }
    let object = try file.vnode.memoryObject()
    let owner = OpenFile(vnode: file.vnode, location: file, flags: [])
    for index in 0..<image.segmentCount { try map(image.segments[index], bias: bias, object, owner: owner) }
    return bias
  }

  private func map(_ segment: ELFSegment, bias: UInt64, _ object: MemoryObject, owner: OpenFile) throws(Errno) {
    var protection: Protection = []
    if segment.isReadable { protection.insert(.read) }
    if segment.isWritable { protection.insert(.write) }
    if segment.isExecutable { protection.insert(.execute) }
    let address = VirtualAddress(segment.address &+ bias)
    let start = address.alignedDown()
    let fileEnd = address + segment.fileByteCount
    let filePagesEnd = segment.fileByteCount == 0 ? start : fileEnd.alignedUp()
    let end = (address + segment.memoryByteCount).alignedUp()
    if filePagesEnd > start {
      let request = MapRequest(
        address: start, byteCount: filePagesEnd - start, protection: protection, flags: .fixed, object: object,
        offset: segment.fileOffset &- address.pageOffset, owner: owner)
      _ = try process.addressSpace.map(request)
      let mustClear = segment.memoryByteCount > segment.fileByteCount && segment.isWritable
      if mustClear, filePagesEnd > fileEnd {
        var tail = Transfer(program: fileEnd, count: (filePagesEnd - fileEnd).int)
        try tail.zeroOut(count: tail.remaining)
      }
    }
    if end > filePagesEnd {
      _ = try process.addressSpace.map(
        MapRequest(address: filePagesEnd, byteCount: end - filePagesEnd, protection: protection, flags: .fixed))
    }
  }

  // MARK: Stack

  /// Where a stack ends.
  static func randomStackTop() -> VirtualAddress {
    AddressMap.programEnd - stackGap - (Random.next() & 0x3f_ffff) &* PageSize.small
  }

  /// Maps the stack that ends at `top` and fills its end; returns the stack pointer.
  /// - Parameter isExecutable: the program asks for that (PT_GNU_STACK): GCC's nested functions put code there.
  func makeStack(
    _ known: InitialStack.Program, top: VirtualAddress, isExecutable: Bool = false, path: UnsafeRawBufferPointer,
    arguments: StringBlock,
    environment: StringBlock
  ) throws(Errno) -> VirtualAddress {
    var program = known
    program.userID = process.credentials.userID.u64
    program.groupID = process.credentials.groupID.u64
    program.hardwareCapabilities = Boot.information.pointee.hardwareCapabilities.u64
    program.hardwareCapabilities2 = 2  // FSGSBASE
    program.minimumSignalStack = SignalFrame.stackByteCount(extendedByteCount: ExtendedState.programByteCount)
    program.random = (Random.next(), Random.next())

    let limit = min(process.limits[ResourceLimits.stack].current, Self.largestStack).alignedDown(to: PageSize.small)
    let byteCount = InitialStack.byteCount(arguments: arguments, environment: environment, path: path)
    guard byteCount.u64 &+ PageSize.small &* 4 <= limit else { throw .E2BIG }
    let size = min(limit, byteCount.u64.alignedUp(to: PageSize.small) &+ Self.firstStack)
    _ = try process.addressSpace.map(
      MapRequest(
        address: top - size, byteCount: size, protection: isExecutable ? [.read, .write, .execute] : [.read, .write],
        flags: [.fixed, .growsDown, .noReserve], label: .stack))
    process.addressSpace.limits.stack = limit

    guard let memory = KernelHeap.allocateZeroed(byteCount: byteCount, alignment: 16) else { throw .ENOMEM }
    defer { KernelHeap.free(memory) }
    // SAFETY: `byteCount` zero bytes, freed when the copy is done.
    let buffer = UnsafeMutableRawBufferPointer(start: memory, count: byteCount)
    let stackPointer = InitialStack.build(
      in: buffer, top: top.rawValue, arguments: arguments, environment: environment, path: path, program: program)
    let used = (top.rawValue &- stackPointer).int
    try UserSpan(VirtualAddress(stackPointer), count: used).write(
      from: UnsafeRawBufferPointer(rebasing: buffer[(byteCount &- used)...]))
    noteStrings(top: top, path: path, arguments: arguments, environment: environment)
    // Behind argc and the two lists of pointers.
    let vector = VirtualAddress(stackPointer) + (arguments.count &+ environment.count &+ 3) &* 8
    process.auxiliaryRange = VirtualRange(start: vector, end: vector + InitialStack.auxiliaryCount &* 16)
    return VirtualAddress(stackPointer)
  }

  /// Remembers where argv's and envp's strings lie, for /proc/self/cmdline and environ.
  private func noteStrings(
    top: VirtualAddress, path: UnsafeRawBufferPointer, arguments: StringBlock, environment: StringBlock
  ) {
    let environmentEnd = top - 8 - (path.count &+ 1)
    let environmentStart = environmentEnd - environment.bytes.count
    process.environmentRange = VirtualRange(start: environmentStart, end: environmentEnd)
    process.argumentRange = VirtualRange(start: environmentStart - arguments.bytes.count, end: environmentStart)
  }
}
