// The memory's part of `osv-run --self-test`: what the unit tests cannot see, because it takes a CPU that walks our page
// tables and faults on them. It also says what a fault costs on this KVM.
#if GUEST
  import Base
  import Pages
  import Platform

  /// The self-test of frames, heap, page tables and faults.
  public enum MemorySelfTest {
    // SAFETY: the self-test runs on one CPU; its page-fault upcall, which looks at both, runs on the same.
    nonisolated(unsafe) private static var space: AddressSpace?
    nonisolated(unsafe) private static var faults: UInt64 = 0

    /// Runs every check on the current CPU, in an address space and with a page-fault upcall of its own, with interrupts on.
    /// Needs `Frames` and `KernelMappings`; leaves the upcall empty.
    /// - Parameters:
    ///   - seed: random bits for the place of mappings.
    ///   - reporting: gets a line for each check.
    /// - Returns: whether all were passed.
    public static func run(seed: UInt64, reporting: (TextLine) -> Void) -> Bool {
      var passed = true
      func report(_ name: StaticString, _ failure: StaticString?, nanoseconds: UInt64 = 0, per count: UInt64 = 0) {
        var line = TextLine()
        line.append(name)
        line.append(failure == nil ? ": ok" : ": FAILED, ")
        if let failure {
          line.append(failure)
          passed = false
        }
        if count > 0 {
          line.append(", ")
          line.append(decimal: nanoseconds / count)
          line.append(" ns each of ")
          line.append(decimal: count)
        }
        reporting(line)
      }

      let statistics = Frames.statistics
      var line = TextLine()
      line.append("memory: ")
      line.append(decimal: statistics.total.u64 >> 8)
      line.append(" MiB, used ")
      line.append(decimal: (statistics.total &- statistics.free).u64)
      line.append(" pages")
      reporting(line)
      report("kernel heap", heap())
      Upcalls.pageFault = { frame, address in
        MemorySelfTest.faults &+= 1
        let access = FaultAccess(errorCode: frame.pointee.error)
        return MemorySelfTest.space?.fault(at: VirtualAddress(address), access: access) == .resolved
      }
      defer { Upcalls.pageFault = nil }
      do throws(Errno) {
        let space = try AddressSpace(seed: seed)
        self.space = space
        let interrupts = Interrupts.disable()
        space.activate()
        Interrupts.restore(interrupts)
        let free = Frames.statistics.free
        try anonymous(space, isFresh: true, report)
        try anonymous(space, isFresh: false, report)
        try rights(space, report)
        try code(space, report)
        try largePages(space, report)
        try programTables(space, report)
        report("kernel stack", kernelStack())
        let left = free &- Frames.statistics.free
        report("memory comes back", left < 64 ? nil : "frames are missing")
      } catch {
        report("address space", "an error number instead of success")
      }
      self.space = nil
      return passed
    }

    private final class Node {
      let next: Node?
      init(_ next: Node?) { self.next = next }
    }

    private static func heap() -> StaticString? {
      var list: Node?
      for _ in 0..<100 { list = Node(list) }
      var array: [UInt64] = []
      for index in 0..<5000 as Range<UInt64> { array.append(index) }
      guard array[4999] == 4999, list?.next != nil else { return "contents are lost" }
      let address = UInt(bitPattern: Unmanaged.passUnretained(list.unsafelyUnwrapped).toOpaque())
      // Swift keeps tags of enumerations in bits 62 and 63.
      guard address >> 62 == 0 else { return "an object is not in the lower half" }
      return nil
    }

    /// Fresh memory has to be backed by the host first, at the first store to each page.
    private static func anonymous(
      _ space: AddressSpace, isFresh: Bool, _ report: (StaticString, StaticString?, UInt64, UInt64) -> Void
    ) throws(Errno) {
      let count: UInt64 = 1 << 20
      let start = try space.map(MapRequest(byteCount: count, protection: [.read, .write]))
      faults = 0
      let before = Clock.now()
      var address = start
      while address < start + count {
        // SAFETY: mapped memory of the test's own, which faults resolve.
        address.unsafePointer.storeBytes(of: address.rawValue, as: UInt64.self)
        address += PageSize.small
      }
      let time = Clock.now() &- before
      var failure: StaticString?
      address = start
      while address < start + count {
        if address.unsafePointer.load(as: UInt64.self) != address.rawValue { failure = "contents are lost" }
        address += PageSize.small
      }
      report(isFresh ? "fresh memory, a page" : "memory used before, a page", failure, time, count >> 12)
      report(
        isFresh ? "fresh memory, a fault" : "memory used before, a fault", faults == 0 ? "no fault came" : nil, time,
        faults)
      let unmapping = Clock.now()
      try space.unmap(VirtualRange(start: start, count: count))
      report("unmapping, a page", nil, Clock.now() &- unmapping, count >> 12)
      report("access behind unmapping", readable(start) ? "the page is still there" : nil, 0, 0)
    }

    /// Whether a program could read there.
    private static func readable(_ address: VirtualAddress) -> Bool {
      (try? UserSpan.read(UInt8.self, at: address)) != nil
    }

    private static func writable(_ address: VirtualAddress) -> Bool {
      (try? UserSpan.write(UInt8(1), at: address)) != nil
    }

    private static func rights(
      _ space: AddressSpace, _ report: (StaticString, StaticString?, UInt64, UInt64) -> Void
    ) throws(Errno) {
      let start = try space.map(MapRequest(byteCount: 8192, protection: [.read, .write]))
      let range = VirtualRange(start: start, count: 8192)
      var failure: StaticString?
      if !writable(start) { failure = "no store" }
      try space.protect(range, .read)
      if writable(start) { failure = "a store after mprotect" }
      if !readable(start) { failure = "no load" }
      try space.protect(range, .none)
      if readable(start) { failure = "a load without rights" }
      try space.protect(range, [.read, .write])
      if !writable(start) { failure = "no store after mprotect" }
      if readable(VirtualAddress(0)) || readable(AddressMap.programEnd) { failure = "a load outside programs" }
      try space.unmap(range)
      report("rights of pages", failure, 0, 0)
    }

    private static func code(
      _ space: AddressSpace, _ report: (StaticString, StaticString?, UInt64, UInt64) -> Void
    ) throws(Errno) {
      let object = MemoryObject()
      // mov $42, %eax; ret
      guard let bytes = KernelHeap.allocate(byteCount: 8) else { throw .ENOMEM }
      bytes.storeBytes(of: 0xc3_0000_002a_b8, as: UInt64.self)
      defer { KernelHeap.free(bytes) }
      var failure: StaticString?
      var transfer = Transfer(kernel: UnsafeMutableRawBufferPointer(start: bytes, count: 6))
      if try object.write(at: 5000, from: &transfer) != 6 { failure = "a short write" }
      let start = try space.map(
        MapRequest(byteCount: 8192, protection: [.read, .execute], flags: .shared, object: object))
      // SAFETY: the six bytes above are a C function without arguments.
      let function = unsafeBitCast((start + 5000).unsafePointer, to: (@convention(c) () -> Int32).self)
      if function() != 42 { failure = "wrong code ran" }
      if writable(start) { failure = "code is writable" }
      try object.truncate(to: 100)
      if readable(start + 4096) { failure = "a page behind the end of the file" }
      try space.unmap(VirtualRange(start: start, count: 8192))
      report("mapped files", failure, 0, 0)
    }

    private static func largePages(
      _ space: AddressSpace, _ report: (StaticString, StaticString?, UInt64, UInt64) -> Void
    ) throws(Errno) {
      let count = 2 &* PageSize.large
      let start = try space.map(MapRequest(byteCount: count, protection: [.read, .write]))
      let range = VirtualRange(start: start, count: count)
      try space.advise(range, .hugePages)
      faults = 0
      var failure: StaticString?
      if !writable(start + 4095) || !writable(start + 0x10_0000) { failure = "no store" }
      if faults != 1 { failure = "more than one fault for 2 MiB" }
      try space.protect(VirtualRange(start: start + 4096, count: 4096), .read)
      if writable(start + 4096) { failure = "a store after mprotect of a part" }
      if !writable(start + 8192) { failure = "no store beside it" }
      try space.unmap(range)
      report("2 MiB pages", failure, 0, 0)
    }

    private static func kernelStack() -> StaticString? {
      guard let stack = KernelStack.allocate() else { return "no memory" }
      // SAFETY: a fresh stack of the test's own.
      (stack.top - 8).unsafePointer.storeBytes(of: 7, as: UInt64.self)
      stack.base.unsafePointer.storeBytes(of: 8, as: UInt64.self)
      let isRight = (stack.top - 8).unsafePointer.load(as: UInt64.self) == 7
      stack.free()
      KernelStack.trim()
      return isRight ? nil : "contents are lost"
    }
  }
#endif
